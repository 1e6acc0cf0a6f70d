// The shapes that travel, as pkg/api and pkg/state write them.
import type { Kind } from '../contract.gen';

export interface SpecEvent {
  id: number;
  kind: Kind;
  at: string; // RFC 3339
  session: string;
  spec: string;
  data: unknown;
}

export interface SpecCounts {
  open: number;
  completed: number;
  failed: number;
  timedOut: number;
}

export type SessionStatus = 'running' | 'sleeping' | 'done';

export interface SessionState {
  session: string;
  status: SessionStatus;
  lastSeen: string;
  lastHeartbeat: string | null;
  specs: SpecCounts;
  waiting: number;
  failureStreak: number; // specs that failed or timed out since the last one that completed, at most 100
}

export interface State {
  at: string;
  totals: Record<string, number>;
  specs: SpecCounts;
  sessions: SessionState[];
  running: Array<{ session: string; spec: string; since: string }>;
  waiting: Array<{ id: number; session: string; spec: string; at: string; data: unknown }>;
  waitingTotal: number;
}

// Status is the answer of a poll.
export interface Status {
  events: SpecEvent[];
  cursor: string;
  more: boolean;
  timestamp: string; // the database's clock
  state: State;
}

// Batch is a step of the live stream.
export interface Batch {
  from: string;
  cursor: string;
  events: SpecEvent[];
}
