import type { Batch, SpecEvent, State, Status } from './model';

// Opened is what a live connection says first. With `complete` the events are
// all that lay between the cursor that was asked for and the stream's; without
// it the client fetches them itself.
export interface Opened {
  cursor: string;
  complete: boolean;
  expired?: boolean;
  events?: SpecEvent[];
  state?: State;
}

export interface LiveHandlers {
  opened(opened: Opened): void;
  batch(batch: Batch): void;
  closed(reason: Error): void;
}

// Transport is a way to the events: the gateway's, or Grafana's.
export interface Transport {
  // poll rejects with Expired, SignInNeeded or any other Error.
  poll(since: string | undefined, signal: AbortSignal): Promise<Status>;
  // live connects; the function that it returns ends the connection.
  live(since: string | undefined, handlers: LiveHandlers): () => void;
}

// Expired: the cursor is of another database or history. What is held must
// go; `fresh` is where to start again.
export class Expired extends Error {
  constructor(readonly fresh: Status) {
    super('the cursor expired');
  }
}

export class SignInNeeded extends Error {}
