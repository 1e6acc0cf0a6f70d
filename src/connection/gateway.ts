// The gateway's transport: fetch and a plain WebSocket.
import type { Batch, Status } from './model';
import { Aborted, Expired, type LiveHandlers, SignInNeeded, type Transport, limited, pollQuery } from './transport';

const pingEvery = 10_000; // ms
const silenceAllowed = 18_000; // a connection that is silent for longer is dead
const openingAllowed = 10_000; // as is one that does not open

export class GatewayTransport implements Transport {
  constructor(private readonly base = '') {}

  async poll(since: string | undefined, signal: AbortSignal): Promise<Status> {
    const query = new URLSearchParams(Object.entries(pollQuery(since)).map(([name, value]) => [name, String(value)]));
    const { response, body } = await limited(signal, async (own) => {
      let response: Response;
      try {
        response = await fetch(`${this.base}/api/status?${query}`, { signal: own, headers: { Accept: 'application/json' } });
      } catch {
        throw own.aborted ? new Aborted() : new Error('The gateway cannot be reached.');
      }
      return { response, body: await response.json().catch(() => ({})) };
    });
    if (response.ok && body.cursor) {
      return body;
    }
    if (response.status === 410 && body.cursor) {
      throw new Expired(body);
    }
    if (response.status === 401) {
      throw new SignInNeeded('This gateway asks for its read token.');
    }
    throw new Error(body.detail ?? (response.ok ? 'The answer of the gateway broke off.' : `The gateway answered ${response.status}.`));
  }

  live(since: string | undefined, handlers: LiveHandlers): () => void {
    const url = new URL(`${this.base}/ws`, location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    if (since !== undefined) {
      url.searchParams.set('since', since);
    }
    const socket = new WebSocket(url);
    let ended = false;
    let heard = Date.now();
    let pinged = heard;
    const end = (reason?: Error) => {
      if (!ended) {
        ended = true;
        clearInterval(beat);
        socket.onmessage = socket.onclose = socket.onerror = null; // closing a dead link takes a minute
        socket.close();
        if (reason) {
          handlers.closed(reason);
        }
      }
    };
    // A browser sees neither the server's pings nor a cut cable.
    const beat = setInterval(() => {
      const silence = Date.now() - heard;
      if (socket.readyState !== WebSocket.OPEN && silence > openingAllowed) {
        end(new Error('The live connection does not open.'));
      } else if (silence > silenceAllowed) {
        end(new Error('The live connection went silent.'));
      } else if (socket.readyState === WebSocket.OPEN && Date.now() - pinged >= pingEvery) {
        pinged = Date.now();
        socket.send('{"type":"ping"}');
      }
    }, 2_000);
    socket.onmessage = (message) => {
      heard = Date.now();
      const m = JSON.parse(message.data);
      if (m.type === 'connection_established') {
        handlers.opened({ cursor: m.cursor, complete: true, expired: m.expired, events: m.data.events, state: m.data.state });
      } else if (m.type === 'event_update') {
        handlers.batch({ from: m.from, cursor: m.cursor, events: m.data.events } satisfies Batch);
      }
    };
    // A refused handshake looks the same as a lost connection; asking once
    // tells whether a token is missing.
    let asked = false;
    const lost = () => {
      if (!asked) {
        asked = true;
        this.poll(since, new AbortController().signal).then(
          () => end(new Error('The live connection was lost.')),
          (error) => end(error instanceof SignInNeeded ? error : new Error('The live connection was lost.'))
        );
      }
    };
    // Where a policy forbids the address, browsers tell of the error and not of
    // the end.
    socket.onerror = lost;
    socket.onclose = (e) => (e.code === 1006 ? lost() : end(new Error(e.reason || 'The live connection was closed.')));
    return () => end();
  }
}

// signIn trades the token for a cookie that scripts cannot read.
export async function signIn(token: string): Promise<void> {
  const response = await fetch('/api/login', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ token }) });
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(body.detail ?? `The gateway answered ${response.status}.`);
  }
}
