// The table, row by row: from each phase, what each signal leads to.
import { describe, expect, it } from 'vitest';

import {
  type Facts,
  type Input,
  type Phase,
  type Signal,
  fellBack,
  holdsBack,
  initial,
  modeOf,
  next,
  phases,
  reduce,
  transitions,
} from './machine';
import { defaults } from './settings';

const facts = (part: Partial<Facts> = {}): Facts => ({ ...initial(defaults, 'websocket'), ...part });
const after = (f: Facts, ...inputs: Input[]): Facts => inputs.reduce(reduce, f);
const closed = (at = 0): Input => ({ type: 'closed', at, reason: 'cut' });
const failed: Input = { type: 'failed', reason: 'down' };
const answered = (added = 0): Input => ({ type: 'answered', added });
const settings = (part: object) => ({ ...defaults, ...part });

// Each line is a phase; each column what happens in it. A dot stays.
const signals =
  'start chooseLive choosePolling opened filled gap closed probed answered failed retry woke refused signedIn forbidFallback stop expired'.split(
    ' '
  ) as Signal[];
const table = `
off          opening .       .           .       .    .       .    .     .        .           .       .       .       .       .       .            .
opening      .       .       asking      filling .    .       lost .     .        .           .       .       refused .       .       off          .
filling      .       .       asking      .       live .       lost .     .        lost        .       .       refused .       .       off          opening
live         .       .       asking      .       .    filling lost .     .        .           .       filling refused .       .       off          opening
lost         .       opening asking      .       .    .       .    .     .        .           opening opening refused .       .       off          .
stranded     .       opening unreachable .       .    .       .    offer fallback .           .       .       refused .       opening off          .
fallback     .       opening polling     .       .    .       .    offer .        stranded    .       .       refused .       opening off          .
offer        .       opening polling     .       .    .       .    .     .        stranded    .       .       refused .       opening off          .
asking       .       opening .           .       .    .       .    .     polling  unreachable .       .       refused .       .       off          .
polling      .       opening .           .       .    .       .    .     .        unreachable .       .       refused .       .       off          .
unreachable  .       opening .           .       .    .       .    .     polling  .           .       .       refused .       .       off          .
refused      .       .       .           .       .    .       .    .     .        .           .       .       .       opening .       off          .
`;

describe('the table', () => {
  const lines = table
    .trim()
    .split('\n')
    .map((line) => line.split(/\s+/) as [Phase, ...string[]]);
  it('has a line for each phase', () => {
    expect(lines.map(([phase]) => phase).sort()).toEqual(Object.keys(transitions).sort());
  });
  for (const [phase, ...cells] of lines) {
    it(phase, () => {
      expect(cells).toHaveLength(signals.length);
      const got = signals.map((signal) => {
        const to = next(facts({ phase }), signal);
        return to === phase ? '.' : to;
      });
      expect(Object.fromEntries(signals.map((s, i) => [s, got[i]]))).toEqual(
        Object.fromEntries(signals.map((s, i) => [s, cells[i]]))
      );
    });
  }
  it('begins with what was chosen', () => {
    expect(next(facts({ mode: 'polling' }), 'start')).toBe('asking');
    expect(next(facts({ phase: 'refused', mode: 'polling' }), 'signedIn')).toBe('asking');
  });
});

