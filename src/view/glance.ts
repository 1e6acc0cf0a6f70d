// The state of all sessions in one sentence.
import type { Open, Session, SessionStatus, State } from '../connection/model';
import { limits } from '../contract.gen';
import { ago, lifted, span } from './format';
import { nameOf } from './text';

const longestName = 120; // characters of a name in a sentence

// statusAt returns the status of a session at a time after the last answer.
export function statusAt(s: Session, now: number): SessionStatus {
  if (now - Date.parse(s.lastSeen) <= limits.awakeSeconds * 1_000) {
    return 'running';
  }
  return openIn(s) > 0 || s.waiting > 0 ? 'sleeping' : 'done';
}

const openIn = ({ specs }: Session): number => specs.open + specs.silent;

// idleFor returns how long a spec of a session with heartbeats has shown no sign of
// work; null: none is idle, or it is not known.
export function idleFor(s: Session, now: number): number | null {
  const idle = s.lastWork ? now - Date.parse(s.lastWork) : NaN;
  return statusAt(s, now) === 'running' && s.specs.open > 0 && idle >= limits.idleSeconds * 1_000 ? idle : null;
}

export interface Idle {
  session: string;
  spec: string; // empty: the state does not list the spec
  lastWork: string;
  for: number; // ms
}

// idleIn lists the specs for which idleFor is not null, the longest first.
export function idleIn({ sessions, running }: State, now: number): Idle[] {
  const found: Idle[] = [];
  for (const s of sessions) {
    const longest = idleFor(s, now);
    if (longest === null) {
      continue;
    }
    const before = found.length;
    for (const { session, spec, lastWork } of running) {
      const idle = session === s.session && lastWork ? now - Date.parse(lastWork) : NaN;
      if (idle >= limits.idleSeconds * 1_000) {
        found.push({ session, spec, lastWork: lastWork!, for: idle });
      }
    }
    if (found.length === before) {
      found.push({ session: s.session, spec: '', lastWork: s.lastWork!, for: longest });
    }
  }
  return found.sort((a, b) => b.for - a.for);
}

// limitOf returns the time until which a session waits for its usage limit to reset,
// in ms since 1970; Infinity: the time is not known; null: it does not wait. The
// agent of an open spec may stay open at its limit. A silent session is shown as
// silent, not as limited.
export function limitOf(s: Session, now: number): number | null {
  const until = s.limitedUntil ? Date.parse(s.limitedUntil) : s.limited ? Infinity : NaN;
  const silent = openIn(s) > 0 && statusAt(s, now) !== 'running';
  return until > now && !silent ? until : null;
}

// isLimited reports whether a usage limit stops an open spec.
export function isLimited(open: Open, now: number): boolean {
  return open.limited === true && !(open.limitedUntil && Date.parse(open.limitedUntil) <= now);
}

export type Mood = 'awake' | 'hung' | 'limited' | 'asleep' | 'done' | 'none';

export function glance(state: State, now: number): { mood: Mood; headline: string; detail: string } {
  const at = (status: SessionStatus) => state.sessions.filter((s) => statusAt(s, now) === status);
  // The state counts all sessions, and lists some. The status of listed sessions may
  // have changed since.
  const count = (status: SessionStatus, all: number) =>
    all + at(status).length - state.sessions.filter((s) => s.status === status).length;
  const awake = count('running', state.sessionsRunning);
  const asleep = count('sleeping', state.sessionsSleeping);
  const last = Math.max(...state.sessions.map((s) => Date.parse(s.lastSeen)).filter(Number.isFinite));
  const [longest] = idleIn(state, now);
  if (longest) {
    const others = awake - 1;
    const rest = others > 0 ? `; ${others} other ${others === 1 ? 'session is' : 'sessions are'} awake` : '';
    return {
      mood: 'hung',
      headline: 'Alive',
      detail: `but nothing has come for ${span(longest.for)} from ${nameOf(longest.spec || longest.session, longestName)}${rest}`,
    };
  }
  // A limit without a reset time is shown only for the session with the latest event.
  const limited = state.sessions
    .map((s) => ({ until: limitOf(s, now), latest: Date.parse(s.lastSeen) === last }))
    .flatMap(({ until, latest }) => (until !== null && (latest || until < Infinity) ? [until] : []));
  if (limited.length > 0 && state.sessions.every((s) => openIn(s) === 0 || limitOf(s, now) !== null)) {
    return { mood: 'limited', headline: 'Usage limit', detail: lifted(Math.min(...limited), now) };
  }
  if (awake > 0) {
    const names = new Set(
      at('running')
        .filter((s) => limitOf(s, now) === null)
        .map((s) => s.session)
    );
    const running = state.running.filter((open) => names.has(open.session) && !isLimited(open, now));
    const first = running[0];
    const others = running.length - 1;
    const work = first
      ? `working on ${nameOf(first.spec || first.session, longestName)}, for ${span(now - Date.parse(first.since))}`
      : 'between two specs';
    const rest = asleep > 0 ? `; ${asleep} other ${asleep === 1 ? 'session is' : 'sessions are'} asleep` : '';
    return { mood: 'awake', headline: 'Awake', detail: `${work}${others > 0 ? `, and ${others} more` : ''}${rest}` };
  }
  if (asleep > 0) {
    const open = state.specs.open + state.specs.silent;
    const left = open > 0 ? `, with ${open} ${open === 1 ? 'spec' : 'specs'} open` : ', waiting for you';
    return { mood: 'asleep', headline: 'Asleep', detail: `no event for ${span(now - last)}${left}` };
  }
  if (state.sessions.length > 0) {
    return {
      mood: 'done',
      headline: 'Done',
      detail: `every spec has ended; last event ${ago(now - last).toLowerCase()}`,
    };
  }
  return { mood: 'none', headline: 'Nothing yet', detail: 'no session in the last seven days' };
}
