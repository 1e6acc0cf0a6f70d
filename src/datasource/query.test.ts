// @vitest-environment jsdom
import {
  CoreApp,
  type DataQueryRequest,
  type DataQueryResponse,
  type DataSourceInstanceSettings,
  LoadingState,
  dateTime,
} from '@grafana/data';
import {
  DataSourceWithBackend,
  type GrafanaLiveSrv,
  type TemplateSrv,
  setGrafanaLiveSrv,
  setTemplateSrv,
} from '@grafana/runtime';
import { Subject, of } from 'rxjs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { conditions } from '../contract.gen';
import { SpecwatchDataSource } from './datasource';
import type { Span } from './live';
import type { Query, SourceSettings } from './types';

const hints = vi.hoisted(() => ({
  changes: null! as Subject<Span>,
  polls: null! as Subject<void>,
  refreshes: null! as Subject<void>,
}));
vi.mock('./live', () => ({
  changes: () => hints.changes,
  polls: () => hints.polls,
  refreshes: () => hints.refreshes,
}));

const source = new SpecwatchDataSource({
  id: 1,
  uid: 'specwatch',
  type: 'specwatch-events-datasource',
  name: 'Specwatch',
  jsonData: {},
} as DataSourceInstanceSettings<SourceSettings>);

const now = Date.parse('2026-11-20T23:30:00Z');
const day = 86_400_000;
let mode = 'websocket'; // of the dashboard
let asked: Array<DataQueryRequest<Query>> = [];
let answer: DataQueryResponse;

