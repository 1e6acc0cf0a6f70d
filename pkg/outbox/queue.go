package outbox

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
	// QueueBound is how many events wait while the destination is away.
	QueueBound     = 1_000
	attemptTimeout = 15 * time.Second // a network that drops packets must not stop the retries
)

// Queue keeps events in order until they are stored. Add never waits for the
// destination; one goroutine writes, and retries until it succeeds.
type Queue struct {
	to   Destination
	box  Box // events of earlier processes, which are sent first
	file *File
	say  func(string)

	mu      sync.Mutex
	events  []event.Event
	batch   int              // events in one attempt
	ids     map[string]int64 // of the requests that were stored, by key
	sent    Sent
	trouble error // why the last attempt failed; nil: it did not
	unkept  error // why events are not on disk; nil: they are
	closed  bool

	wake  chan struct{} // holds one token: there is something to look at
	ended chan struct{} // closed when Run has ended
}

// NewQueue returns a queue; Run sends its events, which are in file until they are
// stored.
func NewQueue(to Destination, box Box, file *File, say func(string)) *Queue {
	return &Queue{to: to, box: box, file: file, say: say, batch: event.MaxBatch, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// Add appends events, each of which must have a key. A full queue drops
// heartbeats, and nothing else.
func (q *Queue) Add(events ...event.Event) {
	q.mu.Lock()
	q.events = append(q.events, events...)
	var err error
	if len(q.events) > QueueBound {
		q.thin()
		err = q.file.Replace(q.events)
	} else {
		err = q.file.Append(events...)
	}
	first := err != nil && q.unkept == nil
	q.unkept = err
	q.mu.Unlock()
	if first {
		q.say(fmt.Sprintf("events cannot be kept in a file until they are written: %s", err))
	}
	q.nudge()
}

// thin drops every other heartbeat, so that after a long outage it is still known
// when the session was alive.
func (q *Queue) thin() {
	drop := false
	q.events = slices.DeleteFunc(q.events, func(e event.Event) bool {
		if e.Kind != event.SessionHeartbeat {
			return false
		}
		drop = !drop
		return drop
	})
}

// Close says that nothing is added any more: once all is written, Run ends.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.nudge()
}

func (q *Queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Ended is closed when Run has ended.
func (q *Queue) Ended() <-chan struct{} { return q.ended }

// Rest returns what is not yet known to be written, and why.
func (q *Queue) Rest() ([]event.Event, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.events), q.trouble
}

// Run sends what earlier processes left, and then writes until the queue is
// closed and empty, or ctx ends. What is written is off the disk; the rest stays
// for whoever sends next.
func (q *Queue) Run(ctx context.Context) {
	defer close(q.ended)
	defer q.leave()
	kept := func() error {
		_, err := q.box.Send(ctx, q.to, q.say)
		return err
	}
	if q.insist(ctx, kept) != nil {
		return
	}
	for {
		q.mu.Lock()
		empty, closed := len(q.events) == 0, q.closed
		q.mu.Unlock()
		switch {
		case !empty:
			if q.insist(ctx, func() error { return q.attempt(ctx) }) != nil {
				return
			}
		case closed:
			// Events that other processes, such as hooks, kept meanwhile.
			// The queue does not wait for those that cannot be written.
			_ = kept()
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

func (q *Queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) == 0 {
		q.file.Remove()
	}
}

// insist tries until it succeeds or ctx ends.
func (q *Queue) insist(ctx context.Context, attempt func() error) error {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval = 100 * time.Millisecond
	delay.MaxInterval = 5 * time.Second
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := attempt()
		// An attempt that ctx ended says nothing about the destination.
		if err != nil && ctx.Err() == nil && q.failed(err) {
			q.say(fmt.Sprintf("events cannot be written now (%s); they are kept and written once the database is back", err))
		}
		return struct{}{}, err
	}, backoff.WithBackOff(delay), backoff.WithMaxElapsedTime(0))
	return err
}

// attempt tries once to write what is at the head of the queue. It succeeds
// when there is less to do than before.
func (q *Queue) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	batch := q.next()
	if len(batch) == 0 {
		return nil
	}
	receipt, err := q.to.Append(ctx, batch)
	var refused *event.FieldError
	switch {
	case err == nil:
		q.box.reached()
		q.written(batch, receipt)
	case errors.As(err, &refused):
		q.refused(batch, refused)
	default:
		return err
	}
	return nil
}

// RequestKey is a field in the data of an answer: the key of the request that it
// answers, for writers that do not know the id of it. The request comes before the
// answer, even if it is stored already. The queue replaces the field by the id.
const RequestKey = "requestKey"

// next returns the events of an attempt. An answer that names its request by key
// is sent after that, since only then the id is known.
func (q *Queue) next() []event.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n := 0; n < min(q.batch, len(q.events)); n++ {
		var data map[string]any
		e := &q.events[n]
		if e.Kind != event.InterventionAnswered || json.Unmarshal(e.Data, &data) != nil {
			continue
		}
		key, named := data[RequestKey].(string)
		if !named {
			continue
		}
		id, known := q.ids[key]
		switch {
		case known:
			delete(data, RequestKey)
			data["request"] = id
			e.Data = Data(data)
		case n > 0:
			return slices.Clone(q.events[:n])
		default: // the request was refused, so nothing waits for the answer
			q.events = slices.Delete(q.events, 0, 1)
			return nil
		}
	}
	return slices.Clone(q.events[:min(q.batch, len(q.events))])
}

func (q *Queue) written(batch []event.Event, receipt event.Receipt) {
	keys := make(map[string]bool, len(batch))
	for _, e := range batch {
		keys[e.Key] = true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, e := range batch {
		if e.Kind == event.InterventionRequest && i < len(receipt.IDs) {
			if q.ids == nil {
				q.ids = map[string]int64{}
			}
			q.ids[e.Key] = receipt.IDs[i]
		}
	}
	q.sent.Stored += len(batch) - receipt.Known
	q.sent.Known += receipt.Known
	q.trouble = nil
	q.events = slices.DeleteFunc(q.events, func(e event.Event) bool { return keys[e.Key] })
	if len(q.events) == 0 {
		q.file.Empty()
	}
}

// failed remembers why, and reports whether this is the first failure since
// the last success.
func (q *Queue) failed(err error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := q.trouble == nil
	q.trouble = err
	return first
}

// refused handles a batch with an event that can never be written. From then on
// events are written one by one, so that the others are written. If the event is
// refused for its time, because the clock of this machine is wrong, it is written
// with the database's time, and its own goes into the field writerClock.
func (q *Queue) refused(batch []event.Event, why *event.FieldError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(batch) > 1 {
		q.batch = 1
		return
	}
	i := slices.IndexFunc(q.events, func(e event.Event) bool { return e.Key == batch[0].Key })
	if i < 0 {
		return // a heartbeat that was dropped meanwhile
	}
	e := &q.events[i]
	var data map[string]any
	if why.Field == "at" && !e.At.IsZero() && json.Unmarshal(e.Data, &data) == nil && data != nil {
		data["writerClock"] = e.At.UTC().Format(event.TimeLayout)
		e.Data, e.At = Data(data), time.Time{}
		return
	}
	q.say(fmt.Sprintf("the database refused a %s event for ever, and it is left out: %s", e.Kind, why))
	q.events = slices.Delete(q.events, i, i+1)
}
