package questions_test

import (
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// The overview begins where it was kept, unless that is of another history,
// holds what prune removed, or lacks too much.
func TestKeptSummary(t *testing.T) {
	t.Parallel()
	s, db, _ := storetest.New(t)
	ask := questions.To(s)
	storetest.Exec(t, db, `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 'night', 'a')`)
	summary, page, err := ask.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// What was kept is known by a figure that the table does not confirm.
	mark := func(n int64) []byte {
		summary.SetTotals(state.Totals{Events: map[event.Kind]int64{event.SpecFailed: n}})
		text, err := summary.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	loaded := func() int64 {
		summary, page, err := ask.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return summary.State(page.At).Totals[event.SpecFailed]
	}
	keep := func(n int64) {
		storetest.Exec(t, db, `UPDATE specwatch_overview SET kept = kept - interval '1 hour'`)
		if err := ask.Keep(t.Context(), mark(n), page.Cursor, page.Pruned); err != nil {
			t.Fatal(err)
		}
	}
	if loaded() != 0 {
		t.Error("it begins with something that was never kept")
	}
	keep(7)
	if n := loaded(); n != 7 {
		t.Errorf("%d, not what was kept", n)
	}
	if err := ask.Keep(t.Context(), mark(8), page.Cursor, page.Pruned); err != nil || loaded() != 7 {
		t.Errorf("two processes keep it in turn: %v", err)
	}
	storetest.Exec(t, db, `UPDATE specwatch_overview SET format = format - 1`)
	if loaded() != 0 {
		t.Error("it takes what another version kept")
	}
	keep(9)
	storetest.Exec(t, db, `UPDATE specwatch_meta SET epoch = gen_random_uuid()`)
	if loaded() != 0 {
		t.Error("it takes what was kept of another history")
	}
	if _, page, err = ask.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	keep(10)
	if loaded() != 10 {
		t.Error("it does not take what was kept of this history")
	}
	storetest.Exec(t, db, `INSERT INTO events (kind, session, spec, at) VALUES ('spec_started', 'night', 'old', now() - interval '9 days')`)
	if n, err := maintenance.Prune(t.Context(), s, time.Now().Add(-8*24*time.Hour), nil); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if loaded() != 0 {
		t.Error("it takes what was kept before events were removed")
	}
	if _, page, err = ask.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	keep(11)
	storetest.Exec(t, db, `INSERT INTO events (kind, session) SELECT 'session_heartbeat', 'night' FROM generate_series(1, 300)`)
	if loaded() != 11 {
		t.Error("it does not take what lacks little")
	}
	storetest.Exec(t, db, `INSERT INTO events (kind, session) SELECT 'session_heartbeat', 'night' FROM generate_series(1, 60000)`)
	if loaded() != 0 {
		t.Error("it takes what lacks 60,000 events")
	}

}
