// Waits as a browser runs them: on time, once a minute, or not at all for a
// while and then late.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Pulse, patience } from './patience';
import { limited } from './transport';

beforeEach(() => void vi.useFakeTimers({ now: Date.UTC(2026, 0, 1, 0, 0, 30) }));
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

// onceAMinute is what browsers do to the timers of a page that nobody sees.
function onceAMinute(): void {
  const prompt = globalThis.setTimeout;
  const minute = 60_000;
  vi.stubGlobal('setTimeout', (run: () => void, ms: number) =>
    prompt(run, Math.ceil((Date.now() + ms) / minute) * minute - Date.now())
  );
}

// thaw runs the one timer that was due while the page was frozen, before
// anything that came by the network meanwhile.
const thaw = (frozen: number) => {
  vi.setSystemTime(Date.now() + frozen);
  vi.advanceTimersToNextTimer();
};

describe('patience', () => {
  it('ends after its time', () => {
    const over = vi.fn();
    patience(15_000, over);
    vi.advanceTimersByTime(14_999);
    expect(over).not.toHaveBeenCalled();
    vi.advanceTimersByTime(1);
    expect(over).toHaveBeenCalledOnce();
  });

  it('does not end with the first timer after a freeze, but leaves time for the answer', () => {
    const over = vi.fn();
    patience(15_000, over);
    thaw(3_600_000);
    vi.advanceTimersByTime(9_999);
    expect(over).not.toHaveBeenCalled();
    vi.advanceTimersByTime(1);
    expect(over).toHaveBeenCalledOnce();
  });

  it('ends in a throttled page, too', () => {
    onceAMinute();
    const over = vi.fn();
    patience(15_000, over);
    vi.advanceTimersByTime(119_999);
    expect(over).not.toHaveBeenCalled();
    vi.advanceTimersByTime(60_000);
    expect(over).toHaveBeenCalledOnce();
  });

  it('can be ended, and leaves no timer', () => {
    const end = patience(15_000, () => expect.unreachable());
    vi.advanceTimersByTime(6_000);
    end();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('takes an answer that came while the page was frozen', async () => {
    let answer: (text: string) => void = () => undefined;
    const asked = limited(new AbortController().signal, () => new Promise<string>((resolve) => (answer = resolve)));
    thaw(3_600_000);
    answer('here');
    expect(await asked).toBe('here');
  });

  it('gives a request up that nobody answers', async () => {
    const asked = limited(new AbortController().signal, () => new Promise<string>(() => undefined));
    const gaveUp = expect(asked).rejects.toThrow('no answer in time');
    await vi.advanceTimersByTimeAsync(15_000);
    await gaveUp;
  });
});

describe('pulse', () => {
  let pings = 0;
  const dead = vi.fn();
  let answers = true;
  let pulse: Pulse;
  beforeEach(() => {
    pings = 0;
    answers = true;
    dead.mockClear();
  });
  // The answer to a ping comes a moment later, and not by a timer of the page.
  const start = () => {
    pulse = new Pulse(() => {
      pings++;
      if (answers) {
        queueMicrotask(() => pulse.hear());
      }
    }, dead);
  };

  it('pings a silent connection, and no other', async () => {
    start();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(pings).toBeGreaterThan(3);
    const before = pings;
    for (let i = 0; i < 60; i++) {
      pulse.hear();
      await vi.advanceTimersByTimeAsync(1_000);
    }
    expect(pings).toBe(before);
    expect(dead).not.toHaveBeenCalled();
  });

  it('finds a dead connection within twenty seconds', async () => {
    start();
    await vi.advanceTimersByTimeAsync(61_000);
    answers = false;
    await vi.advanceTimersByTimeAsync(20_000);
    expect(dead).toHaveBeenCalledOnce();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('holds a connection that works for alive while timers run once a minute', async () => {
    onceAMinute();
    start();
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(dead).not.toHaveBeenCalled();
    expect(pings).toBeGreaterThan(20);
  });

  it('finds a dead connection while timers run once a minute', async () => {
    onceAMinute();
    start();
    answers = false;
    await vi.advanceTimersByTimeAsync(300_000);
    expect(dead).toHaveBeenCalledOnce();
  });

  it('waits after a freeze for what came meanwhile', async () => {
    answers = false; // as in a frozen page: answers wait in the queue
    start();
    for (let i = 0; i < 20; i++) {
      vi.advanceTimersByTime(5_000);
      thaw(600_000);
      expect(dead).not.toHaveBeenCalled();
      pulse.hear();
    }
    pulse.end();
  });

  it('does not depend on the clock of the device', async () => {
    start();
    await vi.advanceTimersByTimeAsync(12_000);
    vi.setSystemTime(Date.now() + 86_400_000);
    await vi.advanceTimersByTimeAsync(12_000);
    vi.setSystemTime(Date.now() - 2 * 86_400_000);
    await vi.advanceTimersByTimeAsync(12_000);
    expect(dead).not.toHaveBeenCalled();
  });
});
