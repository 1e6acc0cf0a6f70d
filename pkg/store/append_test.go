package store_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/storetest"
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

// Once rows are written, a lost connection makes nothing run again: events
// without a key would be stored twice.
func TestLostAfterWriting(t *testing.T) {
	t.Parallel()
	s, _, config := storetest.New(t)
	known := event.Event{Kind: event.SpecStarted, Session: "s", Key: "known"}
	if _, err := s.Append(t.Context(), []event.Event{known}); err != nil {
		t.Fatal(err)
	}
	lost := &cut{Conn: postgrestest.Connect(t, config.URL)}
	if _, err := s.InsertOn(t.Context(), lost, []event.Event{{Kind: event.SpecStarted, Session: "s"}, known}); err == nil || pgconn.SafeToRetry(err) {
		t.Errorf("to be run again: %v", err)
	}
	page, err := s.SinceLast(t.Context(), 10, 10)
	if err != nil || len(page.Events) != 2 {
		t.Errorf("%d events, %v", len(page.Events), err)
	}
}
