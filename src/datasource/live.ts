// When the queries of built-in panels run again. A message of the stream only makes
// the same query run again. So a live panel shows the same as a polled one, and a
// reconnect neither loses nor repeats events.
import { locationService } from '@grafana/runtime';
import { Observable, defer, filter, fromEvent, repeat, share, timer } from 'rxjs';

import { Connection } from '../connection/connection';
import { GrafanaTransport } from '../connection/grafana';
import { type Badge, phases } from '../connection/machine';
import { attend } from '../connection/presence';
import { type SpecEvent } from '../connection/model';
import { defaults } from '../connection/settings';
import { pollingInterval } from './asking';
import { refreshEvent } from './types';

const openFor = 5_000; // ms that a connection stays open without panels

// Span is the time range of new events, in ms since 1970.
export interface Span {
  from: number;
  to: number;
}

const always: Span = { from: -Infinity, to: Infinity };

const connections = new Map<string, Observable<Span>>();

// changes hints that the events of a data source changed, and where, or that
// something may have been missed. All queries of a browser tab share one connection.
export function changes(uid: string): Observable<Span> {
  let known = connections.get(uid);
  if (!known) {
    known = connected(uid).pipe(share({ resetOnRefCountZero: () => timer(openFor) }));
    connections.set(uid, known);
  }
  return known;
}

function connected(uid: string): Observable<Span> {
  return new Observable<Span>((subscriber) => {
    const connection = new Connection(
      new GrafanaTransport(uid),
      { ...defaults, manualRefreshOnly: false, autoFallback: true },
      'websocket'
    );
    let seen = connection.snapshot().events;
    let badge: Badge = 'connecting';
    const unsubscribe = connection.subscribe(() => {
      const view = connection.snapshot();
      const regained = delivers(view.badge) && !delivers(badge);
      badge = view.badge;
      if (delivers(badge) && (regained || view.events !== seen)) {
        subscriber.next(regained ? always : spanOfNew(seen, view.events));
        seen = view.events;
      }
      if (view.couldBeLive) {
        // This connection has no user interface. The dashboard's variable decides
        // whether it exists.
        connection.choose('websocket');
      }
    });
    connection.start();
    const leave = attend(connection);
    return () => {
      leave();
      unsubscribe();
      connection.stop();
    };
  });
}

const delivers = (badge: Badge): boolean => badge === phases.live.badge || badge === phases.polling.badge;

function spanOfNew(before: readonly SpecEvent[], now: readonly SpecEvent[]): Span {
  const known = new Set(before.map((event) => event.id));
  const times = now.filter((event) => !known.has(event.id)).map((event) => Date.parse(event.at));
  return times.every(Number.isFinite) && times.length > 0
    ? { from: Math.min(...times), to: Math.max(...times) }
    : always;
}

// refreshes emits when the user presses Refresh in a Specwatch panel.
export const refreshes = (): Observable<unknown> => fromEvent(window, refreshEvent);

// polls hints at the interval of the dashboard's address, or else of the user's
// settings, while the page is visible.
export const polls = (): Observable<unknown> =>
  defer(() => timer(pollingInterval(locationService.getSearch().get('refresh')))).pipe(
    repeat(),
    filter(() => !document.hidden)
  );
