package schema_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
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

func TestMigrateTwiceAndAtOnce(t *testing.T) {
	t.Parallel()
	address, name := postgrestest.Schema(t)
	config := store.Config{URL: address, Schema: name + "_new"}
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), address)
		if err == nil {
			conn.Exec(context.Background(), `DROP SCHEMA IF EXISTS "`+name+`_new" CASCADE`)
			conn.Close(context.Background())
		}
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := schema.Migrate(context.Background(), config, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	report, err := schema.Migrate(t.Context(), config, nil)
	if err != nil || report.Applied != 0 || report.Version != 7 || report.Schema != config.Schema {
		t.Fatalf("%+v: %v", report, err)
	}
	if err := storetest.Open(t, config).Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestMigrateLeavesAnotherEventsTable(t *testing.T) {
	t.Parallel()
	address, name := postgrestest.Schema(t)
	storetest.Exec(t, postgrestest.Connect(t, address), `CREATE TABLE events (title text)`)
	if _, err := schema.Migrate(t.Context(), store.Config{URL: address, Schema: name}, nil); err == nil || !strings.Contains(err.Error(), "specwatch mirror "+name+".events") {
		t.Errorf("somebody else's events table: %v", err)
	}
}

// A lock that an earlier version left on a pooler's connection makes a
// migration wait, but not without a word.
func TestMigrateSaysWhomItWaitsFor(t *testing.T) {
	t.Parallel()
	server, _ := storetest.Cluster(t, nil)
	hog := postgrestest.Connect(t, server.URL())
	storetest.Exec(t, hog, "SELECT pg_advisory_lock($1)", int64(0x5350454357))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var said string
	_, err := schema.Migrate(ctx, store.Config{URL: server.URL()}, func(note string) {
		said = note
		cancel()
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(said, fmt.Sprint("process ", hog.PgConn().PID())) || !strings.Contains(said, "pg_terminate_backend") {
		t.Fatalf("%q: %v", said, err)
	}
}

// A migration that waits for transactions which use the events table says whose
// they are, and writers go on meanwhile.
func TestMigrateSaysWhichTransactionsItWaitsFor(t *testing.T) {
	t.Parallel()
	server, s := storetest.Cluster(t, map[string]string{"max_prepared_transactions": "5"})
	config := store.Config{URL: server.URL()}
	admin := postgrestest.Connect(t, server.URL())
	storetest.Exec(t, admin, `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 's', 'before')`)
	hog := postgrestest.Connect(t, server.URL())
	const noIndexes = `DROP INDEX specwatch_events_session, specwatch_events_timeline; DELETE FROM specwatch_migrations WHERE version_id > 4;`
	const noRollups = noIndexes + `DROP TRIGGER specwatch_take_out ON events; DROP TRIGGER specwatch_changed ON events; DROP TRIGGER specwatch_restored ON events;
		DROP TABLE specwatch_rollup, specwatch_counts, specwatch_names, specwatch_overview;
		DROP FUNCTION specwatch_finite, specwatch_roll_up, specwatch_take_out, specwatch_void_rollups; DELETE FROM specwatch_migrations WHERE version_id > 3`
	process := fmt.Sprint("process ", hog.PgConn().PID())
	write := `INSERT INTO events (kind, session) VALUES ('spec_started', 's')`
	for _, c := range []struct{ name, undo, hold, release, says string }{
		{"triggers, a writer", noRollups, `BEGIN; ` + write, `COMMIT`, process},
		{"triggers, a prepared transaction", noRollups, `BEGIN; ` + write + `; PREPARE TRANSACTION 'held'`, `COMMIT PREPARED 'held'`, "prepared transaction 'held'"},
		{"indexes, a writer", noIndexes, `BEGIN; ` + write, `COMMIT`, process},
		{"indexes, a prepared transaction", noIndexes, `BEGIN; ` + write + `; PREPARE TRANSACTION 'held'`, `COMMIT PREPARED 'held'`, "prepared transaction 'held'"},
		{"indexes, a reader", noIndexes, `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM events`, `COMMIT`, process},
		{"indexes of an empty table, a writer", noIndexes + `TRUNCATE events`, `BEGIN; ` + write, `COMMIT`, process},
	} {
		for _, step := range []struct {
			conn *pgx.Conn
			sql  string
		}{{admin, c.undo}, {hog, c.hold}} {
			if _, err := step.conn.PgConn().Exec(t.Context(), step.sql).ReadAll(); err != nil {
				t.Fatalf("%s: %s: %v", c.name, step.sql, err)
			}
		}
		said, done := make(chan string, 100), make(chan error, 1)
		go func() {
			_, err := schema.Migrate(context.Background(), config, func(note string) { said <- note })
			done <- err
		}()
		select {
		case note := <-said:
			if !strings.Contains(note, c.says) {
				t.Errorf("%s: %q", c.name, note)
			}
		case err := <-done:
			t.Fatalf("%s: ended without a word: %v", c.name, err)
		case <-time.After(time.Minute):
			t.Errorf("%s: waits without a word", c.name)
		}
		begin := time.Now()
		for range 10 {
			if _, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}}); err != nil {
				t.Errorf("%s: a writer meanwhile: %v", c.name, err)
			}
		}
		if took := time.Since(begin); took > 20*time.Second { // each may wait for one attempt of 0.2 s, and one that is not let through fails
			t.Errorf("%s: ten inserts took %s meanwhile", c.name, took)
		}
		storetest.Exec(t, hog, c.release)
		if err := <-done; err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
}

// The database holds the rules of pkg/event for writers that use SQL.
func TestConstraintsFollowTheLimits(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	for _, kind := range event.Kinds {
		storetest.Exec(t, conn, `INSERT INTO events (kind, session) VALUES ($1, 's')`, string(kind))
	}
	name := strings.Repeat("é", event.MaxNameBytes/2)
	data := `"` + strings.Repeat("x", event.MaxDataBytes-2) + `"`
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, key, data, at) VALUES ('spec_started', $1, $1, $1, $2::text::jsonb, now() + $3::interval)`, name, data, event.MaxAhead)
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
	if got, _ := storetest.Drain(t, s, cursor.Cursor{}, 100); len(got) != len(event.Kinds)+1 {
		t.Errorf("%d events", len(got))
	}
}
