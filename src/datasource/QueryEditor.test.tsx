// @vitest-environment jsdom
import { CoreApp } from '@grafana/data';
import { cleanup, fireEvent, render, screen } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import React, { useState } from 'react';
import { afterEach, expect, it, vi } from 'vitest';

import { type QueryType, alerting, limits, queryTypes } from '../contract.gen';
import type { SpecwatchDataSource } from './datasource';
import { QueryEditor, types } from './QueryEditor';
import { followDashboard, type Query } from './types';

afterEach(cleanup);

// open shows the editor; run counts how often the query runs.
function open(part: Partial<Query> = {}, app?: CoreApp) {
  let now: Query = { refId: 'A', ...part };
  const run = vi.fn();
  function Editor() {
    const [query, setQuery] = useState(now);
    now = query;
    return (
      <QueryEditor
        app={app}
        query={query}
        datasource={{} as SpecwatchDataSource}
        onChange={setQuery}
        onRunQuery={run}
      />
    );
  }
  render(<Editor />);
  return { now: () => now, run };
}

// offered opens the list of query types and returns them.
async function offered(): Promise<QueryType[]> {
  await userEvent.click(screen.getByLabelText('Query'));
  const options = screen.getAllByRole('option').map((option) => option.textContent ?? '');
  return queryTypes.filter((type) => options.includes(types[type].label + types[type].tells));
}

it.each(queryTypes)('%s: offers the filters of this type and no others', (queryType) => {
  open({ queryType });
  const shown = {
    kinds: screen.queryByLabelText('Kinds') !== null,
    sessions: screen.queryByText('Sessions', { selector: 'label' }) !== null,
    specs: screen.queryByText('Specs', { selector: 'label' }) !== null,
    limit: screen.queryByLabelText('Limit') !== null,
    since: screen.queryByLabelText('Since') !== null,
  };
  const { filters } = types[queryType];
  expect(
    Object.entries(shown)
      .flatMap(([name, on]) => (on ? [name] : []))
      .sort()
  ).toEqual([...filters].sort());
  const can = (alerting as readonly string[]).includes(queryType);
  expect(screen.queryByText(can ? /Can be used in alert rules/ : /Cannot be used in alert rules/)).not.toBeNull();
});

it('a chosen type is stored and run', async () => {
  const { now, run } = open();
  await userEvent.click(screen.getByLabelText('Query'));
  await userEvent.click(screen.getByText(types.outcomes.label));
  expect(now().queryType).toBe('outcomes');
  expect(run).toHaveBeenCalledTimes(1);
});

it('an alert rule offers the types that can alert, and no mode', async () => {
  open({ queryType: 'timed_out' }, CoreApp.UnifiedAlerting);
  expect(screen.queryByText('Follow the dashboard')).toBeNull();
  expect((await offered()).sort()).toEqual([...alerting].sort());
});

it('follows the dashboard unless told otherwise, and keeps the fields that it does not show', async () => {
  const { now } = open({ days: 30 });
  expect((screen.getByLabelText('Follow the dashboard') as HTMLInputElement).checked).toBe(true);
  await userEvent.click(screen.getByLabelText('Polling'));
  expect(now()).toMatchObject({ mode: 'polling', days: 30 });
  await userEvent.click(screen.getByLabelText('Follow the dashboard'));
  expect(now().mode).toBe(followDashboard);
});

it('Explore has a Live button of its own', () => {
  open({}, CoreApp.Explore);
  expect(screen.queryByLabelText('Follow the dashboard')).toBeNull();
});

it.each([
  ['0', 1],
  ['-5', 1],
  ['7.6', 8],
  ['1000000000', limits.pageMax],
  ['', Math.min(limits.rowsDefault, limits.pageMax)],
])('limit %j becomes %d', (typed, stored) => {
  const { now } = open({ queryType: 'events' });
  const input = screen.getByLabelText('Limit');
  fireEvent.change(input, { target: { value: typed } });
  fireEvent.blur(input);
  expect(now().limit).toBe(stored);
});
