// Package storetest gives tests a store whose events nothing else uses.
package storetest

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// New is a migrated schema of its own, its store, and a connection for what
// other programs would do by SQL.
func New(t testing.TB) (*store.Store, *pgx.Conn, store.Config) {
	t.Helper()
	address, schema := postgrestest.Schema(t)
	config := store.Config{URL: address, Schema: schema, MaxConns: 8}
	if _, err := store.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	return Open(t, config), postgrestest.Connect(t, address), config
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
