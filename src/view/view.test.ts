// What the view makes of events and state, without a browser.
import { describe, expect, it } from 'vitest';

import type { SessionState, SpecEvent, State } from '../connection/model';
import type { Kind } from '../contract.gen';
import { tracksOf } from './attempts';
import { everything, matches, namesOf } from './filter';
import { ago, said, span } from './format';
import { glance } from './glance';

const start = Date.parse('2026-01-01T00:00:00Z');
const at = (minutes: number) => new Date(start + minutes * 60_000).toISOString();

// Events in the order in which they happened, told as "minute kind session spec".
function told(...lines: string[]): SpecEvent[] {
  return lines
    .map((line, i): SpecEvent => {
      const [minute, kind, session, spec = ''] = line.split(' ');
      return { id: i + 1, kind: kind as Kind, at: at(Number(minute)), session, spec, data: {} };
    })
    .reverse();
}

const session = (name: string, part: Partial<SessionState>): SessionState => ({
  session: name, status: 'done', lastSeen: at(0), lastHeartbeat: null, waiting: 0, failureStreak: 0, specs: { open: 0, completed: 0, failed: 0, timedOut: 0 }, ...part,
});

function state(part: Partial<State> = {}): State {
  return { at: at(0), totals: {}, specs: { open: 0, completed: 0, failed: 0, timedOut: 0 }, sessions: [], running: [], waiting: [], waitingTotal: 0, ...part };
}

describe('filter', () => {
  const events = told(
    '0 spec_started s login', '1 session_heartbeat s', '2 spec_failed s login', '3 spec_started s login', '4 spec_completed s login',
    '5 spec_started s docs', '6 intervention_request s docs', '7 spec_failed t search'
  );
  const ids = (part: object) => matches(events, { ...everything, ...part }).map((e) => e.id);
  it.each([
    ['leaves heartbeats out until they are asked for', {}, [8, 7, 6, 5, 4, 3, 1]],
    ['takes kinds', { kinds: ['spec_failed', 'session_heartbeat'] }, [8, 3, 2]],
    ['takes a session', { session: 't' }, [8]],
    ['takes a spec', { spec: 'docs' }, [7, 6]],
    ['takes every word, in any case', { text: ' FAILED login ' }, [3]],
    ['finds what failed last, not what was mended', { kinds: ['spec_failed'], latest: true }, [8]],
    ['finds what runs now', { kinds: ['spec_started'], latest: true }, [6]],
    ['finds what nobody has answered', { kinds: ['intervention_request'], latest: true }, [7]],
  ])('%s', (_, part, expected) => {
    expect(ids(part)).toEqual(expected);
  });
  it('offers names, the latest first', () => {
    expect(namesOf(events, null)).toEqual({ sessions: ['t', 's'], specs: ['search', 'docs', 'login'] });
    expect(namesOf(events, 's').specs).toEqual(['docs', 'login']);
  });
});

describe('timeline', () => {
  const attempts = (events: SpecEvent[], s = state()) => tracksOf(events, s).map((t) => [t.spec, ...t.attempts.map((a) => `${(a.from - start) / 60_000}-${a.to === null ? '' : (a.to - start) / 60_000} ${a.outcome}`)]);
  it('pairs starts with ends', () => {
    expect(attempts(told('0 spec_started s a', '2 spec_failed s a', '3 spec_started s a', '5 timeout_triggered s a', '6 spec_started s b', '7 spec_completed s b')))
      .toEqual([['b', '6-7 completed'], ['a', '0-2 failed', '3-5 timed out']]);
  });
  it('ends an attempt that was begun again', () => {
    expect(attempts(told('0 spec_started s a', '2 spec_started s a'))).toEqual([['a', '0-2 abandoned', '2- running']]);
  });
  it('knows open specs that began before the events it holds', () => {
    const running = [{ session: 's', spec: 'old', since: at(-60) }];
    expect(attempts([], state({ running }))).toEqual([['old', '-60- running']]);
    expect(attempts(told('-60 spec_started s old'), state({ running }))).toEqual([['old', '-60- running']]);
  });
  it('marks questions', () => {
    expect(tracksOf(told('0 spec_started s a', '1 intervention_request s a'), state())[0].asked).toEqual([start + 60_000]);
  });
});

describe('glance', () => {
  const open = { open: 1, completed: 0, failed: 0, timedOut: 0 };
  const running = [{ session: 's', spec: 'login', since: at(-12) }];
  const told = (s: State, minutes = 0) => {
    const { headline, detail } = glance(s, start + minutes * 60_000);
    return `${headline}, ${detail}`;
  };
  it.each<[string, State, number, string]>([
    ['works', state({ sessions: [session('s', { specs: open })], running }), 0, 'Awake, working on login, for 12 min'],
    ['falls asleep', state({ sessions: [session('s', { specs: open })], running }), 14, 'Asleep, nothing was heard for 14 min, with 1 spec open'],
    ['waits', state({ sessions: [session('s', { waiting: 1 })] }), 14, 'Asleep, nothing was heard for 14 min, waiting for you'],
    ['rests between two specs', state({ sessions: [session('s', {})] }), 0, 'Awake, between two specs'],
    ['is done', state({ sessions: [session('s', {})] }), 120, 'Done, every spec has ended; last heard 2 h 0 min ago'],
    ['sees one awake and one asleep', state({ sessions: [session('s', { specs: open }), session('t', { specs: open, lastSeen: at(-30) })], running }), 0, 'Awake, working on login, for 12 min; 1 other session is asleep'],
    ['has seen nothing', state(), 0, 'Nothing yet, no session in the last seven days'],
  ])('%s', (_, s, minutes, expected) => {
    expect(told(s, minutes)).toBe(expected);
  });
});

describe('format', () => {
  it.each([[0, '0 s'], [59_499, '59 s'], [61_000, '1 min 1 s'], [600_000, '10 min'], [3_600_000, '1 h 0 min'], [90_000_000, '1 d 1 h']])('span of %d ms', (ms, expected) => {
    expect(span(ms)).toBe(expected);
  });
  it('says Just now', () => expect([ago(1_999), ago(2_000)]).toEqual(['Just now', '2 s ago']));
  it.each([[{ question: 'Which port?' }, 'Which port?'], [{ exit_code: 1, duration_seconds: 2.25 }, 'exit code 1, after 2.3 s'], [null, ''], ['text', 'text'], [{}, '']])('what %j says', (data, expected) => {
    expect(said(data)).toBe(expected);
  });
});
