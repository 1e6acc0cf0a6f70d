// What each phase does, against a scripted transport and a virtual clock. The
// table is tested in machine.test.ts, the real transports are tested in a real browser, in tests/.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import * as states from '../../tests/states';
import { Connection } from './connection';
import type { Batch, SpecEvent, Status } from './model';
import { complete, type Settings } from './settings';
import { Expired, type LiveHandlers, Refusal, SignInNeeded, type Transport } from './transport';

const state = states.state('2026-01-01T00:00:00Z');

function event(id: number): SpecEvent {
  return {
    id,
    kind: 'spec_started',
    at: `2026-01-01T00:00:${String(id).padStart(2, '0')}.000000000Z`,
    session: 's',
    spec: String(id),
    data: {},
  };
}

class Script implements Transport {
  log: SpecEvent[] = []; // the database; a cursor is an index into it
  polls: Array<string | undefined> = [];
  lines: LiveHandlers[] = [];
  since: Array<string | undefined> = [];
  down: boolean | Error = false;
  takes = 0; // ms until a poll is answered
  expired = false;
  page = 100;

  async poll(since: string | undefined): Promise<Status> {
    this.polls.push(since);
    if (this.down) {
      throw this.down === true ? new Error('down') : this.down;
    }
    const { takes } = this;
    if (takes > 0) {
      await new Promise((answer) => setTimeout(answer, takes));
    }
    if (this.expired) {
      this.expired = false;
      throw new Expired(await this.poll(undefined));
    }
    const from = Number(since ?? 0);
    const events = this.log.slice(from, from + this.page);
    return {
      events,
      cursor: String(from + events.length),
      more: from + events.length < this.log.length,
      timestamp: new Date().toISOString(),
      state,
    };
  }

  live(since: string | undefined, handlers: LiveHandlers): () => void {
    this.since.push(since);
    this.lines.push(handlers);
    return () => undefined;
  }

  get line(): LiveHandlers {
    return this.lines.at(-1)!;
  }

  batch(from: number, to: number): Batch {
    return { from: String(from), cursor: String(to), events: this.log.slice(from, to) };
  }
}

let script: Script;
let connection: Connection;

function start(settings: Partial<Settings> = {}): void {
  script = new Script();
  connection = new Connection(script, complete(settings));
  connection.start();
}

const ids = () =>
  connection
    .snapshot()
    .events.map((e) => e.id)
    .reverse();
const settle = () => vi.advanceTimersByTimeAsync(0);

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  connection.stop();
  vi.useRealTimers();
});

describe('live', () => {
  it('subscribes first, fills the gap, and only then says Live', async () => {
    start();
    script.log = [event(1), event(2)];
    expect(connection.snapshot().badge).toBe('connecting');
    script.line.opened({ cursor: '2', complete: false });
    expect(connection.snapshot().badge).toBe('connecting');
    await settle();
    expect(connection.snapshot().badge).toBe('live');
    expect(ids()).toEqual([1, 2]);
    script.log.push(event(3));
    script.line.batch(script.batch(2, 3));
    expect(ids()).toEqual([1, 2, 3]);
  });

  it('holds batches that come while the gap is filled', async () => {
    start();
    script.log = [event(1), event(2), event(3)];
    script.line.opened({ cursor: '1', complete: false });
    script.line.batch(script.batch(1, 2));
    script.line.batch(script.batch(2, 3));
    await settle();
    expect(ids()).toEqual([1, 2, 3]);
    expect(connection.snapshot().badge).toBe('live');
  });

  it('fetches what is missing when a batch follows an unknown cursor', async () => {
    start();
    script.page = 2;
    script.line.opened({ cursor: '0', complete: false });
    await settle();
    script.log = [event(1), event(2), event(3), event(4), event(5), event(6)];
    script.line.batch(script.batch(5, 6));
    await settle();
    expect(ids()).toEqual([1, 2, 3, 4, 5, 6]);
    script.log.push(event(7));
    script.line.batch(script.batch(6, 7));
    expect(ids()).toEqual([1, 2, 3, 4, 5, 6, 7]);
  });

  it('shows an event once, however often it comes', async () => {
    start();
    script.log = [event(1)];
    script.line.opened({ cursor: '1', complete: true, events: [event(1)], state });
    script.line.batch({ from: '1', cursor: '2', events: [event(1), event(2)] });
    await settle();
    expect(ids()).toEqual([1, 2]);
  });

  it('drops what it holds when its cursor expired', async () => {
    start();
    script.line.opened({ cursor: '1', complete: true, events: [event(1)], state });
    script.line.closed(new Error('cut'));
    await vi.advanceTimersByTimeAsync(2_000);
    script.line.opened({ cursor: '9', complete: true, expired: true, events: [event(8)], state });
    await settle();
    expect(ids()).toEqual([8]);
  });

  it('takes the state from the stream, and then asks for none', async () => {
    start();
    script.line.opened({ cursor: '0', complete: true, events: [], state });
    await settle();
    script.log = [event(1), event(2)];
    const polls = script.polls.length;
    script.line.batch({ ...script.batch(0, 1), state: { ...state, waitingTotal: 7 } });
    expect(connection.snapshot().state?.waitingTotal).toBe(7);
    script.line.batch(script.batch(1, 2));
    await vi.advanceTimersByTimeAsync(5_000);
    expect(script.polls).toHaveLength(polls);
  });

  it('asks for the state after events where the stream does not bring it', async () => {
    start();
    script.line.opened({ cursor: '0', complete: true, events: [], state });
    await settle();
    script.log = [event(1)];
    const polls = script.polls.length;
    script.line.batch(script.batch(0, 1));
    await vi.advanceTimersByTimeAsync(5_000);
    expect(script.polls).toHaveLength(polls + 1);
  });

  it('reconnects with its cursor', async () => {
    start({ autoFallback: false });
    script.log = [event(1)];
    script.line.opened({ cursor: '1', complete: true, events: [event(1)], state });
    await settle();
    script.line.closed(new Error('cut'));
    expect(connection.snapshot().badge).toBe('offline');
    await vi.advanceTimersByTimeAsync(2_000);
    expect(script.since).toEqual([undefined, '1']);
    script.line.opened({ cursor: '2', complete: true, events: [event(2)], state });
    expect(connection.snapshot().badge).toBe('live');
    expect(ids()).toEqual([1, 2]);
  });
});

