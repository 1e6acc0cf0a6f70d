package maintenance_test

import (
	"slices"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// Prune tells how far it is: with the rollups, and then with each batch that it
// removes.
func TestPruneTellsItsProgress(t *testing.T) {
	t.Parallel()
	s, db, _ := storetest.New(t)
	storetest.Exec(t, db, `INSERT INTO events (kind, at, session) SELECT 'spec_started', now() - interval '2 days', 's' FROM generate_series(1, 25000)`)
	storetest.Exec(t, db, `INSERT INTO events (kind, session) SELECT 'spec_started', 's' FROM generate_series(1, 1000)`)
	storetest.Exec(t, db, `ANALYZE events`)
	var told []maintenance.Pruning
	n, err := maintenance.Prune(t.Context(), s, time.Now().Add(-24*time.Hour), func(p maintenance.Pruning) { told = append(told, p) })
	if err != nil || n != 25_000 {
		t.Fatalf("%d removed, %v", n, err)
	}
	want := []maintenance.Pruning{{26_000, 26_000, 0, 0}, {26_000, 26_000, 0, 25_000}, {26_000, 26_000, 10_000, 25_000}, {26_000, 26_000, 20_000, 25_000}, {26_000, 26_000, 25_000, 25_000}}
	if !slices.Equal(told, want) {
		t.Errorf("told %v, expected %v", told, want)
	}
}
