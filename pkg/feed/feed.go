// Package feed reads the database once for any number of subscribers. One
// reader turns new rows into batches, and a bounded ring keeps the latest of
// them. Each subscriber reads the ring at its own pace; one that is too far
// behind gets ErrSlow and resumes with its cursor.
package feed

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

// Batch has the events between two cursors. Batches are shared and must not be
// changed.
type Batch struct {
	From, Cursor cursor.Cursor
	Events       []event.Event

	xids  []uint64
	bytes int
}

// Bounds of the ring. A subscriber that is further behind is too slow.
const (
	ringBatches = 4_096
	ringEvents  = 20_000
	ringBytes   = 64 << 20
)

// Pace of the reader.
const (
	readLimit    = 1_000                  // events in a batch
	readTimeout  = 15 * time.Second       // of one read; a connection that is silent for longer is lost
	busyPause    = 20 * time.Millisecond  // between reads while there are many transactions: each takes a share of the machine from the writers
	activePause  = 10 * time.Millisecond  // between reads without notifications, while events flow
	lookPause    = 100 * time.Millisecond // the same, while none do
	settlePause  = 25 * time.Millisecond  // between reads while older transactions have not ended; it grows …
	settleMost   = 250 * time.Millisecond // … up to this
	safetyPause  = 5 * time.Second        // between reads while notifications are waited for
	heldPause    = time.Second            // between two attempts to take the advisory lock
	denseSpan    = 100 * time.Millisecond // span in which notifications and transactions are counted
	denseNotes   = 200                    // so many notifications in denseSpan delay the writers
	sparseXacts  = 150                    // up to so many transactions in denseSpan, notifications are used
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
	freshAnswer  = time.Second // how long a caller waits for another attempt to connect
)

// ErrSlow is returned to a subscriber that is too far behind. It may subscribe
// again with its cursor.
var ErrSlow = errors.New("the subscriber is too slow; resume by cursor")

// Stats is the feed's own health.
type Stats struct {
	Connected   bool
	Push        bool          // PostgreSQL notifies of events; else the feed polls
	Delay       time.Duration // the longest time until the feed notices an event
	Pooled      bool          // a connection pooler sits in between
	Subscribers int
	Lag         time.Duration // since the reader was last known to have seen everything; 0 while it has
	Reads       int64
	Wakeups     int64
	Reconnects  int64
}

// Feed has one owner, which calls Run. The other methods are safe for concurrent
// use.
type Feed struct {
	store *store.Store

	mu        sync.Mutex
	changed   chan struct{} // closed at each change of what follows
	ready     bool
	err       error         // why the reader is not connected
	attempts  int           // failed attempts to connect
	position  cursor.Cursor // of the reader
	published cursor.Cursor // of the last batch
	rest      cursor.Cursor // latest position between two reads without pages …
	restSeq   int64         // … and the batch that follows it
	ring      []*Batch
	first     int64 // number of ring[0]
	events    int
	bytes     int
	pruned    int64     // events that prune had removed
	history   int64     // how often a position was taken from the table
	begun     int64     // number of the read that began last
	done      int64     // number of the read that last ended without error
	clock     time.Time // the database's clock at the last read …
	clockAt   time.Time // … and the time of this process then
	caughtUp  time.Time // when the reader last had seen everything
	behind    bool
	stats     Stats

	kick      chan struct{}                      // asks the reader to read now
	interrupt atomic.Pointer[context.CancelFunc] // ends its wait for notifications
}

// New returns a feed. It does nothing until Run is called.
func New(s *store.Store) *Feed {
	return &Feed{store: s, changed: make(chan struct{}), kick: make(chan struct{}, 1), caughtUp: time.Now(), behind: true}
}

// Run reads until ctx ends, and then returns nil. After an error it connects
// again, with exponential backoff.
func (f *Feed) Run(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = firstBackoff, lastBackoff
	for {
		err := f.follow(ctx, wait.Reset)
		if ctx.Err() != nil {
			return nil
		}
		f.mu.Lock()
		f.err = err
		f.attempts++
		f.behind = true
		f.stats.Connected = false
		f.stats.Reconnects++
		f.announce()
		f.mu.Unlock()
		// Look does not shorten the first pause. Calls of await that have
		// waited for this attempt return its error meanwhile.
		if !f.pause(ctx, firstBackoff, false) || !f.pause(ctx, wait.NextBackOff()-firstBackoff, true) {
			return nil
		}
	}
}

