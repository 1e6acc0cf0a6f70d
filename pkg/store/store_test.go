package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// fresh is a migrated schema of its own, its store, and a connection for what
// other programs would do by SQL.
func fresh(t testing.TB) (*store.Store, *pgx.Conn, store.Config) {
	t.Helper()
	address, schema := postgrestest.Schema(t)
	config := store.Config{URL: address, Schema: schema, MaxConns: 8}
	if _, err := store.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	return open(t, config), postgrestest.Connect(t, address), config
}

func open(t testing.TB, config store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// stateOf is the state of all that is stored.
func stateOf(t testing.TB, s *store.Store) (state.State, error) {
	t.Helper()
	summary, page, err := s.Load(t.Context())
	if err != nil {
		return state.State{}, err
	}
	return summary.State(page.At), nil
}

func exec(t testing.TB, conn interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
}, sql string, args ...any) {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	if err == nil {
		rows.Close()
		err = rows.Err()
	}
	if err != nil {
		t.Fatalf("%s: %s", sql, err)
	}
}

// drain reads on until a page says that there is no more.
func drain(t testing.TB, s *store.Store, c cursor.Cursor, limit int) ([]event.Event, cursor.Cursor) {
	t.Helper()
	var all []event.Event
	for {
		page, err := s.Since(t.Context(), c, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) > limit {
			t.Fatalf("a page of %d events, though at most %d were asked for", len(page.Events), limit)
		}
		all = append(all, page.Events...)
		// A cursor travels as text.
		if c, err = cursor.Parse(page.Cursor.String()); err != nil {
			t.Fatal(err)
		}
		if !page.More {
			return all, c
		}
	}
}

func now(t testing.TB, s *store.Store) cursor.Cursor {
	t.Helper()
	page, err := s.SinceTime(t.Context(), time.Now().Add(time.Hour), 1)
	if err != nil {
		t.Fatal(err)
	}
	return page.Cursor
}

func specs(events []event.Event) string {
	var names []string
	for _, e := range events {
		names = append(names, e.Spec)
	}
	return strings.Join(names, " ")
}

const insert = `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 's', $1)`

func TestLateCommit(t *testing.T) {
	t.Parallel()
	s, early, config := fresh(t)
	late := postgrestest.Connect(t, config.URL)
	start := now(t, s)

	tx, err := late.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tx, insert, "late")
	exec(t, early, insert, "early")
	got, c := drain(t, s, start, 100)
	if specs(got) != "early" {
		t.Fatalf("before the late commit: %q", specs(got))
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, early, insert, "next")
	if got, c = drain(t, s, c, 100); specs(got) != "late next" {
		t.Fatalf("after the late commit: %q", specs(got))
	}
	if got, _ = drain(t, s, c, 100); len(got) != 0 {
		t.Fatalf("again: %q", specs(got))
	}
}

func TestRollbackSavepointTwoPhase(t *testing.T) {
	t.Parallel()
	s, conn, _ := fresh(t)
	c := now(t, s)
	exec(t, conn, "BEGIN")
	exec(t, conn, insert, "kept")
	exec(t, conn, "SAVEPOINT a")
	exec(t, conn, insert, "undone")
	exec(t, conn, "ROLLBACK TO a")
	exec(t, conn, "SAVEPOINT b")
	exec(t, conn, insert, "inner")
	exec(t, conn, "RELEASE b")
	exec(t, conn, "COMMIT")
	exec(t, conn, "BEGIN")
	exec(t, conn, insert, "never")
	exec(t, conn, "ROLLBACK")
	got, c := drain(t, s, c, 10)
	if specs(got) != "kept inner" {
		t.Fatalf("got %q", specs(got))
	}
	var prepared int
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('max_prepared_transactions')::int").Scan(&prepared); err != nil || prepared == 0 {
		t.Skip("the server has max_prepared_transactions = 0: two-phase commit cannot be tested")
	}
	name := fmt.Sprintf("specwatch_%d", time.Now().UnixNano())
	exec(t, conn, "BEGIN")
	exec(t, conn, insert, "prepared")
	if _, err := conn.Exec(t.Context(), "PREPARE TRANSACTION '"+name+"'"); err != nil {
		t.Fatal(err)
	}
	exec(t, conn, insert, "after")
	if got, c = drain(t, s, c, 10); specs(got) != "after" {
		t.Fatalf("while prepared: %q", specs(got))
	}
	if _, err := conn.Exec(t.Context(), "COMMIT PREPARED '"+name+"'"); err != nil {
		t.Fatal(err)
	}
	if got, _ = drain(t, s, c, 10); specs(got) != "prepared" {
		t.Fatalf("after COMMIT PREPARED: %q", specs(got))
	}
}

// Pages of one target: rows that commit while pages are turned neither slip
// in nor get lost.
func TestPagingInsideOneTarget(t *testing.T) {
	t.Parallel()
	s, conn, config := fresh(t)
	late := postgrestest.Connect(t, config.URL)
	c := now(t, s)
	exec(t, late, "BEGIN")
	exec(t, late, insert, "late")
	for i := range 25 {
		exec(t, conn, insert, fmt.Sprint(i))
	}
	seen := map[int64]bool{}
	var order []string
	for turn, more := 0, true; more; turn++ {
		page, err := s.Since(t.Context(), c, 4)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			if seen[e.ID] {
				t.Fatalf("%s twice", e.Spec)
			}
			seen[e.ID] = true
			order = append(order, e.Spec)
		}
		if c, err = cursor.Parse(page.Cursor.String()); err != nil {
			t.Fatal(err)
		}
		if turn == 2 {
			exec(t, late, "COMMIT")
			exec(t, conn, insert, "new")
		}
		more = page.More
	}
	// First the target, in order; what committed meanwhile follows on it.
	if len(order) != 27 || order[0] != "0" || order[24] != "24" || order[25] != "late" || order[26] != "new" {
		t.Fatalf("%q", order)
	}
	if got, _ := drain(t, s, c, 4); len(got) != 0 {
		t.Fatalf("after all: %q", specs(got))
	}
}

