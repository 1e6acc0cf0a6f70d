import type { Kind } from '../contract.gen';
import type { SpecEvent } from '../connection/model';

// Filter narrows the list of events. Empty means all.
export interface Filter {
  kinds: readonly Kind[];
  session: string | null;
  spec: string | null;
  text: string;
  latest: boolean; // only what is the last word on its spec: the events behind a summary's figure
}

export const everything: Filter = { kinds: [], session: null, spec: null, text: '', latest: false };

export const isEverything = (f: Filter): boolean => f.kinds.length === 0 && f.session === null && f.spec === null && f.text.trim() === '' && !f.latest;

// matches filters events, newest first. Heartbeats drown the rest, so they
// come only when they are asked for.
export function matches(events: readonly SpecEvent[], f: Filter): readonly SpecEvent[] {
  const words = f.text.toLowerCase().split(/\s+/).filter((word) => word !== '');
  const told = new Set<string>(); // specs whose last word has come
  return events.filter((e) => {
    if (f.latest && lastWords(f).includes(e.kind)) {
      const spec = JSON.stringify([e.session, e.spec]);
      if (told.has(spec)) {
        return false;
      }
      told.add(spec);
    } else if (f.latest) {
      return false;
    }
    return (
      (f.kinds.length > 0 ? f.kinds.includes(e.kind) : e.kind !== 'session_heartbeat') &&
      (f.session === null || e.session === f.session) &&
      (f.spec === null || e.spec === f.spec) &&
      words.every((word) => textOf(e).includes(word))
    );
  });
}

// lastWords are the kinds that take the last word from one another: a question
// ends nothing, and is answered by whatever comes after it (as in pkg/state).
const lastWords = (f: Filter): readonly Kind[] => (f.kinds.includes('intervention_request') ? [...outcomes, 'intervention_request'] : outcomes);

const outcomes: readonly Kind[] = ['spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered'];

const texts = new WeakMap<SpecEvent, string>();

function textOf(e: SpecEvent): string {
  let text = texts.get(e);
  if (text === undefined) {
    text = `${e.session}\n${e.spec}\n${e.kind}\n${JSON.stringify(e.data)}`.toLowerCase();
    texts.set(e, text);
  }
  return text;
}

const menu = 200; // names in a menu; the text search finds the others

// namesOf lists what can be chosen from, the latest first.
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
