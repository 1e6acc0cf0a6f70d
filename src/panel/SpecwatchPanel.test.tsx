// @vitest-environment jsdom
import { type PanelProps, getDefaultTimeRange, LoadingState, standardEditorsRegistry } from '@grafana/data';
import { type TemplateSrv, setTemplateSrv } from '@grafana/runtime';
import { render, screen } from '@testing-library/react';
import React from 'react';
import { expect, it } from 'vitest';

import { defaults } from '../connection/settings';
import { plugin } from './module';
import { SpecwatchPanel, type Options } from './SpecwatchPanel';

it('a panel without a Specwatch data source says what to do', () => {
  setTemplateSrv({ replace: (text) => text } as TemplateSrv); // a dashboard without variables
  const data = { series: [], state: LoadingState.Done, timeRange: getDefaultTimeRange() };
  render(<SpecwatchPanel {...({ data, options: {}, height: 400 } as unknown as PanelProps<Options>)} />);
  expect(screen.getByText(/Choose a Specwatch data source/)).toBeTruthy();
});

it('a new panel has the usual settings', () => {
  // Grafana itself brings the editors of options.
  standardEditorsRegistry.setInit(() =>
    ['radio', 'slider', 'boolean'].map((id) => ({ id, name: id, editor: () => null }))
  );
  expect(plugin.defaults).toEqual({ ...defaults, driveDashboard: true });
});
