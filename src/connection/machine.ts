// The state machine of the connection: phases, signals, and the transitions
// between phases. Pure: no timers, no network, no React, no Grafana.
// connection.ts does what a phase needs.
import type { Mode, Settings } from './settings';

export type Badge = 'connecting' | 'live' | 'delayed' | 'offline';

export type Phase =
  | 'off' // not started
  | 'opening' // live: the stream is being opened
  | 'filling' // live: the stream is open; missed events are fetched by cursor
  | 'live' // nothing is missing, and new events are pushed
  | 'lost' // live: the stream broke; the next attempt follows after a pause
  | 'stranded' // polling replaced live, and polls are not answered (yet)
  | 'fallback' // polling replaced live
  | 'offer' // the same, and live would work again: the user is asked
  | 'asking' // polling: waits for the first answer
  | 'polling' // each poll is answered
  | 'unreachable' // polling: the last poll failed; polling continues
  | 'refused'; // the gateway needs a token

// What a phase shows and what runs in it. While polling, a probe may check
// whether the stream works again.
interface Duty {
  badge: Badge;
  mode: Mode | 'chosen'; // in effect
  runs: 'nothing' | 'stream' | 'polls';
  probes?: true;
}

export const phases: Record<Phase, Duty> = {
  off: { badge: 'connecting', mode: 'chosen', runs: 'nothing' },
  opening: { badge: 'connecting', mode: 'websocket', runs: 'stream' },
  filling: { badge: 'connecting', mode: 'websocket', runs: 'stream' },
  live: { badge: 'live', mode: 'websocket', runs: 'stream' },
  lost: { badge: 'offline', mode: 'websocket', runs: 'nothing' },
  stranded: { badge: 'offline', mode: 'polling', runs: 'polls', probes: true },
  fallback: { badge: 'delayed', mode: 'polling', runs: 'polls', probes: true },
  offer: { badge: 'delayed', mode: 'polling', runs: 'polls' },
  asking: { badge: 'connecting', mode: 'polling', runs: 'polls' },
  polling: { badge: 'delayed', mode: 'polling', runs: 'polls' },
  unreachable: { badge: 'offline', mode: 'polling', runs: 'polls' },
  refused: { badge: 'offline', mode: 'chosen', runs: 'nothing' },
};

export type Signal =
  | 'start'
  | 'stop'
  | 'chooseLive'
  | 'choosePolling' // the toggle
  | 'forbidFallback' // the setting
  | 'opened' // the stream is open
  | 'filled' // all events before the stream were fetched
  | 'gap' // a batch follows another cursor than that of the last batch
  | 'closed' // the stream broke, was refused, or did not respond
  | 'probed' // a probe succeeded
  | 'answered'
  | 'failed' // a poll failed, or fetching missed events did
  | 'retry' // the pause is over
  | 'woke' // the device slept, or its network is back
  | 'expired' // the cursor expired; the stream may be of the old history too
  | 'refused'
  | 'signedIn';

// A function chooses the phase by the facts.
type Fork = (f: Facts) => Phase;

const begin: Fork = (f) => (f.mode === 'websocket' ? 'opening' : 'asking');
const retreat: Fork = (f) => (f.settings.autoFallback && f.failures >= triesBeforeFallback ? 'stranded' : 'lost');

export const triesBeforeFallback = 2;

// Transitions of all phases except off, unless the phase has its own.
const anywhere: Partial<Record<Signal, Phase>> = {
  stop: 'off',
  chooseLive: 'opening',
  choosePolling: 'asking',
  refused: 'refused',
};

