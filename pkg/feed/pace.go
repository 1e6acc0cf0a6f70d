package feed

import (
	"context"
	"time"

	"github.com/specwatch/specwatch/pkg/store"
)

// pace decides when the reader looks again. Committing a notification takes a
// lock that all writers queue for, so the reader asks for the bell only while
// events are rare; while they are dense it looks for itself.
type pace struct {
	feed   *Feed
	reader *store.Reader

	asleep   bool        // writers ring
	ask      uint64      // transactions below this one may not know it
	settled  bool        // they have ended
	lastRows time.Time   // when a read last brought something
	rings    []time.Time // the latest, at most denseRings
}

// wait returns when it is time for the next read; rows is what the last one
// brought.
func (p *pace) wait(ctx context.Context, rows int) error {
	now := time.Now()
	if rows > 0 {
		p.lastRows = now
	}
	if !p.reader.Rings() {
		pause := lookPause
		if now.Sub(p.lastRows) < lookPause {
			pause = tailPause
		}
		p.pause(ctx, pause)
		return nil
	}
	if !p.asleep {
		if now.Sub(p.lastRows) < tailIdle {
			p.pause(ctx, tailPause)
			return nil
		}
		asking, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		var err error
		p.ask, err = p.reader.Sleepy(asking)
		p.asleep, p.settled, p.rings = true, false, nil
		return err // and read: what was written before the bell was asked for
	}
	if !p.settled {
		// position is written by this goroutine only.
		if p.feed.position.To.Xmin < p.ask {
			return p.sleep(ctx, settlePause)
		}
		p.settled = true
	}
	return p.sleep(ctx, safetyPause)
}

// pause waits without the bell.
func (p *pace) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.feed.kick:
	case <-ctx.Done():
	}
}

// sleep waits for the bell, at most d.
func (p *pace) sleep(ctx context.Context, d time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	woken := make(chan struct{})
	go func() { // ends when this function does
		defer close(woken)
		select {
		case <-p.feed.kick:
			cancel()
		case <-bounded.Done():
		}
	}()
	rung, err := p.reader.Wait(bounded)
	cancel()
	<-woken
	if err != nil || !rung {
		return err
	}
	p.feed.mu.Lock()
	p.feed.stats.Wakeups++
	p.feed.mu.Unlock()
	now := time.Now()
	p.rings = append(p.rings, now)
	if len(p.rings) > denseRings {
		p.rings = p.rings[1:]
	}
	if len(p.rings) == denseRings && now.Sub(p.rings[0]) < denseSpan {
		p.asleep, p.lastRows = false, now
		return p.reader.Awake(ctx)
	}
	return nil
}