describe('fallback', () => {
  it('polls when live is lost, and asks before it goes back', async () => {
    start();
    script.line.opened({ cursor: '0', complete: true, events: [], state });
    script.line.closed(new Error('cut'));
    await vi.advanceTimersByTimeAsync(2_000);
    script.line.closed(new Error('refused'));
    await settle();
    expect(connection.snapshot()).toMatchObject({
      mode: 'polling',
      fallback: true,
      badge: 'delayed',
      couldBeLive: false,
    });
    script.log = [event(1)];
    await vi.advanceTimersByTimeAsync(12_000);
    expect(ids()).toEqual([1]);
    script.line.opened({ cursor: '1', complete: true, events: [], state });
    await settle();
    expect(connection.snapshot()).toMatchObject({ mode: 'polling', couldBeLive: true });
    connection.choose('websocket');
    expect(connection.snapshot().switching).toBe(true);
    script.line.opened({ cursor: '1', complete: true, events: [], state });
    await settle();
    expect(connection.snapshot()).toMatchObject({
      mode: 'websocket',
      fallback: false,
      badge: 'live',
      switching: false,
    });
    expect(ids()).toEqual([1]);
  });
});

describe('polling', () => {
  it('asks at its interval, from its cursor, page after page', async () => {
    start({ preferredMode: 'polling', pollingInterval: 5 });
    script.page = 1;
    await settle();
    expect(connection.snapshot().badge).toBe('delayed');
    script.log = [event(1), event(2), event(3)];
    await vi.advanceTimersByTimeAsync(5_000);
    expect(ids()).toEqual([1, 2, 3]);
    expect(script.polls).toEqual([undefined, '0', '1', '2']);
  });

  it('says Offline while polls fail, and goes on', async () => {
    start({ preferredMode: 'polling' });
    await settle();
    script.down = true;
    await vi.advanceTimersByTimeAsync(10_000);
    expect(connection.snapshot().badge).toBe('offline');
    script.down = false;
    script.log = [event(1)];
    await vi.advanceTimersByTimeAsync(10_000);
    expect(connection.snapshot().badge).toBe('delayed');
    expect(ids()).toEqual([1]);
  });

  it('loses nothing when the mode is switched back and forth', async () => {
    start();
    script.line.opened({ cursor: '0', complete: true, events: [], state });
    for (let i = 1; i <= 20; i++) {
      script.log.push(event(i));
      const mode = i % 2 ? 'polling' : 'websocket';
      connection.choose(mode);
      if (mode === 'websocket') {
        const since = Number(script.since.at(-1) ?? 0);
        script.line.opened({ cursor: String(i), complete: true, events: script.log.slice(since), state });
      }
      await settle();
    }
    expect(ids()).toEqual(script.log.map((e) => e.id));
  });
});

