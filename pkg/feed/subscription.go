package feed

import (
	"context"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

// Subscription delivers batches to one subscriber. It first replays missed events
// from the database, then joins the ring and follows it. From of each batch is
// the Cursor of the batch before. Except for Close it is not safe for concurrent
// use.
type Subscription struct {
	feed  *Feed
	limit int

	given  cursor.Cursor  // of the last batch: what the subscriber has
	cursor cursor.Cursor  // the same rows; during replay it also has the target
	target *cursor.Cursor // end of the replay: the feed's position before batch next
	next   int64          // number of the next batch of the ring
	of     int64          // the feed's history then
	joined bool           // the replay has reached the ring
	own    *cursor.Cursor // what the subscriber had seen after target; nil: nothing
	closed chan struct{}
	inner  bool // not counted among the subscribers
}

// Subscribe subscribes from the cursor; the zero cursor means DefaultHistory
// ago. Batches that are read from the database have at most limit events. The
// error is store.ErrExpired, or why the database cannot be read.
func (f *Feed) Subscribe(ctx context.Context, since cursor.Cursor, limit int) (*Subscription, error) {
	return f.subscribe(ctx, since, limit, false)
}

// SubscribeInner is Subscribe for a part of Specwatch itself, which is not
// counted as a subscriber.
func (f *Feed) SubscribeInner(ctx context.Context, since cursor.Cursor, limit int) (*Subscription, error) {
	return f.subscribe(ctx, since, limit, true)
}

func (f *Feed) subscribe(ctx context.Context, since cursor.Cursor, limit int, inner bool) (*Subscription, error) {
	// During an outage this returns an error: a subscriber could not tell the
	// outage from a time without events.
	err := f.await(ctx, func() bool { return f.ready && (inner || f.stats.Connected) })
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !since.IsZero() && since.Epoch != f.position.Epoch {
		return nil, store.ErrExpired
	}
	if !inner {
		f.stats.Subscribers++
	}
	return &Subscription{feed: f, limit: limit, given: since, cursor: since, closed: make(chan struct{}), inner: inner}, nil
}

// Here returns the latest position of the feed that is not between two pages.
// It waits until the feed has one.
func (f *Feed) Here(ctx context.Context) (here cursor.Cursor, err error) {
	err = f.await(ctx, func() bool { here = f.rest; return f.ready })
	return here, err
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	select {
	case <-s.closed:
	default:
		close(s.closed)
		if !s.inner {
			s.feed.stats.Subscribers--
		}
	}
}

// Cursor returns the cursor of the last batch that was delivered; before the
// first, the one that it subscribed with.
func (s *Subscription) Cursor() cursor.Cursor { return s.given }

// Place is the position of a subscriber.
type Place struct {
	given cursor.Cursor
	next  int64 // number of the next batch; -1: it has not joined the ring
}

// Place returns the position, for Seen.
func (s *Subscription) Place() Place {
	if s.joined && s.own == nil {
		return Place{s.given, s.next}
	}
	return Place{s.given, -1}
}

// Seen returns what a subscriber has seen: its cursor or, if it has all events of
// the feed, that of the feed, which also covers transactions without events.
func (f *Feed) Seen(p Place) cursor.Cursor {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.next >= f.restSeq && p.given.Epoch == f.rest.Epoch {
		return f.rest
	}
	return p.given
}

// Passed reports whether the subscriber has received batches of the ring that a
// subscriber at this place has not.
func (s *Subscription) Passed(p Place) bool { return s.joined && p.next >= 0 && s.next > p.next }

// Current reports whether the subscriber has received all batches of the ring.
func (s *Subscription) Current() bool {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return s.joined && s.next >= s.feed.first+int64(len(s.feed.ring))
}

// Next waits for the next batch. It returns nil when also is closed and there
// is no batch. After ErrSlow, subscribe again with the cursor; after
// store.ErrExpired, without one. When ctx ends, the subscription can still be
// used.
func (s *Subscription) Next(ctx context.Context, also <-chan struct{}) (*Batch, error) {
	for !s.joined {
		b, err := s.replay(ctx)
		if b != nil || err != nil {
			return b, err
		}
	}
	return s.follow(ctx, also)
}

// Catch returns one page of missed events, or nil when the replay has reached the
// ring. It does not wait for new events.
func (s *Subscription) Catch(ctx context.Context) (*Batch, error) {
	for !s.joined {
		b, err := s.replay(ctx)
		if b != nil || err != nil {
			return b, err
		}
	}
	return nil, nil
}

// replay reads one page of missed events from the database. The cursor may have
// seen more than the feed, or less. Rows that it lacks up to the target, a
// position of the feed, are read here. Rows after the target that it has already
// seen are removed from the batches of the ring (see rebase). So each row is
// delivered once.
func (s *Subscription) replay(ctx context.Context) (*Batch, error) {
	if s.target == nil && !s.cursor.IsZero() && !s.cursor.Paging() {
		if err := s.pickTarget(ctx); err != nil {
			return nil, err
		}
		if s.cursor.From.Contains(s.target.From) && s.cursor.Last != s.target.Last {
			// The subscriber has seen more than the feed, or the table is in an
			// older state: this read tells.
			if _, err := s.feed.store.Since(ctx, s.cursor, 1); err != nil {
				return nil, err
			}
		}
		if s.joinRing() {
			return nil, nil
		}
		if s.target != nil {
			s.cursor = s.cursor.Toward(*s.target)
		}
	}
	page, err := s.feed.store.Since(ctx, s.cursor, s.limit)
	if err != nil {
		return nil, err
	}
	s.cursor = page.Cursor
	if s.target != nil && !s.cursor.Paging() {
		s.joinRing()
	}
	if len(page.Events) == 0 && !s.given.IsZero() {
		return nil, nil
	}
	b := &Batch{From: s.given, Cursor: page.Cursor, Events: page.Events, xids: page.Xids}
	s.given = b.Cursor
	return b, nil
}

// pickTarget makes the feed's latest position the end of the replay.
func (s *Subscription) pickTarget(ctx context.Context) error {
	f := s.feed
	var rest cursor.Cursor
	// The feed may be reading pages of a backlog that does not fit in the ring;
	// wait until it has finished.
	err := f.await(ctx, func() bool {
		rest, s.next, s.of = f.rest, f.restSeq, f.history
		return f.restSeq >= f.first
	})
	switch {
	case err != nil:
		return err
	case rest.Epoch != s.cursor.Epoch:
		return store.ErrExpired
	}
	s.target = &rest
	return nil
}

// joinRing joins the ring if the subscriber has reached the target. If the ring
// no longer has the batch after it, another target is needed.
func (s *Subscription) joinRing() bool {
	if !s.cursor.From.Contains(s.target.From) {
		return false
	}
	s.feed.mu.Lock()
	gone := s.next < s.feed.first
	s.feed.mu.Unlock()
	if gone {
		s.target = nil
		return false
	}
	s.joined = true
	if !s.target.From.Contains(s.cursor.From) {
		own := s.cursor
		s.own = &own
	}
	return true
}

// follow waits for the next batch of the ring.
func (s *Subscription) follow(ctx context.Context, also <-chan struct{}) (*Batch, error) {
	f := s.feed
	for {
		var b *Batch
		f.mu.Lock()
		changed := f.changed
		epoch, history, first := f.position.Epoch, f.history, f.first
		if i := s.next - f.first; i >= 0 && i < int64(len(f.ring)) {
			b = f.ring[i]
		}
		f.mu.Unlock()
		switch {
		case epoch != s.cursor.Epoch:
			return nil, store.ErrExpired
		case history != s.of:
			// The feed found an older state of the table. The replay finds out
			// whether that has the events of this subscriber.
			s.joined, s.target, s.own, s.cursor = false, nil, nil, s.given
			return s.Next(ctx, also)
		case s.next < first:
			return nil, ErrSlow
		case b == nil:
			select {
			case <-changed:
				continue
			case <-also:
				return nil, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		s.next++
		b = s.rebase(b)
		s.given = b.Cursor
		return b, nil
	}
}

// rebase returns the batch as this subscriber must get it: it starts at the
// subscriber's cursor and leaves out events that the subscriber has seen. It is
// the shared batch itself if nothing has to be changed.
func (s *Subscription) rebase(b *Batch) *Batch {
	if s.own == nil && b.From.Equal(s.given) {
		return b
	}
	rebased := &Batch{From: s.given, Cursor: b.Cursor}
	if s.own == nil {
		// The subscriber and the feed have seen the same rows; only their
		// cursors differ.
		rebased.Events, rebased.xids = b.Events, b.xids
		return rebased
	}
	rebased.Events = []event.Event{}
	for i, xid := range b.xids {
		if !s.own.From.Visible(xid) {
			rebased.Events = append(rebased.Events, b.Events[i])
			rebased.xids = append(rebased.xids, xid)
		}
	}
	switch {
	case b.Cursor.Paging():
		rebased.Cursor.From = b.Cursor.From.Union(s.own.From)
		rebased.Cursor.LSN = max(b.Cursor.LSN, s.own.LSN)
		if s.own.From.Xmax > b.Cursor.To.Xmax {
			rebased.Cursor.Top = s.own.Last
		}
	case b.Cursor.From.Contains(s.own.From):
		s.own = nil
	default:
		rebased.Cursor = b.Cursor.Union(*s.own)
	}
	return rebased
}