func TestHistoryPages(t *testing.T) {
	t.Parallel()
	s, conn, _ := fresh(t)
	exec(t, conn, `INSERT INTO events (kind, session, spec, at) SELECT 'spec_started', 's', n::text, now() - n * interval '1 minute' FROM generate_series(0, 9) n`)
	exec(t, conn, `UPDATE events SET xid = NULL WHERE spec = '3'`) // as a row of before there was a xid
	page, err := s.SinceTime(t.Context(), time.Now().Add(-6*time.Minute-30*time.Second), 3)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, conn, insert, "new")
	rest, c := drain(t, s, page.Cursor, 3)
	if got := specs(page.Events) + " " + specs(rest); got != "6 5 4 3 2 1 0 new" {
		t.Fatalf("history: %q", got)
	}
	if got, _ := drain(t, s, c, 3); len(got) != 0 {
		t.Fatalf("after history: %q", specs(got))
	}
	if got, _ := drain(t, s, cursor.Cursor{}, 100); specs(got) != "4 3 2 1 0 new" {
		t.Fatalf("no cursor means five minutes: %q", specs(got))
	}
}

func TestTheNewestEventsHoweverOld(t *testing.T) {
	t.Parallel()
	s, conn, _ := fresh(t)
	page, err := s.SinceLast(t.Context(), 3, 100)
	if err != nil || len(page.Events) != 0 || page.More {
		t.Fatalf("an empty table: %v, %v", page, err)
	}
	exec(t, conn, `INSERT INTO events (kind, session, spec, at) SELECT 'spec_started', 's', n::text, now() - n * interval '1 day' FROM generate_series(0, 9) n`)
	page, err = s.SinceLast(t.Context(), 4, 3)
	if err != nil || specs(page.Events) != "3 2 1" || !page.More {
		t.Fatalf("the first page: %q, %v", specs(page.Events), err)
	}
	exec(t, conn, insert, "new")
	if rest, c := drain(t, s, page.Cursor, 3); specs(rest) != "0 new" {
		t.Fatalf("the rest: %q", specs(rest))
	} else if got, _ := drain(t, s, c, 3); len(got) != 0 {
		t.Fatalf("after them: %q", specs(got))
	}
	if page, err = s.SinceLast(t.Context(), 100, 100); err != nil || len(page.Events) != 11 {
		t.Fatalf("more than there are: %q, %v", specs(page.Events), err)
	}
	exec(t, conn, `INSERT INTO events (kind, session, spec) SELECT 'spec_started', 's', 'together ' || n FROM generate_series(1, 7) n`)
	if page, err = s.SinceLast(t.Context(), 2, 100); err != nil || specs(page.Events) != "together 6 together 7" || page.More {
		t.Fatalf("two of those at the same time: %q, more %t, %v", specs(page.Events), page.More, err)
	}
}

func TestLargeEventsMakeSmallPages(t *testing.T) {
	t.Parallel()
	s, _, _ := fresh(t)
	c := now(t, s)
	big := json.RawMessage(`"` + strings.Repeat("x", event.MaxDataBytes-2) + `"`)
	for i := range 20 {
		if _, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecFailed, Session: "s", Spec: fmt.Sprint(i), Data: big}}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := s.Since(t.Context(), c, 100)
	if err != nil || len(page.Events) >= 20 || !page.More {
		t.Fatalf("%d events in one page, more %t: %v", len(page.Events), page.More, err)
	}
	if got, _ := drain(t, s, c, 100); len(got) != 20 {
		t.Fatalf("%d of 20 events", len(got))
	}
}

func TestAppend(t *testing.T) {
	t.Parallel()
	s, conn, _ := fresh(t)
	c := now(t, s)
	at := time.Date(2026, 1, 2, 3, 4, 5, 123456000, time.UTC)
	events := []event.Event{
		{Kind: event.SpecStarted, Session: "s", Spec: "a", At: at, Data: json.RawMessage(`{"n":1}`), Key: "k1"},
		{Kind: event.SpecFailed, Session: "s", Spec: "b"},
		{Kind: event.SpecStarted, Session: "s", Spec: "a again", Key: "k1"},
		{Kind: event.SessionHeartbeat, Session: "s", Key: "k2"},
	}
	first, err := s.Append(t.Context(), events)
	ids := first.IDs
	if err != nil || first.Known != 1 || len(ids) != 4 || ids[0] != ids[2] || ids[0] >= ids[1] || ids[1] >= ids[3] {
		t.Fatalf("%+v: %v", first, err)
	}
	again, err := s.Append(t.Context(), events[2:])
	if err != nil || again.Known != 2 || again.IDs[0] != ids[0] || again.IDs[1] != ids[3] {
		t.Fatalf("ids %v the first time, %v the second: %v", ids, again, err)
	}
	got, _ := drain(t, s, c, 10)
	if specs(got) != "a b " || !got[0].At.Equal(at) || got[0].ID != ids[0] {
		t.Fatalf("stored %+v", got)
	}
	var same bool
	if err := conn.QueryRow(t.Context(), `SELECT $1::jsonb = '{"n": 1}'`, string(got[0].Data)).Scan(&same); err != nil || !same {
		t.Fatalf("data %s: %v", got[0].Data, err)
	}
}

