package state_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
)

// BenchmarkAdd folds events of forty loops: a start, heartbeats and an end of
// each spec, as a night brings them.
func BenchmarkAdd(b *testing.B) {
	begin := time.Now().Add(-8 * time.Hour)
	events := make([]event.Event, 20_000)
	for i := range events {
		e := event.Event{ID: int64(i + 1), Kind: event.SessionHeartbeat, At: begin.Add(time.Duration(i) * time.Second), Session: fmt.Sprint("night-", i%40), Spec: fmt.Sprint("spec-", i/40/20), Data: []byte(`{"silentSeconds":3}`)}
		switch i / 40 % 20 {
		case 0:
			e.Kind, e.Data = event.SpecStarted, []byte(`{}`)
		case 19:
			e.Kind, e.Data = event.SpecCompleted, []byte(`{}`)
		}
		e.Stored = e.At
		events[i] = e
	}
	b.ReportAllocs()
	s, i := state.NewSummary(nil), 0
	for b.Loop() {
		if i == len(events) {
			s, i = state.NewSummary(nil), 0
		}
		s.Add(events[i])
		i++
	}
}
