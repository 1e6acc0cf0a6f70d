import type { SpecEvent, State } from '../connection/model';
import { type Outcome, ends, limitKind, shownKind } from './kinds';

// Attempt is one attempt at a spec. Times are in ms since 1970.
export interface Attempt {
  from: number;
  to: number | null; // null: it has not ended
  outcome: Outcome;
}

// Track is a spec's line on the timeline.
export interface Track {
  session: string;
  spec: string;
  attempts: Attempt[];
  asked: number[]; // moments of intervention requests
  last: number;
}

// tracksOf pairs starts with ends; the tracks with the latest change first.
// Events whose time cannot be read, and kinds that neither start nor end a
// spec, do not show on a timeline.
export function tracksOf(events: readonly SpecEvent[], state: State): Track[] {
  const found = new Map<string, Track>();
  const track = (session: string, spec: string): Track => {
    const key = JSON.stringify([session, spec]);
    let known = found.get(key);
    if (!known) {
      known = { session, spec, attempts: [], asked: [], last: 0 };
      found.set(key, known);
    }
    return known;
  };
  for (let i = events.length - 1; i >= 0; i--) {
    const event = events[i]; // oldest first
    const at = Date.parse(event.at);
    const outcome = event.kind === limitKind ? undefined : ends.get(shownKind(event));
    const asks = event.kind === 'intervention_request';
    if (Number.isNaN(at) || !(outcome || asks || event.kind === 'spec_started')) {
      continue;
    }
    const t = track(event.session, event.spec);
    const current = t.attempts.at(-1);
    t.last = at;
    if (asks) {
      t.asked.push(at);
    } else if (!outcome) {
      if (current?.to === null) {
        current.to = at;
        current.outcome = 'abandoned'; // started again before it ended
      }
      t.attempts.push({ from: at, to: null, outcome: 'running' });
    } else if (current?.to === null) {
      current.to = at;
      current.outcome = outcome;
    }
  }
  // An open spec may have started before the oldest event in the list.
  for (const open of [...state.running, ...state.silent]) {
    const t = track(open.session, open.spec);
    const from = Date.parse(open.since);
    if (!Number.isNaN(from) && !t.attempts.some((a) => a.from >= from)) {
      t.attempts.push({ from, to: null, outcome: 'running' });
      t.last = Math.max(t.last, from);
    }
  }
  markSilent(found.values(), state);
  return [...found.values()].filter((t) => t.attempts.length > 0).sort((a, b) => b.last - a.last);
}

// markSilent marks the open attempts that the state does not count as running: their
// session, or their own heartbeats, have stopped. It does not mark attempts that
// are newer than the state. It does nothing if the state lists only some of the
// running specs.
function markSilent(tracks: Iterable<Track>, state: State): void {
  if (state.specs.open > state.running.length) {
    return;
  }
  const running = new Set(state.running.map((open) => JSON.stringify([open.session, open.spec])));
  const known = Date.parse(state.at);
  for (const t of tracks) {
    const current = t.attempts.at(-1);
    if (current?.to === null && current.from <= known && !running.has(JSON.stringify([t.session, t.spec]))) {
      current.outcome = 'silent';
    }
  }
}