// What Go lets through and only PostgreSQL refuses is named too, and nothing
// of its batch stays.
func TestRefusedByPostgreSQL(t *testing.T) {
	t.Parallel()
	s, _, _ := fresh(t)
	c := now(t, s)
	deep := json.RawMessage(strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000))
	for name, data := range map[string]json.RawMessage{
		"a number out of range":    json.RawMessage(`{"n":1e999999}`),
		"half a surrogate pair":    json.RawMessage(`{"s":"\ud800"}`),
		"too long once it is read": json.RawMessage(`[` + strings.Repeat("1,", 499_990) + `1]`),
		"nested too deeply":        deep,
	} {
		good := event.Event{Kind: event.SpecStarted, Session: "s"}
		bad := event.Event{Kind: event.SpecStarted, Session: "s", Data: data}
		_, err := s.Append(t.Context(), []event.Event{bad})
		var field *event.FieldError
		if err == nil && name == "nested too deeply" {
			continue // how deep is too deep is the server's choice (max_stack_depth)
		}
		if !errors.As(err, &field) || field.Field != "data" {
			t.Errorf("%s alone: %v", name, err)
			continue
		}
		_, err = s.Append(t.Context(), []event.Event{good, good, bad, good})
		var batch *store.BatchError
		if !errors.As(err, &batch) || batch.Index != 2 || !errors.As(err, &field) || field.Field != "data" {
			t.Errorf("%s in a batch: %v", name, err)
		}
	}
	_, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}, {Kind: "spec_lost", Session: "s"}})
	var batch *store.BatchError
	if !errors.As(err, &batch) || batch.Index != 1 {
		t.Errorf("unknown kind: %v", err)
	}
	got, _ := drain(t, s, c, 10)
	for _, e := range got {
		if len(e.Data) < 9_000 {
			t.Errorf("part of a refused batch was stored: %+v", e)
		}
	}
}

func TestAppendAll(t *testing.T) {
	t.Parallel()
	s, _, _ := fresh(t)
	c := now(t, s)
	feed := func(n int, last error, bad int) func() (event.Event, error) {
		i := 0
		return func() (event.Event, error) {
			if i++; i > n {
				return event.Event{}, last
			}
			e := event.Event{Kind: event.SpecStarted, Session: "s", Spec: fmt.Sprint(i)}
			if i == bad {
				e.Data = json.RawMessage(`1e999999`)
			}
			return e, nil
		}
	}
	wrong := errors.New("line 7001 is wrong")
	if _, _, err := s.AppendAll(t.Context(), feed(7_000, wrong, 0)); !errors.Is(err, wrong) {
		t.Fatalf("a bad line: %v", err)
	}
	var batch *store.BatchError
	if _, _, err := s.AppendAll(t.Context(), feed(7_000, io.EOF, 6_001)); !errors.As(err, &batch) || batch.Index != 6_000 {
		t.Fatalf("an event that PostgreSQL refuses: %v", err)
	}
	if got, _ := drain(t, s, c, 5_000); len(got) != 0 {
		t.Fatalf("%d events of failed bulks were stored", len(got))
	}
	if n, known, err := s.AppendAll(t.Context(), feed(12_345, io.EOF, 0)); n != 12_345 || known != 0 || err != nil {
		t.Fatalf("%d, %d: %v", n, known, err)
	}
	got, _ := drain(t, s, c, 5_000)
	for i, e := range got {
		if e.Spec != fmt.Sprint(i+1) {
			t.Fatalf("event %d is %q", i+1, e.Spec)
		}
	}
	if len(got) != 12_345 {
		t.Fatalf("%d events", len(got))
	}
}

// The database holds the rules of pkg/event for writers that use SQL.
func TestConstraintsFollowTheLimits(t *testing.T) {
	t.Parallel()
	s, conn, _ := fresh(t)
	for _, kind := range event.Kinds {
		exec(t, conn, `INSERT INTO events (kind, session) VALUES ($1, 's')`, string(kind))
	}
	name := strings.Repeat("é", event.MaxNameBytes/2)
	data := `"` + strings.Repeat("x", event.MaxDataBytes-2) + `"`
	exec(t, conn, `INSERT INTO events (kind, session, spec, key, data, at) VALUES ('spec_started', $1, $1, $1, $2::text::jsonb, now() + $3::interval)`, name, data, event.MaxAhead)
	for what, sql := range map[string]string{
		"kind":    `INSERT INTO events (kind, session) VALUES ('spec_lost', 's')`,
		"session": `INSERT INTO events (kind, session) VALUES ('spec_started', '')`,
		"spec":    `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 's', repeat('x', 513))`,
		"key":     `INSERT INTO events (kind, session, key) VALUES ('spec_started', 's', repeat('x', 513))`,
		"at":      `INSERT INTO events (kind, session, at) VALUES ('spec_started', 's', now() + interval '61 minutes')`,
		"past":    `INSERT INTO events (kind, session, at) VALUES ('spec_started', 's', '1969-12-31')`,
		"endless": `INSERT INTO events (kind, session, at) VALUES ('spec_started', 's', 'infinity')`,
		"data":    `INSERT INTO events (kind, session, data) VALUES ('spec_started', 's', to_jsonb(repeat('x', 999999)))`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s: %s was taken", what, sql)
		}
	}
	migration, err := os.ReadFile("migrations/00001_events.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []string{fmt.Sprintf("<= %d)", event.MaxNameBytes), fmt.Sprintf("<= %d)", event.MaxDataBytes)} {
		if !strings.Contains(string(migration), limit) {
			t.Errorf("the migration does not hold %s", limit)
		}
	}
	if got, _ := drain(t, s, cursor.Cursor{}, 100); len(got) != len(event.Kinds)+1 {
		t.Errorf("%d events", len(got))
	}
}

