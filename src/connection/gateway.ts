// Transport of the gateway: fetch and a WebSocket. Paths are relative to the
// page, so that the gateway can be served below a path prefix.
import type { Answer, Status, Waiting } from './model';
import { Pulse, patience } from './patience';
import {
  Aborted,
  Expired,
  type LiveHandlers,
  Refusal,
  SignInNeeded,
  TokenNeeded,
  type Transport,
  answerEvent,
  limited,
  pollQuery,
} from './transport';

const openingAllowed = 10_000; // ms until the first message

const tokenMissing = 'This gateway needs a token.';

interface Reply {
  status: number;
  ok: boolean;
  tag?: string;
  body: { detail?: string; code?: string; cursor?: string };
}

export class GatewayTransport implements Transport {
  // The last answer of a poll, with its ETag.
  private last: { tag: string; status: Status } | undefined;

  constructor(private readonly base: string = document.baseURI) {}

  async poll(since: string | undefined, signal: AbortSignal): Promise<Status> {
    const query = new URLSearchParams(Object.entries(pollQuery(since)).map(([name, value]) => [name, String(value)]));
    const known = this.last?.status.cursor === since ? this.last : undefined;
    // Not the browser's cache: it would return an old answer with its old time.
    const { status, ok, body, tag } = await this.ask(`api/status?${query}`, signal, {
      cache: 'no-store',
      headers: known && { 'If-None-Match': known.tag },
    });
    if (status === 304 && known) {
      return { ...known.status, events: [], more: false, timestamp: '' };
    }
    if (ok && body.cursor) {
      this.last = tag === undefined ? undefined : { tag, status: { ...(body as Status), events: [] } };
      return body as Status;
    }
    if (status === 410 && body.cursor) {
      throw new Expired(body as Status);
    }
    if (status === 401) {
      throw new SignInNeeded(tokenMissing);
    }
    throw new Refusal(
      body.detail ?? (ok ? 'The answer of the gateway is incomplete.' : `The gateway answered ${status}.`),
      body.code
    );
  }

  live(since: string | undefined, handlers: LiveHandlers): () => void {
    const url = new URL('ws', this.base);
    url.protocol = url.protocol.replace('http', 'ws');
    if (since !== undefined) {
      url.searchParams.set('since', since);
    }
    const socket = new WebSocket(url);
    let ended = false;
    let opened = false;
    let pulse: Pulse | undefined;
    const leave = () => {
      stopWaiting();
      pulse?.end();
      socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null; // closing a dead connection takes a minute
      socket.close();
    };
    const end = (reason: Error) => {
      if (!ended) {
        ended = true;
        leave();
        handlers.closed(reason);
      }
    };
    const fail = (reason: string) => {
      leave();
      void this.whyClosed(opened, reason).then(end);
    };
    const stopWaiting = patience(openingAllowed, () => fail('The live connection could not be opened in time.'));
    socket.onopen = () => {
      opened = true;
      // Browsers do not report the server's pings or a broken network.
      pulse = new Pulse(
        () => socket.send('{"type":"ping"}'),
        () => end(new Error('The live connection does not respond.'))
      );
    };
    socket.onmessage = ({ data }) => {
      pulse?.hear();
      const m = parse(data);
      if (!m) {
        end(new Error('The live connection sent a message that is not from Specwatch.'));
        return;
      }
      deliver(m, handlers, stopWaiting);
    };
    // If a policy forbids the address, browsers fire only the error event.
    socket.onerror = () => fail('The live connection was lost.');
    socket.onclose = (e) =>
      e.code === 1006
        ? fail('The live connection was lost.')
        : end(new Error(e.reason || 'The live connection was closed.'));
    return () => {
      ended = true;
      leave();
    };
  }

  // whyClosed finds out why a WebSocket failed, which browsers do not report: a
  // missing token, a gateway that is down, or a proxy that refuses WebSockets.
  private async whyClosed(opened: boolean, otherwise: string): Promise<Error> {
    const { signal } = new AbortController();
    try {
      const { status } = await this.ask('api/status?limit=1', signal);
      if (status === 401) {
        return new SignInNeeded(tokenMissing);
      }
      return opened ? new Error(otherwise) : await this.whyRefused(signal);
    } catch (error) {
      return opened ? new Error(otherwise) : (error as Error);
    }
  }

  // whyRefused sends an ordinary request to the address of the WebSocket: the
  // gateway answers with a problem that gives the reason.
  private async whyRefused(signal: AbortSignal): Promise<Error> {
    const { status, ok, body } = await this.ask('ws', signal);
    if (body.detail && status !== 400 && status !== 426) {
      return new Refusal(body.detail, body.code);
    }
    if (status === 400 || status === 426) {
      return new Refusal(
        'The gateway answers, but WebSockets do not reach it. Probably a proxy in between does not pass on the headers Upgrade and Connection, or it ' +
          'changes the header Host; in the second case start the gateway with --allow-origin ' +
          new URL(this.base).origin
      );
    }
    return new Refusal(
      `Something in between does not pass the path ${new URL('ws', this.base).pathname} on to the gateway: it answers ${ok ? 'something else' : status}.`
    );
  }

  // answer needs no key: a repeated answer has no effect. With a token it signs
  // in first, so that later answers need none.
  async answer(request: Waiting, answer: Answer, token: string | undefined): Promise<void> {
    if (token !== undefined) {
      await signIn(token, this.base).catch((error: Error) => {
        throw new TokenNeeded(error.message);
      });
    }
    const { status, ok, body } = await this.ask('api/events', new AbortController().signal, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(answerEvent(request, answer)),
    });
    if (status === 401) {
      throw new TokenNeeded(
        token === undefined
          ? 'Writing needs the write token of this gateway.'
          : 'This is not the write token of this gateway.'
      );
    }
    if (!ok) {
      throw new Refusal(body.detail ?? `The gateway answered ${status}.`, body.code);
    }
  }

  private ask(path: string, signal: AbortSignal, init: RequestInit = {}): Promise<Reply> {
    return limited(signal, async (own) => {
      let response: Response;
      try {
        response = await fetch(new URL(path, this.base), {
          ...init,
          signal: own,
          headers: { Accept: 'application/json', ...init.headers },
        });
      } catch {
        throw own.aborted ? new Aborted() : new Error('The gateway cannot be reached.');
      }
      const body = await response.json().catch(() => null);
      return {
        status: response.status,
        ok: response.ok,
        tag: response.headers.get('ETag') ?? undefined,
        body: body !== null && typeof body === 'object' ? body : {},
      };
    });
  }
}

interface Message {
  type?: string;
  from: string;
  cursor: string;
  expired?: boolean;
  data?: Partial<Status>;
}

function parse(text: unknown): Message | undefined {
  try {
    return JSON.parse(String(text)) ?? undefined;
  } catch {
    return undefined;
  }
}

// deliver passes a message on. Messages of other types are for later versions.
function deliver({ type, from, cursor, expired, data }: Message, handlers: LiveHandlers, opened: () => void): void {
  const { events = [], state } = data ?? {};
  if (type === 'connection_established') {
    opened();
    handlers.opened({ cursor, complete: true, expired, events, state });
  } else if (type === 'event_update') {
    handlers.batch({ from, cursor, events, state });
  }
}

// signIn exchanges the token for a cookie that scripts cannot read. The cookie
// permits what the token permits.
export async function signIn(token: string, base: string = document.baseURI): Promise<void> {
  const response = await fetch(new URL('api/login', base), {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ token }),
  });
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(body.detail ?? `The gateway answered ${response.status}.`);
  }
}
