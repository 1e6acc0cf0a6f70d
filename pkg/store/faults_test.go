package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/embedded"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// Whoever asks a store that is closed meanwhile, as by a process that stops, is
// told so.
func TestClosed(t *testing.T) {
	t.Parallel()
	s, _, _ := storetest.New(t)
	s.Close()
	for name, ask := range map[string]func() error{
		"append": func() error {
			_, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}})
			return err
		},
		"several": func() error {
			_, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}, {Kind: event.SpecStarted, Session: "s"}})
			return err
		},
		"bulk": func() error {
			_, _, err := s.AppendAll(t.Context(), func() (event.Event, error) {
				return event.Event{Kind: event.SpecStarted, Session: "s"}, nil
			})
			return err
		},
		"read": func() error {
			_, err := s.SinceLast(t.Context(), 1, 1)
			return err
		},
		"count": func() error {
			_, err := questions.To(s).Total(t.Context(), questions.Filter{})
			return err
		},
		"roll up": func() error {
			_, _, err := maintenance.RollUp(t.Context(), s)
			return err
		},
		"ready": func() error { return s.Ready(t.Context()) },
	} {
		var known *store.Problem
		if err := ask(); !errors.As(err, &known) || known.Code != store.Busy {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// crash kills the server and starts it again.
func crash(t testing.TB, server *embedded.Server) {
	t.Helper()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A server that crashes gives transaction ids out again that reached no
// flushed log. A cursor that was taken past them must miss nothing, and must
// not expire.
func TestCrashGivesIDsOutAgain(t *testing.T) {
	t.Parallel()
	for name, burn := range map[string]func(t *testing.T, conn *pgx.Conn){
		"read-only": func(t *testing.T, conn *pgx.Conn) {
			for range 5 {
				storetest.Exec(t, conn, "SELECT pg_current_xact_id()")
			}
		},
		"aborted": func(t *testing.T, conn *pgx.Conn) {
			for range 5 {
				storetest.Exec(t, conn, "BEGIN")
				storetest.Exec(t, conn, insert, "undone")
				storetest.Exec(t, conn, "ROLLBACK")
			}
		},
		"a key that exists": func(t *testing.T, conn *pgx.Conn) {
			storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, key) VALUES ('spec_started', 's', 'first', 'k')`)
			for range 5 {
				if _, err := conn.Exec(t.Context(), `INSERT INTO events (kind, session, key) VALUES ('spec_started', 's', 'k')`); err == nil {
					t.Fatal("the same key was stored twice")
				}
			}
		},
		"other tables without flush": func(t *testing.T, conn *pgx.Conn) {
			storetest.Exec(t, conn, "CREATE UNLOGGED TABLE other (n int)")
			storetest.Exec(t, conn, "SET synchronous_commit = off")
			for range 5 {
				storetest.Exec(t, conn, "INSERT INTO other VALUES (1)")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, s := storetest.Cluster(t, map[string]string{"wal_writer_delay": "10s", "autovacuum": "off"})
			conn := postgrestest.Connect(t, server.URL())
			storetest.Exec(t, conn, insert, "before")
			storetest.Exec(t, conn, "CHECKPOINT")
			burn(t, conn)
			_, c := storetest.Drain(t, s, cursor.Cursor{}, 100)
			crash(t, server)
			if got, again := storetest.Drain(t, s, c, 100); len(got) != 0 || again.String() != c.String() {
				t.Fatalf("early: %q, from %s to %s", storetest.Specs(got), c, again)
			}
			conn = postgrestest.Connect(t, server.URL())
			var want []string
			for i := range 8 {
				want = append(want, fmt.Sprint(i))
				storetest.Exec(t, conn, insert, want[i])
			}
			if got, _ := storetest.Drain(t, s, c, 3); storetest.Specs(got) != strings.Join(want, " ") {
				t.Fatalf("got %q, want %q", storetest.Specs(got), want)
			}
		})
	}
}

// An event whose commit is not flushed can be lost, and its id be given to
// another. It is delivered once it is flushed, and without waiting for the
// server's own time.
func TestUnflushedEventsAreNotDelivered(t *testing.T) {
	t.Parallel()
	server, s := storetest.Cluster(t, map[string]string{"wal_writer_delay": "10s", "autovacuum": "off"})
	_, c := storetest.Drain(t, s, cursor.Cursor{}, 100)
	var waited time.Duration
	for round := range 5 {
		conn := postgrestest.Connect(t, server.URL())
		storetest.Exec(t, conn, "SET synchronous_commit = off")
		for i := range 8 {
			storetest.Exec(t, conn, insert, fmt.Sprint(round, "/", i))
		}
		begin := time.Now()
		var got []event.Event
		got, c = storetest.Drain(t, s, c, 3)
		// The server's own time is five seconds on average. A busy machine may delay
		// one read, but not all.
		if waited += time.Since(begin); len(got) != 8 || waited > 15*time.Second {
			t.Fatalf("%d events, %s were waited for in %d rounds", len(got), waited, round+1)
		}
		storetest.Exec(t, conn, insert, "may be lost")
		crash(t, server)
		conn = postgrestest.Connect(t, server.URL())
		for _, e := range got {
			var there bool
			if err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM events WHERE id = $1 AND spec = $2)`, e.ID, e.Spec).Scan(&there); err != nil || !there {
				t.Fatalf("round %d: event %d was delivered and is gone: %v", round, e.ID, err)
			}
		}
		// What the crash took, it took before it was delivered; what follows
		// reuses its ids and comes whole.
		storetest.Exec(t, conn, insert, "after")
		if got, c = storetest.Drain(t, s, c, 100); len(got) == 0 || got[len(got)-1].Spec != "after" {
			t.Fatalf("round %d: %q", round, storetest.Specs(got))
		}
	}
}

// A transaction that turns synchronous_commit off after its insert cannot be
// known. If a crash takes its row back, the cursor that names it expires.
func TestARowThatVanishedExpiresTheCursor(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	storetest.Exec(t, conn, insert, "one")
	storetest.Exec(t, conn, insert, "two")
	_, c := storetest.Drain(t, s, cursor.Cursor{}, 100)
	storetest.Exec(t, conn, `DELETE FROM events WHERE spec = 'two'`)
	if _, err := s.Since(t.Context(), c, 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("its last row is gone: %v", err)
	}
	// The same id with other content is another row.
	storetest.Exec(t, conn, `INSERT INTO events (id, kind, session, spec) VALUES ($1, 'spec_started', 's', 'another')`, c.Last.ID)
	if _, err := s.Since(t.Context(), c, 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("its last row is another: %v", err)
	}
}

// An older state that still has the last row of a page, but not all that its
// target had: transaction ids of the target may be in use again, by rows that
// would be missed. The cursor expires, whether it pages by transaction or by
// time.
func TestATargetThatVanishedExpiresTheCursor(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	start := time.Now().Add(-time.Hour)
	_, c := storetest.Drain(t, s, cursor.Cursor{}, 100)
	for i := range 5 {
		storetest.Exec(t, conn, insert, fmt.Sprint(i))
	}
	var pages []store.Page
	take := func(page store.Page, err error) cursor.Cursor {
		t.Helper()
		if err != nil || !page.Cursor.Paging() {
			t.Fatalf("%+v: %v", page, err)
		}
		back, err := cursor.Parse(page.Cursor.String())
		if err != nil || !back.Equal(page.Cursor) {
			t.Fatalf("%+v came back as %+v: %v", page.Cursor, back, err)
		}
		pages = append(pages, page)
		return back
	}
	take(s.Since(t.Context(), take(s.Since(t.Context(), c, 1)), 1))
	take(s.Since(t.Context(), take(s.SinceTime(t.Context(), start, 1)), 1))
	for i, page := range pages {
		if got, _ := storetest.Drain(t, s, page.Cursor, 10); len(got) != 4-i%2 {
			t.Fatalf("page %d goes on with %q", i, storetest.Specs(got))
		}
	}
	storetest.Exec(t, conn, `DELETE FROM events WHERE spec = '4'`)
	for i, page := range pages {
		if got, err := s.Since(t.Context(), page.Cursor, 10); !errors.Is(err, store.ErrExpired) {
			t.Errorf("page %d goes on with %q: %v", i, storetest.Specs(got.Events), err)
		}
	}
}

// Prune removes the row that a cursor names; the cursor stays good.
func TestPruneExpiresNoCursor(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, at) SELECT 'spec_started', 's', 'old', now() - interval '2 days' FROM generate_series(1, 9)`)
	page, err := s.SinceTime(t.Context(), time.Now().Add(-72*time.Hour), 4)
	if err != nil || len(page.Events) != 4 {
		t.Fatalf("%+v: %v", page, err)
	}
	_, c := storetest.Drain(t, s, page.Cursor, 100)
	if n, err := maintenance.Prune(t.Context(), s, time.Now().Add(-24*time.Hour), nil); n != 9 || err != nil {
		t.Fatal(n, err)
	}
	storetest.Exec(t, conn, insert, "new")
	if got, _ := storetest.Drain(t, s, c, 100); storetest.Specs(got) != "new" {
		t.Fatalf("%q", storetest.Specs(got))
	}
	if got, _ := storetest.Drain(t, s, page.Cursor, 100); storetest.Specs(got) != "new" {
		t.Fatalf("between two pages of before: %q", storetest.Specs(got))
	}
}

// replicated is a primary and a standby that follows it: their stores, and a
// connection to each.
func replicated(t *testing.T) (onPrimary, onStandby *store.Store, conn, there *pgx.Conn) {
	t.Helper()
	primary, onPrimary := storetest.Cluster(t, nil)
	standby := postgrestest.Standby(t, primary)
	onStandby = storetest.Open(t, store.Config{URL: standby.URL()})
	programtest.Until(t, "the standby follows", func() bool { return onStandby.Ready(t.Context()) == nil })
	return onPrimary, onStandby, postgrestest.Connect(t, primary.URL()), postgrestest.Connect(t, standby.URL())
}

// catchUp waits until a standby has replayed what the cursor has seen. A read
// waits for that, too, but not as long as a busy machine may need.
func catchUp(t *testing.T, onStandby *store.Store, c cursor.Cursor) {
	t.Helper()
	programtest.Until(t, "the standby catches up", func() bool { _, err := onStandby.Since(t.Context(), c, 100); return err == nil })
}

func pauseReplay(t *testing.T, there *pgx.Conn) {
	t.Helper()
	storetest.Exec(t, there, "SELECT pg_wal_replay_pause()")
	programtest.Until(t, "replay pauses", func() bool {
		var paused bool
		return there.QueryRow(t.Context(), "SELECT pg_is_wal_replay_paused()").Scan(&paused) == nil && paused
	})
}

// A page that began on the primary goes on at a standby only once that has
// replayed what the page's target holds.
func TestPagesContinueOnceTheStandbyHasReplayed(t *testing.T) {
	t.Parallel()
	onPrimary, onStandby, conn, there := replicated(t)
	storetest.Exec(t, conn, insert, "first")
	_, c := storetest.Drain(t, onPrimary, cursor.Cursor{}, 100)
	catchUp(t, onStandby, c)
	if got, _ := storetest.Drain(t, onStandby, c, 100); len(got) != 0 {
		t.Fatalf("%q", storetest.Specs(got))
	}
	pauseReplay(t, there)
	for i := range 20 {
		storetest.Exec(t, conn, insert, fmt.Sprint(i))
	}
	page, err := onPrimary.Since(t.Context(), c, 5)
	if err != nil || storetest.Specs(page.Events) != "0 1 2 3 4" {
		t.Fatalf("%q: %v", storetest.Specs(page.Events), err)
	}
	var problem *store.Problem
	if _, err := onStandby.Since(t.Context(), page.Cursor, 5); !errors.As(err, &problem) || problem.Code != store.Behind || !strings.Contains(problem.Detail, "bytes") {
		t.Fatalf("a standby that is behind: %v", err)
	}
	_, whole := storetest.Drain(t, onPrimary, page.Cursor, 5)
	if _, err := onStandby.Since(t.Context(), whole, 5); !errors.As(err, &problem) || problem.Code != store.Behind {
		t.Fatalf("a cursor at rest that the standby has not reached: %v", err)
	}
	resumed := make(chan error, 1)
	go func() {
		// The time that the standby is behind is what is tried. A read waits for three
		// seconds, most of which are left for a busy machine to replay.
		time.Sleep(500 * time.Millisecond)
		_, err := there.Exec(context.Background(), "SELECT pg_wal_replay_resume()")
		resumed <- err
	}()
	got, last := storetest.Drain(t, onStandby, page.Cursor, 5)
	if err := <-resumed; err != nil {
		t.Fatal(err)
	}
	if len(got) != 15 || got[14].Spec != "19" {
		t.Fatalf("%d events on the standby: %q", len(got), storetest.Specs(got))
	}
	storetest.Exec(t, conn, insert, "last")
	if got, _ := storetest.Drain(t, onPrimary, last, 5); storetest.Specs(got) != "last" {
		t.Fatalf("back on the primary: %q", storetest.Specs(got))
	}
}

// However many cursors are ahead of a standby, a reader that it can answer gets
// its answer: those that wait do not take all connections of the pool.
func TestReadersThatWaitForAStandbyLeaveConnections(t *testing.T) {
	t.Parallel()
	onPrimary, onStandby, conn, there := replicated(t)
	storetest.Exec(t, conn, insert, "first")
	_, current := storetest.Drain(t, onPrimary, cursor.Cursor{}, 100)
	catchUp(t, onStandby, current)
	pauseReplay(t, there)
	storetest.Exec(t, conn, insert, "second")
	_, ahead := storetest.Drain(t, onPrimary, current, 100)
	const readers = 20
	var refused atomic.Int64
	var reading sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for range readers {
		reading.Go(func() {
			for {
				_, err := onStandby.Since(ctx, ahead, 5)
				if err == nil || ctx.Err() != nil {
					return
				}
				var problem *store.Problem
				if !errors.As(err, &problem) || problem.Code != store.Behind {
					t.Error(err)
					return
				}
				refused.Add(1)
			}
		})
	}
	for refused.Load() < 2*readers {
		// The readers before it in the queue would wait 15 s in all.
		patience, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := onStandby.Since(patience, current, 5)
		cancel()
		if err != nil {
			t.Fatalf("a reader that the standby can answer, after %d others were refused: %v", refused.Load(), err)
		}
	}
	storetest.Exec(t, there, "SELECT pg_wal_replay_resume()")
	reading.Wait()
}

// A fail-over begins another history: cursors of the old primary expire on
// the promoted standby, and on one that follows it without a restart.
func TestCascadingStandbyTakesTheNewTimeline(t *testing.T) {
	t.Parallel()
	primary, s := storetest.Cluster(t, nil)
	middle := postgrestest.Standby(t, primary)
	last := postgrestest.Standby(t, middle)
	onMiddle, onLast := storetest.Open(t, store.Config{URL: middle.URL()}), storetest.Open(t, store.Config{URL: last.URL()})
	programtest.Until(t, "the standbys follow", func() bool { return onMiddle.Ready(t.Context()) == nil && onLast.Ready(t.Context()) == nil })
	storetest.Exec(t, postgrestest.Connect(t, primary.URL()), insert, "before")
	_, c := storetest.Drain(t, s, cursor.Cursor{}, 100)
	programtest.Until(t, "the cascaded standby catches up", func() bool { _, err := onLast.Since(t.Context(), c, 10); return err == nil })
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, postgrestest.Connect(t, middle.URL()), "SELECT pg_promote()")
	if _, err := onMiddle.Since(t.Context(), c, 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("on the promoted standby: %v", err)
	}
	programtest.Until(t, "the cascaded standby refuses cursors of the old timeline", func() bool {
		_, err := onLast.Since(t.Context(), c, 10)
		return errors.Is(err, store.ErrExpired)
	})
}

// A copy of the database has the same rows, and a history of its own.
func TestCopyIsAnotherHistory(t *testing.T) {
	t.Parallel()
	server, s := storetest.Cluster(t, nil)
	conn := postgrestest.Connect(t, server.URL())
	storetest.Exec(t, conn, insert, "one")
	_, c := storetest.Drain(t, s, cursor.Cursor{}, 100)
	s.Close()
	conn.Close(t.Context())
	address, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	address.Path = "/template1"
	admin := postgrestest.Connect(t, address.String())
	programtest.Until(t, "nobody uses the database", func() bool {
		_, err := admin.Exec(t.Context(), `CREATE DATABASE copied TEMPLATE `+embedded.Database)
		return err == nil
	})
	address.Path = "/copied"
	copied := storetest.Open(t, store.Config{URL: address.String()})
	if _, err := copied.Since(t.Context(), c, 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("a cursor of the original in the copy: %v", err)
	}
	again := storetest.Open(t, store.Config{URL: server.URL()})
	if got, _ := storetest.Drain(t, again, c, 10); len(got) != 0 {
		t.Fatalf("a cursor of the original there: %q", storetest.Specs(got))
	}
	// The database is replaced by its copy while a reader is connected.
	copied.Close()
	again.Close()
	programtest.Until(t, "nobody uses the database", func() bool {
		_, err := admin.Exec(t.Context(), `ALTER DATABASE `+embedded.Database+` RENAME TO gone`)
		return err == nil
	})
	programtest.Until(t, "nobody uses the copy", func() bool {
		_, err := admin.Exec(t.Context(), `ALTER DATABASE copied RENAME TO `+embedded.Database)
		return err == nil
	})
	replaced := storetest.Open(t, store.Config{URL: server.URL()})
	if _, err := replaced.Since(t.Context(), c, 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("a cursor of the original in the database that took its place: %v", err)
	}
}

// An older state that is put back over the same tables, or the same database,
// is noticed, though epoch, cluster and timeline stay the same.
func TestAnOlderStatePutBack(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	storetest.Exec(t, conn, insert, "kept")
	storetest.Exec(t, conn, `CREATE TEMP TABLE dump AS SELECT * FROM events`)
	_, old := storetest.Drain(t, s, cursor.Cursor{}, 100)
	storetest.Exec(t, conn, insert, "lost 1")
	storetest.Exec(t, conn, insert, "lost 2")
	_, c := storetest.Drain(t, s, old, 100)
	page, err := s.Since(t.Context(), old, 1)
	if err != nil || !page.More {
		t.Fatalf("%+v: %v", page, err)
	}
	// As pg_restore --data-only puts rows and sequences back.
	storetest.Exec(t, conn, `TRUNCATE events`)
	storetest.Exec(t, conn, `INSERT INTO events OVERRIDING SYSTEM VALUE SELECT * FROM dump`)
	storetest.Exec(t, conn, `SELECT setval(pg_get_serial_sequence('events', 'id'), (SELECT max(id) FROM events))`)
	storetest.Exec(t, conn, insert, "other 1")
	storetest.Exec(t, conn, insert, "other 2")
	for name, c := range map[string]cursor.Cursor{"at rest": c, "between two pages": page.Cursor} {
		if _, err := s.Since(t.Context(), c, 10); !errors.Is(err, store.ErrExpired) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, _ := storetest.Drain(t, s, old, 10); storetest.Specs(got) != "other 1 other 2" {
		t.Errorf("a cursor of before both: %q", storetest.Specs(got))
	}
	// As pg_restore --clean does: the tables are made anew.
	_, c = storetest.Drain(t, s, old, 10)
	storetest.Exec(t, conn, `CREATE TABLE made_anew (LIKE events INCLUDING ALL)`)
	storetest.Exec(t, conn, `INSERT INTO made_anew OVERRIDING SYSTEM VALUE SELECT * FROM events`)
	storetest.Exec(t, conn, `DROP TABLE events`)
	storetest.Exec(t, conn, `ALTER TABLE made_anew RENAME TO events`)
	if _, err := s.Since(t.Context(), c, 10); !errors.Is(err, store.ErrExpired) {
		t.Errorf("the table was made anew: %v", err)
	}
}

// The setting that allows two-phase commit can change after a migration. Then
// nobody is refused, and a repeated migration makes inserts notify again.
func TestTwoPhaseIsAllowedLater(t *testing.T) {
	t.Parallel()
	server, _ := storetest.Cluster(t, nil) // PostgreSQL forbids it by default
	config := store.Config{URL: server.URL()}
	const insert = "INSERT INTO events (kind, session) VALUES ('spec_started', 's')"
	notified := func(migrate bool, statements ...string) bool {
		t.Helper()
		if migrate {
			if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
				t.Fatal(err)
			}
		}
		r, err := storetest.Open(t, config).NewReader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := r.EnableNotify(t.Context()); err != nil {
			t.Fatal(err)
		}
		conn := postgrestest.Connect(t, server.URL())
		defer conn.Close(context.WithoutCancel(t.Context()))
		for _, sql := range statements {
			storetest.Exec(t, conn, sql)
		}
		// What was notified before arrives before the answer.
		if _, _, err := r.Unchanged(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		notes, err := r.Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return notes > 0
	}
	set := func(prepared string) {
		t.Helper()
		conn := postgrestest.Connect(t, server.URL())
		storetest.Exec(t, conn, "ALTER SYSTEM SET max_prepared_transactions = "+prepared)
		conn.Close(context.WithoutCancel(t.Context()))
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !notified(false, insert) {
		t.Error("no notification without two-phase commit")
	}
	set("5")
	if notified(false, "BEGIN", insert, "PREPARE TRANSACTION 'p'", "COMMIT PREPARED 'p'", insert) {
		t.Error("a notification before the migration")
	}
	if !notified(true, "BEGIN", insert, "PREPARE TRANSACTION 'p'", "COMMIT PREPARED 'p'", insert) {
		t.Error("no notification with two-phase commit")
	}
	set("0")
	if !notified(false, insert) || !notified(true, insert) {
		t.Error("no notification after two-phase commit was forbidden")
	}
}

// A writer that uses two-phase commit is not refused, whether or not a reader
// asks for notifications; a plain commit notifies.
func TestTwoPhaseWhileAReaderListens(t *testing.T) {
	t.Parallel()
	server, s := storetest.Cluster(t, map[string]string{"max_prepared_transactions": "5"})
	r, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Hearing() != store.BySome {
		t.Fatalf("hearing %d", r.Hearing())
	}
	if _, err := r.EnableNotify(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := postgrestest.Connect(t, server.URL())
	const one = "INSERT INTO events (kind, session, data) VALUES ('spec_started', 's', '\"; COMMIT\"')"
	run := func(statements []string, extended bool) {
		t.Helper()
		for _, sql := range statements {
			if extended {
				storetest.Exec(t, conn, sql)
			} else if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
				t.Fatalf("%q: %s: %v", statements, sql, err)
			}
		}
	}
	for _, statements := range [][]string{
		{"BEGIN", one, "PREPARE TRANSACTION 'p'"},
		{"BEGIN", one, "PREPARE /*x*/ TRANSACTION 'p'"},
		{"BEGIN", one, "/* COMMIT */ PREPARE -- x\n TRANSACTION 'p'"},
		{"BEGIN", "SET CONSTRAINTS ALL IMMEDIATE", one, "PREPARE TRANSACTION 'p'"},
		{"BEGIN", "SET /*x*/ CONSTRAINTS ALL IMMEDIATE", one, one, "PREPARE TRANSACTION 'p'"},
		{"BEGIN", one, "SET /*x*/ CONSTRAINTS ALL IMMEDIATE", "PREPARE TRANSACTION 'p'"},
		{"BEGIN; " + one + "; PREPARE TRANSACTION 'p'"},
		{"BEGIN; " + one, "PREPARE TRANSACTION 'p'"},
		{"BEGIN; SET /*x*/ CONSTRAINTS ALL IMMEDIATE; " + one, "PREPARE TRANSACTION 'p'"},
		{"START TRANSACTION; SET CONSTRAINTS ALL IMMEDIATE; " + one + "; PREPARE /* /* x */ */ TRANSACTION 'p'"},
		{"BEGIN", "COMMIT AND CHAIN; SET CONSTRAINTS ALL IMMEDIATE; " + one, "PREPARE TRANSACTION 'p'"},
	} {
		if _, _, err := r.Unchanged(t.Context()); err != nil { // the server ends idle sessions of readers
			t.Fatal(err)
		}
		run(statements, false)
		storetest.Exec(t, conn, "COMMIT PREPARED 'p'")
		if !strings.Contains(strings.ReplaceAll(strings.Join(statements, ""), one, ""), ";") {
			run(statements, true)
			storetest.Exec(t, conn, "COMMIT PREPARED 'p'")
		}
	}
	for _, statements := range [][]string{
		{one},
		{"BEGIN", one, "COMMIT"},
		{"BEGIN", one, one, "END"},
		{"BEGIN", one, " commit work /*x*/ "},
	} {
		for _, extended := range []bool{false, true} {
			run(statements, extended)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if notes, err := r.Wait(ctx); notes == 0 || err != nil {
				t.Fatalf("%q, by the extended protocol %t: %d notifications, %v", statements, extended, notes, err)
			}
			cancel()
		}
	}
}

// What commits while pages are turned has been given when a page says for the
// first time that there is no more.
func TestNoMoreMeansNothingIsMissing(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	_, c := storetest.Drain(t, s, cursor.Cursor{}, 10)
	for i := range 20 {
		storetest.Exec(t, conn, insert, fmt.Sprint(i))
	}
	byCursor, err := s.Since(t.Context(), c, 5)
	if err != nil {
		t.Fatal(err)
	}
	byTime, err := s.SinceLast(t.Context(), 20, 5)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		storetest.Exec(t, conn, insert, fmt.Sprint("meanwhile ", i))
	}
	for name, page := range map[string]store.Page{"by cursor": byCursor, "by time": byTime} {
		if got, _ := storetest.Drain(t, s, page.Cursor, 5); len(got) != 18 {
			t.Errorf("%s: %d of 18 events when there was no more", name, len(got))
		}
	}
}

// A session that holds the advisory lock exclusively stops no reader and no writer.
func TestALockThatIsHeldStopsNobody(t *testing.T) {
	t.Parallel()
	s, conn, config := storetest.New(t)
	hog := postgrestest.Connect(t, config.URL)
	storetest.Exec(t, hog, `SELECT pg_advisory_lock(bell) FROM specwatch_meta`)
	r, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.EnableNotify(t.Context()); !errors.Is(err, store.ErrHeld) {
		t.Fatalf("%v", err)
	}
	storetest.Exec(t, conn, insert, "written all the same")
	if page, err := r.Since(t.Context(), cursor.Cursor{}, 10); err != nil || storetest.Specs(page.Events) != "written all the same" {
		t.Fatalf("%+v: %v", page, err)
	}
}

// A reader that is frozen or cut off loses the advisory lock: the server ends
// its session.
func TestASilentReaderGivesUpTheLock(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	r, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.EnableNotify(t.Context()); err != nil {
		t.Fatal(err)
	}
	held := func() (held bool) {
		if err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks l, specwatch_meta m WHERE l.locktype = 'advisory'
			AND ((l.classid::bigint << 32) | l.objid::bigint) = m.bell)`).Scan(&held); err != nil {
			t.Fatal(err)
		}
		return held
	}
	if !held() {
		t.Fatal("the reader does not hold the lock")
	}
	var version int
	if err := conn.QueryRow(t.Context(), `SELECT current_setting('server_version_num')::int`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	if version < 140000 {
		t.Skip("idle_session_timeout came with PostgreSQL 14; on 13 only TCP's own limits apply")
	}
	programtest.Until(t, "the session of a silent reader ends", func() bool { return !held() })
}

