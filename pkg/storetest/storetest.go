// Package storetest gives tests a store whose events nothing else uses.
package storetest

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/embedded"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// New is a migrated schema of its own, its store, and a connection for what
// other programs would do by SQL.
func New(t testing.TB) (*store.Store, *pgx.Conn, store.Config) {
	t.Helper()
	address, name := postgrestest.Schema(t)
	config := store.Config{URL: address, Schema: name, MaxConns: 8}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	return Open(t, config), postgrestest.Connect(t, address), config
}

// Cluster is a server of the test's own, with a store over it.
func Cluster(t testing.TB, settings map[string]string) (*embedded.Server, *store.Store) {
	t.Helper()
	server := postgrestest.Cluster(t, settings)
	config := store.Config{URL: server.URL()}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	return server, Open(t, config)
}

// Open opens a store until the test ends.
func Open(t testing.TB, config store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Exec runs a statement on a connection or in a transaction.
func Exec(t testing.TB, conn interface {
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

// State is the state of all that is stored.
func State(t testing.TB, s *store.Store) (state.State, error) {
	t.Helper()
	summary, page, err := questions.To(s).Load(t.Context())
	if err != nil {
		return state.State{}, err
	}
	return summary.State(page.At), nil
}

// Login makes a role that may connect, and the URL to do so.
func Login(t *testing.T, conn *pgx.Conn, address, name string) (role, as string) {
	t.Helper()
	role = fmt.Sprintf("specwatch_%s_%d", name, time.Now().UnixNano())
	Exec(t, conn, `CREATE ROLE `+role+` LOGIN PASSWORD 'not a secret'`)
	t.Cleanup(func() {
		for _, sql := range []string{`DROP OWNED BY ` + role + ` CASCADE`, `DROP ROLE ` + role} {
			if _, err := conn.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "not a secret")
	return role, u.String()
}

// Drain reads on until a page says that there is no more.
func Drain(t testing.TB, s *store.Store, c cursor.Cursor, limit int) ([]event.Event, cursor.Cursor) {
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

// Here is the cursor of a reader that has seen everything.
func Here(t testing.TB, s *store.Store) cursor.Cursor {
	t.Helper()
	page, err := s.SinceTime(t.Context(), time.Now().Add(time.Hour), 1)
	if err != nil {
		t.Fatal(err)
	}
	return page.Cursor
}

// Specs are the specs of events, separated by spaces.
func Specs(events []event.Event) string {
	var names []string
	for _, e := range events {
		names = append(names, e.Spec)
	}
	return strings.Join(names, " ")
}
