// Written by `go generate ./pkg/contract` from pkg/state, which explains the fields. Do not edit.

export type SessionStatus = "running" | "sleeping" | "done";

export interface State {
  at: string;
  totals: Record<string, number>;
  specs: Specs;
  sessions: Session[];
  running: Open[];
  silent: Open[];
  waiting: Waiting[];
  waitingTotal: number;
  sessionsTotal: number;
  sessionsRunning: number;
  sessionsSleeping: number;
  delivery: Delivery;
}

export interface Specs {
  open: number;
  silent: number;
  completed: number;
  failed: number;
  timedOut: number;
  limited: number;
}

export interface Session {
  session: string;
  status: SessionStatus;
  lastSeen: string;
  lastHeartbeat: string | null;
  specs: Specs;
  waiting: number;
  limited: boolean;
  limitedUntil: string | null;
  clockAheadSeconds: number;
  failureStreak: number;
  lastWork: string | null;
  usage?: Usage;
}

export interface Open {
  session: string;
  spec: string;
  since: string;
  lastWork?: string;
  limited?: boolean;
  limitedUntil?: string;
  usage?: Usage;
}

export interface Waiting {
  id: number;
  session: string;
  spec: string;
  at: string;
  data: unknown;
}

export interface Usage {
  inputTokens?: number;
  cachedInputTokens?: number;
  outputTokens?: number;
  costUsd?: number;
}

export interface Delivery {
  push: boolean;
  delaySeconds: number;
}
