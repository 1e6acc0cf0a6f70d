// Package postgrestest gives tests a real PostgreSQL.
package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Variable names the server that tests share: a PostgreSQL URL whose user may
// create schemas, roles and databases.
const Variable = "SPECWATCH_TEST_DATABASE_URL"

func shared(t testing.TB) string {
	t.Helper()
	address := os.Getenv(Variable)
	if address == "" {
		t.Fatalf("%s is not set: run `go tool mage test`, or set it to the URL of a PostgreSQL server for tests", Variable)
	}
	return address
}

func name() string { return "test_" + strings.ToLower(rand.Text()[:12]) }

func exec(t testing.TB, address, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	// PostgreSQL gives up after five seconds if sessions of a database have not
	// ended, and breaks a deadlock with a session that is still ending.
	const inUse, deadlock = "55006", "40P01"
	for deadline := time.Now().Add(2 * time.Minute); ; {
		_, err := conn.Exec(context.Background(), sql)
		if err == nil {
			return
		}
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != inUse && refused.Code != deadlock || time.Now().After(deadline) {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// Connect opens a connection, which is closed when the test ends.
func Connect(t testing.TB, address string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// Schema makes an empty schema on the shared server, which is dropped when
// the test ends. The URL's search_path leads to it.
func Schema(t testing.TB) (address, schema string) {
	t.Helper()
	base := shared(t)
	schema = name()
	exec(t, base, "CREATE SCHEMA "+schema)
	t.Cleanup(func() { exec(t, base, "DROP SCHEMA "+schema+" CASCADE") })
	return with(t, base, func(u *url.URL) {
		q := u.Query()
		q.Set("search_path", schema)
		u.RawQuery = q.Encode()
	}), schema
}

// Database makes an empty database on the shared server, which is dropped
// when the test ends.
func Database(t testing.TB) (address string) {
	t.Helper()
	base := shared(t)
	database := name()
	exec(t, base, "CREATE DATABASE "+database)
	t.Cleanup(func() { exec(t, base, "DROP DATABASE "+database+" WITH (FORCE)") })
	return with(t, base, func(u *url.URL) { u.Path = "/" + database })
}

func with(t testing.TB, address string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatalf("%s is not a URL", Variable)
	}
	change(u)
	return u.String()
}