// Longer ways: from, what happens, and what is then known.
const ways: Array<[string, Facts, Input[], Partial<Facts>]> = [
  ['opens', facts(), [{ type: 'start' }, { type: 'opened' }, { type: 'filled' }], { phase: 'live', begun: true }],
  [
    'tries again before it falls back',
    facts({ phase: 'live' }),
    [closed()],
    { phase: 'lost', failures: 1, error: 'cut' },
  ],
  [
    'falls back',
    facts({ phase: 'live' }),
    [closed(), { type: 'retry' }, closed()],
    { phase: 'stranded', mode: 'websocket' },
  ],
  [
    'falls back, if the person lets it',
    facts({ phase: 'live', settings: settings({ autoFallback: false }) }),
    [closed(), { type: 'retry' }, closed(), { type: 'retry' }, closed()],
    { phase: 'lost', failures: 3 },
  ],
  [
    'asks before it goes back',
    facts({ phase: 'fallback' }),
    [{ type: 'probed' }, answered(), answered(3)],
    { phase: 'offer' },
  ],
  [
    'goes back when asked to',
    facts({ phase: 'offer' }),
    [{ type: 'choose', mode: 'websocket' }],
    { phase: 'opening', switching: true },
  ],
  [
    'stays polling when asked to',
    facts({ phase: 'offer' }),
    [{ type: 'choose', mode: 'polling' }],
    { phase: 'polling', mode: 'polling', switching: false },
  ],
  ['takes the offer back when polls fail', facts({ phase: 'offer' }), [failed], { phase: 'stranded' }],
  [
    'leaves the fallback when it is forbidden',
    facts({ phase: 'fallback' }),
    [{ type: 'configure', settings: settings({ autoFallback: false }) }],
    { phase: 'opening' },
  ],
  [
    'counts a gap that cannot be filled as a loss of live',
    facts({ phase: 'filling', failures: 1 }),
    [failed],
    { phase: 'stranded', failures: 2 },
  ],
  [
    'forgets failures once live',
    facts({ phase: 'filling', failures: 1, lost: 'cut' }),
    [{ type: 'filled' }],
    { failures: 0, error: null, worked: true, lost: null },
  ],
  [
    'knows of a live connection that never was one',
    facts(),
    [{ type: 'start' }, closed(), { type: 'retry' }, closed(), answered()],
    { phase: 'fallback', worked: false, lost: 'cut', error: null },
  ],
  [
    'knows why it fell back while polls work',
    facts({ phase: 'live', worked: true }),
    [closed(), { type: 'retry' }, closed(), answered()],
    { phase: 'fallback', worked: true, lost: 'cut', error: null },
  ],
  [
    'says that the database is behind, and stays where it is',
    facts({ phase: 'filling', failures: 1 }),
    [{ type: 'behind', reason: '2 s' }],
    { phase: 'filling', failures: 1, error: '2 s' },
  ],

  [
    'spins until the new mode delivers',
    facts({ phase: 'live' }),
    [{ type: 'choose', mode: 'polling' }],
    { phase: 'asking', switching: true },
  ],
  [
    'ends the spinner with the delivery',
    facts({ phase: 'live' }),
    [{ type: 'choose', mode: 'polling' }, answered()],
    { phase: 'polling', switching: false },
  ],
  [
    'ends the spinner with the failure',
    facts({ phase: 'live' }),
    [{ type: 'choose', mode: 'polling' }, failed],
    { phase: 'unreachable', switching: false },
  ],
  [
    'spins on while a choice is taken back',
    facts({ phase: 'live' }),
    [
      { type: 'choose', mode: 'polling' },
      { type: 'choose', mode: 'websocket' },
    ],
    { phase: 'opening', switching: true },
  ],
  [
    'has nothing to switch to the mode that is',
    facts({ phase: 'live' }),
    [{ type: 'choose', mode: 'websocket' }],
    { phase: 'live', switching: false },
  ],

  [
    'holds nothing back at first',
    facts({ settings: settings({ manualRefreshOnly: true }) }),
    [{ type: 'delivered', at: 5, added: 9 }],
    { pending: 0, updatedAt: 5 },
  ],
  [
    'holds back',
    facts({ begun: true, updatedAt: 5, settings: settings({ manualRefreshOnly: true }) }),
    [
      { type: 'delivered', at: 7, added: 2 },
      { type: 'delivered', at: 8, added: 1 },
    ],
    { pending: 3, updatedAt: 5 },
  ],
  [
    'shows on Refresh',
    facts({ begun: true, pending: 3, updatedAt: 5, settings: settings({ manualRefreshOnly: true }) }),
    [{ type: 'refreshed', at: 9 }],
    { pending: 0, updatedAt: 9 },
  ],
  [
    'shows when it need not hold back any more',
    facts({ begun: true, pending: 3, settings: settings({ manualRefreshOnly: true }) }),
    [{ type: 'configure', settings: defaults }],
    { pending: 0 },
  ],

  [
    'learns the clock of the database',
    facts(),
    [
      { type: 'delivered', at: 5, added: 0, skew: -120_000 },
      { type: 'delivered', at: 6, added: 1 },
    ],
    { skew: -120_000, updatedAt: 6 },
  ],
  [
    'begins afresh with another history',
    facts({ phase: 'live', begun: true, pending: 2 }),
    [{ type: 'expired' }],
    { phase: 'opening', restarted: true, begun: false, pending: 0 },
  ],
  [
    'says so, however often it begins',
    facts({ phase: 'polling', begun: true }),
    [{ type: 'expired' }, { type: 'expired' }],
    { phase: 'polling', restarted: true },
  ],
  ['says so until it is dismissed', facts({ restarted: true }), [{ type: 'dismissed' }], { restarted: false }],
  ['has nothing to restart before it began', facts({ phase: 'filling' }), [{ type: 'expired' }], { restarted: false }],
  ['is not Live after a sleep, until it has asked', facts({ phase: 'live' }), [{ type: 'woke' }], { phase: 'filling' }],

  [
    'hints at polling on an unstable link',
    facts({ phase: 'live', losses: [0, 60_000] }),
    [closed(120_000)],
    { hint: { mode: 'polling', why: 'unstable' } },
  ],
  [
    'forgets losses of long ago',
    facts({ phase: 'live', losses: [0, 60_000] }),
    [closed(400_000)],
    { hint: null, losses: [400_000] },
  ],
  [
    'hints at polling after a long time out of sight',
    facts({ phase: 'live' }),
    [
      { type: 'hidden', at: 0 },
      { type: 'hidden', at: 5 },
      { type: 'shown', at: 600_000 },
    ],
    { phase: 'live', hint: { mode: 'polling', why: 'hidden' }, hiddenAt: null },
  ],
  [
    'hints at nothing after a short time out of sight',
    facts({ phase: 'live' }),
    [
      { type: 'hidden', at: 0 },
      { type: 'shown', at: 60_000 },
    ],
    { hint: null },
  ],
  [
    'hints at nothing to somebody who polls',
    facts({ phase: 'polling', mode: 'polling' }),
    [
      { type: 'hidden', at: 0 },
      { type: 'shown', at: 600_000 },
    ],
    { hint: null },
  ],
  [
    'hints at live where each poll brings events',
    facts({ phase: 'polling', mode: 'polling', busyPolls: 5 }),
    [answered(2)],
    { phase: 'polling', hint: { mode: 'websocket', why: 'busy' } },
  ],
  [
    'does not hint twice',
    facts({ phase: 'live', losses: [1, 2], hint: { mode: 'polling', why: 'unstable' } }),
    [{ type: 'dismissed' }, closed(3)],
    { hint: null, dismissed: ['unstable'] },
  ],
  [
    'drops the hint with the choice',
    facts({ phase: 'live', hint: { mode: 'polling', why: 'unstable' } }),
    [{ type: 'choose', mode: 'polling' }],
    { hint: null },
  ],

  [
    'asks for a token',
    facts({ phase: 'opening' }),
    [{ type: 'refused', reason: 'token' }],
    { phase: 'refused', error: 'token' },
  ],
  [
    'goes on with the token',
    facts({ phase: 'refused', error: 'token' }),
    [{ type: 'signedIn' }],
    { phase: 'opening', error: null },
  ],
];

describe('the facts', () => {
  it.each(ways)('%s', (_, from, inputs, expected) => {
    expect(after(from, ...inputs)).toMatchObject(expected);
  });
  it('keep the chosen mode, whatever happens to the connection', () => {
    const others: Input[] = [
      closed(),
      failed,
      answered(1),
      ...(['start', 'opened', 'filled', 'gap', 'probed', 'retry', 'woke', 'signedIn', 'expired'] as const).map(
        (type) => ({ type })
      ),
    ];
    for (const phase of Object.keys(phases) as Phase[]) {
      for (const input of others) {
        for (const mode of ['websocket', 'polling'] as const) {
          expect(reduce(facts({ phase, mode, failures: 5 }), input).mode).toBe(mode);
        }
      }
    }
  });
  it('name a fallback, which is not a chosen mode', () => {
    expect([fellBack(facts({ phase: 'fallback' })), modeOf(facts({ phase: 'fallback' }))]).toEqual([true, 'polling']);
    expect([fellBack(facts({ phase: 'polling', mode: 'polling' })), modeOf(facts({ phase: 'lost' }))]).toEqual([
      false,
      'websocket',
    ]);
    expect(holdsBack(facts({ begun: true }))).toBe(false);
  });
});
