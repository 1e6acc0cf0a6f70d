package store_test

import (
	"slices"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/store"
)

// Prune tells how far it is: with the rollups, and then with each batch that it
// removes.
func TestPruneTellsItsProgress(t *testing.T) {
	t.Parallel()
	s, db, _ := fresh(t)
	exec(t, db, `INSERT INTO events (kind, at, session) SELECT 'spec_started', now() - interval '2 days', 's' FROM generate_series(1, 25000)`)
	exec(t, db, `INSERT INTO events (kind, session) SELECT 'spec_started', 's' FROM generate_series(1, 1000)`)
	exec(t, db, `ANALYZE events`)
	var told []store.Pruning
	n, err := s.Prune(t.Context(), time.Now().Add(-24*time.Hour), func(p store.Pruning) { told = append(told, p) })
	if err != nil || n != 25_000 {
		t.Fatalf("%d removed, %v", n, err)
	}
	want := []store.Pruning{{26_000, 26_000, 0, 0}, {26_000, 26_000, 0, 25_000}, {26_000, 26_000, 10_000, 25_000}, {26_000, 26_000, 20_000, 25_000}, {26_000, 26_000, 25_000, 25_000}}
	if !slices.Equal(told, want) {
		t.Errorf("told %v, expected %v", told, want)
	}
}
