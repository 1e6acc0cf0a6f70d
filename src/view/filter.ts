import { compact } from '../connection/json';
import type { SpecEvent, State } from '../connection/model';
import { shownKind } from './kinds';

// Filter of the list of events. Empty means all.
export interface Filter {
  kinds: readonly string[];
  session: string | null;
  spec: string | null;
  text: string;
  latest: boolean; // only the latest outcome of each spec: the events that a figure of the summary counts
}

export const everything: Filter = { kinds: [], session: null, spec: null, text: '', latest: false };

export const isEverything = (f: Filter): boolean =>
  f.kinds.length === 0 && f.session === null && f.spec === null && f.text.trim() === '' && !f.latest;

// matches filters events, newest first. Heartbeats are left out unless they are
// chosen, because there are so many. If the state lists all requests and running
// specs, `latest` leaves out the others.
export function matches(events: readonly SpecEvent[], f: Filter, state: State | null = null): readonly SpecEvent[] {
  const words = f.text
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== '');
  const found = new Set<string>(); // specs whose latest outcome was found
  const open = f.latest && state ? openIn(state) : { waiting: null, running: null };
  return events.filter((e) => {
    if (f.latest && e.kind === 'intervention_request' && open.waiting) {
      if (!open.waiting.has(e.id)) {
        return false;
      }
    } else if (f.latest && outcomeKinds(f).includes(e.kind)) {
      const spec = JSON.stringify([e.session, e.spec]);
      if (found.has(spec)) {
        return false;
      }
      found.add(spec);
      if (e.kind === 'spec_started' && open.running && !open.running.has(spec)) {
        return false;
      }
    } else if (f.latest) {
      return false;
    }
    return (
      (f.kinds.length > 0 ? f.kinds.includes(shownKind(e)) : e.kind !== 'session_heartbeat') &&
      (f.session === null || e.session === f.session) &&
      (f.spec === null || e.spec === f.spec) &&
      words.every((word) => textOf(e).includes(word))
    );
  });
}

// openIn returns null if the state does not list all.
function openIn(state: State): { waiting: Set<number> | null; running: Set<string> | null } {
  return {
    waiting: state.waitingTotal <= state.waiting.length ? new Set(state.waiting.map((w) => w.id)) : null,
    running:
      state.specs.open <= state.running.length
        ? new Set(state.running.map((r) => JSON.stringify([r.session, r.spec])))
        : null,
  };
}

// outcomeKinds returns the kinds that can be the latest outcome of a spec. A request
// is the latest until any later event of these kinds, as in pkg/state.
const outcomeKinds = (f: Filter): readonly string[] =>
  f.kinds.includes('intervention_request') ? [...outcomes, 'intervention_request'] : outcomes;

const outcomes: readonly string[] = ['spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered'];

const texts = new WeakMap<SpecEvent, string>();

function textOf(e: SpecEvent): string {
  let text = texts.get(e);
  if (text === undefined) {
    text = `${e.session}\n${e.spec}\n${e.kind}\n${compact(e.data)}`.toLowerCase();
    texts.set(e, text);
  }
  return text;
}

const menu = 200; // names in a menu; the text search finds others

// namesOf returns the names for a menu, the latest first.
export function namesOf(events: readonly SpecEvent[], session: string | null): { sessions: string[]; specs: string[] } {
  const sessions = new Set<string>();
  const specs = new Set<string>();
  for (const e of events) {
    if (sessions.size < menu) {
      sessions.add(e.session);
    }
    if (specs.size < menu && e.spec !== '' && (session === null || e.session === session)) {
      specs.add(e.spec);
    }
  }
  return { sessions: [...sessions], specs: [...specs] };
}
