// Package overview keeps the current state of sessions and specs for all views
// of a process. It subscribes to the feed, folds each batch into a
// state.Summary once, and encodes the state once for all readers.
package overview

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	tellEvery    = time.Second            // the least time between two published snapshots
	fresh        = time.Second            // how long a snapshot is reused without new events: sessions become silent by time alone
	silenceEvery = 5 * time.Second        // between two checks for sessions that became silent
	loadTimeout  = 15 * time.Minute       // of the first summary, which reads a week of events
	seenWait     = 2 * time.Second        // for the feed to see what the caller has seen
	attachWait   = 100 * time.Millisecond // that a batch waits for its state
	reloadPause  = time.Second            // after the last batch of prune
	batchLimit   = 1_000                  // events that are folded at once while it catches up
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// errOutdated says that the summary contains events that prune has removed.
var errOutdated = errors.New("prune has removed events")

// Snapshot is the state at one time. It is shared and must not be changed.
type Snapshot struct {
	State state.State
	JSON  json.RawMessage // the state
	// Version is a digest of JSON without its time: it stays the same while
	// nothing else changes, and is the same in every process.
	Version string
	// Number orders the snapshots of a process. Their times do not: the clock of
	// the database can be set back.
	Number int64

	place feed.Place // up to which the events are in it
}

// Lacks reports whether the snapshot lacks events that the subscriber has
// received. It must not be sent after these.
func (s *Snapshot) Lacks(sub *feed.Subscription) bool { return sub.Passed(s.place) }

// MarshalJSON returns s.JSON.
func (s *Snapshot) MarshalJSON() ([]byte, error) { return s.JSON, nil }

// Overview has one owner, which calls Run. The other methods are safe for
// concurrent use.
type Overview struct {
	store *store.Store
	feed  *feed.Feed

	mu       sync.Mutex
	changed  chan struct{}  // closed at each change of what follows
	summary  *state.Summary // nil: not loaded yet
	place    feed.Place     // in the feed, up to which the summary is folded
	dirty    bool           // the summary holds more than the latest snapshot
	latest   *Snapshot
	latestAt time.Time // by the clock of this process
	taken    int64     // snapshots so far
	err      error     // why it could not be loaded
	attempts int       // to load, that failed

	told     *Snapshot
	toldAt   time.Time
	tellings chan struct{} // closed when another snapshot is published

	pruned   int64     // events that prune had removed at the last check
	reloadAt time.Time // when to load the summary again; zero: no need
}

// New returns an overview. It does nothing until Run is called, and needs a
// feed that runs.
func New(s *store.Store, f *feed.Feed) *Overview {
	return &Overview{store: s, feed: f, changed: make(chan struct{}), tellings: make(chan struct{})}
}

// Run folds the batches of the feed until ctx ends. After an error it loads the
// summary again, with exponential backoff.
func (o *Overview) Run(ctx context.Context) {
	var telling sync.WaitGroup
	defer telling.Wait()
	telling.Go(func() { o.tell(ctx) })
	telling.Go(func() { o.keep(ctx) })
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = firstBackoff, lastBackoff
	for {
		err := o.follow(ctx, wait.Reset)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, store.ErrExpired) || errors.Is(err, errOutdated) {
			continue // the history is another, or prune removed events: load again
		}
		o.mu.Lock()
		o.err = err
		o.attempts++
		o.announce()
		o.mu.Unlock()
		pause(ctx, wait.NextBackOff())
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// follow loads the summary from the table, and then folds the batches of the
// feed.
func (o *Overview) follow(ctx context.Context, loaded func()) error {
	if _, err := o.feed.Here(ctx); err != nil {
		return err
	}
	loading, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	summary, page, err := questions.To(o.store).Load(loading)
	if err != nil {
		return err
	}
	sub, err := o.feed.SubscribeInner(ctx, page.Cursor, batchLimit)
	if err != nil {
		return err
	}
	defer func() { sub.Close() }()
	loaded()
	// A stored summary lacks the events that were written after it.
	for {
		b, err := sub.Catch(loading)
		if err != nil {
			return err
		}
		if b == nil {
			break
		}
		for i := range b.Events {
			summary.Add(b.Events[i])
		}
	}
	o.update(func() { o.summary, o.pruned, o.reloadAt, o.err = summary, page.Pruned, time.Time{}, nil }, sub.Place())
	for {
		b, err := o.next(ctx, sub)
		if errors.Is(err, feed.ErrSlow) {
			again, err := o.feed.SubscribeInner(ctx, sub.Cursor(), batchLimit)
			if err != nil {
				return err
			}
			sub.Close()
			sub = again
			continue
		}
		if err != nil {
			return err
		}
		if b != nil {
			o.update(func() {
				for i := range b.Events {
					o.summary.Add(b.Events[i])
				}
			}, sub.Place())
		}
		if o.outdated() {
			return errOutdated
		}
	}
}

// next waits for the next batch. It returns nil after reloadPause, so that the
// caller can check whether to load again.
func (o *Overview) next(ctx context.Context, sub *feed.Subscription) (*feed.Batch, error) {
	waiting, cancel := context.WithTimeout(ctx, reloadPause)
	defer cancel()
	b, err := sub.Next(waiting, nil)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, nil
	}
	return b, err
}

