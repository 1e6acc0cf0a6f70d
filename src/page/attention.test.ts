import { describe, expect, it } from 'vitest';

import * as states from '../../tests/states';
import type { Session, SpecEvent, State } from '../connection/model';
import { type Memory, News, mattersIn, titleOf, together } from './attention';

const now = Date.parse('2026-01-01T01:00:00Z');
const at = (minutes: number) => new Date(now + minutes * 60_000).toISOString();
const specs = states.specs({ open: 1 });
const session = (part: Partial<Session>) =>
  states.session('night', at(0), { status: 'running', lastHeartbeat: at(0), specs, ...part });
const state = (part: Partial<State> = {}) => states.state(at(0), { specs, ...part });
const timeout: SpecEvent = {
  id: 7,
  kind: 'timeout_triggered',
  at: at(-1),
  session: 'night',
  spec: 'login',
  data: { reason: 'idle' },
};
const request = { id: 8, session: 'night', spec: 'docs', at: at(-1), data: { question: 'Publish?' } };
const titles = (events: SpecEvent[], s: State) => mattersIn(events, s, now).map((m) => m.title);

describe('a matter to notify of', () => {
  it.each<[string, SpecEvent[], State, string[]]>([
    ['nothing', [], state({ sessions: [session({})] }), []],
    ['a timeout', [timeout], state(), ['Timed out: login']],
    ['a request', [], state({ waiting: [request] }), ['Needs you: docs']],
    [
      'silence',
      [],
      state({ sessions: [session({ status: 'sleeping', lastSeen: at(-5), specs: { ...specs, open: 0, silent: 1 } })] }),
      ['Silent: night'],
    ],
    [
      'no silence if a request waits and no spec runs',
      [],
      state({ sessions: [session({ status: 'sleeping', lastSeen: at(-5), specs: { ...specs, open: 0 } })] }),
      [],
    ],
    [
      'a spec that is silent while its session continues',
      [],
      state({
        sessions: [session({ specs: { ...specs, silent: 2 } })],
        silent: [
          { session: 'night', spec: 'killed', since: at(-30) },
          { session: 'night', spec: 'lost', since: at(-20) },
        ],
      }),
      ['Silent: killed', 'Silent: lost'],
    ],
    [
      'one that the state does not list',
      [],
      state({ sessions: [session({ specs: { ...specs, silent: 1 } })] }),
      ['Silent: night'],
    ],
    [
      'a silent session once, whatever its specs are',
      [],
      state({
        sessions: [session({ status: 'sleeping', lastSeen: at(-5), specs: { ...specs, open: 0, silent: 1 } })],
        silent: [{ session: 'night', spec: 'killed', since: at(-30) }],
      }),
      ['Silent: night'],
    ],
    ['an agent that hangs', [], state({ sessions: [session({ lastWork: at(-12) })] }), ['No output: night']],
    [
      'the one that hangs of two specs',
      [],
      state({
        sessions: [session({ lastWork: at(-12) })],
        running: [
          { session: 'night', spec: 'docs', since: at(-30), lastWork: at(-1) },
          { session: 'night', spec: 'login', since: at(-20), lastWork: at(-12) },
        ],
      }),
      ['No output: login'],
    ],
    ['failures in a row', [], state({ sessions: [session({ failureStreak: 3 })] }), ['Failures in a row: night']],
    ['no single failure', [], state({ sessions: [session({ failureStreak: 2 })] }), []],
  ])('%s', (_, events, s, expected) => {
    expect(titles(events, s)).toEqual(expected);
  });

  const none: Memory = { read: () => null, write: () => undefined };

  it('is told once, and not if it was there when a browser first read the events', () => {
    const news = new News(none);
    const told = (events: SpecEvent[], s: State) => news.of(mattersIn(events, s, now)).map((m) => m.title);
    expect(told([timeout], state())).toEqual([]);
    expect(told([timeout], state({ waiting: [request] }))).toEqual(['Needs you: docs']);
    expect(told([timeout], state({ waiting: [request] }))).toEqual([]);
    expect(told([], state())).toEqual([]); // a reconnect that has not delivered
    expect(told([timeout], state({ waiting: [request] }))).toEqual([]);
    const failing = state({ sessions: [session({ failureStreak: 4 })] });
    expect(told([], failing)).toEqual(['Failures in a row: night']);
    expect(told([], state({ sessions: [session({ failureStreak: 5 })] }))).toEqual([]);
    expect(told([], state({ sessions: [session({})] }))).toEqual([]);
    expect(told([], failing)).toEqual(['Failures in a row: night']); // a new streak
  });

  it('is told at the next visit if it began while the page was closed, and in one tab', () => {
    let kept: string | null = null;
    const memory: Memory = { read: () => kept, write: (text) => (kept = text) };
    const told = (news: News, s: State, events: SpecEvent[] = []) =>
      news.of(mattersIn(events, s, now)).map((m) => m.title);
    const waiting = state({ waiting: [request] });
    expect(told(new News(memory), state(), [timeout])).toEqual([]);
    expect(told(new News(memory), waiting, [{ ...timeout, id: 9, spec: 'search' }, timeout])).toEqual([
      'Timed out: search',
      'Needs you: docs',
    ]);
    const [one, other] = [new News(memory), new News(memory)];
    expect([told(one, waiting), told(other, waiting)]).toEqual([[], []]);
    const failing = state({ sessions: [session({ failureStreak: 3 })] });
    expect([told(other, failing), told(one, failing)]).toEqual([['Failures in a row: night'], []]);
    kept = 'no list';
    expect(told(one, failing)).toEqual([]);
  });

  it('is told together with others if there are many', () => {
    const matters = mattersIn(
      [1, 2, 3, 4].map((id) => ({ ...timeout, id })),
      state(),
      now
    );
    expect(together(matters.slice(1))).toEqual(matters.slice(1));
    expect(together(matters)).toMatchObject([{ title: '4 new notifications' }]);
  });

  it('stays bounded', () => {
    const news = new News(none);
    news.of([]);
    for (let id = 0; id < 1_500; id++) {
      news.of(mattersIn([{ ...timeout, id }], state(), now));
    }
    expect((news as unknown as { told: Set<string> }).told.size).toBeLessThanOrEqual(500);
  });

  it('is counted in the title', () => {
    expect([
      titleOf(null),
      titleOf(state()),
      titleOf(state({ waitingTotal: 2, specs: { ...specs, failed: 1, timedOut: 1 } })),
    ]).toEqual(['Specwatch', 'Specwatch', '2 waiting, 2 failed - Specwatch']);
  });
});
