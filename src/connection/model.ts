// JSON of the API, as pkg/api encodes it. The overview's is written from pkg/state.
import type { Kind } from '../contract.gen';
import type { State } from './model.gen';

export type * from './model.gen';

// Names may be any text, so collections with names as keys are Maps.
export interface SpecEvent {
  id: number;
  kind: Kind | (string & {}); // a custom kind has a dot
  at: string; // RFC 3339
  session: string;
  spec: string;
  data: unknown;
}

// Answer is the user's answer to a request.
export type Answer = { answer: string } | { dismissed: true };

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
