// The connection as a table: what it can be doing (phases), what can happen
// (signals), and where each leads. Pure: it has no timer and no network, and
// knows neither React nor Grafana. connection.ts does what the phase says.
import type { Mode, Settings } from './settings';

export type Badge = 'connecting' | 'live' | 'delayed' | 'offline';

export type Phase =
  | 'off' // not started
  | 'opening' // live: waits for the stream to say that it listens
  | 'filling' // live: listens, and fetches by cursor what lies before
  | 'live' // holds everything, and more is pushed
  | 'lost' // live: the stream broke; tries again after a pause
  | 'stranded' // polling took over from live, and is not answered (yet)
  | 'fallback' // polling took over from live
  | 'offer' // the same, and live would work again: the person is asked
  | 'asking' // polling: waits for the first answer
  | 'polling' // each poll is answered
  | 'unreachable' // polling: the last poll failed; goes on asking
  | 'refused'; // a token is asked for

// What a phase shows and what runs meanwhile. Beside polls, the stream may be
// probed for whether it works again.
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
  | 'start' | 'stop'
  | 'chooseLive' | 'choosePolling' // the person's toggle
  | 'forbidFallback' // the person's setting
  | 'opened' // the stream listens
  | 'filled' // everything before the stream is held
  | 'gap' // a batch follows a cursor that is not held
  | 'closed' // the stream broke, was refused, or is silent for too long
  | 'probed' // a probe found the stream working
  | 'answered' | 'failed' // a poll, or the fetching of a gap
  | 'retry' // the pause is over
  | 'woke' // the device slept, or its network is back
  | 'refused' | 'signedIn';

// A fork leads by the facts.
type Fork = (f: Facts) => Phase;

const begin: Fork = (f) => (f.mode === 'websocket' ? 'opening' : 'asking');
const retreat: Fork = (f) => (f.settings.autoFallback && f.failures >= triesBeforeFallback ? 'stranded' : 'lost');

export const triesBeforeFallback = 2;

// What holds in every phase but off, unless the phase says otherwise.
const anywhere: Partial<Record<Signal, Phase>> = { stop: 'off', chooseLive: 'opening', choosePolling: 'asking', refused: 'refused' };

export const transitions: Record<Phase, Partial<Record<Signal, Phase | Fork>>> = {
  off: { start: begin },
  opening: { opened: 'filling', closed: retreat, chooseLive: 'opening' },
  filling: { filled: 'live', failed: retreat, closed: retreat, chooseLive: 'filling' },
  // After a sleep nobody knows whether the stream still is one: not Live
  // until the database was asked.
  live: { gap: 'filling', woke: 'filling', closed: retreat, chooseLive: 'live' },
  lost: { retry: 'opening', woke: 'opening' },
  stranded: { answered: 'fallback', probed: 'offer', choosePolling: 'unreachable', forbidFallback: 'opening' },
  fallback: { failed: 'stranded', probed: 'offer', choosePolling: 'polling', forbidFallback: 'opening' },
  offer: { failed: 'stranded', choosePolling: 'polling', forbidFallback: 'opening' },
  asking: { answered: 'polling', failed: 'unreachable', choosePolling: 'asking' },
  polling: { failed: 'unreachable', choosePolling: 'polling' },
  unreachable: { answered: 'polling', choosePolling: 'unreachable' },
  refused: { signedIn: begin, chooseLive: 'refused', choosePolling: 'refused' },
};

// next is where a signal leads; a signal that says nothing in a phase leads
// nowhere.
export function next(f: Facts, signal: Signal): Phase {
  const to = transitions[f.phase][signal] ?? (f.phase === 'off' ? undefined : anywhere[signal]) ?? f.phase;
  return typeof to === 'function' ? to(f) : to;
}

// Hint names the mode that would be better, and why. It is shown, and does
// nothing by itself.
export interface Hint {
  mode: Mode;
  why: 'unstable' | 'hidden' | 'busy';
}

// What is known beside the phase. Times are in ms since 1970 by this
// machine's clock.
export interface Facts {
  phase: Phase;
  mode: Mode; // the person's choice; or that of `auto`, at load
  settings: Settings;
  switching: boolean; // the chosen mode has not delivered yet
  failures: number; // of the stream, in a row
  losses: readonly number[]; // when Live was lost lately
  busyPolls: number; // polls in a row that brought events
  hiddenAt: number | null;
  hint: Hint | null;
  waved: ReadonlyArray<Hint['why']>; // hints that the person has dismissed
  begun: boolean; // the view was complete once; from then on manualRefreshOnly holds back
  pending: number; // new events that wait for Refresh
  updatedAt: number | null; // what is shown was complete then
  skew: number; // ms by which the database's clock is ahead of this machine's
  restarted: boolean; // the database's history changed, and the view began afresh
  error: string | null;
}