export const transitions: Record<Phase, Partial<Record<Signal, Phase | Fork>>> = {
  off: { start: begin },
  opening: { opened: 'filling', closed: retreat, chooseLive: 'opening' },
  filling: { filled: 'live', failed: retreat, closed: retreat, expired: 'opening', chooseLive: 'filling' },
  // After a sleep the stream may be dead: not Live until the database has
  // answered.
  live: { gap: 'filling', woke: 'filling', closed: retreat, expired: 'opening', chooseLive: 'live' },
  lost: { retry: 'opening', woke: 'opening' },
  stranded: { answered: 'fallback', probed: 'offer', choosePolling: 'unreachable', forbidFallback: 'opening' },
  fallback: { failed: 'stranded', probed: 'offer', choosePolling: 'polling', forbidFallback: 'opening' },
  offer: { failed: 'stranded', choosePolling: 'polling', forbidFallback: 'opening' },
  asking: { answered: 'polling', failed: 'unreachable', choosePolling: 'asking' },
  polling: { failed: 'unreachable', choosePolling: 'polling' },
  unreachable: { answered: 'polling', choosePolling: 'unreachable' },
  refused: { signedIn: begin, chooseLive: 'refused', choosePolling: 'refused' },
};

// next returns the phase after a signal. A signal without a transition changes
// nothing.
export function next(f: Facts, signal: Signal): Phase {
  const to = transitions[f.phase][signal] ?? (f.phase === 'off' ? undefined : anywhere[signal]) ?? f.phase;
  return typeof to === 'function' ? to(f) : to;
}

// Hint names a better mode and the reason. It never switches the mode.
export interface Hint {
  mode: Mode;
  why: 'unstable' | 'hidden' | 'busy';
}

// The state besides the phase. Times are in ms since 1970, by the clock of this
// device.
export interface Facts {
  phase: Phase;
  mode: Mode; // chosen by the user, or by `auto` at load
  settings: Settings;
  switching: boolean; // the chosen mode has not delivered events yet
  failures: number; // of the stream, in a row
  worked: boolean; // Live was reached once
  lost: string | null; // why the stream closed; null: it is open, or was never opened
  losses: readonly number[]; // when Live was lost within unstableSpan
  busyPolls: number; // polls in a row that brought events
  hiddenAt: number | null;
  hint: Hint | null;
  dismissed: ReadonlyArray<Hint['why']>; // hints that the user has dismissed
  begun: boolean; // the view was complete once; after that, manualRefreshOnly delays new events
  pending: number; // new events that wait for Refresh
  updatedAt: number | null; // when the view was last complete
  skew: number; // ms by which the database's clock is ahead of this machine's
  restarted: boolean; // the cursor had expired, and the view started again
  error: string | null;
}

export function initial(settings: Settings, mode: Mode): Facts {
  return {
    phase: 'off',
    mode,
    settings,
    switching: false,
    failures: 0,
    worked: false,
    lost: null,
    losses: [],
    busyPolls: 0,
    hiddenAt: null,
    hint: null,
    dismissed: [],
    begun: false,
    pending: 0,
    updatedAt: null,
    skew: 0,
    restarted: false,
    error: null,
  };
}

export type Input =
  | {
      type: Exclude<
        Signal,
        'chooseLive' | 'choosePolling' | 'forbidFallback' | 'closed' | 'failed' | 'refused' | 'answered' | 'expired'
      >;
    }
  | { type: 'choose'; mode: Mode }
  | { type: 'configure'; settings: Settings }
  | { type: 'closed'; at: number; reason: string }
  | { type: 'failed' | 'refused' | 'behind'; reason: string } // behind: the poll is repeated
  | { type: 'answered'; added: number }
  | { type: 'delivered'; at: number; added: number; skew?: number } // events, or none because there are none
  | { type: 'refreshed'; at: number }
  | { type: 'expired' }
  | { type: 'hidden' | 'shown'; at: number }
  | { type: 'dismissed' };

const unstableLosses = 3; // within unstableSpan
const unstableSpan = 5 * 60_000;
const longHidden = 10 * 60_000;
const busyPolls = 6;

