// @vitest-environment jsdom
import { CoreApp, type DataQueryRequest, type DataSourceInstanceSettings, SupplementaryQueryType } from '@grafana/data';
import { type TemplateSrv, setTemplateSrv } from '@grafana/runtime';
import { expect, it } from 'vitest';

import { alerting } from '../contract.gen';
import { SpecwatchDataSource } from './datasource';
import type { Query, SourceSettings } from './types';

const source = new SpecwatchDataSource({
  id: 1,
  uid: 'specwatch',
  type: 'specwatch-events-datasource',
  name: 'Specwatch',
  jsonData: {},
} as DataSourceInstanceSettings<SourceSettings>);

it.each([CoreApp.UnifiedAlerting, CoreApp.CloudAlerting])('%s: the first query of a rule can alert', (app) => {
  const { queryType, mode } = source.getDefaultQuery(app);
  expect(alerting).toContain(queryType);
  expect(mode).toBe('polling');
});

it('a new panel, which is a time series, asks for counts', () => {
  expect(source.getDefaultQuery(CoreApp.PanelEditor)).toEqual({ queryType: 'counts', mode: '$specwatch_mode' });
});

it('Explore begins with log lines', () => {
  expect(source.getDefaultQuery(CoreApp.Explore).queryType).toBe('logs');
});

it('a query that goes to Explore is polled, over the range of Explore', () => {
  setTemplateSrv({ replace: (text = '') => text } as TemplateSrv);
  const [query] = source.interpolateVariablesInQueries([{ refId: 'A', queryType: 'nights', days: 30, limit: 5 }], {});
  expect(query).toMatchObject({ queryType: 'nights', limit: 5, mode: 'polling' });
  expect(query.days).toBeUndefined();
});

it('a hidden query does not run', () => {
  expect(source.filterQuery({ refId: 'A', hide: true })).toBe(false);
  expect(source.filterQuery({ refId: 'A' })).toBe(true);
});

it('above log lines Explore draws their counts by level, with the same filters', () => {
  const request = {
    liveStreaming: true,
    targets: [
      { refId: 'A', queryType: 'logs', sessions: ['night'], kinds: ['spec_failed'] },
      { refId: 'B', queryType: 'counts' },
      { refId: 'C', queryType: 'logs', hide: true },
    ],
  } as DataQueryRequest<Query>;
  const volume = source.getSupplementaryRequest(SupplementaryQueryType.LogsVolume, request);
  expect(volume?.liveStreaming).toBe(false);
  expect(volume?.targets).toEqual([
    {
      refId: 'log-volume-A',
      queryType: 'counts',
      levels: true,
      mode: 'polling',
      sessions: ['night'],
      kinds: ['spec_failed'],
    },
  ]);
  expect(source.getSupplementaryRequest(SupplementaryQueryType.LogsSample, request)).toBeUndefined();
});