describe('a connection that may be dead', () => {
  it('counts as lost after two polls without an answer', async () => {
    start({ autoFallback: false });
    script.line.opened({ cursor: '0', complete: true, events: [], state });
    await settle();
    script.down = true;
    await vi.advanceTimersByTimeAsync(30_000);
    expect(connection.snapshot().badge).toBe('live');
    await vi.advanceTimersByTimeAsync(600);
    expect(connection.snapshot()).toMatchObject({ badge: 'offline', error: 'The live connection went silent.' });
  });

  it('polls for what the stream did not deliver', async () => {
    start();
    script.line.opened({ cursor: '0', complete: true, events: [], state });
    await settle();
    script.log.push(event(1));
    await vi.advanceTimersByTimeAsync(30_000);
    expect(ids()).toEqual([1]);
  });

  it('is not Live after a sleep until the database has answered', async () => {
    start();
    script.line.opened({ cursor: '0', complete: true, events: [], state });
    await settle();
    script.log.push(event(1));
    connection.wake();
    expect(connection.snapshot().badge).toBe('connecting');
    await settle();
    expect(connection.snapshot().badge).toBe('live');
    expect(ids()).toEqual([1]);
  });

  it('asks at once after a sleep when it polls, and when it has lost the link', async () => {
    start({ preferredMode: 'polling' });
    await settle();
    script.log.push(event(1));
    connection.wake();
    await settle();
    expect(ids()).toEqual([1]);
    connection.stop();
    start({ autoFallback: false });
    script.line.closed(new Error('cut'));
    connection.wake();
    expect(script.lines).toHaveLength(2);
  });

  it('asks for a token, and goes on with it', async () => {
    start();
    script.line.closed(new SignInNeeded('token'));
    expect(connection.snapshot()).toMatchObject({ signIn: true, badge: 'offline' });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(script.lines).toHaveLength(1);
    connection.signedIn();
    script.line.opened({ cursor: '0', complete: true, events: [], state });
    await settle();
    expect(connection.snapshot()).toMatchObject({ signIn: false, badge: 'live' });
  });

  it('begins afresh with another history, polled too', async () => {
    start({ preferredMode: 'polling', pollingInterval: 5 });
    script.log = [event(1), event(2)];
    await settle();
    await vi.advanceTimersByTimeAsync(5_000);
    script.log = [event(9)];
    script.expired = true;
    await vi.advanceTimersByTimeAsync(5_000);
    expect(ids()).toEqual([9]);
    expect(connection.snapshot().restarted).toBe(true);
    connection.dismiss();
    expect(connection.snapshot().restarted).toBe(false);
  });

  describe('in another history', () => {
    // The same ids are told again, for other events.
    const other = (id: number): SpecEvent => ({ ...event(id), spec: `other ${id}` });
    const shown = () =>
      connection
        .snapshot()
        .events.map((e) => e.spec)
        .reverse();

    it('drops all that it holds, where a poll says so', async () => {
      start({ preferredMode: 'polling', pollingInterval: 5 });
      script.log = [event(1), event(2)];
      await vi.advanceTimersByTimeAsync(5_000);
      expect(shown()).toEqual(['1', '2']);
      script.log = [other(1), other(2), other(3)];
      script.expired = true;
      await vi.advanceTimersByTimeAsync(5_000);
      expect(shown()).toEqual(['other 1', 'other 2', 'other 3']);
      expect(connection.snapshot().history).toBe(1);
    });

    it('drops all that it holds, where the stream says so', async () => {
      start();
      script.line.opened({ cursor: '2', complete: true, events: [event(1), event(2)], state });
      await settle();
      script.line.closed(new Error('cut'));
      script.log = [other(1)];
      await vi.advanceTimersByTimeAsync(2_000);
      script.line.opened({ cursor: '1', complete: true, expired: true, events: [other(1)], state });
      await settle();
      expect(shown()).toEqual(['other 1']);
      expect(connection.snapshot()).toMatchObject({ badge: 'live', restarted: true });
    });

    it('ignores the stream of the old one', async () => {
      start();
      script.log = [event(1), event(2)];
      script.line.opened({ cursor: '2', complete: true, events: script.log, state });
      await settle();
      const old = script.line;
      script.log = [other(1)];
      script.expired = true;
      await connection.refresh();
      expect(shown()).toEqual(['other 1']);
      expect(connection.snapshot().badge).toBe('connecting');
      old.batch({ from: '2', cursor: '3', events: [event(3)] });
      expect(shown()).toEqual(['other 1']);
      await vi.advanceTimersByTimeAsync(2_000);
      expect(script.lines).toHaveLength(2);
      expect(script.since.at(-1)).toBe('1');
      script.line.opened({ cursor: '1', complete: true, events: [], state });
      await settle();
      expect(connection.snapshot()).toMatchObject({ badge: 'live', restarted: true });
      expect(shown()).toEqual(['other 1']);
    });

    it('drops what it holds back for Refresh, too', async () => {
      start({ manualRefreshOnly: true, preferredMode: 'polling', pollingInterval: 5 });
      script.log = [event(1)];
      await settle();
      script.log = [event(1), event(2)];
      await vi.advanceTimersByTimeAsync(5_000);
      expect(connection.snapshot().pending).toBe(1);
      script.log = [other(1), other(2)];
      script.expired = true;
      await vi.advanceTimersByTimeAsync(5_000);
      expect(shown()).toEqual(['other 1', 'other 2']);
      expect(connection.snapshot().pending).toBe(0);
    });

    it('does not ask at the speed of the network where each cursor expires at once', async () => {
      start();
      script.line.opened({ cursor: '0', complete: false });
      await settle();
      for (let i = 0; i < 20; i++) {
        script.expired = true;
        await connection.refresh();
        await vi.advanceTimersByTimeAsync(500);
        script.line.opened({ cursor: '0', complete: false });
      }
      expect(script.lines.length).toBeLessThan(12);
    });
  });

  it('waits for a standby that is behind: says so, drops nothing, asks again', async () => {
    for (const preferredMode of ['websocket', 'polling'] as const) {
      start({ preferredMode, pollingInterval: 5 });
      script.log = [event(1)];
      if (preferredMode === 'websocket') {
        script.line.opened({ cursor: '1', complete: true, events: script.log, state });
      }
      await settle();
      script.log.push(event(2));
      script.down = new Refusal('the standby is 3 s behind', 'behind');
      connection.wake();
      await vi.advanceTimersByTimeAsync(90_000);
      expect(connection.snapshot().error).toBe('the standby is 3 s behind');
      expect(ids()).toEqual([1]);
      expect(script.lines.length).toBeLessThanOrEqual(1);
      script.down = false;
      await vi.advanceTimersByTimeAsync(35_000);
      expect(connection.snapshot()).toMatchObject({
        badge: preferredMode === 'polling' ? 'delayed' : 'live',
        error: null,
        restarted: false,
      });
      expect(ids()).toEqual([1, 2]);
      connection.stop();
    }
  });

  it('says what the server said, where it answers and does not serve', async () => {
    start({ autoFallback: false });
    script.line.opened({ cursor: '0', complete: true, events: [], state });
    await settle();
    script.down = new Refusal('the database is being restored');
    await vi.advanceTimersByTimeAsync(30_600);
    expect(connection.snapshot()).toMatchObject({ badge: 'offline', error: 'the database is being restored' });
  });

  it('holds no more than it may while a gap is filled', async () => {
    start({ autoFallback: false });
    script.takes = 60_000;
    script.line.opened({ cursor: '0', complete: false });
    for (let i = 0; i < 5_000; i++) {
      script.line.batch({ from: String(i), cursor: String(i + 1), events: [] });
    }
    expect(connection.snapshot().badge).toBe('offline');
  });

  it('does not take a freeze between request and answer for a wrong clock', async () => {
    start({ preferredMode: 'polling', pollingInterval: 5 });
    await settle();
    script.takes = 600_000; // answered at once, and read when the page runs again
    await vi.advanceTimersByTimeAsync(700_000);
    expect(Math.abs(connection.snapshot().skew)).toBeLessThan(1_000);
  });

  it('goes on when a listener throws', async () => {
    const complain = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    start();
    const leave = connection.subscribe(() => {
      throw new Error('a broken view');
    });
    script.log = [event(1)];
    script.line.opened({ cursor: '1', complete: true, events: script.log, state });
    await settle();
    expect(connection.snapshot().badge).toBe('live');
    expect(complain).toHaveBeenCalled();
    leave();
    complain.mockRestore();
  });

  it('runs nothing once it is stopped', async () => {
    start();
    script.line.opened({ cursor: '0', complete: true, events: [], state });
    await settle();
    connection.stop();
    await vi.advanceTimersByTimeAsync(1);
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('manual refresh', () => {
  it('counts new events and shows them on Refresh only', async () => {
    start({ manualRefreshOnly: true });
    script.log = [event(1)];
    script.line.opened({ cursor: '1', complete: true, events: [event(1)], state });
    await settle();
    script.log.push(event(2));
    script.line.batch(script.batch(1, 2));
    expect(ids()).toEqual([1]);
    expect(connection.snapshot().pending).toBe(1);
    await connection.refresh();
    expect(ids()).toEqual([1, 2]);
    expect(connection.snapshot().pending).toBe(0);
  });
});
