package overview_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/overview"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

const patience = 30 * time.Second

type world struct {
	t      testing.TB
	store  *store.Store
	source *api.Source
	conn   *pgx.Conn
}

func start(t testing.TB) *world {
	t.Helper()
	address, name := postgrestest.Schema(t)
	config := store.Config{URL: address, Schema: name}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &world{t, s, api.NewSource(s), postgrestest.Connect(t, address)}
}

// run runs the source until the test ends.
func (w *world) run() {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.source.Run(ctx) })
	w.t.Cleanup(func() {
		stop()
		running.Wait()
	})
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.conn.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) here() cursor.Cursor {
	w.t.Helper()
	page, err := w.store.SinceTime(w.t.Context(), time.Now().Add(time.Hour), 1)
	if err != nil {
		w.t.Fatal(err)
	}
	return page.Cursor
}

func (w *world) at(c cursor.Cursor) *overview.Snapshot {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for {
		begun := time.Now()
		s, err := w.source.Overview.At(ctx, c)
		if err != nil {
			w.t.Fatal(err)
		}
		// After two seconds At returns what there is, as a busy machine can need.
		if c.IsZero() || time.Since(begun) < 2*time.Second {
			return s
		}
	}
}

const insert = `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 's', $1)`

// The state holds what the cursor has seen: what was stored before the
// overview began, and what came while it began and after.
func TestStateHoldsWhatTheCursorHasSeen(t *testing.T) {
	t.Parallel()
	w := start(t)
	for i := range 5 {
		w.exec(insert, fmt.Sprint("before ", i))
	}
	w.run()
	for i := range 50 {
		w.exec(insert, fmt.Sprint(i))
		if n := w.at(w.here()).State.Totals[event.SpecStarted]; n != int64(i)+6 {
			t.Fatalf("%d events after %d", n, i+6)
		}
	}
	// A transaction that is rolled back moves cursors and brings nothing.
	w.exec(`BEGIN; INSERT INTO events (kind, session) VALUES ('spec_started', 's'); ROLLBACK`)
	if n := w.at(w.here()).State.Totals[event.SpecStarted]; n != 55 {
		t.Errorf("%d events", n)
	}
	s := w.at(cursor.Cursor{})
	text, err := json.Marshal(s)
	if err != nil || string(text) != string(s.JSON) {
		t.Errorf("%s: %v", text, err)
	}
}

// The version follows what the state says and not its time.
func TestVersion(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.run()
	// How events are delivered is part of the state, and known once the feed reads.
	deadline := time.After(patience)
	for changed := w.source.Feed.Changed(); !w.source.Feed.Stats().Connected; changed = w.source.Feed.Changed() {
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("the feed does not read")
		}
	}
	w.exec(insert, "one")
	first := w.at(w.here())
	for deadline := time.Now().Add(patience); ; {
		again := w.at(cursor.Cursor{})
		if again.Version != first.Version {
			t.Fatalf("%s, then %s", first.JSON, again.JSON)
		}
		if again.State.At.After(first.State.At) {
			break // made anew
		}
		if time.Now().After(deadline) {
			t.Fatal("the state's time stands still")
		}
	}
	w.exec(insert, "two")
	if again := w.at(w.here()); again.Version == first.Version {
		t.Errorf("%s, then %s", first.JSON, again.JSON)
	}
}

// States are told at most once a second, the last of them always.
func TestTold(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.run()
	deadline := time.After(patience)
	told, tellings := w.source.Overview.Told()
	for ; told == nil; told, tellings = w.source.Overview.Told() {
		select {
		case <-tellings:
		case <-deadline:
			t.Fatal("the first state is not told")
		}
	}
	begun := time.Now()
	n := 0
	for i := range 60 {
		_, tellings := w.source.Overview.Told() // before the insert, which may take long
		w.exec(insert, fmt.Sprint(i))
		select {
		case <-tellings:
			n++
		case <-time.After(50 * time.Millisecond):
		}
	}
	if seconds := int(time.Since(begun).Seconds()); n == 0 || n > seconds+1 {
		t.Errorf("told %d times in %d seconds", n, seconds)
	}
	deadline = time.After(patience)
	for {
		told, tellings := w.source.Overview.Told()
		if told != nil && told.State.Totals[event.SpecStarted] == 60 {
			return
		}
		select {
		case <-tellings:
		case <-deadline:
			t.Fatal("the last state is not told")
		}
	}
}