// No row that PostgreSQL accepts stops the delivery of the others.
func TestNoRowStopsTheOthers(t *testing.T) {
	t.Parallel()
	s, conn, config := storetest.New(t)
	storetest.Exec(t, conn, insert, "before")
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, data) VALUES ('spec_failed', 's', 'deep', (repeat('[', 6000) || repeat(']', 6000))::jsonb)`)
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, data) VALUES ('spec_failed', 's', 'strings are no levels', to_jsonb(repeat('[{\"', 2000)))`)
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, data) VALUES ('spec_failed', 's', 'number', '[1e1000, 1e-1000, 123456789012345678901234567890]')`)
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, data) VALUES ('claude.cost', E'\x01\u202e<b>', E'\n', '{"__proto__": 1, "toJSON": {}}')`)
	// What a table without its rules can hold.
	storetest.Exec(t, conn, `ALTER TABLE events DROP CONSTRAINT specwatch_at, DROP CONSTRAINT specwatch_kind, DROP CONSTRAINT specwatch_session, DROP CONSTRAINT specwatch_spec, DROP CONSTRAINT specwatch_data, ALTER session DROP NOT NULL, ALTER kind DROP NOT NULL, ALTER at DROP NOT NULL, ALTER spec DROP NOT NULL, ALTER data DROP NOT NULL`)
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, data, at) VALUES (NULL, NULL, NULL, NULL, 'infinity'), ('odd', '', 'x', 'null', '-infinity'), ('odd', 's', 'x', '1', '294000-01-01'), ('odd', 's', 'x', '"x"', '4000-01-01 BC')`)
	// For readers they have the same time, the last or the first; so they come in
	// the order of their ids, which is not that of the times in the table.
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, at) SELECT 'odd', 's', 'x', at::timestamptz FROM unnest(array['infinity', '294000-01-01', '294001-01-01', '3999-01-01 BC', '4000-01-01 BC', '-infinity']) WITH ORDINALITY e (at, n) ORDER BY n`)
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, at, stored, data)
		SELECT kind, session, spec, at, stored, data FROM
			unnest(array[NULL, 'spec_started', 'spec_failed', 'intervention_request', 'intervention_answered', 'session_heartbeat', 'a.b']) kind,
			unnest(array[NULL, 's']) session, unnest(array[NULL, 'x']) spec, unnest(array[NULL, 'infinity', now() - interval '1 minute']) at,
			unnest(array[NULL, 'infinity', '-infinity', '4713-01-01 BC']::timestamptz[]) stored,
			LATERAL (SELECT CASE WHEN stored IS NOT NULL THEN '{"usage": {"inputTokens": -1e400, "outputTokens": 1e400, "costUsd": -1e-400}, "reason": "usage limit"}'::jsonb END) e (data)`)
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, stored, data) SELECT 'session_heartbeat', 's', stored, '{"silentSeconds": 1e400, "cpuSeconds": -1e400}' FROM unnest(array['infinity', '-infinity', now()]::timestamptz[]) stored`)
	storetest.Exec(t, conn, insert, "after")
	var rows int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM events`).Scan(&rows); err != nil {
		t.Fatal(err)
	}
	whole := func(name string, got []event.Event) {
		t.Helper()
		if len(got) != rows {
			t.Errorf("%s: %d of %d events", name, len(got), rows)
		}
		for _, e := range got {
			text, err := e.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := event.Decode([]byte(`{"kind":"spec_started","session":"s","data":` + string(text) + `}`)); err != nil {
				t.Errorf("%s: %.80s cannot be read: %v", name, text, err)
			}
		}
	}
	for _, limit := range []int{1, 3, 100, 10_000} {
		nothing := cursor.Cursor{Epoch: storetest.Here(t, s).Epoch, From: cursor.Nothing(), To: cursor.Nothing()}
		got, c := storetest.Drain(t, s, nothing, limit)
		whole(fmt.Sprint("by cursor, in pages of ", limit), got)
		if again, _ := storetest.Drain(t, s, c, limit); len(again) != 0 {
			t.Errorf("again: %q", storetest.Specs(again))
		}
		page, err := s.SinceLast(t.Context(), 100_000, limit)
		if err != nil {
			t.Fatal(err)
		}
		got = page.Events
		for n := 0; page.More; n++ {
			if page, err = s.Since(t.Context(), page.Cursor, limit); err != nil || n > 2*rows {
				t.Fatalf("page %d: %v", n, err)
			}
			got = append(got, page.Events...)
		}
		whole(fmt.Sprint("by time, in pages of ", limit), got)
		seen := map[int64]bool{}
		for _, e := range got {
			if seen[e.ID] {
				t.Errorf("by time, in pages of %d: event %d twice", limit, e.ID)
			}
			seen[e.ID] = true
		}
	}
	r, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if page, err := r.Here(t.Context()); err != nil || len(page.Events) > 0 || page.More {
		t.Errorf("here: %d events, more %t, %v", len(page.Events), page.More, err)
	}
	f := questions.Filter{From: time.Now().Add(-time.Hour), To: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), Limit: 100}
	// answers has what every reader answers; those of the rollups are the same
	// without them.
	answers := func(when string) map[string]any {
		t.Helper()
		found := map[string]any{}
		keep := func(name string, err error, answer ...any) {
			t.Helper()
			if err != nil {
				t.Errorf("%s, %s: %v", name, when, err)
			}
			found[name] = answer
		}
		ctx, ask := t.Context(), questions.To(s)
		keep("ready", storetest.Open(t, config).Ready(ctx))
		_, err := s.SinceTime(ctx, f.From, 10)
		keep("by time", err)
		_, err = r.Since(ctx, cursor.Cursor{}, 10)
		keep("reader", err)
		st, err := storetest.State(t, s)
		keep("load", err, st.Totals)
		_, err = ask.StateOf(ctx, []string{"", "s"})
		keep("sessions by name", err)
		_, err = ask.Range(ctx, f)
		keep("range", err)
		for _, step := range []time.Duration{0, time.Second, time.Hour, 24 * time.Hour} {
			counts, err := ask.Counts(ctx, f, step)
			keep(fmt.Sprint("counts by ", step), err, counts)
		}
		total, err := ask.Total(ctx, f)
		keep("total", err, total)
		outcomes, err := ask.Outcomes(ctx, f)
		keep("outcomes", err, outcomes)
		_, err = ask.Durations(ctx, f)
		keep("durations", err)
		changes, specs, err := ask.Timeline(ctx, f)
		keep("timeline", err, changes, specs)
		names, n, err := ask.Sessions(ctx, f, "")
		keep("sessions", err, names, n)
		names, n, err = ask.Specs(ctx, f, "")
		keep("specs", err, names, n)
		_, _, err = ask.Usage(ctx, f)
		keep("usage", err)
		_, err = ask.UsageOver(ctx, f, time.Hour)
		keep("usage over time", err)
		_, _, err = ask.SpecHistories(ctx, f)
		keep("spec histories", err)
		_, err = ask.Askings(ctx, f)
		keep("askings", err)
		_, _, err = ask.Nights(ctx, f, time.UTC)
		keep("nights", err)
		for name, conditions := range map[string]func(context.Context, questions.Filter) ([]questions.Condition, error){
			"timed out": ask.TimedOut, "waiting": ask.Waiting, "silent": ask.HeartbeatAge, "idle": ask.Idle, "failing": ask.Failing,
		} {
			_, err := conditions(ctx, f)
			keep(name, err)
		}
		var ids []int64
		if err := conn.QueryRow(ctx, `SELECT coalesce(array_agg(id), '{}') FROM events WHERE kind = 'intervention_request' AND session IS NULL`).Scan(&ids); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			_, _, err := s.Request(ctx, id)
			keep("request", err)
		}
		return found
	}
	compare := func(when string) {
		t.Helper()
		with := answers(when)
		var seen string
		if err := conn.QueryRow(t.Context(), `SELECT coalesce(seen::text, '') FROM specwatch_rollup`).Scan(&seen); err != nil || seen == "" {
			t.Fatalf("%s: rolled up to %q, %v", when, seen, err)
		}
		storetest.Exec(t, conn, `UPDATE specwatch_rollup SET seen = NULL`)
		for name, want := range answers(when + ", without rollups") {
			if !reflect.DeepEqual(with[name], want) {
				t.Errorf("%s, %s:\n%v, not\n%v", name, when, with[name], want)
			}
		}
		storetest.Exec(t, conn, `UPDATE specwatch_rollup SET seen = $1::text::pg_snapshot`, seen)
	}
	if err := maintenance.RollUpAll(t.Context(), s, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	compare("rolled up")
	if n, err := maintenance.Prune(t.Context(), s, time.Now().Add(-30*time.Second), nil); err != nil || n == 0 {
		t.Fatalf("%d pruned: %v", n, err)
	}
	compare("pruned")
	storetest.Exec(t, conn, `DELETE FROM events WHERE at IS NULL OR kind IS NULL OR session IS NULL OR at = 'infinity'`)
	compare("rows deleted")
}

// A read whose session is ended while it waits for a lock is made again, and
// if that goes on, the connection is what is missing.
func TestAnEndedReadIsMadeAgain(t *testing.T) {
	t.Parallel()
	s, conn, config := storetest.New(t)
	storetest.Exec(t, conn, insert, "one")
	ender := postgrestest.Connect(t, config.URL)
	// end ends the session that waits for the events table, if there is one.
	end := func() bool {
		var ended bool
		if err := ender.QueryRow(t.Context(), `SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) FROM pg_locks WHERE relation = 'events'::regclass AND NOT granted`).Scan(&ended); err != nil {
			t.Fatal(err)
		}
		return ended
	}
	r, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, c := range map[string]struct {
		read    func() (store.Page, error)
		once    bool
		problem string
	}{
		"once":       {func() (store.Page, error) { return s.SinceLast(context.Background(), 1, 10) }, true, ""},
		"each time":  {func() (store.Page, error) { return s.SinceLast(context.Background(), 1, 10) }, false, store.NoConnection},
		"the reader": {func() (store.Page, error) { return r.Since(context.Background(), cursor.Cursor{}, 10) }, false, store.NoConnection},
	} {
		storetest.Exec(t, conn, `BEGIN`)
		storetest.Exec(t, conn, `LOCK TABLE events`)
		done := make(chan error, 1)
		go func() {
			_, err := c.read()
			done <- err
		}()
		programtest.Until(t, name+": it waits for the lock", end)
		if c.once {
			storetest.Exec(t, conn, `COMMIT`)
		}
		var err error
		programtest.Until(t, name+": it is answered", func() bool {
			select {
			case err = <-done:
				return true
			default:
				if !c.once {
					end()
				}
				return false
			}
		})
		if !c.once {
			storetest.Exec(t, conn, `COMMIT`)
		}
		var problem *store.Problem
		if c.problem == "" && err != nil || c.problem != "" && (!errors.As(err, &problem) || problem.Code != c.problem) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Writers that wait for a lock hold up no reader, and not each other for ever.
func TestWaitingWritersDelayNoReader(t *testing.T) {
	t.Parallel()
	s, conn, config := storetest.New(t)
	storetest.Exec(t, conn, "BEGIN")
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, key) VALUES ('spec_started', 's', 'K')`)
	refusals := make(chan error, 8)
	for range cap(refusals) {
		go func() {
			_, err := s.Append(context.Background(), []event.Event{{Kind: event.SpecStarted, Session: "s", Key: "K"}})
			refusals <- err
		}()
	}
	begin := time.Now()
	for range 20 {
		if _, err := s.Since(t.Context(), cursor.Cursor{}, 10); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took > 9*time.Second { // writers give up after ten
		t.Errorf("20 reads beside waiting writers took %s", took)
	}
	for range cap(refusals) {
		var problem *store.Problem
		if err := <-refusals; !errors.As(err, &problem) || problem.Code != store.Busy {
			t.Errorf("a writer that waited: %v", err)
		}
	}
	storetest.Exec(t, conn, "COMMIT")
	if receipt, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s", Key: "K"}}); err != nil || receipt.Known != 1 {
		t.Errorf("afterwards: %+v, %v", receipt, err)
	}
	var waiting int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%events (kind%' AND position($1 IN query) > 0`, config.Schema).Scan(&waiting); err != nil || waiting > 0 {
		t.Errorf("%d statements wait on in the server: %v", waiting, err)
	}
}

