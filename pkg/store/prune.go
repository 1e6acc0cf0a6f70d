package store

import (
	"context"
	"time"
)

// pruneBatch bounds how many rows one transaction locks and removes.
const pruneBatch = 10_000

// Prune removes the events that are older than the given time and returns how
// many; their counts are kept. It works in batches, so it may be interrupted
// and repeated. progress, unless nil, hears the running total.
func (s *Store) Prune(ctx context.Context, before time.Time, progress func(total int64)) (int64, error) {
	var total int64
	for {
		var n int64
		err := s.pool.QueryRow(ctx, `
			WITH gone AS (
			    DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < $1 ORDER BY at, id LIMIT $2) RETURNING kind
			), counted AS (
			    SELECT kind, count(*) AS n FROM gone GROUP BY kind ORDER BY kind
			), kept AS (
			    INSERT INTO specwatch_pruned (kind, events) SELECT kind, n FROM counted
			    ON CONFLICT (kind) DO UPDATE SET events = specwatch_pruned.events + excluded.events
			)
			SELECT coalesce(sum(n), 0)::bigint FROM counted`, before, pruneBatch).Scan(&n)
		if err != nil {
			return total, explain(err)
		}
		total += n
		if n == 0 {
			return total, nil
		}
		if progress != nil {
			progress(total)
		}
	}
}
