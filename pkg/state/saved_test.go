package state

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

// A summary that was written and read folds on as the one that was not.
func TestASummaryIsSavedWhole(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	data := []string{
		`{}`, `{"question":"Port?","options":["a"]}`, `{"request":7,"answer":"x"}`, `{"reason":"limit","resetsAt":"2026-11-24T05:00:00Z"}`, `{"reason":"limit"}`,
		`{"silentSeconds":4,"cpuSeconds":0.1}`, `{"usage":{"inputTokens":5,"costUsd":0.25}}`, `{"doing":"reads"}`,
		`{"limited":true,"resetsInSeconds":900}`, `{"limited":true}`,
	}
	kinds := append([]event.Kind{"claude.cost"}, event.Kinds...)
	random := func(id int) event.Event {
		e := at(r.IntN(7200), int64(id), kinds[r.IntN(len(kinds))], fmt.Sprint("s", r.IntN(3)), []string{"", "a", "b"}[r.IntN(3)])
		e.Data = json.RawMessage(data[r.IntN(len(data))])
		switch r.IntN(4) {
		case 0:
			e.Stored = e.At // exactly
		case 1:
			e.Stored = e.At.Add(time.Duration(r.IntN(9000)) * time.Second)
		}
		return e
	}
	for round := range 50 {
		whole, saved := NewSummary(nil), NewSummary(nil)
		id := 0
		for range 5 {
			for range r.IntN(40) {
				id++
				e := random(id)
				whole.Add(e)
				saved.Add(e)
			}
			text, err := saved.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			saved = NewSummary(nil)
			if err := saved.UnmarshalBinary(text); err != nil {
				t.Fatal(err)
			}
		}
		for _, now := range []time.Time{start.Add(time.Hour), start.Add(2 * time.Hour), start.Add(Horizon + time.Hour)} {
			if got, want := saved.State(now), whole.State(now); !reflect.DeepEqual(got, want) {
				t.Fatalf("round %d: %+v\nis not\n%+v", round, got, want)
			}
		}
	}
	if NewSummary(nil).UnmarshalBinary([]byte("something else")) == nil {
		t.Error("anything is taken for a summary")
	}
}
