// @vitest-environment jsdom
// Grafana Live as it answers, and as it does not.
import {
  FieldType,
  type LiveChannelAddress,
  LiveChannelConnectionState,
  type LiveChannelEvent,
  LiveChannelEventType,
} from '@grafana/data';
import { type GrafanaLiveSrv, config, setGrafanaLiveSrv } from '@grafana/runtime';
import { Subject } from 'rxjs';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { GrafanaTransport } from './grafana';

let channel: Subject<LiveChannelEvent<unknown>>;
let subscribed: LiveChannelAddress[] = [];
const handlers = { opened: vi.fn(), batch: vi.fn(), closed: vi.fn() };

beforeEach(() => {
  vi.useFakeTimers();
  channel = new Subject();
  subscribed = [];
  setGrafanaLiveSrv({
    getStream: (address: LiveChannelAddress) => {
      subscribed.push(address);
      return channel;
    },
  } as unknown as GrafanaLiveSrv);
  config.liveEnabled = true;
});
afterEach(() => {
  vi.clearAllMocks();
  vi.useRealTimers();
});

const frame = (custom: object, values: unknown[][] = [[], [], [], [], [], []], nanos?: unknown) => ({
  schema: {
    meta: { custom },
    fields: ['time', 'kind', 'session', 'spec', 'data', 'id'].map((name) => ({ name, type: FieldType.other })),
  },
  data: { values, nanos },
});
const tell = (message: unknown) => channel.next({ type: LiveChannelEventType.Message, message });
const status = (state: LiveChannelConnectionState, message?: unknown, error?: unknown) =>
  channel.next({ type: LiveChannelEventType.Status, id: 'events', timestamp: 0, state, message, error });

async function live() {
  const end = new GrafanaTransport('u').live(undefined, handlers);
  await vi.advanceTimersByTimeAsync(0);
  return end;
}
const reason = () => (handlers.closed.mock.calls[0]?.[0] as Error | undefined)?.message;

it('opens with the cursor of the shared stream, once, and hands batches on', async () => {
  await live();
  expect(subscribed).toMatchObject([{ scope: 'ds', namespace: 'u', stream: 'u', path: 'events' }]);
  status(LiveChannelConnectionState.Connected, frame({ cursor: 'a' }));
  status(LiveChannelConnectionState.Connected);
  expect(handlers.opened.mock.calls).toEqual([[{ cursor: 'a', complete: false }]]);
  const at = Date.parse('2026-01-01T00:00:00.123Z');
  tell(
    frame({ from: 'a', cursor: 'b' }, [[at], ['spec_failed'], ['s'], ['<img src=x>'], [{ n: 1 }], [7]], [[456_789]])
  );
  expect(handlers.batch.mock.calls).toEqual([
    [
      {
        from: 'a',
        cursor: 'b',
        state: undefined,
        events: [
          {
            id: 7,
            kind: 'spec_failed',
            at: '2026-01-01T00:00:00.123456789Z',
            session: 's',
            spec: '<img src=x>',
            data: { n: 1 },
          },
        ],
      },
    ],
  ]);
  expect(handlers.closed).not.toHaveBeenCalled();
});

it('ends at once when the stream says that the database is away', async () => {
  await live();
  status(LiveChannelConnectionState.Connected, frame({ cursor: 'a' }));
  tell(frame({ from: 'a', cursor: 'a', interrupted: 'PostgreSQL cannot be reached' }));
  expect(reason()).toBe('PostgreSQL cannot be reached');
  tell(frame({ from: 'a', cursor: 'b' }));
  expect(handlers.batch).not.toHaveBeenCalled();
  expect(channel.observed).toBe(false);
});

it('says at once that Live is switched off on the server, and asks it for nothing', async () => {
  config.liveEnabled = false;
  await live();
  expect(reason()).toContain('switched off on this server (max_connections = 0');
  expect(subscribed).toEqual([]);
});

it('does not wait for ever for a server that does not answer', async () => {
  await live();
  await vi.advanceTimersByTimeAsync(5_000);
  expect(reason()).toContain('does not answer');
});

it('says why it was refused', async () => {
  await live();
  status(LiveChannelConnectionState.Invalid, undefined, 'permission denied');
  expect(reason()).toBe('permission denied');
});

it('ends when the connection is lost, and calls no handler after it was left', async () => {
  const end = await live();
  status(LiveChannelConnectionState.Connected, frame({ cursor: 'a' }));
  status(LiveChannelConnectionState.Disconnected);
  expect(reason()).toBe('Grafana Live lost its connection.');
  end();
  const leave = await live();
  leave();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(handlers.closed).toHaveBeenCalledTimes(1);
  expect(channel.observed).toBe(false);
});
