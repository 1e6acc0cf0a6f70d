package overview

import (
	"context"
	"errors"
	"time"

	"github.com/specwatch/specwatch/pkg/cursor"
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
// user may write. They make queries over time ranges and the next start faster;
// no result depends on them.
func (o *Overview) keep(ctx context.Context) {
	var rolled, kept cursor.Cursor
	var keptAt time.Time
	for ctx.Err() == nil {
		here, err := o.feed.Here(ctx)
		if err != nil {
			pause(ctx, rollUpEvery)
			continue
		}
		if !here.Equal(rolled) {
			if err = o.rollUp(ctx); err == nil {
				rolled = here
			}
		}
		if err == nil && !here.Equal(kept) && time.Since(keptAt) >= keepEvery {
			if err = o.keepSummary(ctx); err == nil {
				kept, keptAt = here, time.Now()
			}
		}
		switch {
		case errors.Is(err, store.ErrNotAllowed):
			pause(ctx, keepNotTried)
		case err != nil:
			pause(ctx, keepPause)
		default:
			pause(ctx, rollUpEvery)
		}
	}
}

func (o *Overview) rollUp(ctx context.Context) error {
	for more := true; more; {
		step, cancel := context.WithTimeout(ctx, keepTimeout)
		var err error
		_, more, err = o.store.RollUp(step)
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
	return o.store.Keep(ctx, text, seen, pruned)
}
