// Grafana's transport: the data source's resource `status`, and Grafana Live.
import { type DataFrameJSON, type LiveChannelAddress, LiveChannelConnectionState, LiveChannelScope, isLiveChannelMessageEvent, isLiveChannelStatusEvent } from '@grafana/data';
import { getBackendSrv, getGrafanaLiveSrv } from '@grafana/runtime';
import { type Unsubscribable, lastValueFrom } from 'rxjs';

import type { SpecEvent, Status } from './model';
import { Expired, type LiveHandlers, type Transport, limited, pollQuery } from './transport';

interface Position {
  from?: string;
  cursor: string;
}

const openingAllowed = 5_000; // ms

// eventsChannel is the data source's live channel. Grafana 11 calls its second
// part the namespace, later versions the stream.
export function eventsChannel(uid: string): LiveChannelAddress {
  return { scope: LiveChannelScope.DataSource, namespace: uid, stream: uid, path: 'events' } as LiveChannelAddress;
}

export class GrafanaTransport implements Transport {
  constructor(private readonly uid: string) {}

  async poll(since: string | undefined, signal: AbortSignal): Promise<Status> {
    try {
      const answer = await limited(signal, () =>
        lastValueFrom(
          getBackendSrv().fetch<Status>({ url: `/api/datasources/uid/${this.uid}/resources/status`, params: pollQuery(since), showErrorAlert: false, hideFromInspector: true })
        )
      );
      return answer.data;
    } catch (error) {
      const failed = error as { status?: number; data?: Status & { detail?: string; message?: string } };
      if (failed.status === 410 && failed.data?.cursor) {
        throw new Expired(failed.data);
      }
      if (failed.status === undefined) {
        throw error;
      }
      throw new Error(failed.data?.detail ?? failed.data?.message ?? (failed.status > 0 ? `Grafana answered ${failed.status}.` : 'Grafana cannot be reached.'));
    }
  }

  live(_since: string | undefined, handlers: LiveHandlers): () => void {
    const live = getGrafanaLiveSrv();
    let subscription: Unsubscribable | undefined;
    let open = false;
    let ended = false;
    const end = (reason?: Error) => {
      if (!ended) {
        ended = true;
        clearTimeout(patience);
        subscription?.unsubscribe();
        if (reason) {
          handlers.closed(reason);
        }
      }
    };
    // A server without Live never answers.
    const patience = setTimeout(() => end(new Error('Grafana Live does not answer.')), openingAllowed);
    queueMicrotask(() => {
      if (ended) {
        return;
      }
      if (!live) {
        end(new Error('Grafana Live is switched off on this server.'));
        return;
      }
      subscription = live.getStream<DataFrameJSON>(eventsChannel(this.uid)).subscribe({
        next: (event) => {
          if (ended) {
            return;
          }
          if (isLiveChannelStatusEvent(event)) {
            if (event.state === LiveChannelConnectionState.Connected) {
              // Subscribed: whatever comes from now on is seen. What came
              // before is fetched by cursor. Grafana may say it again.
              if (!open) {
                open = true;
                clearTimeout(patience);
                handlers.opened({ cursor: (event.message && position(event.message)?.cursor) ?? '', complete: false });
              }
            } else if (open || event.state === LiveChannelConnectionState.Invalid) {
              end(new Error(event.error ? String(event.error) : 'Grafana Live lost its connection.'));
            }
          } else if (isLiveChannelMessageEvent(event)) {
            const at = position(event.message);
            if (at) {
              handlers.batch({ from: at.from ?? '', cursor: at.cursor, events: eventsOf(event.message) });
            }
          }
        },
        error: (error) => end(error instanceof Error ? error : new Error('Grafana Live refused the stream.')),
        complete: () => end(new Error('Grafana Live ended the stream.')),
      });
      if (ended) {
        subscription.unsubscribe(); // it ended while it began
      }
    });
    return () => end();
  }
}

function position(frame: DataFrameJSON): Position | undefined {
  const custom = frame.schema?.meta?.custom as Position | undefined;
  return custom?.cursor ? custom : undefined;
}

// eventsOf reads a stream frame: its times are in ms, and `nanos` holds what
// is finer.
export function eventsOf(frame: DataFrameJSON): SpecEvent[] {
  const index = new Map(frame.schema?.fields.map((field, i) => [field.name, i]));
  const column = (name: string): unknown[] => frame.data?.values[index.get(name) ?? -1] ?? [];
  const times = column('time') as number[];
  const nanos = (frame.data as { nanos?: number[][] } | undefined)?.nanos?.[index.get('time') ?? -1];
  const [ids, kinds, sessions, specs, data] = ['id', 'kind', 'session', 'spec', 'data'].map(column);
  return times.map((ms, i) => ({
    id: ids[i] as number,
    kind: kinds[i] as SpecEvent['kind'],
    at: new Date(ms).toISOString().replace('Z', `${String(nanos?.[i] ?? 0).padStart(6, '0')}Z`),
    session: sessions[i] as string,
    spec: specs[i] as string,
    data: data[i],
  }));
}
