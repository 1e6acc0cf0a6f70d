// Grafana's transport: the data source's resource `status`, and Grafana Live.
import { type DataFrameJSON, type LiveChannelAddress, LiveChannelConnectionState, LiveChannelScope, isLiveChannelMessageEvent, isLiveChannelStatusEvent } from '@grafana/data';
import { getBackendSrv, getGrafanaLiveSrv } from '@grafana/runtime';
import { lastValueFrom } from 'rxjs';

import type { SpecEvent, Status } from './model';
import { Expired, type LiveHandlers, type Transport } from './transport';

interface Position {
  from?: string;
  cursor: string;
}

// eventsChannel is the data source's live channel. Grafana 11 calls its second
// part the namespace, later versions the stream.
export function eventsChannel(uid: string): LiveChannelAddress {
  return { scope: LiveChannelScope.DataSource, namespace: uid, stream: uid, path: 'events' } as LiveChannelAddress;
}

export class GrafanaTransport implements Transport {
  constructor(private readonly uid: string) {}

  async poll(since: string | undefined, signal: AbortSignal): Promise<Status> {
    const answer = lastValueFrom(
      getBackendSrv().fetch<Status>({
        url: `/api/datasources/uid/${this.uid}/resources/status`,
        params: since === undefined ? {} : { since },
        showErrorAlert: false,
      })
    );
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(new DOMException('another mode was chosen', 'AbortError')), { once: true });
    });
    try {
      return (await Promise.race([answer, aborted])).data;
    } catch (error) {
      const failed = error as { status?: number; data?: Status & { detail?: string; message?: string } };
      if (failed.status === 410 && failed.data?.cursor) {
        throw new Expired(failed.data);
      }
      if (failed.status !== undefined) {
        throw new Error(failed.data?.detail ?? failed.data?.message ?? `Grafana answered ${failed.status}.`);
      }
      throw error;
    }
  }

  live(_since: string | undefined, handlers: LiveHandlers): () => void {
    const live = getGrafanaLiveSrv();
    if (!live) {
      const timer = setTimeout(() => handlers.closed(new Error('Grafana Live is switched off on this server.')));
      return () => clearTimeout(timer);
    }
    let open = false;
    const subscription = live.getStream<DataFrameJSON>(eventsChannel(this.uid)).subscribe({
      next: (event) => {
        if (isLiveChannelStatusEvent(event)) {
          if (event.state === LiveChannelConnectionState.Connected) {
            // Subscribed: whatever comes from now on is seen. What came
            // before is fetched by cursor.
            open = true;
            const at = event.message ? position(event.message) : undefined;
            handlers.opened({ cursor: at?.cursor ?? '', complete: false });
          } else if (open || event.state === LiveChannelConnectionState.Invalid) {
            open = false;
            handlers.closed(new Error(event.error ? String(event.error) : 'Grafana Live lost its connection.'));
          }
        } else if (isLiveChannelMessageEvent(event)) {
          const at = position(event.message);
          if (at) {
            handlers.batch({ from: at.from ?? '', cursor: at.cursor, events: eventsOf(event.message) });
          }
        }
      },
      error: (error) => handlers.closed(error instanceof Error ? error : new Error('Grafana Live refused the stream.')),
      complete: () => handlers.closed(new Error('Grafana Live ended the stream.')),
    });
    // A server without Live never answers.
    const patience = setTimeout(() => {
      if (!open) {
        subscription.unsubscribe();
        handlers.closed(new Error('Grafana Live does not answer.'));
      }
    }, 10_000);
    return () => {
      clearTimeout(patience);
      subscription.unsubscribe();
    };
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
