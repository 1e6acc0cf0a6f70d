package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
)

// BenchmarkEncode encodes a batch for all WebSocket clients.
func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{1, 10, 1_000} {
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			batch := &feed.Batch{Events: make([]event.Event, n)}
			for i := range batch.Events {
				batch.Events[i] = event.Event{ID: int64(i), Kind: event.SessionHeartbeat, At: time.Now(), Session: "night", Spec: "login", Data: []byte(`{"silentSeconds":3}`)}
			}
			b.ReportAllocs()
			for b.Loop() {
				f, err := newFrame(update(batch, nil))
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(f.bytes / 2))
			}
		})
	}
}
