import type { DataQueryResponse } from '@grafana/data';
import { Subject, of } from 'rxjs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { askAgain, pollingInterval } from './asking';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

// asked counts the questions, and answers those that are named with an error.
function asked(hints: Subject<unknown>, fails: (question: number) => boolean) {
  let questions = 0;
  const shown: boolean[] = [];
  const ask = () =>
    of<DataQueryResponse>({ data: [], ...(fails(++questions) && { errors: [{ message: 'connection lost' }] }) });
  const subscription = askAgain(hints, ask).subscribe((response) => shown.push(!response.errors));
  return { count: () => questions, shown, end: () => subscription.unsubscribe() };
}

describe('asking again', () => {
  it('asks at once, at each hint, and once more for all that come meanwhile', () => {
    const hints = new Subject<unknown>();
    const panel = asked(hints, () => false);
    expect(panel.count()).toBe(1);
    hints.next(1);
    hints.next(2);
    vi.advanceTimersByTime(10_000);
    expect(panel.count()).toBe(2);
    hints.next(3);
    vi.advanceTimersByTime(60_000);
    expect(panel.count()).toBe(3);
    panel.end();
  });

  it('asks again by itself after a failure, less and less often, until there is an answer', () => {
    const panel = asked(new Subject(), (question) => question <= 3);
    vi.advanceTimersByTime(1_000);
    expect(panel.count()).toBe(2);
    vi.advanceTimersByTime(1_000);
    expect(panel.count()).toBe(2);
    vi.advanceTimersByTime(1_000);
    expect(panel.count()).toBe(3);
    vi.advanceTimersByTime(600_000);
    expect(panel.shown).toEqual([false, false, false, true]);
    panel.end();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('a hint that is answered ends the asking again', () => {
    const hints = new Subject<unknown>();
    const panel = asked(hints, (question) => question === 1);
    vi.advanceTimersByTime(600);
    hints.next(1);
    vi.advanceTimersByTime(600_000);
    expect(panel.shown).toEqual([false, true]);
    panel.end();
  });
});

describe('the interval of polls', () => {
  beforeEach(() => vi.stubGlobal('localStorage', { getItem: () => '{"pollingInterval":7}' }));
  afterEach(() => void vi.unstubAllGlobals());

  it.each([
    ['5s', 5_000],
    ['1m', 60_000],
    ['1s', 7_000],
    ['', 7_000],
    [null, 7_000],
    ['auto', 7_000],
    ['soon', 7_000],
  ])('%j in the address: %d ms', (refresh, ms) => {
    expect(pollingInterval(refresh)).toBe(ms);
  });
});
