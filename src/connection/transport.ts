import { limits } from '../contract.gen';
import type { Answer, Batch, SpecEvent, State, Status, Waiting } from './model';
import { patience } from './patience';

// Opened is the first message of a live connection. With `complete`, its events
// are all between the requested cursor and that of the stream; without it the
// client fetches them.
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
  closed(reason: Error): void; // called once, and no handler after it
}

// Transport delivers events: from the gateway, or from Grafana.
export interface Transport {
  // poll rejects with Expired, SignInNeeded, Refusal or another Error, within
  // pollTimeout. Without a cursor it starts with the newest events.
  poll(since: string | undefined, signal: AbortSignal): Promise<Status>;
  // live connects and returns a function that disconnects. No handler is called
  // before it has returned.
  live(since: string | undefined, handlers: LiveHandlers): () => void;
  // answer writes an answer to a request. It rejects with TokenNeeded if writing
  // needs a token. A transport without it cannot answer.
  answer?(request: Waiting, answer: Answer, token: string | undefined): Promise<void>;
  // readOnly says why the user cannot answer; undefined: they can.
  readOnly?(): Promise<string | undefined>;
}

// answerEvent returns the event for an answer.
export const answerEvent = ({ id, session, spec }: Waiting, answer: Answer) => ({
  kind: 'intervention_answered',
  session,
  spec,
  data: { request: id, ...answer },
});

export const pollTimeout = 15_000; // ms

// A new view starts with this many of the newest events, however old.
export const firstEvents = 2_000;

// pollQuery returns the query string of a poll. Pages are large, so that few
// polls fill a gap.
export function pollQuery(since: string | undefined): Record<string, string | number> {
  return since === undefined ? { last: firstEvents, limit: limits.pageMax } : { since, limit: limits.pageMax };
}

// limited runs an asynchronous call that is aborted by the signal, or after
// pollTimeout: a request over a dead connection would never end.
export async function limited<T>(signal: AbortSignal, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
  if (signal.aborted) {
    throw new Aborted();
  }
  const own = new AbortController();
  const leave = () => own.abort();
  signal.addEventListener('abort', leave, { once: true });
  const stopWaiting = patience(pollTimeout, leave);
  const ended = new Promise<never>((_, reject) => {
    own.signal.addEventListener(
      'abort',
      () => reject(signal.aborted ? new Aborted() : new Error('There was no answer in time.')),
      { once: true }
    );
  });
  try {
    return await Promise.race([run(own.signal), ended]);
  } finally {
    stopWaiting();
    signal.removeEventListener('abort', leave);
  }
}

// Expired: the cursor is of another database or history. The client drops its
// events and starts again with `fresh`.
export class Expired extends Error {
  constructor(readonly fresh: Status) {
    super('the cursor expired');
  }
}

export class SignInNeeded extends Error {}

// Refusal is an error that the server answered with, so the connection works.
// `code` is that of the problem, if it has one.
export class Refusal extends Error {
  constructor(
    message: string,
    readonly code?: string
  ) {
    super(message);
  }
}

// TokenNeeded: writing needs another token than reading.
export class TokenNeeded extends Error {}

// isBehind: the server reads from a standby that has not replayed what the
// cursor has seen. The client asks again.
export const isBehind = (error: unknown): error is Refusal => error instanceof Refusal && error.code === 'behind';

// Aborted: the caller cancelled the request.
export class Aborted extends Error {}
