package maintenance_test

import (
	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/storetest"
	"testing"
)

// RollUpAll leaves nothing to roll up, and tells how far it is.
func TestRollUpAll(t *testing.T) {
	t.Parallel()
	s, db, _ := storetest.New(t)
	storetest.Exec(t, db, `INSERT INTO events (kind, session) SELECT 'spec_started', 's' FROM generate_series(1, 1000)`)
	storetest.Exec(t, db, `ANALYZE events`)
	for _, c := range []struct {
		events, all int64
	}{{1000, 1000}, {0, 0}} {
		var added, all int64
		if err := maintenance.RollUpAll(t.Context(), s, func(a, b int64) { added, all = a, b }); err != nil {
			t.Fatal(err)
		}
		if added != c.events || all != c.all {
			t.Errorf("%d of %d events, want %v", added, all, c)
		}
		var counted int64
		if err := db.QueryRow(t.Context(), `SELECT sum(events) FROM specwatch_counts WHERE seconds = 60`).Scan(&counted); err != nil || counted != 1000 {
			t.Errorf("%d events in the rollups, error %v", counted, err)
		}
	}
}
