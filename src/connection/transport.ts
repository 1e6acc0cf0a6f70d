import { limits } from '../contract.gen';
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
  closed(reason: Error): void; // once, and nothing after it
}

// Transport is a way to the events: the gateway's, or Grafana's.
export interface Transport {
  // poll rejects with Expired, SignInNeeded or any other Error, and within
  // pollTimeout. Without a cursor it begins with the newest events.
  poll(since: string | undefined, signal: AbortSignal): Promise<Status>;
  // live connects; the function that it returns ends the connection. No
  // handler is called before it has returned.
  live(since: string | undefined, handlers: LiveHandlers): () => void;
}

export const pollTimeout = 15_000; // ms

// A view that opens begins with this many of the newest events, however old.
export const firstEvents = 2_000;

// pollQuery is the query of a poll. Pages are large: a gap costs few answers.
export function pollQuery(since: string | undefined): Record<string, string | number> {
  return since === undefined ? { last: firstEvents, limit: limits.pageMax } : { since, limit: limits.pageMax };
}

// limited runs an asynchronous call that ends when the signal says so, or
// after pollTimeout: a request over a dead link would never end by itself.
export async function limited<T>(signal: AbortSignal, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
  if (signal.aborted) {
    throw new Aborted();
  }
  const own = new AbortController();
  const leave = () => own.abort();
  signal.addEventListener('abort', leave, { once: true });
  const timer = setTimeout(leave, pollTimeout);
  const ended = new Promise<never>((_, reject) => {
    own.signal.addEventListener('abort', () => reject(signal.aborted ? new Aborted() : new Error('There was no answer in time.')), { once: true });
  });
  try {
    return await Promise.race([run(own.signal), ended]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', leave);
  }
}

// Expired: the cursor is of another database or history. What is held must
// go; `fresh` is where to start again.
export class Expired extends Error {
  constructor(readonly fresh: Status) {
    super('the cursor expired');
  }
}

export class SignInNeeded extends Error {}

// Aborted: nobody waits for the answer any more.
export class Aborted extends Error {}
