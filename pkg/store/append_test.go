package store

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/postgrestest"
)

// cut is a connection that is lost before its second statement.
type cut struct {
	*pgx.Conn
	statements int
}

func (c *cut) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if c.statements++; c.statements == 2 {
		c.PgConn().Conn().Close()
	}
	return c.Conn.Query(ctx, sql, args...)
}

// opened is a store of a migrated schema, and the URL of its database.
func opened(t *testing.T) (s *Store, address string) {
	t.Helper()
	address, config := migrated(t)
	s, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, address
}

// migrated is a schema with tables: the URL of its database, and the config.
func migrated(t *testing.T) (address string, config Config) {
	t.Helper()
	address, schema := postgrestest.Schema(t)
	config = Config{URL: address, Schema: schema}
	if _, err := Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	return address, config
}

// Once rows are written, a lost connection makes nothing run again: events
// without a key would be stored twice.
func TestLostAfterWriting(t *testing.T) {
	t.Parallel()
	s, address := opened(t)
	known := event.Event{Kind: event.SpecStarted, Session: "s", Key: "known"}
	if _, err := s.Append(t.Context(), []event.Event{known}); err != nil {
		t.Fatal(err)
	}
	lost := &cut{Conn: postgrestest.Connect(t, address)}
	if _, err := s.insert(t.Context(), lost, lockWait, []event.Event{{Kind: event.SpecStarted, Session: "s"}, known}); err == nil || pgconn.SafeToRetry(err) {
		t.Errorf("to be run again: %v", err)
	}
	page, err := s.SinceLast(t.Context(), 10, 10)
	if err != nil || len(page.Events) != 2 {
		t.Errorf("%d events, %v", len(page.Events), err)
	}
}
