// What tells the queries of built-in panels to read again. The stream is only
// a hint: the same query is asked once more, so a live panel shows exactly
// what a polled one shows, and a reconnect can leave no gap and repeat nothing.
import type { DataQueryResponse } from '@grafana/data';
import { Observable, Subject, concat, concatMap, finalize, fromEvent, ignoreElements, share, take, throttle, timer } from 'rxjs';

import { Connection } from '../connection/connection';
import { GrafanaTransport } from '../connection/grafana';
import { type Badge, phases } from '../connection/machine';
import { attend } from '../connection/presence';
import { defaults } from '../connection/settings';
import { refreshEvent } from './types';

const atMostEvery = 500; // ms between two reads of a query
const lingers = 5_000; // ms that a connection waits for the next refresh of its panels

const connections = new Map<string, Observable<void>>();

// changes hints that the events of a data source changed, or that something
// may have been missed. All queries of a browser tab share one connection.
export function changes(uid: string): Observable<void> {
  let known = connections.get(uid);
  if (!known) {
    known = connected(uid).pipe(share({ resetOnRefCountZero: () => timer(lingers) }));
    connections.set(uid, known);
  }
  return known;
}

function connected(uid: string): Observable<void> {
  return new Observable<void>((subscriber) => {
    const connection = new Connection(new GrafanaTransport(uid), { ...defaults, manualRefreshOnly: false, autoFallback: true }, 'websocket');
    let seen = connection.snapshot().events;
    let badge: Badge = 'connecting';
    const unsubscribe = connection.subscribe(() => {
      const view = connection.snapshot();
      const regained = delivers(view.badge) && !delivers(badge);
      badge = view.badge;
      if (delivers(badge) && (regained || view.events !== seen)) {
        seen = view.events;
        subscriber.next();
      }
      if (view.couldBeLive) {
        // Nobody sees this connection, so nobody can be asked. What the person
        // decides, the dashboard's variable, decides whether it is there.
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

// refreshes hints that the person pressed Refresh in a Specwatch panel.
export const refreshes = (): Observable<unknown> => fromEvent(window, refreshEvent);

// askAgain asks at each hint, one question at a time; the hints that come
// meanwhile lead to one more, so the last answer is never older than the last
// hint. A failure keeps what was shown before it.
export function askAgain(hints: Observable<unknown>, ask: () => Observable<DataQueryResponse>): Observable<DataQueryResponse> {
  const idle = new Subject<void>();
  return hints.pipe(
    throttle(() => idle.pipe(take(1)), { leading: true, trailing: true }),
    concatMap(() => concat(ask(), timer(atMostEvery).pipe(ignoreElements())).pipe(finalize(() => idle.next())))
  );
}