export function initial(settings: Settings, mode: Mode): Facts {
  return {
    phase: 'off', mode, settings, switching: false, failures: 0, losses: [], busyPolls: 0, hiddenAt: null, hint: null, waved: [],
    begun: false, pending: 0, updatedAt: null, skew: 0, restarted: false, error: null,
  };
}

export type Input =
  | { type: Exclude<Signal, 'chooseLive' | 'choosePolling' | 'forbidFallback' | 'closed' | 'failed' | 'refused' | 'answered'> }
  | { type: 'choose'; mode: Mode }
  | { type: 'configure'; settings: Settings }
  | { type: 'closed'; at: number; reason: string }
  | { type: 'failed' | 'refused'; reason: string }
  | { type: 'answered'; added: number }
  | { type: 'delivered'; at: number; added: number; skew?: number } // events, or the certainty that there are none
  | { type: 'refreshed'; at: number }
  | { type: 'expired' }
  | { type: 'hidden' | 'shown'; at: number }
  | { type: 'dismissed' };

const unstableLosses = 3; // this many within
const unstableSpan = 5 * 60_000;
const longHidden = 10 * 60_000;
const busyPolls = 6;

// reduce is the whole machine: the facts, and what happened, make the facts.
export function reduce(f: Facts, input: Input): Facts {
  switch (input.type) {
    case 'choose': {
      const to = move({ ...f, mode: input.mode, error: null }, input.mode === 'websocket' ? 'chooseLive' : 'choosePolling');
      const moved = to.phase !== f.phase;
      return { ...to, failures: 0, busyPolls: 0, hint: null, switching: (f.switching || moved) && phases[to.phase].badge === 'connecting' };
    }
    case 'configure': {
      const g = { ...f, settings: input.settings, pending: input.settings.manualRefreshOnly ? f.pending : 0 };
      return input.settings.autoFallback ? g : move(g, 'forbidFallback');
    }
    case 'closed': {
      const losses = f.phase === 'live' || f.phase === 'filling' ? [...f.losses.filter((at) => input.at - at < unstableSpan), input.at] : f.losses;
      const g = move({ ...f, losses, failures: f.failures + 1, error: input.reason }, 'closed');
      return losses.length >= unstableLosses ? suggest(g, { mode: 'polling', why: 'unstable' }) : g;
    }
    case 'failed':
      return move({ ...f, failures: f.phase === 'filling' ? f.failures + 1 : f.failures, busyPolls: 0, error: input.reason }, 'failed');
    case 'refused':
      return move({ ...f, error: input.reason }, 'refused');
    case 'answered': {
      const busy = input.added > 0 ? f.busyPolls + 1 : 0;
      const g = move({ ...f, busyPolls: busy, begun: true, error: null }, 'answered');
      return g.phase === 'polling' && busy >= busyPolls ? suggest(g, { mode: 'websocket', why: 'busy' }) : g;
    }
    case 'filled':
      return move({ ...f, failures: 0, begun: true, error: null }, 'filled');
    case 'signedIn':
      return move({ ...f, error: null }, 'signedIn');
    case 'delivered': {
      const g = { ...f, skew: input.skew ?? f.skew, error: null };
      return holdsBack(f) ? { ...g, pending: f.pending + input.added } : { ...g, updatedAt: input.at };
    }
    case 'refreshed':
      return { ...f, pending: 0, updatedAt: input.at };
    case 'expired':
      return { ...f, begun: false, pending: 0, restarted: f.begun };
    case 'hidden':
      return { ...f, hiddenAt: f.hiddenAt ?? input.at };
    case 'shown': {
      const g = { ...f, hiddenAt: null };
      const long = f.hiddenAt !== null && input.at - f.hiddenAt >= longHidden;
      return long && phases[f.phase].mode === 'websocket' ? suggest(g, { mode: 'polling', why: 'hidden' }) : g;
    }
    case 'dismissed':
      return { ...f, restarted: false, hint: null, waved: f.hint ? [...f.waved, f.hint.why] : f.waved };
    default:
      return move(f, input.type);
  }
}

function move(f: Facts, signal: Signal): Facts {
  const phase = next(f, signal);
  // The spinner ends when the chosen mode delivers, or shows that it cannot.
  return { ...f, phase, switching: f.switching && phases[phase].badge === 'connecting' };
}

const suggest = (f: Facts, hint: Hint): Facts => (f.waved.includes(hint.why) ? f : { ...f, hint });

// modeOf is the mode in effect: of a fallback, polling.
export function modeOf(f: Facts): Mode {
  const { mode } = phases[f.phase];
  return mode === 'chosen' ? f.mode : mode;
}

// holdsBack: events announce themselves, and move on Refresh.
export const holdsBack = (f: Facts): boolean => f.settings.manualRefreshOnly && f.begun;

// fellBack: polling has taken over from live.
export const fellBack = (f: Facts): boolean => f.mode === 'websocket' && modeOf(f) === 'polling';
