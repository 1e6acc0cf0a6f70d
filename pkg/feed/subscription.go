package feed

import (
	"context"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

// Subscription is one subscriber's walk: first through the database, from its
// cursor to where it joins the ring, then along the ring. Its batches follow
// on one another: From is the Cursor of the one before. It is not safe for
// concurrent use, but for Close.
type Subscription struct {
	feed  *Feed
	limit int

	given  cursor.Cursor    // with the last batch: what the subscriber knows that it has
	cursor cursor.Cursor    // the same rows, and on the way to a target also where that leads
	target *cursor.Snapshot // where the walk through the database leads: the feed's rest before batch next
	next   int64            // number of the batch to take from the ring
	joined bool             // the walk has reached the ring
	own    *cursor.Snapshot // what the subscriber had seen beyond target; nil: nothing
	closed chan struct{}
}

// Subscribe starts a walk from the cursor; the zero cursor means
// DefaultHistory back. Batches of the past have at most limit events. The
// error is store.ErrExpired, or why the database cannot be read.
func (f *Feed) Subscribe(ctx context.Context, since cursor.Cursor, limit int) (*Subscription, error) {
	err := f.await(ctx, func() bool { return f.ready })
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !since.IsZero() && since.Epoch != f.position.Epoch {
		return nil, store.ErrExpired
	}
	f.stats.Subscribers++
	return &Subscription{feed: f, limit: limit, given: since, cursor: since, closed: make(chan struct{})}, nil
}

// Here returns a cursor that has seen what the feed has.
func (f *Feed) Here(ctx context.Context) (here cursor.Cursor, err error) {
	err = f.await(ctx, func() bool { here = f.rest; return f.ready })
	return here, err
}

// Close ends the walk.
func (s *Subscription) Close() {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	select {
	case <-s.closed:
	default:
		close(s.closed)
		s.feed.stats.Subscribers--
	}
}

// Cursor is what the subscriber has been given so far.
func (s *Subscription) Cursor() cursor.Cursor { return s.given }

// Next waits for the next batch. After an error the walk is over: ErrSlow and
// store.ErrExpired say how to go on.
func (s *Subscription) Next(ctx context.Context) (*Batch, error) {
	for !s.joined {
		b, err := s.past(ctx)
		if b != nil || err != nil {
			return b, err
		}
	}
	return s.present(ctx)
}

// Catch returns one page of the past, or nil once the walk has reached the
// ring: what a subscriber gets without waiting.
func (s *Subscription) Catch(ctx context.Context) (*Batch, error) {
	for !s.joined {
		b, err := s.past(ctx)
		if b != nil || err != nil {
			return b, err
		}
	}
	return nil, nil
}

// past reads one page from the database on the way to the ring. The cursor
// may have seen more than the feed or less. What it lacks of a rest point of
// the feed is read here; what the ring brings after that point, and it has
// seen, is left out there. So every row comes once.
func (s *Subscription) past(ctx context.Context) (*Batch, error) {
	if s.target == nil && !s.cursor.IsZero() && !s.cursor.Paging() {
		if err := s.aim(ctx); err != nil {
			return nil, err
		}
		if s.arrive() {
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
		s.arrive()
	}
	if len(page.Events) == 0 && !s.given.IsZero() {
		return nil, nil
	}
	b := &Batch{From: s.given, Cursor: page.Cursor, Events: page.Events, xids: page.Xids}
	s.given = b.Cursor
	return b, nil
}

// aim takes the feed's latest rest point as the walk's target.
func (s *Subscription) aim(ctx context.Context) error {
	f := s.feed
	var rest cursor.Cursor
	// The feed may be turning the pages of a backlog that no longer fits in
	// the ring; it will come to rest.
	err := f.await(ctx, func() bool {
		rest, s.next = f.rest, f.restSeq
		return f.restSeq >= f.first
	})
	switch {
	case err != nil:
		return err
	case rest.Epoch != s.cursor.Epoch:
		return store.ErrExpired
	}
	s.target = &rest.From
	return nil
}

// arrive joins the ring if the subscriber has all of the target. If the ring
// has gone on too far meanwhile, the walk needs another target.
func (s *Subscription) arrive() bool {
	if !s.cursor.From.Contains(*s.target) {
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
	if !s.target.Contains(s.cursor.From) {
		own := s.cursor.From
		s.own = &own
	}
	return true
}

// present takes the next batch from the ring.
func (s *Subscription) present(ctx context.Context) (*Batch, error) {
	f := s.feed
	for {
		var b *Batch
		f.mu.Lock()
		changed := f.changed
		epoch, first := f.position.Epoch, f.first
		if i := s.next - f.first; i >= 0 && i < int64(len(f.ring)) {
			b = f.ring[i]
		}
		f.mu.Unlock()
		switch {
		case epoch != s.cursor.Epoch:
			return nil, store.ErrExpired
		case s.next < first:
			return nil, ErrSlow
		case b == nil:
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		s.next++
		if b = s.fit(b); b != nil {
			s.given = b.Cursor
			return b, nil
		}
	}
}

// fit makes the shared batch follow on what this subscriber was given. It is
// the batch itself as soon as both have seen the same.
func (s *Subscription) fit(b *Batch) *Batch {
	if s.own == nil && b.From.Equal(s.given) {
		return b
	}
	fitted := &Batch{From: s.given, Cursor: b.Cursor}
	if s.own == nil {
		// Both have seen the same rows, and the feed has named them by
		// another cursor.
		fitted.Events, fitted.xids = b.Events, b.xids
		return fitted
	}
	fitted.Events = []event.Event{}
	for i, xid := range b.xids {
		if !s.own.Visible(xid) {
			fitted.Events = append(fitted.Events, b.Events[i])
			fitted.xids = append(fitted.xids, xid)
		}
	}
	if b.Cursor.Paging() {
		fitted.Cursor.From = b.Cursor.From.Union(*s.own)
	} else if union := b.Cursor.From.Union(*s.own); b.Cursor.From.Contains(*s.own) {
		s.own = nil
	} else {
		fitted.Cursor = cursor.At(b.Cursor.Epoch, union)
	}
	if len(fitted.Events) == 0 {
		// Nothing to tell; the next batch that tells something follows on
		// the cursor that was given last.
		return nil
	}
	return fitted
}
