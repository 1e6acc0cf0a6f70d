// Package feed reads the database once for any number of subscribers. One
// reader turns new rows into batches, a bounded ring holds the latest of
// them, and each subscriber walks the ring at its own pace; one that falls
// off its end is let go and resumes by its cursor.
package feed

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// Batch is a step of the feed: what lies between two cursors. Batches are
// shared and must not be changed.
type Batch struct {
	From, Cursor cursor.Cursor
	Events       []event.Event

	xids     []uint64
	bytes    int
	once     sync.Once
	encoding any
	failure  error
}

// Encoding returns what encode makes of the batch. It is made once for all
// subscribers, so a process must always pass the same encode.
func (b *Batch) Encoding(encode func(*Batch) (any, error)) (any, error) {
	b.once.Do(func() { b.encoding, b.failure = encode(b) })
	return b.encoding, b.failure
}

// Bounds of the ring. A subscriber that lies further behind than any of them
// is too slow.
const (
	ringBatches = 4_096
	ringEvents  = 20_000
	ringBytes   = 64 << 20
)

// Pace of the reader.
const (
	readLimit    = 1_000                  // events in a batch
	readTimeout  = 15 * time.Second       // of one read; a connection that is silent for longer is lost
	loadTimeout  = 2 * time.Minute        // of the first summary
	tailPause    = time.Millisecond       // between reads while events flow
	tailIdle     = 10 * time.Millisecond  // without events, and the reader goes to sleep
	settlePause  = 25 * time.Millisecond  // between reads while it waits for older transactions
	lookPause    = 100 * time.Millisecond // between reads where no bell rings
	safetyPause  = 5 * time.Second        // between reads while it sleeps: a ring may be lost
	denseRings   = 20                     // this many rings within denseSpan, and it stays awake
	denseSpan    = 100 * time.Millisecond
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// ErrSlow is the answer to a subscriber that lies too far behind. It may
// subscribe again with its cursor.
var ErrSlow = errors.New("the subscriber is too slow; resume by cursor")

// Stats is the feed's own health.
type Stats struct {
	Connected   bool
	Subscribers int
	Lag         time.Duration // since the reader was last known to have seen everything; 0 while it has
	Reads       int64
	Wakeups     int64
	Reconnects  int64
}

// Feed has one owner, who calls Run. All other methods may be called from
// anywhere.
type Feed struct {
	store *store.Store

	mu        sync.Mutex
	changed   chan struct{} // closed at each change of what follows
	ready     bool
	err       error         // why the reader is not connected
	position  cursor.Cursor // of the reader
	published cursor.Cursor // of the last batch
	rest      cursor.Cursor // latest position at rest …
	restSeq   int64         // … and the batch that follows it
	ring      []*Batch
	first     int64 // number of ring[0]
	events    int
	bytes     int
	summary   *state.Summary
	clock     time.Time // the database's, at …
	clockAt   time.Time // … this time of ours
	caughtUp  time.Time // when the reader last had seen everything
	behind    bool
	stats     Stats

	kick chan struct{} // asks the reader to look now
}

// New returns a feed that Run brings to life.
func New(s *store.Store) *Feed {
	return &Feed{store: s, changed: make(chan struct{}), kick: make(chan struct{}, 1), caughtUp: time.Now(), behind: true}
}

// Run reads until ctx ends; outages end nothing.
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
		f.behind = true
		f.stats.Connected = false
		f.stats.Reconnects++
		f.announce()
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// follow reads on one connection until that fails.
func (f *Feed) follow(ctx context.Context, connected func()) error {
	connecting, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	r, err := f.store.NewReader(connecting)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := f.load(ctx, r, false); err != nil {
		return err
	}
	p := pace{feed: f, reader: r}
	for ctx.Err() == nil {
		n, more, err := f.read(ctx, r)
		if errors.Is(err, store.ErrExpired) {
			err = f.load(ctx, r, true)
			more = true
		}
		if err != nil {
			return err
		}
		connected()
		if more {
			continue
		}
		if err := p.wait(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// load sums up what is stored, unless the feed holds a summary and can read
// on from it.
func (f *Feed) load(ctx context.Context, r *store.Reader, again bool) error {
	f.mu.Lock()
	ready := f.ready
	f.mu.Unlock()
	if ready && !again {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	summary, at, now, err := r.Load(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready, f.summary = true, summary
	f.clock, f.clockAt = now, time.Now()
	f.position, f.published, f.rest = at, at, at
	// No batch of before is of use to anybody: who still walks there is told
	// that the cursor expired.
	f.first += int64(len(f.ring))
	f.ring, f.events, f.bytes = nil, 0, 0
	f.restSeq = f.first
	f.announce()
	return nil
}

// read turns what is new into a batch.
func (f *Feed) read(ctx context.Context, r *store.Reader) (n int, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	page, err := r.Since(ctx, f.position, readLimit) // position is written by this goroutine only
	if err != nil {
		return 0, false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = nil
	f.stats.Connected = true
	f.stats.Reads++
	f.position = page.Cursor
	f.clock, f.clockAt = page.At, time.Now()
	if f.behind = page.More; !f.behind {
		f.caughtUp = time.Now()
	}
	if len(page.Events) > 0 {
		b := &Batch{From: f.published, Cursor: page.Cursor, Events: page.Events, xids: page.Xids}
		for i := range b.Events {
			f.summary.Add(b.Events[i])
			b.bytes += len(b.Events[i].Data)
		}
		f.push(b)
		f.published = b.Cursor
	}
	if !page.Cursor.Paging() {
		f.rest, f.restSeq = page.Cursor, f.first+int64(len(f.ring))
	}
	f.announce()
	return len(page.Events), page.More, nil
}

// push appends to the ring and lets go of what no longer fits. The caller
// holds mu.
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

// announce wakes all who wait for a change. The caller holds mu.
func (f *Feed) announce() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// await waits until done answers true; done is called with mu held. While the
// database cannot be read, patience ends at once with the reason.
func (f *Feed) await(ctx context.Context, done func() bool) error {
	for {
		f.mu.Lock()
		if done() {
			f.mu.Unlock()
			return nil
		}
		changed, err := f.changed, f.err
		f.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// State returns the summary of at least what the cursor has seen; the zero
// cursor takes it as it is. The error says why the database cannot be read.
func (f *Feed) State(ctx context.Context, at cursor.Cursor) (state.State, error) {
	var st state.State
	asked := false
	err := f.await(ctx, func() bool {
		if !f.ready {
			return false
		}
		if !at.IsZero() && at.Epoch == f.position.Epoch && !f.seen(at) {
			if !asked {
				asked = true
				f.look()
			}
			return false
		}
		st = f.summary.State(f.now())
		return true
	})
	return st, err
}

// seen reports whether the reader has seen what the cursor has. The caller
// holds mu.
func (f *Feed) seen(c cursor.Cursor) bool {
	return f.rest.From.Contains(c.To)
}

// now is the database's clock, as far as it is known. The caller holds mu.
func (f *Feed) now() time.Time { return f.clock.Add(time.Since(f.clockAt)) }

// look asks the reader to read now.
func (f *Feed) look() {
	select {
	case f.kick <- struct{}{}:
	default: // it has been asked already
	}
}

// Stats returns the feed's health.
func (f *Feed) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	if f.behind {
		s.Lag = time.Since(f.caughtUp)
	}
	return s
}
