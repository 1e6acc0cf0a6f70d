package feed

import (
	"context"
	"errors"
	"time"

	"github.com/specwatch/specwatch/pkg/store"
)

// pace decides when the reader reads again. A transaction that notifies takes a
// lock at commit that all such transactions wait for. So the reader enables
// notifications only while transactions are rare, and polls at short intervals
// while there are many.
type pace struct {
	feed   *Feed
	reader *store.Reader

	enabled bool          // inserts notify
	tried   time.Time     // when the advisory lock was last refused
	ask     uint64        // transactions below this one may have inserted without notifying
	settle  time.Duration // the pause until they have ended; 0: they have
	rows    time.Time     // when a read last returned events
	notes   recent        // notifications
	xacts   recent        // transactions with events
}

func newPace(f *Feed, r *store.Reader) *pace {
	p := &pace{feed: f, reader: r}
	p.tell()
	return p
}

// tell updates Push and Delay in the stats.
func (p *pace) tell() {
	delay := lookPause
	if p.enabled && p.reader.Hearing() == store.ByAll {
		delay = 0
	}
	p.feed.mu.Lock()
	defer p.feed.mu.Unlock()
	p.feed.stats.Push = p.reader.Hearing() != store.ByLooking
	p.feed.stats.Delay = delay
}

// wait waits until the next read is due.
func (p *pace) wait(ctx context.Context, last store.Page) error {
	now := time.Now()
	if len(last.Events) > 0 {
		p.rows = now
		p.xacts.add(now, transactions(last.Xids))
	}
	switch {
	case p.enabled && p.settle > 0 && last.Xmin < p.ask:
		p.settle = min(p.settle*3/2, settleMost)
		return p.listen(ctx, p.settle)
	case p.enabled:
		p.settle = 0
		if p.reader.Hearing() == store.BySome {
			return p.listen(ctx, lookPause)
		}
		return p.listen(ctx, safetyPause)
	case p.reader.Hearing() == store.ByLooking || now.Sub(p.tried) < heldPause:
		if now.Sub(p.rows) < lookPause {
			p.feed.pause(ctx, activePause, true)
		} else {
			p.feed.pause(ctx, lookPause, true)
		}
		return nil
	case p.xacts.count(now) > sparseXacts:
		p.feed.pause(ctx, busyPause, true)
		return nil
	}
	return p.enable(ctx, now)
}

// enable takes the shared advisory lock, so that inserts notify. The caller
// reads at once, because rows inserted before did not notify.
func (p *pace) enable(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	ask, err := p.reader.EnableNotify(ctx)
	if errors.Is(err, store.ErrHeld) {
		p.tried = now
		return nil
	}
	if err != nil {
		return err
	}
	p.enabled, p.ask, p.settle, p.notes = true, ask, settlePause, recent{}
	p.tell()
	return nil
}

// listen waits for a notification or a call of Look, at most d. If there are
// too many notifications, it releases the advisory lock.
func (p *pace) listen(ctx context.Context, d time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	p.feed.interrupt.Store(&cancel)
	defer p.feed.interrupt.Store(nil)
	if p.feed.asked() {
		return nil // before Look could interrupt
	}
	notes, err := p.reader.Wait(bounded)
	p.feed.asked() // the read that follows is the answer
	if err != nil || notes == 0 {
		return err
	}
	p.feed.mu.Lock()
	p.feed.stats.Wakeups++
	p.feed.mu.Unlock()
	now := time.Now()
	p.notes.add(now, notes)
	if p.notes.count(now) < denseNotes {
		return nil
	}
	p.enabled = false
	p.xacts.add(now, sparseXacts) // until reads have counted transactions
	return p.reader.DisableNotify(ctx)
}

// transactions returns how many transactions wrote the rows with these xids.
// The rows of one transaction follow one another.
func transactions(xids []uint64) int {
	n := 0
	for i, xid := range xids {
		if i == 0 || xid != xids[i-1] {
			n++
		}
	}
	return n
}

// recent counts occurrences in the current span of length denseSpan and in the
// span before.
type recent struct {
	since        time.Time
	older, newer int
}

func (r *recent) add(now time.Time, n int) {
	r.turn(now)
	r.newer += n
}

func (r *recent) turn(now time.Time) {
	switch age := now.Sub(r.since); {
	case age > 2*denseSpan:
		*r = recent{since: now}
	case age > denseSpan:
		*r = recent{since: now, older: r.newer}
	}
}

// count returns the greater number of the current span and the one before.
func (r *recent) count(now time.Time) int {
	r.turn(now)
	return max(r.older, r.newer)
}
