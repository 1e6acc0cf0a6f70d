package overview

import (
	"context"
	"errors"
	"time"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	rollUpEvery  = 5 * time.Second  // while events come
	keepEvery    = time.Minute      // while events come
	keepTimeout  = 2 * time.Minute  // of one step
	keepPause    = time.Minute      // after an error
	keepNotTried = 10 * time.Minute // after ErrNotAllowed
)

// keep updates the rollups and the stored summary while events come, if the
// user may write them: the role of writers may update the rollups only. They
// make queries over time ranges and the next start faster; no result depends on
// them.
func (o *Overview) keep(ctx context.Context) {
	rollups := upkeep{do: o.rollUp}
	summary := upkeep{do: o.keepSummary, every: keepEvery}
	for ctx.Err() == nil {
		if here, err := o.feed.Here(ctx); err == nil {
			rollups.run(ctx, here)
			summary.run(ctx, here)
		}
		pause(ctx, rollUpEvery)
	}
}

// upkeep is work that is due again when the cursor has moved.
type upkeep struct {
	do    func(ctx context.Context) error
	every time.Duration // the least time between two runs
	done  cursor.Cursor // of the last run without an error
	next  time.Time     // not before
}

func (u *upkeep) run(ctx context.Context, here cursor.Cursor) {
	if here.Equal(u.done) || time.Now().Before(u.next) {
		return
	}
	wait := u.every
	switch err := u.do(ctx); {
	case errors.Is(err, store.ErrNotAllowed):
		wait = keepNotTried
	case err != nil:
		wait = keepPause
	default:
		u.done = here
	}
	u.next = time.Now().Add(wait)
}

func (o *Overview) rollUp(ctx context.Context) error {
	for more := true; more; {
		step, cancel := context.WithTimeout(ctx, keepTimeout)
		var err error
		_, more, err = maintenance.RollUp(step, o.store)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *Overview) keepSummary(ctx context.Context) error {
	o.mu.Lock()
	seen, pruned := o.feed.Seen(o.place), o.pruned
	if o.summary == nil || seen.Paging() || seen.InHistory() || !o.reloadAt.IsZero() {
		o.mu.Unlock()
		return nil
	}
	text, err := o.summary.MarshalBinary()
	o.mu.Unlock()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	return questions.To(o.store).Keep(ctx, text, seen, pruned)
}