// pause waits for d or, if short is true, until somebody calls Look. It reports
// whether ctx is still open.
func (f *Feed) pause(ctx context.Context, d time.Duration, short bool) bool {
	var kick chan struct{}
	if short {
		kick = f.kick
	}
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-kick:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// follow reads on one connection until it fails.
func (f *Feed) follow(ctx context.Context, connected func()) error {
	connecting, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	r, err := f.store.NewReader(connecting)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := f.begin(ctx, r, false); err != nil {
		return err
	}
	p := newPace(f, r)
	var page store.Page
	var whole time.Time // when the last full read began
	for ctx.Err() == nil {
		// While there are no new events, comparing the snapshot is enough: it
		// costs a tenth of a read, and many callers may ask for one.
		if len(page.Events) == 0 && !page.More && time.Since(whole) < safetyPause {
			same, err := f.glance(ctx, r)
			if err != nil {
				return err
			}
			if same {
				if err := p.wait(ctx, page); err != nil {
					return err
				}
				continue
			}
		}
		whole = time.Now()
		page, err = f.read(ctx, r)
		if errors.Is(err, store.ErrExpired) {
			if err = f.begin(ctx, r, true); err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		connected()
		if page.More {
			continue
		}
		if err := p.wait(ctx, page); err != nil {
			return err
		}
	}
	return nil
}

// begin reads the current position of the table, unless the feed can continue
// from its own position.
func (f *Feed) begin(ctx context.Context, r *store.Reader, again bool) error {
	f.mu.Lock()
	ready := f.ready
	f.mu.Unlock()
	if ready && !again {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	page, err := r.Here(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready = true
	f.clock, f.clockAt = page.At, time.Now()
	f.position, f.published, f.rest = page.Cursor, page.Cursor, page.Cursor
	f.pruned = page.Pruned
	// The batches so far belong to another history, or to a later state of this
	// one. Subscribers compare their cursors with the table.
	f.history++
	f.first += int64(len(f.ring))
	f.ring, f.events, f.bytes = nil, 0, 0
	f.restSeq = f.first
	f.announce()
	return nil
}

// glance reports whether nothing has been committed since the last read.
func (f *Feed) glance(ctx context.Context, r *store.Reader) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	f.mu.Lock()
	f.begun++
	number := f.begun
	f.mu.Unlock()
	same, at, err := r.Unchanged(ctx)
	if err != nil || !same {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Reads++
	f.done = number
	f.clock, f.clockAt = at, time.Now()
	f.caughtUp = time.Now()
	f.announce()
	return true, nil
}

// read reads new rows and appends them to the ring as one batch.
func (f *Feed) read(ctx context.Context, r *store.Reader) (store.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	f.mu.Lock()
	f.begun++
	number := f.begun
	f.mu.Unlock()
	page, err := r.Since(ctx, f.position, readLimit) // position is written by this goroutine only
	if err != nil {
		return page, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = nil
	f.stats.Connected = true
	f.stats.Reads++
	f.done = number
	f.pruned = page.Pruned
	f.position = page.Cursor
	f.clock, f.clockAt = page.At, time.Now()
	if f.behind = page.More; !f.behind {
		f.caughtUp = time.Now()
	}
	if len(page.Events) > 0 {
		b := &Batch{From: f.published, Cursor: page.Cursor, Events: page.Events, xids: page.Xids}
		for i := range b.Events {
			b.bytes += len(b.Events[i].Data)
		}
		f.push(b)
		f.published = b.Cursor
	}
	if !page.Cursor.Paging() {
		f.rest, f.restSeq = page.Cursor, f.first+int64(len(f.ring))
	}
	f.announce()
	return page, nil
}

// push appends to the ring and drops the oldest batches that no longer fit. The
// caller holds mu.
func (f *Feed) push(b *Batch) {
	f.ring = append(f.ring, b)
	f.events += len(b.Events)
	f.bytes += b.bytes
	for len(f.ring) > 1 && (len(f.ring) > ringBatches || f.events > ringEvents || f.bytes > ringBytes) {
		f.events -= len(f.ring[0].Events)
		f.bytes -= f.ring[0].bytes
		f.ring[0] = nil
		f.ring = f.ring[1:]
		f.first++
	}
}

// announce wakes all goroutines that wait for a change. The caller holds mu.
func (f *Feed) announce() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// await waits until done returns true; done is called with mu held. While the
// database cannot be read, it asks for another attempt to connect, and returns
// the error if that fails too or takes longer than freshAnswer.
func (f *Feed) await(ctx context.Context, done func() bool) error {
	var patience <-chan time.Time
	attempts := -1
	for {
		f.mu.Lock()
		if done() {
			f.mu.Unlock()
			return nil
		}
		changed, err, failed := f.changed, f.err, f.attempts
		f.mu.Unlock()
		switch {
		case err == nil:
		case attempts < 0:
			attempts = failed
			timer := time.NewTimer(freshAnswer)
			defer timer.Stop()
			patience = timer.C
			f.Look()
		case failed > attempts:
			return err
		}
		select {
		case <-changed:
		case <-patience:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Now estimates the database's clock.
func (f *Feed) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now()
}

// now is Now for a caller that holds mu.
func (f *Feed) now() time.Time { return f.clock.Add(time.Since(f.clockAt)) }

// Pruned is how many events prune had removed at the last read.
func (f *Feed) Pruned() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pruned
}

// Changed returns a channel that is closed when the feed next reads, connects
// or loses its connection.
func (f *Feed) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// End identifies the end of the ring. It changes with each batch and with the
// epoch.
type End struct {
	batches int64
	epoch   uint64
}

// End returns the end of the ring and a channel that is closed when it may have
// changed, for a goroutine that waits for many subscribers.
func (f *Feed) End() (End, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return End{f.first + int64(len(f.ring)), f.position.Epoch}, f.changed
}

// Look asks the reader to read now.
func (f *Feed) Look() {
	select {
	case f.kick <- struct{}{}:
	default: // it has been asked already
	}
	if cancel := f.interrupt.Load(); cancel != nil {
		(*cancel)()
	}
}

// asked reports whether Look was called since the last read, and forgets it.
func (f *Feed) asked() bool {
	select {
	case <-f.kick:
		return true
	default:
		return false
	}
}

// Stats returns the feed's health.
func (f *Feed) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Pooled = f.store.Pooled()
	if f.behind {
		s.Lag = time.Since(f.caughtUp)
	}
	return s
}
