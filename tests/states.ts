// The overview of usual loops, for tests that change a part of it.
import type { Session, Specs, State } from '../src/connection/model';

export const specs = (part: Partial<Specs> = {}): Specs => ({
  open: 0,
  silent: 0,
  completed: 0,
  failed: 0,
  timedOut: 0,
  limited: 0,
  ...part,
});

// A session that was last heard of at that time.
export const session = (name: string, lastSeen: string, part: Partial<Session> = {}): Session => ({
  session: name,
  status: 'done',
  lastSeen,
  lastHeartbeat: null,
  specs: specs(),
  waiting: 0,
  limited: false,
  limitedUntil: null,
  clockAheadSeconds: 0,
  failureStreak: 0,
  lastWork: null,
  ...part,
});

// An overview of these sessions; without any, nothing has happened.
export const state = (at: string, part: Partial<State> = {}): State => {
  const { sessions = [] } = part;
  const sum = (count: (s: Session) => number) => sessions.reduce((all, s) => all + count(s), 0);
  return {
    at,
    totals: {},
    specs: specs({ open: sum((s) => s.specs.open), silent: sum((s) => s.specs.silent) }),
    sessions,
    running: [],
    silent: [],
    waiting: [],
    waitingTotal: sum((s) => s.waiting),
    sessionsTotal: sessions.length,
    sessionsRunning: sum((s) => (s.status === 'running' ? 1 : 0)),
    sessionsSleeping: sum((s) => (s.status === 'sleeping' ? 1 : 0)),
    delivery: { push: true, delaySeconds: 0 },
    ...part,
  };
};
