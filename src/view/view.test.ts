// The functions of the view on events and state, without a browser.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import * as states from '../../tests/states';
import * as strange from '../../tests/strange';
import type { Open, Session, SpecEvent, State } from '../connection/model';
import { tracksOf } from './attempts';
import { everything, matches, namesOf } from './filter';
import { askOf } from './ask';
import { ago, asked, checked, clock, lifted, said, span, used, usedBy } from './format';
import { glance, isLimited } from './glance';
import { kindName } from './kinds';
import { brief, messageOf, nameOf } from './text';

const start = Date.parse('2026-01-01T00:00:00Z');
const at = (minutes: number) => new Date(start + minutes * 60_000).toISOString();

// Events in the order in which they happened, written as "minute kind session spec".
function told(...lines: string[]): SpecEvent[] {
  return lines
    .map((line, i): SpecEvent => {
      const [minute, kind, session, spec = ''] = line.split(' ');
      return { id: i + 1, kind, at: at(Number(minute)), session, spec, data: {} };
    })
    .reverse();
}

const session = (name: string, part: Partial<Session>) => states.session(name, at(0), part);
const state = (part: Partial<State> = {}) => states.state(at(0), part);

describe('filter', () => {
  const events = told(
    '0 spec_started s login',
    '1 session_heartbeat s',
    '2 spec_failed s login',
    '3 spec_started s login',
    '4 spec_completed s login',
    '5 spec_started s docs',
    '6 intervention_request s docs',
    '7 spec_failed t search'
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
  it('takes what runs and what waits from the state', () => {
    const latest = (kind: string, part: Partial<State>) =>
      matches(events, { ...everything, kinds: [kind], latest: true }, state(part)).map((e) => e.id);
    const one = states.specs({ open: 1 });
    expect(latest('spec_started', { specs: one, running: [{ session: 's', spec: 'docs', since: at(5) }] })).toEqual([
      6,
    ]);
    expect(latest('spec_started', {})).toEqual([]); // its session is silent
    expect(latest('spec_started', { specs: one })).toEqual([6]); // the state lists in part
    expect(
      latest('intervention_request', {
        waiting: [{ id: 7, session: 's', spec: 'docs', at: at(6), data: {} }],
        waitingTotal: 1,
      })
    ).toEqual([7]);
    expect(latest('intervention_request', {})).toEqual([]); // answered
  });
  it('offers names, the latest first', () => {
    expect(namesOf(events, null)).toEqual({ sessions: ['t', 's'], specs: ['search', 'docs', 'login'] });
    expect(namesOf(events, 's').specs).toEqual(['docs', 'login']);
  });
});

describe('timeline', () => {
  const attempts = (events: SpecEvent[], s = state()) =>
    tracksOf(events, s).map((t) => [
      t.spec,
      ...t.attempts.map(
        (a) => `${(a.from - start) / 60_000}-${a.to === null ? '' : (a.to - start) / 60_000} ${a.outcome}`
      ),
    ]);
  it('pairs starts with ends', () => {
    expect(
      attempts(
        told(
          '0 spec_started s a',
          '2 spec_failed s a',
          '3 spec_started s a',
          '5 timeout_triggered s a',
          '6 spec_started s b',
          '7 spec_completed s b'
        )
      )
    ).toEqual([
      ['b', '6-7 completed'],
      ['a', '0-2 failed', '3-5 timed out'],
    ]);
  });
  it('distinguishes a usage limit from a failure', () => {
    const events = told('0 spec_started s a', '1 agent.limit s a', '2 spec_failed s a', '3 spec_failed s b');
    events[1] = { ...events[1], data: { reason: 'usage limit', resetsAt: at(60) } };
    expect(attempts(events)).toEqual([['a', '0-2 usage limit']]);
    expect(matches(events, { ...everything, kinds: ['spec_failed'], latest: true }).map((e) => e.spec)).toEqual(['b']);
    expect(matches(events, { ...everything, kinds: ['agent.limit'], latest: true }).map((e) => e.spec)).toEqual(['a']);
    expect(kindName('agent.limit')).toBe('usage limit');
    expect(said({ message: 'limit reached', resetsAt: at(60) })).toMatch(/^limit reached, resets .*\d\d:\d\d$/);
  });
  it('ends an attempt that was begun again', () => {
    expect(attempts(told('0 spec_started s a', '2 spec_started s a'))).toEqual([['a', '0-2 abandoned', '2- running']]);
  });
  it('has open specs that began before the events in the list', () => {
    const running = [{ session: 's', spec: 'old', since: at(-60) }];
    expect(attempts([], state({ running }))).toEqual([['old', '-60- running']]);
    expect(attempts(told('-60 spec_started s old'), state({ running }))).toEqual([['old', '-60- running']]);
  });
  it('leaves out what neither starts nor ends a spec, and what has no time', () => {
    const events = [
      ...told('0 spec_started s a', '1 claude.cost s a', '2 intervention_answered s a', '3 claude.cost s b'),
      { id: 9, kind: 'spec_completed', at: 'infinity', session: 's', spec: 'a', data: {} },
    ];
    expect(attempts(events)).toEqual([['a', '0- silent']]);
    expect(
      attempts(
        events,
        state({
          specs: states.specs({ open: 1 }),
          running: [{ session: 's', spec: 'a', since: at(0) }],
        })
      )
    ).toEqual([['a', '0- running']]);
  });
  it('has silent specs that began before the events in the list', () => {
    const silent = [{ session: 's', spec: 'old', since: at(-60) }];
    expect(attempts([], state({ silent }))).toEqual([['old', '-60- silent']]);
  });
  it('calls an attempt silent that the state does not count as running', () => {
    const events = told('-90 spec_started s a', '-80 intervention_request s a', '1 spec_started s b');
    expect(attempts(events)).toEqual([
      ['b', '1- running'],
      ['a', '-90- silent'],
    ]);
    expect(attempts(events, state({ specs: states.specs({ open: 1 }) }))).toEqual([
      ['b', '1- running'],
      ['a', '-90- running'],
    ]);
  });
  it('marks questions', () => {
    expect(tracksOf(told('0 spec_started s a', '1 intervention_request s a'), state())[0].asked).toEqual([
      start + 60_000,
    ]);
  });
});

it.each<[string, Partial<Open>, boolean]>([
  ['works', {}, false],
  ['is at its limit', { limited: true, limitedUntil: at(60) }, true],
  ['is at a limit whose end is not known', { limited: true }, true],
  ['is past its limit', { limited: true, limitedUntil: at(0) }, false],
])('a spec that %s', (_, part, expected) => {
  expect(isLimited({ session: 's', spec: 'login', since: at(-12), ...part }, start)).toBe(expected);
});

describe('glance', () => {
  const open = states.specs({ open: 1 });
  const running = [{ session: 's', spec: 'login', since: at(-12) }];
  const told = (s: State, minutes = 0) => {
    const { headline, detail } = glance(s, start + minutes * 60_000);
    return `${headline}, ${detail}`;
  };
  it.each<[string, State, number, string]>([
    ['works', state({ sessions: [session('s', { specs: open })], running }), 0, 'Awake, working on login, for 12 min'],
    [
      'falls asleep',
      state({ sessions: [session('s', { specs: open })], running }),
      14,
      'Asleep, no event for 14 min, with 1 spec open',
    ],
    ['waits', state({ sessions: [session('s', { waiting: 1 })] }), 14, 'Asleep, no event for 14 min, waiting for you'],
    ['rests between two specs', state({ sessions: [session('s', {})] }), 0, 'Awake, between two specs'],
    ['is done', state({ sessions: [session('s', {})] }), 120, 'Done, every spec has ended; last event 2 h 0 min ago'],
    [
      'sees one awake and one asleep',
      state({ sessions: [session('s', { specs: open }), session('t', { specs: open, lastSeen: at(-30) })], running }),
      0,
      'Awake, working on login, for 12 min; 1 other session is asleep',
    ],
    [
      'counts sessions that are not listed',
      state({ sessions: [session('s', { specs: open })], running, sessionsTotal: 1234, sessionsSleeping: 1200 }),
      0,
      'Awake, working on login, for 12 min; 1200 other sessions are asleep',
    ],
    [
      'is not done while a session that is not listed is asleep',
      state({ sessions: [session('s', {})], specs: open, sessionsTotal: 101, sessionsSleeping: 1 }),
      120,
      'Asleep, no event for 2 h 0 min, with 1 spec open',
    ],
    [
      'is asleep while no session is listed',
      state({ specs: open, sessionsTotal: 1, sessionsSleeping: 1 }),
      0,
      'Asleep, no event for unknown time, with 1 spec open',
    ],
    [
      'is asleep while one of the times cannot be read',
      state({ sessions: [session('s', { specs: open }), session('t', { lastSeen: 'infinity' })], specs: open }),
      14,
      'Asleep, no event for 14 min, with 1 spec open',
    ],
    [
      'hangs, though its heartbeats continue',
      state({
        sessions: [session('s', { specs: open, lastWork: at(-12) })],
        running: [{ ...running[0], lastWork: at(-12) }],
      }),
      0,
      'Alive, but nothing has come for 12 min from login',
    ],
    [
      'names the one of two specs that hangs',
      state({
        sessions: [session('s', { specs: { ...open, open: 2 }, lastWork: at(-11) })],
        running: [
          { ...running[0], lastWork: at(-1) },
          { session: 's', spec: 'docs', since: at(-11), lastWork: at(-11) },
        ],
      }),
      0,
      'Alive, but nothing has come for 11 min from docs',
    ],
    [
      'waits for a limit of usage, asleep or awake',
      state({
        sessions: [session('s', { limitedUntil: at(60), lastSeen: at(-5) }), session('t', { limitedUntil: at(90) })],
      }),
      0,
      `Usage limit, ${lifted(start + 3_600_000, start)}`,
    ],
    [
      'works on beside a limit',
      state({ sessions: [session('s', { specs: open }), session('t', { limitedUntil: at(90) })], running }),
      0,
      'Awake, working on login, for 12 min',
    ],
    [
      'waits for a usage limit at which a spec is open',
      state({
        sessions: [
          session('s', { specs: open, limited: true, limitedUntil: at(60) }),
          session('t', { lastSeen: at(-5) }),
        ],
        running,
      }),
      0,
      `Usage limit, ${lifted(start + 3_600_000, start)}`,
    ],
    [
      'does not know when that limit is lifted',
      state({ sessions: [session('s', { specs: open, limited: true })], running }),
      0,
      'Usage limit, reset time not known',
    ],
    [
      'works beside a spec that is open at a limit',
      state({
        sessions: [session('s', { specs: open }), session('t', { specs: open, limited: true, limitedUntil: at(90) })],
        running: [{ session: 't', spec: 'docs', since: at(-30) }, ...running],
      }),
      0,
      'Awake, working on login, for 12 min',
    ],
    [
      'works on one spec while another of the session is open at a limit',
      state({
        sessions: [session('s', { specs: { ...open, open: 2 } })],
        running: [{ session: 's', spec: 'docs', since: at(-30), limited: true, limitedUntil: at(90) }, ...running],
      }),
      0,
      'Awake, working on login, for 12 min',
    ],
    [
      'falls asleep at a limit',
      state({ sessions: [session('s', { specs: open, limited: true, limitedUntil: at(60) })], running }),
      14,
      'Asleep, no event for 14 min, with 1 spec open',
    ],
    [
      'waits for a limit whose end is not known',
      state({ sessions: [session('s', { limited: true, lastSeen: at(-5) })] }),
      0,
      'Usage limit, reset time not known',
    ],
    [
      'does not show such a limit if another session has a later event',
      state({ sessions: [session('t', { lastSeen: at(-5) }), session('s', { limited: true, lastSeen: at(-120) })] }),
      0,
      'Done, every spec has ended; last event 5 min ago',
    ],
    [
      'is done once the limit is lifted',
      state({ sessions: [session('s', { limitedUntil: at(-60), lastSeen: at(-120) })] }),
      0,
      'Done, every spec has ended; last event 2 h 0 min ago',
    ],
    [
      'is not taken for hung early, between specs, or where nothing is known',
      state({
        sessions: [
          session('s', { specs: open, lastWork: at(-9) }),
          session('t', { lastWork: at(-60) }),
          session('u', { specs: open, lastWork: null }),
        ],
        running,
      }),
      0,
      'Awake, working on login, for 12 min',
    ],
    [
      'left specs behind',
      state({ sessions: [session('s', { specs: { ...open, open: 0, silent: 2 }, lastSeen: at(-30) })] }),
      0,
      'Asleep, no event for 30 min, with 2 specs open',
    ],
    ['has seen nothing', state(), 0, 'Nothing yet, no session in the last seven days'],
  ])('%s', (_, s, minutes, expected) => {
    expect(told(s, minutes)).toBe(expected);
  });
});

describe('format', () => {
  it.each([
    [0, '0 s'],
    [59_499, '59 s'],
    [61_000, '1 min 1 s'],
    [600_000, '10 min'],
    [3_600_000, '1 h 0 min'],
    [90_000_000, '1 d 1 h'],
  ])('span of %d ms', (ms, expected) => {
    expect(span(ms)).toBe(expected);
  });
  it('says Just now', () => expect([ago(1_999), ago(2_000)]).toEqual(['Just now', '2 s ago']));
  it.each([
    [{ question: 'Which port?' }, 'Which port?'],
    [{ exit_code: 1, duration_seconds: 2.25 }, 'exit code 1, after 2.3 s'],
    [
      { exitCode: 1, reason: 'exit code', durationSeconds: 90, output: 'go\nFAIL: port 5432 is taken\n' },
      'exit code 1, after 1 min 30 s, FAIL: port 5432 is taken',
    ],
    [{ reason: 'idle', silentSeconds: 720 }, 'idle, no sign of work for 12 min'],
    [null, ''],
    ['text', 'text'],
    [{}, ''],
  ])('what %j says', (data, expected) => {
    expect(said(data)).toBe(expected);
  });
  it('says what time it was, the day and the year where they differ', () => {
    const now = new Date(2026, 5, 1, 12).getTime();
    expect(clock(now, now)).not.toContain('Jun');
    expect(clock(now - 86_400_000, now)).toContain('May 31');
    expect(clock(now - 400 * 86_400_000, now)).toContain('2025');
    expect(clock(NaN, now)).toBe('no time');
    expect([NaN, Infinity, -Infinity].map(ago)).toEqual(Array(3).fill('at an unknown time'));
    expect([NaN, Infinity, -Infinity].map(span)).toEqual(Array(3).fill('unknown time'));
  });
  it.each([
    [0.1, 'checked every 0.1 s'],
    [0.1000001, 'checked every 0.1 s'],
    [2, 'checked every 2 s'],
    [0, 'checked at intervals'],
  ])('says that a database is %s', (delaySeconds, expected) => {
    expect(checked({ push: false, delaySeconds })).toBe(expected);
  });
  it.each([
    ['{"__proto__":"x"}', '__proto__ x'],
    ['{"constructor":1,"toString":2}', 'constructor 1, to string 2'],
    ['{"toString":1}', 'to string 1'],
    ['{"question":{"toString":1}}', 'question {"toString":1}'],
    ['{"question":42}', '42'],
    ['{"duration_seconds":{"valueOf":1}}', 'after {"valueOf":1} s'],
    ['{"command":["go",{"toString":1}]}', 'go {"toString":1}'],
    ['{"error":"two\\nlines"}', 'two lines'],
    ['{"question":"","message":"m"}', 'm'],
    ['[1,[2]]', '0 1, 1 [2]'],
  ])('says %s', (data, expected) => {
    expect(said(JSON.parse(data))).toBe(expected);
  });
  it('keeps the lines of a question', () => expect(asked({ question: 'a\r\n\tb\u0007' })).toBe('a\n\tb␇'));
});

describe('a request', () => {
  it.each<[unknown, Partial<ReturnType<typeof askOf>>]>([
    [
      { question: 'Which port?', options: ['8080', 9090, '8080', {}, null, ''], default: 8080, timeout: '1h30m' },
      { question: 'Which port?', options: ['8080', '9090'], fallback: '8080', timeout: 5_400 },
    ],
    [
      { question: 'Go on?', options: 'yes', timeout: 60 },
      { question: 'Go on?', options: [], fallback: undefined, timeout: 60 },
    ],
    [
      { message: 'm', timeout: 'soon' },
      { question: 'm', timeout: undefined, clipped: false },
    ],
    [{ clipped: true }, { question: '', clipped: true }],
    [
      { question: 'Go on?', elsewhere: true },
      { question: 'Go on?', elsewhere: true },
    ],
    ['text', { question: 'text', options: [], elsewhere: false }],
    [null, { question: '', options: [] }],
  ])('%j', (data, expected) => {
    expect(askOf(data)).toMatchObject(expected);
  });
});

describe('usage', () => {
  it.each([
    [{ inputTokens: 12_345, outputTokens: 678, costUsd: 0.25 }, '$0.25, 12.3K tokens in, 678 out'],
    [{ costUsd: 0.0123 }, '$0.012'],
    [{ input_tokens: 5 }, '5 tokens in'],
    [{}, ''],
    [null, ''],
    [undefined, ''],
    [{ inputTokens: 'many' }, ''],
  ])('%j is %s', (usage, expected) => {
    expect(used(usage)).toBe(expected);
  });
  it('is summed over events', () => {
    const of = (data: unknown): SpecEvent => ({
      id: 1,
      kind: 'claude.usage',
      at: at(0),
      session: 's',
      spec: 'a',
      data,
    });
    expect(
      usedBy([
        of({ usage: { costUsd: 0.5, inputTokens: 10 } }),
        of(null),
        of('usage'),
        of({ usage: { cost_usd: 0.25, outputTokens: -3 } }),
      ])
    ).toBe('$0.75, 10 tokens in');
  });
});

describe('names', () => {
  it.each([
    ['login', 'login'],
    ['', ''],
    [' ', '(blank)'],
    ['\u200d', '(blank)'],
    ['a\nb', 'a␊b'],
    ['\u202eevil', '\ufffdevil'],
    ['x\ud800', 'x\ufffd'],
    ['__proto__', '__proto__'],
    ['שלום', '\u2068שלום\u2069'],
    ['👩‍👩‍👧‍👦', '👩‍👩‍👧‍👦'],
  ])('%j is shown as %j', (name, expected) => {
    expect(nameOf(name)).toBe(expected);
  });
  it('are cut between characters', () =>
    expect([brief('ab👩c', 4), brief('abcd', 4), nameOf('abcdef', 4)]).toEqual(['ab…', 'abcd', 'abc…']));
  it.each(['__proto__', 'constructor', 'toString', 'claude.cost'])('of kinds: %s', (kind) =>
    expect(kindName(kind)).toBe(kind)
  );
});

describe('whatever is written', () => {
  const events = fc
    .array(strange.event, { maxLength: 20 })
    .map((list) => list.map((e, i): SpecEvent => ({ ...e, id: i + 1 })));
  it('is filtered, drawn and told', () => {
    fc.assert(
      fc.property(events, strange.state, strange.name, (list, s, text) => {
        for (const e of list) {
          expect(typeof said(e.data)).toBe('string');
          expect(said(e.data).length).toBeLessThanOrEqual(302);
          expect(asked(e.data).length).toBeLessThanOrEqual(4_000);
          expect(askOf(e.data).options.every((option) => typeof option === 'string')).toBe(true);
          expect(messageOf(e.session)).not.toMatch(/\p{Cs}/u);
          expect(nameOf(e.spec) === '').toBe(e.spec === '');
          expect(typeof kindName(e.kind)).toBe('string');
        }
        const { sessions, specs } = namesOf(list, null);
        expect(sessions.length + specs.length).toBeLessThanOrEqual(2 * list.length);
        for (const f of [
          {},
          { text },
          { session: text },
          { kinds: list.map((e) => e.kind), latest: true },
          { kinds: ['intervention_request'], latest: true },
        ]) {
          expect(matches(list, { ...everything, ...f }, s).length).toBeLessThanOrEqual(list.length);
        }
        for (const { attempts } of tracksOf(list, s)) {
          expect(
            attempts.every(
              (a) => Number.isFinite(a.from) && (a.to === null || Number.isFinite(a.to)) && a.outcome !== undefined
            )
          ).toBe(true);
        }
        expect(glance(s, start).detail).not.toMatch(strange.notCounted);
      }),
      { numRuns: 100, interruptAfterTimeLimit: 20_000 }
    );
  }, 60_000);
});
