package store_test

import (
	"errors"
	"testing"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// Where the owner of the events may not know the timeline of a standby, a
// reader that moves between it and its primary is told to start again: nothing
// is lost. docs/guarantees.md names the first of the two statements that end that.
func TestStandbyThatHidesItsTimeline(t *testing.T) {
	t.Parallel()
	primary := postgrestest.Cluster(t, nil)
	standby := postgrestest.Standby(t, primary)
	admin := postgrestest.Connect(t, primary.URL())
	owner, as := storetest.Login(t, admin, primary.URL(), "owner")
	storetest.Exec(t, admin, `GRANT CREATE ON SCHEMA public TO `+owner)
	storetest.Exec(t, admin, `REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint(), pg_control_recovery() FROM PUBLIC`)
	if _, err := schema.Migrate(t.Context(), store.Config{URL: as}, nil); err != nil {
		t.Fatal(err)
	}
	writer, reader := storetest.Open(t, store.Config{URL: primary.URL()}), storetest.Open(t, store.Config{URL: standby.URL()})
	programtest.Until(t, "the standby follows", func() bool { return reader.Ready(t.Context()) == nil })
	moves := func(from, to *store.Store) error {
		t.Helper()
		storetest.Exec(t, admin, insert, "before")
		_, c := storetest.Drain(t, from, storetest.Here(t, from), 10)
		storetest.Exec(t, admin, insert, "after")
		_, err := to.Since(t.Context(), c, 10)
		return err
	}
	for _, way := range [][2]*store.Store{{writer, reader}, {reader, writer}} {
		if err := moves(way[0], way[1]); !errors.Is(err, store.ErrExpired) {
			t.Errorf("a reader that moves: %v", err)
		}
	}
	if err := moves(reader, reader); err != nil {
		t.Errorf("a reader that stays on the standby: %v", err)
	}
	for i, statement := range []string{
		`GRANT pg_read_all_stats TO ` + owner,
		`GRANT EXECUTE ON FUNCTION pg_control_checkpoint(), pg_control_recovery() TO ` + owner,
	} {
		storetest.Exec(t, admin, statement)
		programtest.Until(t, "after "+statement, func() bool { return moves(writer, reader) == nil && moves(reader, writer) == nil })
		if i == 0 {
			storetest.Exec(t, admin, `REVOKE pg_read_all_stats FROM `+owner)
			programtest.Until(t, "the right is taken away on the standby, too", func() bool { return errors.Is(moves(writer, reader), store.ErrExpired) })
		}
	}
}
