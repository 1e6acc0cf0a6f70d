package gateway

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// A batch is encoded when the first client asks for it, once for all clients, and
// its frame is let go with the batch.
func TestFrames(t *testing.T) {
	var f frames
	var encoded atomic.Int32
	encode := func(b *feed.Batch) (*frame, error) {
		encoded.Add(1)
		return newFrame(update(b, nil))
	}
	batches := []*feed.Batch{{Events: []event.Event{{ID: 1}}}, {Events: []event.Event{{ID: 2}}}}
	got := make([]*frame, 20)
	var clients sync.WaitGroup
	for i := range got {
		clients.Go(func() {
			var err error
			if got[i], err = f.get(batches[i%2], encode); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
	for i := range got {
		if got[i] == nil || got[i] != got[i%2] {
			t.Errorf("client %d has another frame", i)
		}
	}
	if n := encoded.Load(); n != 2 || got[0] == got[1] {
		t.Errorf("two batches were encoded %d times", n)
	}

	held := func() int {
		runtime.GC()
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.of)
	}
	if n := held(); n != 2 {
		t.Errorf("%d frames of two batches", n)
	}
	batches[0] = nil
	programtest.Until(t, "one frame", func() bool { return held() == 1 })
	runtime.KeepAlive(batches)
}
