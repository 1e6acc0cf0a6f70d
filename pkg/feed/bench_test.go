package feed

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
)

// BenchmarkFanOut pushes batches of ten events into the ring, and lets all
// subscribers take each of them.
func BenchmarkFanOut(b *testing.B) {
	for _, subscribers := range []int{1, 100, 1_000} {
		b.Run(fmt.Sprintf("subscribers=%d", subscribers), func(b *testing.B) {
			f := New(nil)
			at := func(xid uint64) cursor.Cursor {
				s := cursor.Snapshot{Xmin: xid, Xmax: xid}
				return cursor.Cursor{Epoch: 1, From: s, To: s}
			}
			f.ready = true
			f.position, f.published, f.rest = at(1), at(1), at(1)
			all := make([]*Subscription, subscribers)
			for i := range all {
				all[i] = &Subscription{feed: f, limit: 1_000, given: at(1), cursor: at(1), joined: true, closed: make(chan struct{})}
			}
			events, xids := make([]event.Event, 10), make([]uint64, 10)
			for i := range events {
				events[i] = event.Event{ID: int64(i), Kind: event.SessionHeartbeat, At: time.Now(), Session: "s", Data: []byte(`{}`)}
			}
			b.ReportAllocs()
			xid := uint64(1)
			for b.Loop() {
				xid++
				f.mu.Lock()
				f.push(&Batch{From: f.published, Cursor: at(xid), Events: events, xids: xids})
				f.published, f.position, f.rest = at(xid), at(xid), at(xid)
				f.announce()
				f.mu.Unlock()
				var taking sync.WaitGroup
				for _, s := range all {
					taking.Go(func() {
						if batch, err := s.Next(context.Background(), nil); err != nil || len(batch.Events) != 10 {
							b.Error(err)
						}
					})
				}
				taking.Wait()
			}
		})
	}
}
