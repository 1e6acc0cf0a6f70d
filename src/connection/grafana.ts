// Transport of Grafana: the resource `status` of the data source, and Grafana
// Live.
import {
  type DataFrameJSON,
  type LiveChannelAddress,
  LiveChannelConnectionState,
  type LiveChannelEvent,
  LiveChannelScope,
  type LiveChannelStatusEvent,
  isLiveChannelMessageEvent,
  isLiveChannelStatusEvent,
} from '@grafana/data';
import { config, getBackendSrv, getGrafanaLiveSrv } from '@grafana/runtime';
import { type Unsubscribable, lastValueFrom } from 'rxjs';

import type { Answer, SpecEvent, State, Status, Waiting } from './model';
import { patience } from './patience';
import { Expired, type LiveHandlers, Refusal, type Transport, answerEvent, limited, pollQuery } from './transport';

interface Position {
  from?: string;
  cursor: string;
  state?: State;
  interrupted?: string; // why no events arrive until the database is back
}

// Failed is the rejection of a Grafana request.
interface Failed {
  status?: number;
  data?: Partial<Status> & { detail?: string; message?: string; code?: string };
}

function refusal(failed: Failed): Error {
  if (failed.status === undefined) {
    return failed instanceof Error ? failed : new Error('The request could not be sent.');
  }
  return failed.status > 0
    ? new Refusal(
        failed.data?.detail ?? failed.data?.message ?? `Grafana answered ${failed.status}.`,
        failed.data?.code
      )
    : new Error('Grafana cannot be reached.');
}

const openingAllowed = 5_000; // ms

// eventsChannel is the data source's live channel. Grafana 11 calls its second
// part the namespace, later versions the stream.
export function eventsChannel(uid: string): LiveChannelAddress {
  return { scope: LiveChannelScope.DataSource, namespace: uid, stream: uid, path: 'events' } as LiveChannelAddress;
}

// resource is the address of a resource of the data source.
export const resource = (uid: string, name: string): string => `/api/datasources/uid/${uid}/resources/${name}`;

export class GrafanaTransport implements Transport {
  constructor(private readonly uid: string) {}

  async poll(since: string | undefined, signal: AbortSignal): Promise<Status> {
    try {
      const answer = await limited(signal, () =>
        lastValueFrom(
          getBackendSrv().fetch<Status>({
            url: resource(this.uid, 'status'),
            params: pollQuery(since),
            showErrorAlert: false,
            hideFromInspector: true,
          })
        )
      );
      return answer.data;
    } catch (error) {
      const failed = error as Failed;
      if (failed.status === 410 && failed.data?.cursor) {
        throw new Expired(failed.data as Status);
      }
      throw refusal(failed);
    }
  }

  async answer(request: Waiting, answer: Answer): Promise<void> {
    try {
      await lastValueFrom(
        getBackendSrv().fetch({
          method: 'POST',
          url: this.answers,
          data: answerEvent(request, answer),
          showErrorAlert: false,
          showSuccessAlert: false,
        })
      );
    } catch (error) {
      throw refusal(error as Failed);
    }
  }

  private get answers(): string {
    return resource(this.uid, 'answer');
  }

  // The role of the person decides, and whether the database user may write.
  async readOnly(): Promise<string | undefined> {
    try {
      const { data } = await lastValueFrom(
        getBackendSrv().fetch<{ allowed: boolean; why?: string }>({
          url: this.answers,
          showErrorAlert: false,
          hideFromInspector: true,
        })
      );
      return data.allowed ? undefined : (data.why ?? 'Requests cannot be answered here.');
    } catch (error) {
      throw refusal(error as Failed);
    }
  }

