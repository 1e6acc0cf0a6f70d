package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
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
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
	"github.com/specwatch/specwatch/pkg/storetest"
)

const insert = `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 's', $1)`

func TestLateCommit(t *testing.T) {
	t.Parallel()
	s, early, config := storetest.New(t)
	late := postgrestest.Connect(t, config.URL)
	start := storetest.Here(t, s)

	tx, err := late.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, tx, insert, "late")
	storetest.Exec(t, early, insert, "early")
	got, c := storetest.Drain(t, s, start, 100)
	if storetest.Specs(got) != "early" {
		t.Fatalf("before the late commit: %q", storetest.Specs(got))
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, early, insert, "next")
	if got, c = storetest.Drain(t, s, c, 100); storetest.Specs(got) != "late next" {
		t.Fatalf("after the late commit: %q", storetest.Specs(got))
	}
	if got, _ = storetest.Drain(t, s, c, 100); len(got) != 0 {
		t.Fatalf("again: %q", storetest.Specs(got))
	}
}

func TestRollbackSavepointTwoPhase(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	c := storetest.Here(t, s)
	storetest.Exec(t, conn, "BEGIN")
	storetest.Exec(t, conn, insert, "kept")
	storetest.Exec(t, conn, "SAVEPOINT a")
	storetest.Exec(t, conn, insert, "undone")
	storetest.Exec(t, conn, "ROLLBACK TO a")
	storetest.Exec(t, conn, "SAVEPOINT b")
	storetest.Exec(t, conn, insert, "inner")
	storetest.Exec(t, conn, "RELEASE b")
	storetest.Exec(t, conn, "COMMIT")
	storetest.Exec(t, conn, "BEGIN")
	storetest.Exec(t, conn, insert, "never")
	storetest.Exec(t, conn, "ROLLBACK")
	got, c := storetest.Drain(t, s, c, 10)
	if storetest.Specs(got) != "kept inner" {
		t.Fatalf("got %q", storetest.Specs(got))
	}
	var prepared int
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('max_prepared_transactions')::int").Scan(&prepared); err != nil || prepared == 0 {
		t.Skip("the server has max_prepared_transactions = 0: two-phase commit cannot be tested")
	}
	name := fmt.Sprintf("specwatch_%d", time.Now().UnixNano())
	storetest.Exec(t, conn, "BEGIN")
	storetest.Exec(t, conn, insert, "prepared")
	if _, err := conn.Exec(t.Context(), "PREPARE TRANSACTION '"+name+"'"); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, conn, insert, "after")
	if got, c = storetest.Drain(t, s, c, 10); storetest.Specs(got) != "after" {
		t.Fatalf("while prepared: %q", storetest.Specs(got))
	}
	if _, err := conn.Exec(t.Context(), "COMMIT PREPARED '"+name+"'"); err != nil {
		t.Fatal(err)
	}
	if got, _ = storetest.Drain(t, s, c, 10); storetest.Specs(got) != "prepared" {
		t.Fatalf("after COMMIT PREPARED: %q", storetest.Specs(got))
	}
}

// Pages of one target: rows that commit while pages are turned neither slip
// in nor get lost.
func TestPagingInsideOneTarget(t *testing.T) {
	t.Parallel()
	s, conn, config := storetest.New(t)
	late := postgrestest.Connect(t, config.URL)
	c := storetest.Here(t, s)
	storetest.Exec(t, late, "BEGIN")
	storetest.Exec(t, late, insert, "late")
	for i := range 25 {
		storetest.Exec(t, conn, insert, fmt.Sprint(i))
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
			storetest.Exec(t, late, "COMMIT")
			storetest.Exec(t, conn, insert, "new")
		}
		more = page.More
	}
	// First the target, in order; what committed meanwhile follows on it.
	if len(order) != 27 || order[0] != "0" || order[24] != "24" || order[25] != "late" || order[26] != "new" {
		t.Fatalf("%q", order)
	}
	if got, _ := storetest.Drain(t, s, c, 4); len(got) != 0 {
		t.Fatalf("after all: %q", storetest.Specs(got))
	}
}

