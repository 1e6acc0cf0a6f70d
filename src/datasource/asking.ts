// When a query of a panel runs again.
import { type DataQueryResponse, rangeUtil } from '@grafana/data';
import {
  BehaviorSubject,
  EMPTY,
  type Observable,
  Subject,
  concat,
  concatMap,
  defer,
  finalize,
  ignoreElements,
  merge,
  startWith,
  switchMap,
  take,
  tap,
  throttle,
  timer,
} from 'rxjs';

import { complete, intervalBounds, remembered } from '../connection/settings';

const atMostEvery = 500; // ms between two runs of a query
const firstRetry = 1_000; // ms after an answer that failed
const lastRetry = 30_000;

// failed reports whether the answer, or a part of it, is an error.
export const failed = (response: DataQueryResponse): boolean => Boolean(response.error ?? response.errors?.length);

// pollingInterval returns the refresh interval in the dashboard's address, in ms, or
// else the interval in the user's settings.
export function pollingInterval(refresh: string | null): number {
  try {
    const ms = rangeUtil.intervalToMs(refresh ?? '');
    if (ms >= intervalBounds.min * 1_000) {
      return ms;
    }
  } catch {
    // the address has no interval
  }
  return complete(remembered()).pollingInterval * 1_000;
}

// askAgain runs the query now and at each hint, once at a time. Hints during a run
// cause one more run, so the last answer is never older than the last hint. After
// a failure it runs again without a hint.
export function askAgain(
  hints: Observable<unknown>,
  ask: () => Observable<DataQueryResponse>
): Observable<DataQueryResponse> {
  return defer(() => {
    const idle = new Subject<void>();
    const again = new BehaviorSubject(0); // ms; 0: no retry
    let pause = firstRetry;
    const note = (response: DataQueryResponse) => {
      again.next(failed(response) ? pause : 0);
      pause = failed(response) ? Math.min(pause * 2, lastRetry) : firstRetry;
    };
    const retries = again.pipe(switchMap((ms) => (ms > 0 ? timer(ms) : EMPTY)));
    return merge(hints, retries).pipe(
      startWith(null),
      throttle(() => idle.pipe(take(1)), { leading: true, trailing: true }),
      concatMap(() =>
        concat(ask().pipe(tap(note)), timer(atMostEvery).pipe(ignoreElements())).pipe(finalize(() => idle.next()))
      )
    );
  });
}
