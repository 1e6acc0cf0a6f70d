// JSON of the API, as pkg/api and pkg/state encode it.
import type { Kind } from '../contract.gen';

// Names may be any text, so collections with names as keys are Maps.
export interface SpecEvent {
  id: number;
  kind: Kind | (string & {}); // a custom kind has a dot
  at: string; // RFC 3339
  session: string;
  spec: string;
  data: unknown;
}

export interface SpecCounts {
  open: number; // started and not ended, and heard of
  silent?: number; // started and not ended, and not heard of
  completed: number;
  failed: number;
  timedOut: number;
  limited?: number; // ended by a usage limit; not counted as failed
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
  clockAheadSeconds?: number; // of the writer's clock, relative to the database's
  lastWork?: string | null; // the earliest of its running specs
  limited?: boolean; // a usage limit ended a spec and is not known to be lifted
  limitedUntil?: string | null; // when it is; null: not known
  usage?: Usage;
}

// Usage is the sum of usage in the events of a session or spec.
export interface Usage {
  inputTokens?: number;
  cachedInputTokens?: number; // among them
  outputTokens?: number;
  costUsd?: number;
}

export interface OpenSpec {
  session: string;
  spec: string;
  since: string;
  lastWork?: string; // last sign of work; none: not known, or it waits for a person or a usage limit
  limited?: boolean; // a usage limit stops it
  limitedUntil?: string; // when it is lifted; none: not known
  usage?: Usage;
}

export interface Request {
  id: number;
  session: string;
  spec: string;
  at: string;
  data: unknown;
}

// Answer is the user's answer to a request.
export type Answer = { answer: string } | { dismissed: true };

export interface State {
  at: string;
  totals: Record<string, number>;
  specs: SpecCounts;
  sessions: SessionState[];
  running: OpenSpec[];
  silent?: OpenSpec[]; // started and not ended, and not heard of
  waiting: Request[];
  waitingTotal: number;
  delivery?: Delivery; // none: PostgreSQL sends notifications
}

// Delivery says how the server learns of new events. Notifications do not pass
// a pooler, so the server polls PostgreSQL every delaySeconds instead.
export interface Delivery {
  push: boolean;
  delaySeconds?: number;
}

// Status is the answer to a poll.
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
  state?: State; // if it changed, at most once a second
}