// reduce returns the facts after an input.
export function reduce(f: Facts, input: Input): Facts {
  switch (input.type) {
    case 'choose': {
      const to = move(
        { ...f, mode: input.mode, error: null },
        input.mode === 'websocket' ? 'chooseLive' : 'choosePolling'
      );
      const moved = to.phase !== f.phase;
      return {
        ...to,
        failures: 0,
        busyPolls: 0,
        hint: null,
        switching: (f.switching || moved) && phases[to.phase].badge === 'connecting',
      };
    }
    case 'configure': {
      const g = { ...f, settings: input.settings, pending: input.settings.manualRefreshOnly ? f.pending : 0 };
      return input.settings.autoFallback ? g : move(g, 'forbidFallback');
    }
    case 'closed': {
      const losses =
        f.phase === 'live' || f.phase === 'filling'
          ? [...f.losses.filter((at) => input.at - at < unstableSpan), input.at]
          : f.losses;
      const g = move({ ...f, losses, failures: f.failures + 1, error: input.reason, lost: input.reason }, 'closed');
      return losses.length >= unstableLosses ? suggest(g, { mode: 'polling', why: 'unstable' }) : g;
    }
    case 'failed':
      return move(
        {
          ...f,
          ...(f.phase === 'filling' && { failures: f.failures + 1, lost: input.reason }),
          busyPolls: 0,
          error: input.reason,
        },
        'failed'
      );
    case 'behind':
      return { ...f, error: input.reason };
    case 'refused':
      return move({ ...f, error: input.reason }, 'refused');
    case 'answered': {
      const busy = input.added > 0 ? f.busyPolls + 1 : 0;
      const g = move({ ...f, busyPolls: busy, begun: true, error: null }, 'answered');
      return g.phase === 'polling' && busy >= busyPolls ? suggest(g, { mode: 'websocket', why: 'busy' }) : g;
    }
    case 'filled':
      return move({ ...f, failures: 0, worked: true, lost: null, begun: true, error: null }, 'filled');
    case 'signedIn':
      return move({ ...f, error: null }, 'signedIn');
    case 'delivered': {
      const g = { ...f, skew: input.skew ?? f.skew, error: null };
      return holdsBack(f) ? { ...g, pending: f.pending + input.added } : { ...g, updatedAt: input.at };
    }
    case 'refreshed':
      return { ...f, pending: 0, updatedAt: input.at };
    case 'expired':
      return move({ ...f, begun: false, pending: 0, restarted: f.restarted || f.begun }, 'expired');
    case 'hidden':
      return { ...f, hiddenAt: f.hiddenAt ?? input.at };
    case 'shown': {
      const g = { ...f, hiddenAt: null };
      const long = f.hiddenAt !== null && input.at - f.hiddenAt >= longHidden;
      return long && phases[f.phase].mode === 'websocket' ? suggest(g, { mode: 'polling', why: 'hidden' }) : g;
    }
    case 'dismissed':
      return { ...f, restarted: false, hint: null, dismissed: f.hint ? [...f.dismissed, f.hint.why] : f.dismissed };
    default:
      return move(f, input.type);
  }
}

function move(f: Facts, signal: Signal): Facts {
  const phase = next(f, signal);
  // The spinner ends when the chosen mode delivers or fails.
  return { ...f, phase, switching: f.switching && phases[phase].badge === 'connecting' };
}

const suggest = (f: Facts, hint: Hint): Facts => (f.dismissed.includes(hint.why) ? f : { ...f, hint });

// modeOf returns the mode in effect: polling during a fallback.
export function modeOf(f: Facts): Mode {
  const { mode } = phases[f.phase];
  return mode === 'chosen' ? f.mode : mode;
}

// holdsBack: new events are counted, and shown on Refresh.
export const holdsBack = (f: Facts): boolean => f.settings.manualRefreshOnly && f.begun;

// fellBack: polling has replaced live.
export const fellBack = (f: Facts): boolean => f.mode === 'websocket' && modeOf(f) === 'polling';