beforeEach(() => {
  vi.useFakeTimers({ now });
  Object.assign(hints, { changes: new Subject(), polls: new Subject(), refreshes: new Subject() });
  asked = [];
  answer = { data: [] };
  setTemplateSrv({ replace: (text = '') => text.replace('$specwatch_mode', mode) } as TemplateSrv);
  setGrafanaLiveSrv({} as GrafanaLiveSrv);
  vi.spyOn(DataSourceWithBackend.prototype, 'query').mockImplementation((request) => {
    asked.push(request as DataQueryRequest<Query>);
    return of(answer);
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

const lately = { from: dateTime(now - 3_600_000), to: dateTime(now), raw: { from: 'now-1h', to: 'now' } };
const over = (ago: number) => {
  const [from, to] = [dateTime(now - ago - 3_600_000), dateTime(now - ago)];
  return { from, to, raw: { from, to } };
};
const request = (part: Partial<DataQueryRequest<Query>> = {}, queryType: Query['queryType'] = 'counts') =>
  ({
    app: CoreApp.Dashboard,
    range: lately,
    timezone: 'utc',
    scopedVars: {},
    targets: [{ refId: 'A', queryType }],
    ...part,
  }) as DataQueryRequest<Query>;

const always = ['sessions', 'overview', 'delivery', 'promises'] as const;

const event: Span = { from: now, to: now };

// runs counts how often a request is asked at first, and at a hint of each kind.
function runs(of: DataQueryRequest<Query>, in_: string, span = event) {
  mode = in_;
  const subscription = source.query(of).subscribe();
  const counts = [asked.length];
  for (const hint of [() => hints.changes.next(span), () => hints.polls.next(), () => hints.refreshes.next()]) {
    const before = asked.length;
    vi.advanceTimersByTime(1_000);
    hint();
    vi.advanceTimersByTime(1_000);
    counts.push(asked.length - before);
  }
  subscription.unsubscribe();
  const [first, changes, polls, refreshes] = counts;
  return { first, changes, polls, refreshes };
}

describe('a query runs again', () => {
  // 'scenes' is the app in requests of Grafana 11.0's scenes renderer.
  it.each([CoreApp.Dashboard, CoreApp.PanelEditor, CoreApp.PanelViewer, 'scenes'])(
    'in %s, as the dashboard says',
    (app) => {
      expect(runs(request({ app }), 'websocket')).toEqual({ first: 1, changes: 1, polls: 0, refreshes: 0 });
      expect(runs(request({ app }), 'polling')).toMatchObject({ changes: 0, polls: 1, refreshes: 0 });
      expect(runs(request({ app }), 'manual')).toMatchObject({ changes: 0, polls: 0, refreshes: 1 });
    }
  );

  it('in Explore only where its Live button is on', () => {
    const explored = { app: CoreApp.Explore, targets: [{ refId: 'A', queryType: 'logs', mode: 'polling' }] } as const;
    expect(runs(request({ ...explored, targets: [...explored.targets] }), '')).toMatchObject({ changes: 0, polls: 0 });
    expect(runs(request({ ...explored, targets: [...explored.targets], liveStreaming: true }), '')).toMatchObject({
      changes: 1,
    });
  });

  it('not for a past range, unless an event is in it', () => {
    const past = request({ range: over(2 * day) });
    expect(runs(past, 'websocket')).toMatchObject({ first: 1, changes: 0 });
    expect(runs(past, 'polling')).toMatchObject({ polls: 0 });
    const then = past.range.from.valueOf() + 1;
    expect(runs(past, 'websocket', { from: then, to: then })).toMatchObject({ changes: 1 });
    expect(runs(past, 'websocket', { from: -Infinity, to: Infinity })).toMatchObject({ changes: 1 }); // after a gap
  });

  it.each(always)('for a range that is over too: %s are of now', (type) => {
    expect(runs(request({ range: over(2 * day) }, type), 'websocket')).toMatchObject({ changes: 1 });
  });

  it.each(['durations', 'specs', 'requests', 'nights', 'timeline'] as const)(
    'a day longer: %s may end later',
    (type) => {
      expect(runs(request({ range: over(3_600_000) }, type), 'websocket')).toMatchObject({ changes: 1 });
      expect(runs(request({ range: over(2 * day) }, type), 'websocket')).toMatchObject({ changes: 0 });
    }
  );

  it.each([...always, ...conditions, 'durations', 'specs', 'timeline'] as const)(
    'as time passes: %s change without an event',
    (type) => {
      expect(runs(request({}, type), 'websocket')).toMatchObject({ changes: 1, polls: 1, refreshes: 0 });
      expect(runs(request({ app: CoreApp.Explore, liveStreaming: true }, type), 'websocket')).toMatchObject({
        polls: 0,
      });
      const later = always.includes(type as (typeof always)[number]) ? 1 : 0;
      expect(runs(request({ range: over(2 * day) }, type), 'websocket')).toMatchObject({ polls: later });
    }
  );

  it('live without Grafana Live: as Grafana asks', () => {
    setGrafanaLiveSrv(undefined as unknown as GrafanaLiveSrv);
    expect(runs(request(), 'websocket')).toEqual({ first: 1, changes: 0, polls: 0, refreshes: 0 });
  });
});

// states are those of a panel: after its first answer, once Grafana has drawn
// that, and after each hint; not as long as until it asks again after an error.
function states(in_: string, ...later: DataQueryResponse[]) {
  mode = in_;
  const seen: Array<DataQueryResponse['state']> = [];
  let last: DataQueryResponse | undefined;
  const subscription = source.query(request()).subscribe((response) => {
    seen.push(response.state);
    last = response;
  });
  vi.advanceTimersByTime(900);
  for (answer of later) {
    hints[in_ === 'websocket' ? 'changes' : 'polls'].next(event as never);
    vi.advanceTimersByTime(900);
  }
  subscription.unsubscribe();
  return { seen, data: last?.data };
}

describe('a panel', () => {
  const { Done, Streaming, Error } = LoadingState;
  const rows = [{ fields: [], length: 0 }];
  const refused = { data: [], state: Error, errors: [{ message: 'query: a bad kind', status: 400 }] };

  it('is drawn as done before it streams, since a refresh would blank it', () => {
    expect(states('websocket', { data: rows }, { data: rows }).seen).toEqual([Done, Streaming, Streaming, Streaming]);
  });

  it('is done after each poll', () => {
    expect(states('polling', { data: rows }).seen).toEqual([Done, Done]);
  });

  it('keeps its rows when a later answer is an error', () => {
    expect(states('websocket', { data: rows }, refused)).toEqual({
      seen: [Done, Streaming, Streaming, Error],
      data: rows,
    });
  });
});

describe('the range', () => {
  it('moves with the clock', () => {
    mode = 'websocket';
    const subscription = source.query(request()).subscribe();
    vi.advanceTimersByTime(60_000);
    hints.changes.next(event);
    subscription.unsubscribe();
    const [first, second] = asked.map(({ range }) => range.to.valueOf());
    expect(second - first).toBe(60_000);
  });

  it('of a query with days ends now, whatever that of the dashboard is', () => {
    mode = 'websocket';
    const targets: Query[] = [{ refId: 'A', queryType: 'nights', days: 30 }];
    const subscription = source.query(request({ targets, range: over(90 * day) })).subscribe();
    vi.advanceTimersByTime(60_000);
    hints.changes.next(event);
    subscription.unsubscribe();
    expect(asked.map(({ range }) => range.raw)).toEqual([
      { from: 'now-30d', to: 'now' },
      { from: 'now-30d', to: 'now' },
    ]);
    const [first, second] = asked.map(({ range }) => range);
    expect([first.from.toISOString(), first.to.toISOString()]).toEqual([
      '2026-10-21T23:30:01.000Z',
      '2026-11-20T23:30:01.000Z',
    ]);
    expect(second.to.diff(first.to)).toBe(60_000);
  });

  it.each([
    ['utc', '2026-11-20T00:00:00.000Z'],
    ['Asia/Tokyo', '2026-11-20T15:00:00.000Z'], // where it is the 21st already
    ['America/New_York', '2026-11-20T05:00:00.000Z'],
  ])('of a day begins with the day of the dashboard’s time zone: %s', (timezone, midnight) => {
    mode = 'websocket';
    source
      .query(request({ timezone, range: { ...lately, raw: { from: 'now/d', to: 'now' } } }))
      .subscribe()
      .unsubscribe();
    expect(asked[0].range.from.toISOString()).toBe(midnight);
  });
});