// Writers commit at once and late, and undo whole transactions and parts of
// them, while a reader turns small pages: it gets what is stored, once each,
// and nothing that was undone.
func TestConcurrentWritersArriveOnce(t *testing.T) {
	t.Parallel()
	s, conn, config := fresh(t)
	c := now(t, s)
	const writers, each = 8, 400
	var stored, undone atomic.Int64
	write := func(conn *pgx.Conn, i int, spec string) error {
		ctx := context.Background()
		if i%10 < 6 {
			_, err := conn.Exec(ctx, insert, spec)
			stored.Add(1)
			return err
		}
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		if _, err := tx.Exec(ctx, insert, spec); err != nil {
			return err
		}
		switch i % 10 {
		case 6: // late
			_, err = tx.Exec(ctx, "SELECT pg_sleep(0.003)")
		case 7: // undone, after others have committed
			undone.Add(1)
			if _, err = tx.Exec(ctx, "SELECT pg_sleep(0.003)"); err == nil {
				err = tx.Rollback(ctx)
			}
			return err
		case 8: // undone by the database
			undone.Add(1)
			if _, err = tx.Exec(ctx, `INSERT INTO events (kind, session) VALUES ('no such kind', 's')`); err == nil {
				return errors.New("an unknown kind was stored")
			}
			return nil
		case 9: // undone in part
			undone.Add(1)
			_, err = tx.Exec(ctx, "SAVEPOINT part")
			if err == nil {
				_, err = tx.Exec(ctx, insert, "undone")
			}
			if err == nil {
				_, err = tx.Exec(ctx, "ROLLBACK TO part")
			}
		}
		if err != nil {
			return err
		}
		stored.Add(1)
		return tx.Commit(ctx)
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			conn, err := pgx.Connect(context.Background(), config.URL)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close(context.Background())
			for i := range each {
				if err := write(conn, i, fmt.Sprintf("%d/%d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	got := map[int64]string{}
	for last := false; !last; {
		select {
		case <-done:
			last = true
		default:
		}
		var page []event.Event
		page, c = drain(t, s, c, 37)
		for _, e := range page {
			if _, twice := got[e.ID]; twice {
				t.Fatalf("event %d twice", e.ID)
			}
			got[e.ID] = e.Spec
		}
	}
	rows, err := conn.Query(t.Context(), "SELECT id, spec FROM events")
	if err != nil {
		t.Fatal(err)
	}
	var id, n int64
	var spec string
	_, err = pgx.ForEachRow(rows, []any{&id, &spec}, func() error {
		if n++; got[id] != spec {
			t.Errorf("event %d is %q in the table and %q to the reader", id, spec, got[id])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n != stored.Load() || int64(len(got)) != n || undone.Load() != writers*each*3/10 {
		t.Errorf("%d committed and %d undone; %d rows, %d events", stored.Load(), undone.Load(), n, len(got))
	}
}

func TestCursorOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	a, _, _ := fresh(t)
	b, _, _ := fresh(t)
	if _, err := b.Since(t.Context(), now(t, a), 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("another schema's cursor: %v", err)
	}
	c := now(t, a)
	far := cursor.Snapshot{Xmin: c.To.Xmax + 1_000_000, Xmax: c.To.Xmax + 1_000_000}
	ahead := cursor.Cursor{Epoch: c.Epoch, From: far, To: far}
	if _, err := a.Since(t.Context(), ahead, 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("a cursor from the future: %v", err)
	}
	if _, err := a.Since(t.Context(), c, 0); err == nil {
		t.Fatal("limit 0 was taken")
	}
}

func TestRestored(t *testing.T) {
	t.Parallel()
	s, conn, config := fresh(t)
	exec(t, conn, insert, "one")
	exec(t, conn, insert, "two")
	before := now(t, s)
	// What a restore into another cluster leaves: xids of a counter that was
	// further on, and the other cluster's identifier.
	exec(t, conn, `UPDATE events SET xid = (pg_current_xact_id()::text::bigint + 1000000000)::text::xid8`)
	exec(t, conn, `UPDATE specwatch_meta SET system_identifier = 1`)
	other := open(t, config)
	var problem *store.Problem
	if _, err := other.Since(t.Context(), before, 10); !errors.As(err, &problem) || problem.Code != store.Restored {
		t.Fatalf("unrepaired: %v", err)
	}
	if err := other.Ready(t.Context()); !errors.As(err, &problem) || problem.Code != store.Restored {
		t.Fatalf("unrepaired: %v", err)
	}
	report, err := store.Migrate(t.Context(), config, nil)
	if err != nil || report.Repaired != 2 {
		t.Fatalf("%+v: %v", report, err)
	}
	if _, err := other.Since(t.Context(), before, 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("a cursor from before the restore: %v", err)
	}
	got, c := drain(t, other, cursor.Cursor{}, 10)
	if specs(got) != "one two" {
		t.Fatalf("afresh: %q", specs(got))
	}
	exec(t, conn, insert, "three")
	if got, _ = drain(t, other, c, 10); specs(got) != "three" {
		t.Fatalf("after the repair: %q", specs(got))
	}
}

func TestMigrateTwiceAndAtOnce(t *testing.T) {
	t.Parallel()
	address, schema := postgrestest.Schema(t)
	config := store.Config{URL: address, Schema: schema + "_new"}
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), address)
		if err == nil {
			conn.Exec(context.Background(), `DROP SCHEMA IF EXISTS "`+schema+`_new" CASCADE`)
			conn.Close(context.Background())
		}
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := store.Migrate(context.Background(), config, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	report, err := store.Migrate(t.Context(), config, nil)
	if err != nil || report.Applied != 0 || report.Version != 7 || report.Schema != config.Schema {
		t.Fatalf("%+v: %v", report, err)
	}
	if err := open(t, config).Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestMigrateLeavesAnotherEventsTable(t *testing.T) {
	t.Parallel()
	address, schema := postgrestest.Schema(t)
	exec(t, postgrestest.Connect(t, address), `CREATE TABLE events (title text)`)
	if _, err := store.Migrate(t.Context(), store.Config{URL: address, Schema: schema}, nil); err == nil || !strings.Contains(err.Error(), "specwatch mirror "+schema+".events") {
		t.Errorf("somebody else's events table: %v", err)
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	_, conn, config := fresh(t)
	role := fmt.Sprintf("specwatch_test_%d", time.Now().UnixNano())
	exec(t, conn, `CREATE ROLE `+role+` LOGIN PASSWORD 'not a secret'`)
	t.Cleanup(func() { conn.Exec(context.Background(), `DROP ROLE `+role) })
	address, err := url.Parse(config.URL)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword(role, "not a secret")
	config.URL = address.String()
	s := open(t, config)
	one := []event.Event{{Kind: event.SpecStarted, Session: "s", Key: "k"}}
	refused := func(what string, err error) {
		t.Helper()
		var problem *store.Problem
		if !errors.As(err, &problem) || problem.Code != store.NoRights && problem.Code != store.NoTable {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("nobody is ready", s.Ready(t.Context()))
	_, err = s.Append(t.Context(), one)
	refused("nobody writes", err)

	// Of a new role a session knows in full only after it connects again.
	exec(t, conn, `GRANT specwatch_reader TO `+role)
	s = open(t, config)
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := stateOf(t, s); err != nil {
		t.Error(err)
	}
	r, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.EnableNotify(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = s.Append(t.Context(), one)
	refused("a reader writes", err)

	exec(t, conn, `REVOKE specwatch_reader FROM `+role)
	exec(t, conn, `GRANT specwatch_writer TO `+role)
	s = open(t, config)
	for range 2 {
		if _, err := s.Append(t.Context(), one); err != nil {
			t.Errorf("a writer writes: %v", err)
		}
	}
	_, err = s.Since(t.Context(), cursor.Cursor{}, 1)
	refused("a writer reads", err)
	_, err = s.Prune(t.Context(), time.Now(), nil)
	refused("a writer removes", err)
}

// Inserts notify while a reader asks for it, and only then.
func TestNotify(t *testing.T) {
	t.Parallel()
	s, conn, _ := fresh(t)
	r, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	quiet := func(what string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if notes, err := r.Wait(ctx); notes > 0 || err != nil {
			t.Fatalf("%s: %d, %v", what, notes, err)
		}
	}
	exec(t, conn, insert, "nobody asks")
	quiet("nobody asks")
	exec(t, conn, "BEGIN")
	exec(t, conn, insert, "before the lock was taken")
	ask, err := r.EnableNotify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	page, err := r.Since(t.Context(), cursor.Cursor{}, 10)
	if err != nil || page.Xmin >= ask {
		t.Fatalf("xmin %d, asked at %d: the open writer is not waited for: %v", page.Xmin, ask, err)
	}
	exec(t, conn, "COMMIT")
	quiet("that writer could not know")
	if page, err = r.Since(t.Context(), page.Cursor, 10); err != nil || len(page.Events) != 1 {
		t.Fatalf("%+v: %v", page, err)
	}
	// Transactions of other tests are waited for, too.
	for page.Xmin < ask {
		if page, err = r.Since(t.Context(), page.Cursor, 10); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, conn, insert, "notifies")
	if notes, err := r.Wait(t.Context()); notes == 0 || err != nil {
		t.Fatalf("%d, %v", notes, err)
	}
	if err := r.DisableNotify(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, conn, insert, "nobody asks any more")
	quiet("nobody asks any more")
}

// A reader whose notifications are disabled gets those that another one asks
// for. It counts them and keeps none. Not parallel: it compares the memory of the
// process.
func TestAReaderKeepsNoNotifications(t *testing.T) {
	s, conn, _ := fresh(t)
	r, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	other, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := r.EnableNotify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.DisableNotify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := other.EnableNotify(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, conn, "SET synchronous_commit = off")
	write := func(transactions int) {
		t.Helper()
		batch := &pgx.Batch{}
		for range transactions {
			batch.Queue("BEGIN")
			batch.Queue(insert, "s")
			batch.Queue("COMMIT")
		}
		if err := conn.SendBatch(t.Context(), batch).Close(); err != nil {
			t.Fatal(err)
		}
		for _, reader := range []*store.Reader{r, other} { // the server ends idle ones
			if _, _, err := reader.Unchanged(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) // #nosec G115 -- never that much
	}
	write(200)
	before := heap()
	for range 100 {
		write(200)
	}
	if grown := heap() - before; grown > 512<<10 {
		t.Errorf("the process has %d bytes more after 20,000 notifications", grown)
	}
	for notes := 0; notes < 20_000; {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		n, err := r.Wait(ctx)
		cancel()
		if n == 0 || err != nil {
			t.Fatalf("%d notifications arrived: %v", notes, err)
		}
		notes += n
	}
}

func TestRangeQuestions(t *testing.T) {
	t.Parallel()
	s, conn, _ := fresh(t)
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	add := func(minute int, kind event.Kind, spec string) {
		exec(t, conn, `INSERT INTO events (kind, at, session, spec) VALUES ($1, $2, 'night', $3)`, string(kind), start.Add(time.Duration(minute)*time.Minute), spec)
	}
	add(-30, event.SpecStarted, "before")
	add(1, event.SpecStarted, "a")
	add(3, event.SpecCompleted, "a")
	add(4, event.SpecStarted, "b")
	add(5, event.SpecStarted, "b")
	add(6, event.InterventionRequest, "b")
	add(7, event.TimeoutTriggered, "b")
	add(8, event.SpecStarted, "c")
	add(70, event.SpecFailed, "c")
	f := store.Filter{From: start, To: start.Add(time.Hour), Limit: 100}

	events, err := s.Range(t.Context(), f)
	if err != nil || specs(events) != "c b b b b a a" {
		t.Errorf("range: %q, %v", specs(events), err)
	}
	narrow := f
	narrow.Specs, narrow.Kinds, narrow.Sessions, narrow.Limit = []string{"b", "c"}, []event.Kind{event.SpecStarted}, []string{"night"}, 2
	if events, err = s.Range(t.Context(), narrow); err != nil || specs(events) != "c b" {
		t.Errorf("narrow range: %q, %v", specs(events), err)
	}
	counts, err := s.Counts(t.Context(), f, 5*time.Minute)
	if want := fmt.Sprint([]store.Count{
		{start, event.SpecCompleted, 1, 0}, {start, event.SpecStarted, 2, 0},
		{start.Add(5 * time.Minute), event.InterventionRequest, 1, 0}, {start.Add(5 * time.Minute), event.SpecStarted, 2, 0}, {start.Add(5 * time.Minute), event.TimeoutTriggered, 1, 0},
	}); err != nil || fmt.Sprint(counts) != want {
		t.Errorf("counts: %v, want %v: %v", counts, want, err)
	}
	outcomes, err := s.Outcomes(t.Context(), f)
	if want := (store.Outcomes{Started: 4, Completed: 1, TimedOut: 1}); err != nil || outcomes != want {
		t.Errorf("outcomes: %+v, %v", outcomes, err)
	}
	attempts, err := s.Durations(t.Context(), f)
	var lines []string
	for _, a := range attempts {
		line := fmt.Sprintf("%s %s", a.Spec, a.Outcome)
		if a.Ended != nil {
			line += " " + a.Ended.Sub(a.Started).String()
		}
		lines = append(lines, line)
	}
	if got, want := strings.Join(lines, ", "), "c failed 1h2m0s, b timed out 2m0s, b abandoned, a completed 2m0s"; err != nil || got != want {
		t.Errorf("durations: %s, want %s: %v", got, want, err)
	}
	changes, lanes, err := s.Timeline(t.Context(), f)
	lines = nil
	for _, c := range changes {
		lines = append(lines, fmt.Sprintf("%s %s %d", c.Spec, c.Kind, int(c.At.Sub(start).Minutes())))
	}
	if got, want := strings.Join(lines, ", "), "before spec_started -30, a spec_started 1, a spec_completed 3, b spec_started 4, b spec_started 5, b intervention_request 6, b timeout_triggered 7, c spec_started 8"; err != nil || got != want || lanes != 4 {
		t.Errorf("timeline: %s of %d, want %s: %v", got, lanes, want, err)
	}
	few := f
	few.Limit = 1
	if changes, lanes, err = s.Timeline(t.Context(), few); err != nil || len(changes) != 1 || changes[0].Spec != "c" || lanes != 4 {
		t.Errorf("the timeline of one spec: %v of %d, %v", changes, lanes, err)
	}
	if n, err := s.Total(t.Context(), f); err != nil || n != 7 {
		t.Errorf("total: %d, %v", n, err)
	}
	names, total, err := s.Specs(t.Context(), f, "")
	if err != nil || strings.Join(names, " ") != "c b a" || total != 3 {
		t.Errorf("specs: %q of %d, %v", names, total, err)
	}
	for text, want := range map[string]string{"": "night", "IG": "night", "%": "", "nigt": ""} {
		if names, _, err = s.Sessions(t.Context(), f, text); err != nil || strings.Join(names, " ") != want {
			t.Errorf("sessions like %q: %q, %v", text, names, err)
		}
	}
}

// The sessions that somebody names are summed up as the summary does it, and
// however old they are.
func TestStateOfNamedSessions(t *testing.T) {
	t.Parallel()
	s, conn, _ := fresh(t)
	exec(t, conn, `INSERT INTO events (kind, at, session, spec) VALUES
		('spec_started', now() - interval '1 minute', 'new', 'a'), ('intervention_request', now() - interval '1 minute', 'new', 'a'), ('session_heartbeat', now(), 'new', ''),
		('spec_failed', now() - interval '30 days', 'old', 'a'), ('spec_failed', now() - interval '29 days', 'old', 'b'), ('session_heartbeat', now() - interval '30 days', 'old', 'a'),
		('spec_started', now(), 'other', 'a')`)
	all, err := stateOf(t, s)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.StateOf(t.Context(), []string{"old", "new", "none"})
	if err != nil || len(st.Sessions) != 2 || st.SessionsTotal != 2 || st.SessionsRunning != 1 || st.FailureStreak != 2 || st.WaitingTotal != 1 {
		t.Fatalf("%+v, %v", st, err)
	}
	for _, one := range all.Sessions {
		if named := st.Sessions[0]; one.Session == "new" && (named.Session != "new" || named.Specs != one.Specs || named.Waiting != one.Waiting || named.Status != one.Status ||
			!named.LastSeen.Equal(one.LastSeen) || !named.LastHeartbeat.Equal(*one.LastHeartbeat)) {
			t.Errorf("%+v, the summary has %+v", named, one)
		}
	}
	old := st.Sessions[1]
	if old.Status != state.Done || old.Specs.Failed != 2 || old.FailureStreak != 2 || old.LastHeartbeat == nil || time.Since(old.LastSeen) < 28*24*time.Hour {
		t.Errorf("%+v", old)
	}
}

func TestStateAndPrune(t *testing.T) {
	t.Parallel()
	s, conn, _ := fresh(t)
	exec(t, conn, `INSERT INTO events (kind, at, session, spec) VALUES
		('spec_started', now() - interval '10 days', 'old', 'x'),
		('spec_started', now() - interval '2 minutes', 'night', 'a'), ('spec_completed', now() - interval '1 minute', 'night', 'a'),
		('spec_started', now(), 'night', 'b'), ('intervention_request', now(), 'night', 'b'), ('session_heartbeat', now(), 'night', 'b')`)
	st, err := stateOf(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if st.Totals[event.SpecStarted] != 3 || len(st.Sessions) != 1 || st.Sessions[0].Status != state.Running ||
		st.Specs != (state.Specs{Open: 1, Completed: 1}) || len(st.Waiting) != 1 || st.Sessions[0].LastHeartbeat == nil {
		t.Fatalf("%+v", st)
	}
	n, err := s.Prune(t.Context(), time.Now().Add(-24*time.Hour), nil)
	if err != nil || n != 1 {
		t.Fatalf("%d: %v", n, err)
	}
	if st, err = stateOf(t, s); err != nil || st.Totals[event.SpecStarted] != 3 {
		t.Fatalf("a counter fell: %+v, %v", st.Totals, err)
	}
}

// What is loaded at a start is what would have been folded event by event.
func TestLoadedStateIsTheFold(t *testing.T) {
	t.Parallel()
	s, conn, _ := fresh(t)
	exec(t, conn, `INSERT INTO events (kind, at, session, spec, data)
		SELECT (array['spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered', 'intervention_request', 'session_heartbeat', 'intervention_answered', 'claude.cost'])[1 + (n * 7919 % 31) % 8],
		       date_trunc('second', now()) - interval '1 second' * (n * 104729 % 500), 's' || n % 7, 'p' || n % 11,
		       CASE n % 3 WHEN 0 THEN '{}' ELSE jsonb_build_object('request', n - 7 * (n % 5)) END
		       || CASE n % 4 WHEN 0 THEN '{}' WHEN 1 THEN jsonb_build_object('silentSeconds', n % 77 * 1.5, 'cpuSeconds', n % 5 * 0.1) WHEN 2 THEN '{"doing": "Bash"}'
		          ELSE (array['{"silentSeconds": 1e400}', '{"silentSeconds": -5, "cpuSeconds": "1"}', '{"silentSeconds": 1e-400, "doing": 3}', '{"silentSeconds": "7", "cpuSeconds": 9}', '{"SilentSeconds": 3}'])[1 + n % 5]::jsonb END
		       || (array['{}', '{"reason": "exit code"}', '{"reason": "usage limit", "resetsAt": "2099-01-01T17:00:00Z"}', '{"reason": "usage limit", "resetsAt": "soon"}', '{"Reason": "usage limit"}', '{"reason": ["usage limit"]}'])[1 + n % 6]::jsonb
		       || CASE n % 5 WHEN 0 THEN '{}' ELSE jsonb_build_object('usage', jsonb_build_object('inputTokens', n * 13, 'output_tokens', n * 0.5, 'costUsd', 0.1 / n)) END FROM generate_series(1, 3000) n
		UNION ALL SELECT 'claude.usage', now() - interval '1 minute' * n, 's1', 'odd', (array['{"usage": {"inputTokens": 1e400, "costUsd": 1e-400}}', '{"usage": {"inputTokens": "12", "outputTokens": -3, "costUsd": null}}',
		          '{"usage": [1]}', '{"usage": 7, "Usage": {"costUsd": 1}}', '{"usage": {"costUsd": 0.0000000005, "cost_usd": 0.0000000015, "cachedInputTokens": 2.5}}', '[{"usage": {"costUsd": 1}}]'])[n]::jsonb FROM generate_series(1, 6) n
		UNION ALL SELECT 'claude.usage', now() - interval '1 minute', 's1', name, jsonb_build_object('usage', jsonb_build_object(name, value))
		    FROM unnest(array['inputTokens', 'input_tokens', 'cachedInputTokens', 'cached_input_tokens', 'outputTokens', 'output_tokens', 'costUsd', 'cost_usd']) name, unnest(array[-1e400, -1e-400, -1, 1e-400, 7]) value
		UNION ALL SELECT 'claude.usage', now() - interval '1 minute', 's1', 'above ' || name, jsonb_build_object('usage', jsonb_build_object(name, 1e400)) FROM unnest(array['input_tokens', 'cachedInputTokens', 'output_tokens', 'costUsd']) name
		UNION ALL SELECT 'claude.usage', now() - interval '1 day' * n, 's2', 'days', '{"usage": {"outputTokens": 1}}' FROM generate_series(0, 20) n
		UNION ALL SELECT 'spec_started', now() - interval '1 minute', 's' || n, 'p' || m, '{}' FROM generate_series(0, 6) n, generate_series(0, 9) m
		UNION ALL SELECT 'session_heartbeat', now(), 's' || n, 'p' || m, jsonb_build_object('silentSeconds', m) FROM generate_series(0, 4) n, generate_series(0, 9, 2) m
		UNION ALL SELECT CASE n % 2 WHEN 0 THEN 'spec_failed' ELSE 'timeout_triggered' END, now(), 's0', 'p' || n % 3, '{}' FROM generate_series(1, 150) n
		UNION ALL SELECT 'spec_failed', now() - interval '2 hours' + interval '1 minute' * n, 'never', 'p', '{}' FROM generate_series(1, 5) n`)
	// The first request is answered, and after it as many that a summary does not hold all of the answers.
	exec(t, conn, `
		WITH asked AS (INSERT INTO events (kind, session, spec) SELECT 'intervention_request', 'asks', 'p' || n FROM generate_series(1, 2) n RETURNING id, spec)
		INSERT INTO events (kind, session, spec, data) SELECT 'intervention_answered', 'asks', '', jsonb_build_object('request', id) FROM asked WHERE spec = 'p1'`)
	exec(t, conn, `
		WITH asked AS (INSERT INTO events (kind, session, spec) SELECT 'intervention_request', 'asks', 'q' || n % 3 FROM generate_series(1, 60) n RETURNING id)
		INSERT INTO events (kind, session, spec, data) SELECT 'intervention_answered', 'asks', '', jsonb_build_object('request', id::text) FROM asked`)
	events, err := s.Range(t.Context(), store.Filter{From: event.Earliest, To: time.Now().Add(time.Hour), Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	folded := state.NewSummary(nil)
	for _, e := range events {
		folded.Add(e)
	}
	got, err := stateOf(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if want := folded.State(got.At); !reflect.DeepEqual(got, want) {
		t.Fatalf("loaded\n%+v\nfolded\n%+v", got, want)
	}
	for _, session := range got.Sessions {
		if session.Session == "asks" && session.Waiting != 1 {
			t.Errorf("%d requests wait, not p2's alone", session.Waiting)
		}
	}
	var working int
	for _, open := range got.Running {
		if open.LastWork != nil {
			working++
		}
	}
	if got.Specs.Limited == 0 || got.Specs.Failed == 0 {
		t.Errorf("%+v", got.Specs)
	}
	if working == 0 || working == len(got.Running) {
		t.Errorf("%d of %d running specs tell of their work", working, len(got.Running))
	}
	streaks := map[string]int{}
	for _, session := range got.Sessions {
		streaks[session.Session] = session.FailureStreak
		if session.Session == "s2" && (session.Usage == nil || session.Usage.OutputTokens < 8 || session.Usage.Cost == 0) {
			t.Errorf("usage %+v", session.Usage)
		}
	}
	if streaks["s0"] != state.MaxStreak || streaks["never"] != 5 {
		t.Errorf("streaks %v", streaks)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	address, schema := postgrestest.Schema(t)
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(config store.Config, code, detail string) {
		t.Helper()
		s := open(t, config)
		var problem *store.Problem
		if err := s.Ready(t.Context()); !errors.As(err, &problem) || problem.Code != code || !regexp.MustCompile(detail).MatchString(problem.Detail) {
			t.Errorf("want %s, %s: %v", code, detail, err)
		}
		if _, err := s.Since(t.Context(), cursor.Cursor{}, 1); !errors.As(err, &problem) || problem.Code != code && problem.Code != store.NoTable {
			t.Errorf("want %s: %v", code, err)
		}
	}
	expect(store.Config{URL: address, Schema: schema}, store.NoTable, "specwatch migrate")
	expect(store.Config{URL: address, Schema: "nowhere at all"}, store.NoTable, "does not exist")
	dead := *parsed
	dead.Host = "127.0.0.1:1"
	dead.User = url.UserPassword("somebody", "hunter2")
	expect(store.Config{URL: dead.String()}, store.NoConnection, "127.0.0.1.*refused")
	if err := open(t, store.Config{URL: dead.String()}).Ready(t.Context()); strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the password is in %q", err)
	}
	if _, err := store.Open(t.Context(), store.Config{URL: "postgres://u:hunter2@[::bad/db"}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a broken URL: %v", err)
	}

	config := store.Config{URL: address, Schema: schema}
	if _, err := store.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	conn := postgrestest.Connect(t, address)
	exec(t, conn, `INSERT INTO specwatch_migrations (version_id, is_applied) VALUES (999, true)`)
	expectReady := func(code string) {
		t.Helper()
		var problem *store.Problem
		if err := open(t, config).Ready(t.Context()); !errors.As(err, &problem) || problem.Code != code {
			t.Errorf("want %s: %v", code, err)
		}
	}
	expectReady(store.SchemaNew)
	exec(t, conn, `DELETE FROM specwatch_migrations WHERE version_id > 0`)
	expectReady(store.SchemaOld)
}