func TestHistoryPages(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, at) SELECT 'spec_started', 's', n::text, now() - n * interval '1 minute' FROM generate_series(0, 9) n`)
	storetest.Exec(t, conn, `UPDATE events SET xid = NULL WHERE spec = '3'`) // as a row of before there was a xid
	page, err := s.SinceTime(t.Context(), time.Now().Add(-6*time.Minute-30*time.Second), 3)
	if err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, conn, insert, "new")
	rest, c := storetest.Drain(t, s, page.Cursor, 3)
	if got := storetest.Specs(page.Events) + " " + storetest.Specs(rest); got != "6 5 4 3 2 1 0 new" {
		t.Fatalf("history: %q", got)
	}
	if got, _ := storetest.Drain(t, s, c, 3); len(got) != 0 {
		t.Fatalf("after history: %q", storetest.Specs(got))
	}
	if got, _ := storetest.Drain(t, s, cursor.Cursor{}, 100); storetest.Specs(got) != "4 3 2 1 0 new" {
		t.Fatalf("no cursor means five minutes: %q", storetest.Specs(got))
	}
}

func TestTheNewestEventsHoweverOld(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	page, err := s.SinceLast(t.Context(), 3, 100)
	if err != nil || len(page.Events) != 0 || page.More {
		t.Fatalf("an empty table: %v, %v", page, err)
	}
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, at) SELECT 'spec_started', 's', n::text, now() - n * interval '1 day' FROM generate_series(0, 9) n`)
	page, err = s.SinceLast(t.Context(), 4, 3)
	if err != nil || storetest.Specs(page.Events) != "3 2 1" || !page.More {
		t.Fatalf("the first page: %q, %v", storetest.Specs(page.Events), err)
	}
	storetest.Exec(t, conn, insert, "new")
	if rest, c := storetest.Drain(t, s, page.Cursor, 3); storetest.Specs(rest) != "0 new" {
		t.Fatalf("the rest: %q", storetest.Specs(rest))
	} else if got, _ := storetest.Drain(t, s, c, 3); len(got) != 0 {
		t.Fatalf("after them: %q", storetest.Specs(got))
	}
	if page, err = s.SinceLast(t.Context(), 100, 100); err != nil || len(page.Events) != 11 {
		t.Fatalf("more than there are: %q, %v", storetest.Specs(page.Events), err)
	}
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec) SELECT 'spec_started', 's', 'together ' || n FROM generate_series(1, 7) n`)
	if page, err = s.SinceLast(t.Context(), 2, 100); err != nil || storetest.Specs(page.Events) != "together 6 together 7" || page.More {
		t.Fatalf("two of those at the same time: %q, more %t, %v", storetest.Specs(page.Events), page.More, err)
	}
}

func TestLargeEventsMakeSmallPages(t *testing.T) {
	t.Parallel()
	s, _, _ := storetest.New(t)
	c := storetest.Here(t, s)
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
	if got, _ := storetest.Drain(t, s, c, 100); len(got) != 20 {
		t.Fatalf("%d of 20 events", len(got))
	}
}

func TestAppend(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	c := storetest.Here(t, s)
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
	got, _ := storetest.Drain(t, s, c, 10)
	if storetest.Specs(got) != "a b " || !got[0].At.Equal(at) || got[0].ID != ids[0] {
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
	s, _, _ := storetest.New(t)
	c := storetest.Here(t, s)
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
	got, _ := storetest.Drain(t, s, c, 10)
	for _, e := range got {
		if len(e.Data) < 9_000 {
			t.Errorf("part of a refused batch was stored: %+v", e)
		}
	}
}

func TestAppendAll(t *testing.T) {
	t.Parallel()
	s, _, _ := storetest.New(t)
	c := storetest.Here(t, s)
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
	if got, _ := storetest.Drain(t, s, c, 5_000); len(got) != 0 {
		t.Fatalf("%d events of failed bulks were stored", len(got))
	}
	if n, known, err := s.AppendAll(t.Context(), feed(12_345, io.EOF, 0)); n != 12_345 || known != 0 || err != nil {
		t.Fatalf("%d, %d: %v", n, known, err)
	}
	got, _ := storetest.Drain(t, s, c, 5_000)
	for i, e := range got {
		if e.Spec != fmt.Sprint(i+1) {
			t.Fatalf("event %d is %q", i+1, e.Spec)
		}
	}
	if len(got) != 12_345 {
		t.Fatalf("%d events", len(got))
	}
}

// Writers commit at once and late, and undo whole transactions and parts of
// them, while a reader turns small pages: it gets what is stored, once each,
// and nothing that was undone.
func TestConcurrentWritersArriveOnce(t *testing.T) {
	t.Parallel()
	s, conn, config := storetest.New(t)
	c := storetest.Here(t, s)
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
		page, c = storetest.Drain(t, s, c, 37)
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
	a, _, _ := storetest.New(t)
	b, _, _ := storetest.New(t)
	if _, err := b.Since(t.Context(), storetest.Here(t, a), 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("another schema's cursor: %v", err)
	}
	c := storetest.Here(t, a)
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
	s, conn, config := storetest.New(t)
	storetest.Exec(t, conn, insert, "one")
	storetest.Exec(t, conn, insert, "two")
	before := storetest.Here(t, s)
	// What a restore into another cluster leaves: xids of a counter that was
	// further on, and the other cluster's identifier.
	storetest.Exec(t, conn, `UPDATE events SET xid = (pg_current_xact_id()::text::bigint + 1000000000)::text::xid8`)
	storetest.Exec(t, conn, `UPDATE specwatch_meta SET system_identifier = 1`)
	other := storetest.Open(t, config)
	var problem *store.Problem
	if _, err := other.Since(t.Context(), before, 10); !errors.As(err, &problem) || problem.Code != store.Restored {
		t.Fatalf("unrepaired: %v", err)
	}
	if err := other.Ready(t.Context()); !errors.As(err, &problem) || problem.Code != store.Restored {
		t.Fatalf("unrepaired: %v", err)
	}
	report, err := schema.Migrate(t.Context(), config, nil)
	if err != nil || report.Repaired != 2 {
		t.Fatalf("%+v: %v", report, err)
	}
	if _, err := other.Since(t.Context(), before, 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("a cursor from before the restore: %v", err)
	}
	got, c := storetest.Drain(t, other, cursor.Cursor{}, 10)
	if storetest.Specs(got) != "one two" {
		t.Fatalf("afresh: %q", storetest.Specs(got))
	}
	storetest.Exec(t, conn, insert, "three")
	if got, _ = storetest.Drain(t, other, c, 10); storetest.Specs(got) != "three" {
		t.Fatalf("after the repair: %q", storetest.Specs(got))
	}
}

// Inserts notify while a reader asks for it, and only then.
func TestNotify(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
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
	storetest.Exec(t, conn, insert, "nobody asks")
	quiet("nobody asks")
	storetest.Exec(t, conn, "BEGIN")
	storetest.Exec(t, conn, insert, "before the lock was taken")
	ask, err := r.EnableNotify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	page, err := r.Since(t.Context(), cursor.Cursor{}, 10)
	if err != nil || page.Xmin >= ask {
		t.Fatalf("xmin %d, asked at %d: the open writer is not waited for: %v", page.Xmin, ask, err)
	}
	storetest.Exec(t, conn, "COMMIT")
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
	storetest.Exec(t, conn, insert, "notifies")
	if notes, err := r.Wait(t.Context()); notes == 0 || err != nil {
		t.Fatalf("%d, %v", notes, err)
	}
	if err := r.DisableNotify(t.Context()); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, conn, insert, "nobody asks any more")
	quiet("nobody asks any more")
}

// A reader whose notifications are disabled gets those that another one asks
// for. It counts them and keeps none. Not parallel: it compares the memory of the
// process.
func TestAReaderKeepsNoNotifications(t *testing.T) {
	s, conn, _ := storetest.New(t)
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
	storetest.Exec(t, conn, "SET synchronous_commit = off")
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

func TestProblems(t *testing.T) {
	t.Parallel()
	address, name := postgrestest.Schema(t)
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(config store.Config, code, detail string) {
		t.Helper()
		s := storetest.Open(t, config)
		var problem *store.Problem
		if err := s.Ready(t.Context()); !errors.As(err, &problem) || problem.Code != code || !regexp.MustCompile(detail).MatchString(problem.Detail) {
			t.Errorf("want %s, %s: %v", code, detail, err)
		}
		if _, err := s.Since(t.Context(), cursor.Cursor{}, 1); !errors.As(err, &problem) || problem.Code != code && problem.Code != store.NoTable {
			t.Errorf("want %s: %v", code, err)
		}
	}
	expect(store.Config{URL: address, Schema: name}, store.NoTable, "specwatch migrate")
	expect(store.Config{URL: address, Schema: "nowhere at all"}, store.NoTable, "does not exist")
	dead := *parsed
	dead.Host = "127.0.0.1:1"
	dead.User = url.UserPassword("somebody", "hunter2")
	expect(store.Config{URL: dead.String()}, store.NoConnection, "127.0.0.1.*refused")
	if err := storetest.Open(t, store.Config{URL: dead.String()}).Ready(t.Context()); strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the password is in %q", err)
	}
	if _, err := store.Open(t.Context(), store.Config{URL: "postgres://u:hunter2@[::bad/db"}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a broken URL: %v", err)
	}

	config := store.Config{URL: address, Schema: name}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	conn := postgrestest.Connect(t, address)
	storetest.Exec(t, conn, `INSERT INTO specwatch_migrations (version_id, is_applied) VALUES (999, true)`)
	expectReady := func(code string) {
		t.Helper()
		var problem *store.Problem
		if err := storetest.Open(t, config).Ready(t.Context()); !errors.As(err, &problem) || problem.Code != code {
			t.Errorf("want %s: %v", code, err)
		}
	}
	expectReady(store.SchemaNew)
	storetest.Exec(t, conn, `DELETE FROM specwatch_migrations WHERE version_id > 0`)
	expectReady(store.SchemaOld)
}
