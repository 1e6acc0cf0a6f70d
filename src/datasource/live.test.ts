// @vitest-environment jsdom
// Hints of Grafana Live as it answers, and as it does not.
import {
  FieldType,
  type LiveChannelAddress,
  LiveChannelConnectionState,
  type LiveChannelEvent,
  LiveChannelEventType,
} from '@grafana/data';
import { type GrafanaLiveSrv, config, locationService, setGrafanaLiveSrv } from '@grafana/runtime';
import { Subject, type Subscription } from 'rxjs';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { type Span, changes } from './live';

const always: Span = { from: -Infinity, to: Infinity };
const now = Date.parse('2026-11-20T23:30:00Z');

let channel: Subject<LiveChannelEvent<unknown>>;
let subscribed: LiveChannelAddress[] = [];
let uid = 0; // each test has a data source of its own
let panels: Subscription[] = [];

beforeEach(() => {
  vi.useFakeTimers({ now });
  vi.spyOn(Math, 'random').mockReturnValue(0.5); // attempts to open the stream are not spread
  channel = new Subject();
  subscribed = [];
  panels = [];
  uid++;
  setGrafanaLiveSrv({
    getStream: (address: LiveChannelAddress) => {
      subscribed.push(address);
      return channel;
    },
  } as unknown as GrafanaLiveSrv);
  config.liveEnabled = true;
  localStorage.clear();
  locationService.push('/d/specwatch');
  seen(false);
});
afterEach(async () => {
  panels.forEach((panel) => panel.unsubscribe());
  await vi.advanceTimersByTimeAsync(5_000);
  expect(vi.getTimerCount()).toBe(0);
  vi.restoreAllMocks();
  vi.useRealTimers();
});

const seconds = (n: number) => vi.advanceTimersByTimeAsync(n * 1_000);

// panel returns the hints that a panel gets.
async function panel(): Promise<Span[]> {
  const hints: Span[] = [];
  panels.push(changes(`u${uid}`).subscribe((span) => hints.push(span)));
  await seconds(0);
  return hints;
}

// take returns the hints since the last call.
const take = (hints: Span[]): Span[] => hints.splice(0);

const frame = (custom: object, times: number[] = []) => ({
  schema: {
    meta: { custom },
    fields: ['time', 'kind', 'session', 'spec', 'data', 'id'].map((name) => ({ name, type: FieldType.other })),
  },
  data: {
    values: [times, ...['spec_started', 's', '', {}].map((value) => times.map(() => value)), times.map((_, i) => i)],
  },
});
const batch = (from: string, cursor: string, ...times: number[]) =>
  channel.next({ type: LiveChannelEventType.Message, message: frame({ from, cursor }, times) });
const status = (state: LiveChannelConnectionState, message?: unknown, error?: unknown) =>
  channel.next({ type: LiveChannelEventType.Status, id: 'events', timestamp: 0, state, message, error });
const connect = (cursor: string) => status(LiveChannelConnectionState.Connected, frame({ cursor }));
const lose = () => status(LiveChannelConnectionState.Connecting);

function seen(hidden: boolean): void {
  Object.defineProperty(document, 'hidden', { configurable: true, value: hidden });
  document.dispatchEvent(new Event('visibilitychange'));
}

it('a message hints at the time span of its events, and one without events at nothing', async () => {
  const hints = await panel();
  connect('a');
  expect(take(hints)).toEqual([always]); // what happened before may be missed
  batch('a', 'b', now - 5_000, now - 90_000, now - 1_000);
  expect(take(hints)).toEqual([{ from: now - 90_000, to: now - 1_000 }]);
  batch('b', 'b'); // a state
  expect(take(hints)).toEqual([]);
  batch('b', 'c', now);
  expect(take(hints)).toEqual([{ from: now, to: now }]);
  batch('c', 'd', now, 9e15); // a time that JavaScript does not have
  expect(take(hints)).toEqual([always]);
});

it('while the stream is open there is no other hint', async () => {
  const hints = await panel();
  connect('a');
  take(hints);
  await seconds(3_600);
  expect(hints).toEqual([]);
  expect(subscribed).toHaveLength(1);
});

it('after a gap anything may have changed, and then the stream goes on', async () => {
  const hints = await panel();
  connect('a');
  take(hints);
  batch('b', 'c', now);
  batch('c', 'd', now);
  batch('f', 'f'); // the stream began again elsewhere
  expect(hints).toEqual([always, { from: now, to: now }, always]);
});

