import type { SpecEvent, State } from '../connection/model';
import { type Outcome, ends } from './kinds';

// Attempt is one try at a spec. Times are in ms since 1970.
export interface Attempt {
  from: number;
  to: number | null; // null: it runs
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
    if (event.kind === 'session_heartbeat') {
      continue;
    }
    const t = track(event.session, event.spec);
    const at = Date.parse(event.at);
    const current = t.attempts.at(-1);
    t.last = at;
    if (event.kind === 'intervention_request') {
      t.asked.push(at);
    } else if (event.kind === 'spec_started') {
      if (current?.to === null) {
        current.to = at;
        current.outcome = 'abandoned'; // started again before it ended
      }
      t.attempts.push({ from: at, to: null, outcome: 'running' });
    } else if (current?.to === null) {
      current.to = at;
      current.outcome = ends[event.kind]!;
    }
  }
  // An open spec may have started before the oldest event that is held.
  for (const open of state.running) {
    const t = track(open.session, open.spec);
    const from = Date.parse(open.since);
    if (!t.attempts.some((a) => a.from >= from)) {
      t.attempts.push({ from, to: null, outcome: 'running' });
      t.last = Math.max(t.last, from);
    }
  }
  return [...found.values()].filter((t) => t.attempts.length > 0).sort((a, b) => b.last - a.last);
}
