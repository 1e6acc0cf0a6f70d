// Written by `go generate ./pkg/contract` from pkg/event and pkg/contract. Do not edit.

export const kinds = [
  "spec_started",
  "spec_completed",
  "spec_failed",
  "intervention_request",
  "intervention_answered",
  "timeout_triggered",
  "session_heartbeat"
] as const;
export type Kind = (typeof kinds)[number];

export const limits = {
  "awakeSeconds": 60,
  "dataBytes": 1000000,
  "failureStreak": 3,
  "idleSeconds": 600,
  "nameBytes": 512,
  "pageDefault": 500,
  "pageMax": 5000,
  "rowsDefault": 1000,
  "timelineSpecs": 50
} as const;

export const totalHeader = "X-Total-Count" as const;

export const settings = {
  "preferredMode": {
    "default": "websocket",
    "values": [
      "websocket",
      "polling",
      "auto"
    ]
  },
  "pollingInterval": {
    "min": 5,
    "max": 60,
    "default": 10
  },
  "autoFallback": {
    "default": true
  },
  "manualRefreshOnly": {
    "default": false
  }
} as const;

export const queryTypes = [
  "events",
  "logs",
  "counts",
  "outcomes",
  "durations",
  "sessions",
  "overview",
  "timeline",
  "usage",
  "usage_over_time",
  "nights",
  "specs",
  "requests",
  "delivery",
  "promises",
  "timed_out",
  "waiting",
  "heartbeat_age",
  "idle",
  "failure_streak"
] as const;
export type QueryType = (typeof queryTypes)[number];

export const conditions = [
  "timed_out",
  "waiting",
  "heartbeat_age",
  "idle",
  "failure_streak"
] as const;
export const alerting = [
  "counts",
  "outcomes",
  "overview",
  "usage_over_time",
  "delivery",
  "timed_out",
  "waiting",
  "heartbeat_age",
  "idle",
  "failure_streak"
] as const;
