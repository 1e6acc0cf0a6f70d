package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/specwatch/specwatch/pkg/event"
)

const (
	queueBound     = 1_000            // events held while the database is away
	attemptTimeout = 15 * time.Second // a network that swallows packets must not stop the retries
)

// queue keeps events in order until they are written. Adding one never waits
// for the database; one goroutine writes, and tries again until it succeeds.
type queue struct {
	to  Appender
	say func(string)

	mu      sync.Mutex
	events  []event.Event
	batch   int   // events in one attempt
	trouble error // why the last attempt failed; nil: it did not
	closed  bool

	wake  chan struct{} // holds one token: there is something to look at
	ended chan struct{} // closed when run has ended
}

func newQueue(to Appender, say func(string)) *queue {
	return &queue{to: to, say: say, batch: event.MaxBatch, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// add appends events, each of which must have its key. A queue that has
// reached its bound lets go of heartbeats first; what else happened is kept.
func (q *queue) add(events ...event.Event) {
	q.mu.Lock()
	if len(q.events) >= queueBound {
		q.thin()
	}
	q.events = append(q.events, events...)
	q.mu.Unlock()
	q.nudge()
}

// thin drops every other heartbeat, so that even the outage of a whole night
// leaves the outline of when the session was alive.
func (q *queue) thin() {
	drop := false
	q.events = slices.DeleteFunc(q.events, func(e event.Event) bool {
		if e.Kind != event.SessionHeartbeat {
			return false
		}
		drop = !drop
		return drop
	})
}

// close says that nothing is added any more: once all is written, run ends.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.nudge()
}

func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// rest returns what is not yet known to be written, and why.
func (q *queue) rest() ([]event.Event, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.events), q.trouble
}

// run writes until the queue is closed and empty, or ctx ends.
func (q *queue) run(ctx context.Context) {
	defer close(q.ended)
	for {
		q.mu.Lock()
		empty, closed := len(q.events) == 0, q.closed
		q.mu.Unlock()
		switch {
		case !empty:
			if q.insist(ctx) != nil {
				return
			}
		case closed:
			return
		default:
			select {
			case <-q.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}

// insist writes what is at the head of the queue, trying until it succeeds or
// ctx ends.
func (q *queue) insist(ctx context.Context) error {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval = 100 * time.Millisecond
	delay.MaxInterval = 5 * time.Second
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := q.attempt(ctx)
		// That it was told to give up is no news about the database.
		if err != nil && ctx.Err() == nil && q.failed(err) {
			q.say(fmt.Sprintf("events cannot be written now (%s); they are written once the database is back", err))
		}
		return struct{}{}, err
	}, backoff.WithBackOff(delay), backoff.WithMaxElapsedTime(0))
	return err
}

// attempt tries once to write what is at the head of the queue. It succeeds
// when there is less to do than before.
func (q *queue) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	q.mu.Lock()
	batch := slices.Clone(q.events[:min(q.batch, len(q.events))])
	q.mu.Unlock()
	_, err := q.to.Append(ctx, batch)
	var refused *event.FieldError
	switch {
	case err == nil:
		q.written(batch)
	case errors.As(err, &refused):
		q.refused(batch, refused)
	default:
		return err
	}
	return nil
}

func (q *queue) written(batch []event.Event) {
	keys := make(map[string]bool, len(batch))
	for _, e := range batch {
		keys[e.Key] = true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.trouble = nil
	q.events = slices.DeleteFunc(q.events, func(e event.Event) bool { return keys[e.Key] })
}

// failed remembers why, and reports whether this is the first failure since
// the last success.
func (q *queue) failed(err error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := q.trouble == nil
	q.trouble = err
	return first
}

// refused answers a batch in which something can never be written. From then
// on events are written one by one, so that only the one at fault suffers.
// When that is for its time (this machine's clock is far off), it gives up its
// time, for an event with the database's time is worth more than none.
func (q *queue) refused(batch []event.Event, why *event.FieldError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(batch) > 1 {
		q.batch = 1
		return
	}
	i := slices.IndexFunc(q.events, func(e event.Event) bool { return e.Key == batch[0].Key })
	if i < 0 {
		return // a heartbeat that was let go meanwhile
	}
	e := &q.events[i]
	var data map[string]any
	if why.Field == "at" && !e.At.IsZero() && json.Unmarshal(e.Data, &data) == nil && data != nil {
		data["writer_clock"] = e.At.UTC().Format(event.TimeLayout)
		e.Data, e.At = encode(data), time.Time{}
		return
	}
	q.say(fmt.Sprintf("the database refused a %s event for ever, and it is left out: %s", e.Kind, why))
	q.events = slices.Delete(q.events, i, i+1)
}