// A connection that was lost while it lay idle costs no answer.
func TestLostConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	server, s := storetest.Cluster(t, nil)
	for range 3 {
		var reads []chan error
		for range 4 {
			done := make(chan error, 1)
			reads = append(reads, done)
			go func() { _, err := s.Since(context.Background(), cursor.Cursor{}, 10); done <- err }()
		}
		for _, done := range reads {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Since(t.Context(), cursor.Cursor{}, 10); err != nil {
			t.Fatalf("after a restart: %v", err)
		}
		if _, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}}); err != nil {
			t.Fatalf("writing after a restart: %v", err)
		}
	}
}

// A user who may have few connections waits for one instead of failing.
func TestFewConnections(t *testing.T) {
	t.Parallel()
	_, conn, config := storetest.New(t)
	role := fmt.Sprintf("specwatch_few_%d", time.Now().UnixNano())
	storetest.Exec(t, conn, `CREATE ROLE `+role+` LOGIN PASSWORD 'p' CONNECTION LIMIT 2`)
	t.Cleanup(func() { conn.Exec(context.Background(), `DROP ROLE `+role) })
	storetest.Exec(t, conn, `GRANT specwatch_reader TO `+role)
	address, err := url.Parse(config.URL)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword(role, "p")
	config.URL = address.String()
	config.MaxConns = 8
	s := storetest.Open(t, config)
	done := make(chan error, 8)
	for range cap(done) {
		go func() {
			for range 5 {
				if _, err := s.Since(context.Background(), cursor.Cursor{}, 10); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	s.Close()
}

// The pools may hold all connections that a user may have, idle: a reader gets
// one of them.
func TestAReaderGetsAConnectionOfThePools(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	if _, err := schema.Migrate(t.Context(), store.Config{URL: server.URL()}, nil); err != nil {
		t.Fatal(err)
	}
	conn := postgrestest.Connect(t, server.URL())
	storetest.Exec(t, conn, "CREATE ROLE few LOGIN PASSWORD 'p' CONNECTION LIMIT 2")
	storetest.Exec(t, conn, "GRANT specwatch_reader, specwatch_writer TO few")
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("few", "p")
	s := storetest.Open(t, store.Config{URL: u.String()})
	held := func() (n int) {
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = 'few'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	// Two reads that wait for a lock hold both.
	lock := postgrestest.Connect(t, server.URL())
	storetest.Exec(t, lock, "BEGIN")
	storetest.Exec(t, lock, "LOCK TABLE events")
	var reading sync.WaitGroup
	for range 2 {
		reading.Go(func() {
			if _, err := s.Since(context.Background(), cursor.Cursor{}, 1); err != nil {
				t.Error(err)
			}
		})
	}
	programtest.Until(t, "both connections are in use", func() bool { return held() == 2 })
	storetest.Exec(t, lock, "COMMIT")
	reading.Wait()
	r, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := s.Since(t.Context(), cursor.Cursor{}, 1); err != nil {
		t.Error(err)
	}
}

// Writes that wait for a key which another transaction holds leave connections
// to reads and to writes that can be done, and are done once the transaction
// has ended: also where both share a few connections.
func TestWaitingWritesHoldNoConnection(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	if _, err := schema.Migrate(t.Context(), store.Config{URL: server.URL()}, nil); err != nil {
		t.Fatal(err)
	}
	conn := postgrestest.Connect(t, server.URL())
	for role, limit := range map[string]int{"many": 100, "few": 2} {
		storetest.Exec(t, conn, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'p' CONNECTION LIMIT %d", role, limit))
		storetest.Exec(t, conn, "GRANT specwatch_reader, specwatch_writer TO "+role)
		t.Run(role, func(t *testing.T) {
			u, err := url.Parse(server.URL())
			if err != nil {
				t.Fatal(err)
			}
			u.User = url.UserPassword(role, "p")
			s := storetest.Open(t, store.Config{URL: u.String()})
			holder := postgrestest.Connect(t, server.URL())
			storetest.Exec(t, holder, "BEGIN")
			storetest.Exec(t, holder, `INSERT INTO events (kind, session, key) VALUES ('spec_started', 's', '`+role+`')`)
			done := make(chan error, 16)
			began := time.Now()
			for range cap(done) {
				go func() {
					_, err := s.Append(context.Background(), []event.Event{{Kind: event.SpecStarted, Session: "s", Key: role}})
					done <- err
				}()
			}
			programtest.Until(t, "a write waits", func() bool {
				var n int
				if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'", role).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n > 0
			})
			// A write waits for ten seconds at most: on a busy machine the others are
			// fewer, so that those that wait can still be done.
			for i := 0; i == 0 || i < 20 && time.Since(began) < 4*time.Second; i++ {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // half of what a write may wait
				_, err := s.Append(ctx, []event.Event{{Kind: event.SpecStarted, Session: "s"}})
				if err == nil {
					_, err = s.Since(ctx, cursor.Cursor{}, 1)
				}
				cancel()
				if err != nil {
					t.Fatalf("%d: %v", i, err)
				}
			}
			storetest.Exec(t, holder, "COMMIT")
			for range cap(done) {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			var n int
			if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM events WHERE key = $1", role).Scan(&n); err != nil || n != 1 {
				t.Errorf("%d events, %v", n, err)
			}
		})
	}
}
