// The state of all sessions in one sentence.
import type { SessionState, SessionStatus, State } from '../connection/model';
import { limits } from '../contract.gen';
import { ago, span } from './format';

// statusAt lets a status grow old between two answers of the database.
export function statusAt(s: SessionState, now: number): SessionStatus {
  if (now - Date.parse(s.lastSeen) <= limits.awakeSeconds * 1_000) {
    return 'running';
  }
  return s.specs.open > 0 || s.waiting > 0 ? 'sleeping' : 'done';
}

export type Mood = 'awake' | 'asleep' | 'done' | 'none';

export function glance(state: State, now: number): { mood: Mood; headline: string; detail: string } {
  const at = (status: SessionStatus) => state.sessions.filter((s) => statusAt(s, now) === status);
  const awake = at('running');
  const asleep = at('sleeping');
  const last = Math.max(...state.sessions.map((s) => Date.parse(s.lastSeen)));
  if (awake.length > 0) {
    const names = new Set(awake.map((s) => s.session));
    const running = state.running.filter((open) => names.has(open.session));
    const first = running[0];
    const others = running.length - 1;
    const work = first ? `working on ${first.spec || first.session}, for ${span(now - Date.parse(first.since))}` : 'between two specs';
    const silent = asleep.length > 0 ? `; ${asleep.length} other ${asleep.length === 1 ? 'session is' : 'sessions are'} asleep` : '';
    return { mood: 'awake', headline: 'Awake', detail: `${work}${others > 0 ? `, and ${others} more` : ''}${silent}` };
  }
  if (asleep.length > 0) {
    const { open } = asleep.reduce((sum, s) => ({ open: sum.open + s.specs.open }), { open: 0 });
    const left = open > 0 ? `, with ${open} ${open === 1 ? 'spec' : 'specs'} open` : ', waiting for you';
    return { mood: 'asleep', headline: 'Asleep', detail: `nothing was heard for ${span(now - last)}${left}` };
  }
  if (state.sessions.length > 0) {
    return { mood: 'done', headline: 'Done', detail: `every spec has ended; last heard ${ago(now - last).toLowerCase()}` };
  }
  return { mood: 'none', headline: 'Nothing yet', detail: 'no session in the last seven days' };
}