  live(_since: string | undefined, handlers: LiveHandlers): () => void {
    const live = getGrafanaLiveSrv();
    let subscription: Unsubscribable | undefined;
    let ended = false;
    const end = (reason?: Error) => {
      if (!ended) {
        ended = true;
        stopWaiting();
        subscription?.unsubscribe();
        if (reason) {
          handlers.closed(reason);
        }
      }
    };
    // A server with Live switched off never answers.
    const stopWaiting = patience(openingAllowed, () =>
      end(
        new Error(
          'Grafana Live does not answer. It may be switched off on this server (max_connections = 0), or a proxy in front of it does not pass on WebSockets.'
        )
      )
    );
    queueMicrotask(() => {
      if (ended) {
        return;
      }
      if (!live || !config.liveEnabled) {
        end(new Error('Grafana Live is switched off on this server (max_connections = 0 in its settings).'));
        return;
      }
      const hear = listener(handlers, stopWaiting, end);
      subscription = live.getStream<DataFrameJSON>(eventsChannel(this.uid)).subscribe({
        next: (event) => {
          if (!ended) {
            hear(event);
          }
        },
        error: (error) => end(error instanceof Error ? error : new Error('Grafana Live refused the stream.')),
        complete: () => end(new Error('Grafana Live ended the stream.')),
      });
      if (ended) {
        subscription.unsubscribe(); // it ended during subscribe
      }
    });
    return () => end();
  }
}

// listener passes on what a Live channel tells.
function listener(handlers: LiveHandlers, opened: () => void, end: (reason: Error) => void) {
  let open = false;
  const tell = (event: LiveChannelStatusEvent) => {
    if (event.state === LiveChannelConnectionState.Connected) {
      // Subscribed: later events arrive by the stream, earlier ones are fetched by
      // cursor. Grafana may repeat this event.
      if (!open) {
        open = true;
        opened();
        handlers.opened({ cursor: (event.message && position(event.message)?.cursor) ?? '', complete: false });
      }
    } else if (open || event.state === LiveChannelConnectionState.Invalid) {
      end(new Error(event.error ? String(event.error) : 'Grafana Live lost its connection.'));
    }
  };
  const pass = (frame: DataFrameJSON) => {
    const at = position(frame);
    if (at?.interrupted) {
      end(new Error(at.interrupted));
    } else if (at) {
      handlers.batch({ from: at.from ?? '', cursor: at.cursor, events: eventsOf(frame), state: at.state });
    }
  };
  return (event: LiveChannelEvent<DataFrameJSON>) => {
    if (isLiveChannelStatusEvent(event)) {
      tell(event);
    } else if (isLiveChannelMessageEvent(event)) {
      pass(event.message);
    }
  };
}

function position(frame: DataFrameJSON): Position | undefined {
  const custom = frame.schema?.meta?.custom as Position | undefined;
  return custom?.cursor ? custom : undefined;
}

// eventsOf reads a stream frame. Its times are in ms; `nanos` has the rest.
export function eventsOf(frame: DataFrameJSON): SpecEvent[] {
  const index = new Map(frame.schema?.fields.map((field, i) => [field.name, i]));
  const column = (name: string): unknown[] => frame.data?.values[index.get(name) ?? -1] ?? [];
  const times = column('time') as number[];
  const nanos = (frame.data as { nanos?: number[][] } | undefined)?.nanos?.[index.get('time') ?? -1];
  const [ids, kinds, sessions, specs, data] = ['id', 'kind', 'session', 'spec', 'data'].map(column);
  return times.map((ms, i) => ({
    id: ids[i] as number,
    kind: kinds[i] as SpecEvent['kind'],
    at: timeOf(ms, nanos?.[i] ?? 0),
    session: sessions[i] as string,
    spec: specs[i] as string,
    data: data[i],
  }));
}

// timeOf formats a time as the gateway does. Times outside of JavaScript's range
// are left out.
function timeOf(ms: number, nanos: number): string {
  const at = new Date(ms);
  return Number.isNaN(at.getTime()) ? '' : at.toISOString().replace('Z', `${String(nanos).padStart(6, '0')}Z`);
}
