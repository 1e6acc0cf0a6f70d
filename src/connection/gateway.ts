// The gateway's transport: fetch and a plain WebSocket.
import type { Batch, Status } from './model';
import { Expired, type LiveHandlers, SignInNeeded, type Transport } from './transport';

const pingEvery = 20_000; // ms
const silenceAllowed = 45_000; // a connection that is silent for longer is dead

export class GatewayTransport implements Transport {
  constructor(private readonly base = '') {}

  async poll(since: string | undefined, signal: AbortSignal): Promise<Status> {
    const query = since === undefined ? '' : `?since=${encodeURIComponent(since)}`;
    let response: Response;
    try {
      response = await fetch(`${this.base}/api/status${query}`, { signal, headers: { Accept: 'application/json' } });
    } catch (error) {
      if (signal.aborted) {
        throw error;
      }
      throw new Error('The gateway cannot be reached.');
    }
    const body = await response.json().catch(() => ({}));
    if (response.ok) {
      return body;
    }
    if (response.status === 410 && body.cursor) {
      throw new Expired(body);
    }
    if (response.status === 401) {
      throw new SignInNeeded('This gateway asks for its read token.');
    }
    throw new Error(body.detail ?? `The gateway answered ${response.status}.`);
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
    const end = (reason?: Error) => {
      if (!ended) {
        ended = true;
        clearInterval(beat);
        socket.close();
        if (reason) {
          handlers.closed(reason);
        }
      }
    };
    // A browser sees neither the server's pings nor a cut cable.
    const beat = setInterval(() => {
      if (Date.now() - heard > silenceAllowed) {
        end(new Error('The live connection went silent.'));
      } else if (socket.readyState === WebSocket.OPEN) {
        socket.send('{"type":"ping"}');
      }
    }, pingEvery);
    socket.onmessage = (message) => {
      heard = Date.now();
      if (ended) {
        return;
      }
      const m = JSON.parse(message.data);
      if (m.type === 'connection_established') {
        handlers.opened({ cursor: m.cursor, complete: true, expired: m.expired, events: m.data.events, state: m.data.state });
      } else if (m.type === 'event_update') {
        handlers.batch({ from: m.from, cursor: m.cursor, events: m.data.events } satisfies Batch);
      }
    };
    socket.onclose = (e) => {
      if (e.code !== 1006) {
        end(new Error(e.reason || 'The live connection was closed.'));
        return;
      }
      // A refused handshake looks the same as a lost connection; asking once
      // tells whether a token is missing.
      this.poll(undefined, new AbortController().signal).then(
        () => end(new Error('The live connection was lost.')),
        (error) => end(error instanceof SignInNeeded ? error : new Error('The live connection was lost.'))
      );
    };
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