func (o *Overview) update(change func(), place feed.Place) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
	o.place = place
	o.dirty = true
	o.announce()
}

// announce wakes all who wait for a change. The caller holds mu.
func (o *Overview) announce() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// outdated reports whether prune has removed events and then removed none for
// reloadPause. Then the summary has to be loaded again: prune may have removed
// events that the feed had not read.
func (o *Overview) outdated() bool {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if pruned := o.feed.Pruned(); pruned > o.pruned {
		o.pruned, o.reloadAt = pruned, now.Add(reloadPause)
	}
	return !o.reloadAt.IsZero() && !now.Before(o.reloadAt)
}

// Latest returns the current snapshot without waiting; nil if no summary is
// loaded yet.
func (o *Overview) Latest() *Snapshot {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.summary == nil {
		return nil
	}
	return o.snapshot()
}

// At returns a snapshot that contains at least what the cursor has seen; for
// the zero cursor, the current one. If the feed does not get there within two
// seconds, because it reads a standby that is behind the server that gave the
// cursor, At returns the current one. The error says why the database cannot be
// read.
func (o *Overview) At(ctx context.Context, at cursor.Cursor) (*Snapshot, error) {
	return o.await(ctx, at, seenWait)
}

func (o *Overview) await(ctx context.Context, at cursor.Cursor, patience time.Duration) (*Snapshot, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	expired, asked, attempts := false, false, -1
	for {
		fed := o.feed.Changed()
		o.mu.Lock()
		changed, err, failed := o.changed, o.err, o.attempts
		if o.summary != nil && (expired || at.IsZero() || o.has(at)) {
			defer o.mu.Unlock()
			return o.snapshot(), nil
		}
		loaded := o.summary != nil
		o.mu.Unlock()
		var patient <-chan time.Time
		switch {
		case loaded:
			patient = late.C
			if !asked {
				asked = true
				o.feed.Look()
			}
		case attempts < 0:
			attempts = failed
			if _, err := o.feed.Here(ctx); err != nil {
				return nil, err
			}
			continue
		case failed > attempts:
			return nil, err
		}
		select {
		case <-changed:
		case <-fed:
		case <-patient:
			expired = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// has reports whether the summary contains what the cursor has seen. The caller
// holds mu.
func (o *Overview) has(at cursor.Cursor) bool {
	seen := o.feed.Seen(o.place)
	return seen.Epoch == at.Epoch && seen.From.Contains(at.To)
}

// snapshot encodes the summary, unless the latest snapshot is fresh and nothing
// was folded since. The caller holds mu.
func (o *Overview) snapshot() *Snapshot {
	if o.latest != nil && !o.dirty && time.Since(o.latestAt) < fresh {
		return o.latest
	}
	st := o.summary.State(o.feed.Now())
	stats := o.feed.Stats()
	st.Delivery = state.Delivery{Push: stats.Push, Delay: stats.Delay.Seconds()}
	text, err := json.Marshal(st)
	if err != nil {
		panic(err) // a State has only times, numbers, strings and valid JSON
	}
	// The first field is the time. The version is a digest of the rest.
	o.latestAt = time.Now()
	o.taken++
	digest := sha256.Sum256(text[bytes.IndexByte(text, ',')+1:])
	o.latest, o.dirty = &Snapshot{State: st, JSON: text, Version: hex.EncodeToString(digest[:6]), Number: o.taken, place: o.place}, false
	return o.latest
}

// Told returns the snapshot that was published last, nil before the first, and
// a channel that is closed when another is published: at most once a second,
// and only if Version differs.
func (o *Overview) Told() (*Snapshot, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.told, o.tellings
}

// Attach publishes and returns the snapshot to send with a batch: nil, if one
// was published within the last second, or if the summary does not contain the
// batch within attachWait.
func (o *Overview) Attach(ctx context.Context, b *feed.Batch) *Snapshot {
	o.mu.Lock()
	due := o.due()
	o.mu.Unlock()
	if !due {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attachWait)
	defer cancel()
	s, err := o.await(ctx, b.Cursor, math.MaxInt64) // ctx ends first: a state without the batch is of no use
	if err != nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.due() { // another was published meanwhile
		return nil
	}
	o.publish(s)
	return s
}

// due reports whether a snapshot may be published now. The caller holds mu.
func (o *Overview) due() bool { return time.Since(o.toldAt) >= tellEvery }

// publish makes s the snapshot that Told returns, if its Version differs. The
// caller holds mu.
func (o *Overview) publish(s *Snapshot) {
	o.toldAt = time.Now()
	if o.told != nil && o.told.Version == s.Version {
		return
	}
	o.told = s
	close(o.tellings)
	o.tellings = make(chan struct{})
}

// tell publishes changes of the state that were sent with no batch.
func (o *Overview) tell(ctx context.Context) {
	looked := time.Now()
	for ctx.Err() == nil {
		pause(ctx, tellEvery)
		o.mu.Lock()
		changed := o.summary != nil && (o.told == nil || o.dirty || o.latest != o.told && o.latest != nil || time.Since(looked) >= silenceEvery)
		if changed && o.due() {
			looked = time.Now()
			o.publish(o.snapshot())
		}
		o.mu.Unlock()
	}
}