// Prune may remove events before the feed has read them. They count all the
// same.
func TestPruneKeepsTheTotals(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.run()
	w.exec(insert, "one")
	// In one transaction, so that the feed cannot read them in between.
	w.exec("BEGIN")
	w.exec(`INSERT INTO events (kind, session, at) SELECT 'spec_failed', 's', now() - interval '2 days' FROM generate_series(1, 7)`)
	w.exec(`WITH gone AS (DELETE FROM events WHERE kind = 'spec_failed' RETURNING kind), kept AS (
		INSERT INTO specwatch_pruned (kind, events) SELECT kind, count(*) FROM gone GROUP BY 1)
		UPDATE specwatch_meta SET pruned = pruned + 7, pruned_before = now() - interval '1 day'`)
	w.exec("COMMIT")
	if n, err := maintenance.Prune(t.Context(), w.store, time.Now().Add(-time.Hour), nil); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	for deadline := time.Now().Add(patience); ; {
		st := w.at(cursor.Cursor{}).State
		if st.Totals[event.SpecFailed] == 7 && st.Totals[event.SpecStarted] == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v", st.Totals)
		}
	}
}

// After prune an overview says what one that starts then says.
func TestPrunedEventsAreForgotten(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.run()
	w.exec(`INSERT INTO events (kind, session, spec, at, data) SELECT kind, 's', 'p' || n, now() - interval '1 day' * n, '{"usage": {"costUsd": 1}}'
		FROM generate_series(0, 3) n, unnest(array['spec_started', 'intervention_request', 'session_heartbeat', 'claude.usage']) kind`)
	told := func() string {
		st := w.at(cursor.Cursor{}).State
		if len(st.Sessions) == 0 {
			return ""
		}
		return fmt.Sprintf("%d open, %d waiting, $%g", st.Sessions[0].Specs.Open, st.WaitingTotal, st.Sessions[0].Usage.Cost.USD())
	}
	become := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(patience); told() != want; {
			if time.Now().After(deadline) {
				t.Fatalf("%s, want %s", told(), want)
			}
		}
	}
	become("4 open, 4 waiting, $16")
	if n, err := maintenance.Prune(t.Context(), w.store, time.Now().Add(-36*time.Hour), nil); n != 8 || err != nil {
		t.Fatal(n, err)
	}
	become("2 open, 2 waiting, $8")
	if st := w.at(cursor.Cursor{}).State; st.Totals[event.SpecStarted] != 4 {
		t.Errorf("%v", st.Totals)
	}
}

// A snapshot that was published before an event is not sent after it.
func TestSnapshotLacks(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.run()
	sub, err := w.source.Feed.Subscribe(t.Context(), w.here(), 10)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	receive := func(spec string) {
		t.Helper()
		w.exec(insert, spec)
		for {
			b, err := sub.Next(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(b.Events) > 0 {
				return
			}
		}
	}
	receive("one")
	old := w.at(sub.Cursor())
	if old.Lacks(sub) {
		t.Error("it lacks an event that it was to contain")
	}
	receive("two")
	if !old.Lacks(sub) {
		t.Error("it has an event that is newer")
	}
	if w.at(sub.Cursor()).Lacks(sub) {
		t.Error("the next lacks the event, too")
	}
}

// A user that may not store the summary, such as one with the role of writers,
// updates the rollups every few seconds all the same.
func TestRollupsGoOnWithoutASummary(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'permission denied' USING ERRCODE = '42501'; END $$`)
	w.exec(`CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON specwatch_overview EXECUTE FUNCTION refuse()`)
	w.run()
	for n := range int64(2) {
		w.exec(insert, "p")
		begun := time.Now()
		programtest.Until(t, fmt.Sprintf("the rollups have %d events", n+1), func() bool {
			var rolled int64
			err := w.conn.QueryRow(t.Context(), `SELECT coalesce(sum(events), 0)::bigint FROM specwatch_counts WHERE seconds = 86400`).Scan(&rolled)
			return err == nil && rolled == n+1
		})
		if took := time.Since(begun); took > 50*time.Second { // after an error there is a pause of a minute
			t.Errorf("after %s", took)
		}
	}
}
