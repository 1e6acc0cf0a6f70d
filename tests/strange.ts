// Whatever a writer may put into events: names, times and data of any shape
// that PostgreSQL takes, and some that it does not.
import fc from 'fast-check';

import type { SpecEvent, State } from '../src/connection/model';
import * as states from './states';

const names = [
  '',
  ' ',
  '\n',
  'two\nlines',
  '\t',
  '\u0000',
  'bell\u0007',
  '\u200b',
  '\u200d',
  '\u202eevil',
  '\u2066',
  'שלום',
  'مرحبا',
  '\ud800',
  'x\udc00y',
  '👩‍👩‍👧‍👦',
  'Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A',
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'valueOf',
  'hasOwnProperty',
  'toJSON',
  'then',
  'length',
  '$$typeof',
  'key',
  'ref',
  'children',
  'dangerouslySetInnerHTML',
  'question',
  'message',
  'error',
  'options',
  'default',
  'output',
  'usage',
  'reason',
  'command',
  'signal',
  'exit_code',
  'duration_seconds',
  'timeout_seconds',
  '<img src=x onerror=alert(1)>',
  '</script>',
  '{{7*7}}',
  '${x}',
  '%s%n',
  '../../etc',
  'x'.repeat(512),
  '語'.repeat(170),
  '[object Object]',
  'null',
  'NaN',
];

export const name = fc.oneof(fc.constantFrom(...names), fc.string({ unit: 'binary', maxLength: 40 }));

const kind = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.constantFrom(
      'spec_started',
      'spec_completed',
      'spec_failed',
      'intervention_request',
      'intervention_answered',
      'timeout_triggered',
      'session_heartbeat'
    ),
  },
  { weight: 2, arbitrary: fc.constantFrom('claude.cost', 'codex.usage', 'a.'.repeat(200)) },
  { weight: 1, arbitrary: name }
);

const at = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .date({ min: new Date('2025-01-01'), max: new Date('2027-01-01'), noInvalidDate: true })
      .map((d) => d.toISOString().replace('Z', '000000Z')),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      'infinity',
      '-infinity',
      '',
      '0001-01-01T00:00:00Z',
      '9999-12-31T23:59:59.999999999Z',
      '294276-12-31T23:59:59Z',
      '+294276-12-31T23:59:59Z',
      '-004712-01-01T00:00:00Z',
      'now'
    ),
  }
);

// large is called by a name where a test reports it.
const large = (called: string, value: object): object =>
  Object.defineProperty(value, fc.toStringMethod, { value: () => called });

const nested = (open: string, close: string, depth: number): object =>
  large(`${depth} times ${open}`, JSON.parse(`${open.repeat(depth)}1${close.repeat(depth)}`));

// Own keys only, as JSON.parse makes them: __proto__ is one of them.
const object = (value: fc.Arbitrary<unknown>) =>
  fc.array(fc.tuple(name, value), { maxLength: 6 }).map((entries) => {
    const made: Record<string, unknown> = {};
    for (const [key, part] of entries) {
      Object.defineProperty(made, key, { value: part, enumerable: true, configurable: true, writable: true });
    }
    return made;
  });

const { tree } = fc.letrec<{ tree: unknown; leaf: unknown }>((tie) => ({
  leaf: fc.oneof(
    fc.constant(null),
    fc.boolean(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.integer(),
    name,
    fc.string({ unit: 'binary', maxLength: 200 })
  ),
  tree: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    tie('leaf'),
    fc.array(tie('tree'), { maxLength: 5 }),
    object(tie('tree'))
  ),
}));

export const json = fc.oneof(
  { weight: 12, arbitrary: tree },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      nested('[', ']', 10_000),
      nested('{"a":', '}', 10_000),
      nested('{"__proto__":[', ']}', 4_000),
      large(
        'a long list',
        Array.from({ length: 100_000 }, (_, i) => i)
      ),
      large('many keys', Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`key ${i}`, i]))),
      large('a long word', { text: 'word'.repeat(200_000) }),
      large('a long question', { question: 'word'.repeat(200_000) }),
      large('many lines', { question: 'line\n'.repeat(20_000) }),
      { message: '\n\n\n' }
    ),
  },
  {
    weight: 3,
    arbitrary: fc.record(
      { question: tree, options: tree, default: tree, timeout: tree },
      { requiredKeys: ['question'] }
    ),
  },
  {
    weight: 3,
    arbitrary: fc.record(
      {
        reason: tree,
        output: tree,
        exit_code: tree,
        exitCode: tree,
        signal: tree,
        command: tree,
        usage: tree,
        duration_seconds: tree,
      },
      { requiredKeys: [] }
    ),
  }
);

export const event: fc.Arbitrary<Omit<SpecEvent, 'id'>> = fc.record({
  kind,
  at,
  session: name,
  spec: name,
  data: json,
});

const counts = fc.record({
  open: fc.nat(9),
  silent: fc.nat(9),
  completed: fc.nat(999),
  failed: fc.nat(9),
  timedOut: fc.nat(9),
  limited: fc.nat(3),
});

const open = fc.uniqueArray(
  fc.record(
    { session: name, spec: name, since: at, lastWork: at, limited: fc.boolean(), limitedUntil: at },
    { requiredKeys: ['session', 'spec', 'since'] }
  ),
  { maxLength: 8, selector: (r) => JSON.stringify([r.session, r.spec]) }
);

export const state: fc.Arbitrary<State> = fc.record({
  at: fc.constant(new Date(0)).map(() => new Date().toISOString()),
  totals: fc.constant({}),
  specs: counts,
  sessions: fc.uniqueArray(
    fc.record({
      session: name,
      status: fc.constantFrom('running' as const, 'sleeping' as const, 'done' as const),
      lastSeen: at,
      lastHeartbeat: fc.option(at),
      specs: counts,
      waiting: fc.nat(3),
      clockAheadSeconds: fc.integer({ min: -9999, max: 9999 }),
      failureStreak: fc.nat(100),
      lastWork: fc.option(at),
      limited: fc.boolean(),
      limitedUntil: fc.option(at),
    }),
    { maxLength: 8, selector: (s) => s.session }
  ),
  running: open,
  silent: open,
  waiting: fc.uniqueArray(fc.record({ id: fc.nat(), session: name, spec: name, at, data: json }), {
    maxLength: 6,
    selector: (w) => w.id,
  }),
  waitingTotal: fc.nat(200),
  sessionsTotal: fc.nat(10_000),
  sessionsRunning: fc.nat(100),
  sessionsSleeping: fc.nat(100),
  delivery: fc.record({ push: fc.boolean(), delaySeconds: fc.nat(9) }),
});

// Usual ones, to compare with.
export const empty = (): State => states.state(new Date().toISOString());

export const told = (id: number, part: Partial<SpecEvent> = {}): SpecEvent => ({
  id,
  kind: 'spec_failed',
  at: new Date().toISOString(),
  session: 'night',
  spec: `spec ${id}`,
  data: {},
  ...part,
});

// Sorts before every time, and what is no time, that an event may have: a list
// shows the rows that fit, and one that is unfolded fills it.
export const topmost = '~';

// notCounted finds a number that the view could not compute. A name may be NaN.
export const notCounted = /\b(undefined|NaN|Infinity) (s|min|h|d|other|more|specs?)\b/;