it('after a reconnect anything may have changed', async () => {
  const hints = await panel();
  connect('a');
  lose();
  await seconds(1);
  expect(subscribed).toHaveLength(2);
  take(hints);
  connect('c');
  batch('c', 'd', now);
  expect(hints).toEqual([always, { from: now, to: now }]);
});

it.each<[why: string, break_: () => void]>([
  ['the link is lost', lose],
  [
    'the database is away',
    () =>
      channel.next({
        type: LiveChannelEventType.Message,
        message: frame({ from: 'a', cursor: 'a', interrupted: 'PostgreSQL cannot be reached' }),
      }),
  ],
  ['Grafana refuses', () => status(LiveChannelConnectionState.Invalid, undefined, 'permission denied')],
  ['Grafana fails', () => channel.error(new Error('oops'))],
])('%s: polls, until the stream is back', async (_, break_) => {
  const hints = await panel();
  connect('a');
  take(hints);
  break_();
  channel = new Subject(); // which says nothing
  await seconds(9);
  expect(take(hints)).toEqual([]);
  await seconds(51);
  expect(take(hints).map(({ from, to }) => [from, to])).toEqual(
    [10, 20, 30, 40, 50, 60].map((s) => [now + s * 1_000, now + s * 1_000])
  );
  while (!channel.observed) {
    await seconds(1); // until the next attempt
  }
  take(hints);
  connect('x');
  batch('x', 'y', now);
  await seconds(600);
  expect(take(hints)).toEqual([always, { from: now, to: now }]);
});

it('Live is off on this server: polls at the interval of the settings', async () => {
  config.liveEnabled = false;
  localStorage.setItem('specwatch.settings', '{"pollingInterval":7}');
  const hints = await panel();
  await seconds(70);
  expect(take(hints)).toHaveLength(10);
  expect(subscribed).toEqual([]);
  locationService.push('/d/specwatch?refresh=30s');
  await seconds(67);
  expect(take(hints)).toHaveLength(3); // one more at the old interval
});

it('Grafana does not answer: polls, and asks it again ever less often', async () => {
  const hints = await panel();
  await seconds(600);
  expect(take(hints)).toHaveLength(60);
  expect(subscribed.length).toBeGreaterThan(20);
  expect(subscribed.length).toBeLessThan(40);
});

it('all panels of a data source share one subscription, which ends after the last', async () => {
  const hints = [await panel(), await panel()];
  connect('a');
  batch('a', 'b', now);
  expect(hints[0]).toEqual([always, { from: now, to: now }]);
  expect(hints[1]).toEqual(hints[0]);
  panels[0].unsubscribe();
  batch('b', 'c', now);
  expect(hints.map((all) => all.length)).toEqual([2, 3]);
  panels[1].unsubscribe();
  await seconds(4);
  hints.push(await panel()); // of the next dashboard
  batch('c', 'd', now);
  expect(hints[2]).toEqual([{ from: now, to: now }]);
  expect(subscribed).toMatchObject([{ scope: 'ds', stream: `u${uid}`, path: 'events' }]);

  panels[2].unsubscribe();
  await seconds(6);
  expect(channel.observed).toBe(false);
  expect(vi.getTimerCount()).toBe(0);
  window.dispatchEvent(new Event('online'));
  expect(hints[2]).toHaveLength(1);
  await panel();
  expect(subscribed).toHaveLength(2);
});

it('a tab that becomes visible again asks once', async () => {
  const hints = await panel();
  connect('a');
  take(hints);
  seen(true);
  await seconds(60);
  expect(take(hints)).toEqual([]);
  seen(false);
  expect(take(hints)).toEqual([always]);
});

it('a hidden tab does not poll, and asks once and opens the stream when it is visible again', async () => {
  const hints = await panel();
  lose();
  seen(true);
  await seconds(600);
  expect(hints).toEqual([]);
  const attempts = subscribed.length;
  config.liveEnabled = false;
  await seconds(5); // the attempt that is under way ends
  config.liveEnabled = true;
  seen(false);
  await seconds(0);
  expect(take(hints)).toEqual([always]);
  expect(subscribed).toHaveLength(attempts + 1);
});

it('when the network is back, asks and opens the stream at once', async () => {
  const hints = await panel();
  config.liveEnabled = false;
  connect('a');
  lose();
  await seconds(300);
  take(hints);
  config.liveEnabled = true;
  window.dispatchEvent(new Event('online'));
  await seconds(0);
  expect(take(hints)).toEqual([always]);
  expect(subscribed).toHaveLength(2);
});
