// When the queries of built-in panels run again. A message of the stream only makes
// the same query run again. So a live panel shows the same as a polled one, and a
// reconnect neither loses nor repeats events.
import { locationService } from '@grafana/runtime';
import {
  BehaviorSubject,
  EMPTY,
  Observable,
  defer,
  distinctUntilChanged,
  filter,
  fromEvent,
  map,
  merge,
  race,
  repeat,
  retry,
  share,
  switchMap,
  timer,
} from 'rxjs';

import { GrafanaTransport } from '../connection/grafana';
import type { SpecEvent } from '../connection/model';
import { backoff } from '../connection/patience';
import { attend } from '../connection/presence';
import { pollingInterval } from './asking';
import { refreshEvent } from './types';

const openFor = 5_000; // ms that a stream stays open without panels

// Span is the time range of new events, in ms since 1970.
export interface Span {
  from: number;
  to: number;
}

const always: Span = { from: -Infinity, to: Infinity };

const known = new Map<string, Observable<Span>>();

// changes hints that the events of a data source changed, and where, or that
// something may have been missed. All queries of a browser tab share one stream.
export function changes(uid: string): Observable<Span> {
  let hints = known.get(uid);
  if (!hints) {
    hints = hintsOf(uid).pipe(share({ resetOnRefCountZero: () => timer(openFor) }));
    known.set(uid, hints);
  }
  return hints;
}

// hintsOf hints at what the stream brings and, while it is not open, at the interval
// of polls.
function hintsOf(uid: string): Observable<Span> {
  return defer(() => {
    const open = new BehaviorSubject(false);
    const awake = wakes.pipe(share());
    return merge(
      awake.pipe(map(() => always)),
      open.pipe(
        distinctUntilChanged(),
        switchMap((is) => (is ? EMPTY : polls().pipe(map(present))))
      ),
      stream(uid, open).pipe(
        retry({ delay: (_, failures) => race(timer(backoff(failures)), awake), resetOnSuccess: true })
      )
    );
  });
}

// present is the span of a poll: as in polling mode, ranges that are over are not
// queried again. They are when the stream opens.
const present = (): Span => ({ from: Date.now(), to: Date.now() });

// wakes emits when the page was hidden or frozen for a while, the device slept, or
// its network is back: the stream may have been dead meanwhile.
const wakes = new Observable<void>((subscriber) => attend({ wake: () => subscriber.next() }));

// stream opens the stream once, and ends with an error when it cannot be opened or is
// closed.
function stream(uid: string, open: BehaviorSubject<boolean>): Observable<Span> {
  return new Observable<Span>((subscriber) => {
    let at = ''; // cursor of the last batch
    return new GrafanaTransport(uid).live(undefined, {
      opened: ({ cursor }) => {
        at = cursor;
        open.next(true);
        subscriber.next(always);
      },
      batch: ({ from, cursor, events }) => {
        const gap = from !== at;
        at = cursor;
        if (gap || events.length > 0) {
          subscriber.next(gap ? always : spanOf(events));
        }
      },
      closed: (reason) => {
        open.next(false);
        subscriber.error(reason);
      },
    });
  });
}

function spanOf(events: readonly SpecEvent[]): Span {
  const times = events.map((event) => Date.parse(event.at));
  return times.every(Number.isFinite) ? { from: Math.min(...times), to: Math.max(...times) } : always;
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
