// Package maintenance does what the stored events need from time to time: it
// rolls new ones up, so that questions over time are answered quickly, and
// removes old ones.
package maintenance

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/store"
)

// pruneBatch bounds how many rows one transaction locks and removes.
const pruneBatch = 10_000

// Pruning is the progress of Prune: first of the rollups, then of the removal.
type Pruning struct {
	RolledUp, ToRollUp int64 // events; what there is to roll up is an estimate, 0 or less: unknown
	Removed, ToRemove  int64 // events; both 0 until the removal begins
}

// Prune removes the events that are older than the given time and returns how
// many; their counts are kept. It works in batches, so it may be interrupted
// and repeated. It records the time, so that a cursor whose last row was
// removed stays valid. It first completes the rollups, from which a trigger
// then subtracts what is removed. At the end it runs VACUUM, if this user may,
// so that new events can use the space. progress, unless nil, is called after
// each step, and when the removal begins.
func Prune(ctx context.Context, s *store.Store, before time.Time, progress func(Pruning)) (int64, error) {
	if progress == nil {
		progress = func(Pruning) {}
	}
	var p Pruning
	err := RollUpAll(ctx, s, func(added, all int64) {
		p.RolledUp, p.ToRollUp = added, all
		progress(p)
	})
	if err == nil {
		p.ToRemove, err = prunable(ctx, s, before)
	}
	if err != nil {
		return 0, ownersOnly(ctx, s, err)
	}
	progress(p)
	total, err := remove(ctx, s, before, func(total int64) {
		p.Removed = total
		progress(p)
	})
	if err == nil && total > 0 {
		_, err = store.Writing(ctx, s, func(conn *pgx.Conn) (struct{}, error) {
			// If another session has locked the table, autovacuum does it
			// later.
			_, err := conn.Exec(ctx, s.SQL(`VACUUM (SKIP_LOCKED) @.events`))
			return struct{}{}, err
		})
	}
	return total, err
}

// prunable counts the events that are older than the given time.
func prunable(ctx context.Context, s *store.Store, before time.Time) (int64, error) {
	return store.Reading(ctx, s, func(conn *pgx.Conn) (n int64, err error) {
		err = conn.QueryRow(ctx, s.SQL(`SELECT count(*) FROM @.events WHERE at < $1`), before).Scan(&n)
		return n, err
	})
}

func remove(ctx context.Context, s *store.Store, before time.Time, progress func(total int64)) (total int64, err error) {
	for {
		n, err := store.Writing(ctx, s, func(conn *pgx.Conn) (n int64, err error) {
			err = conn.QueryRow(ctx, s.SQL(`
				WITH gone AS (
				    DELETE FROM @.events WHERE id IN (SELECT id FROM @.events WHERE at < $1 ORDER BY at, id LIMIT $2) RETURNING kind
				), counted AS (
				    SELECT coalesce(kind, '') AS kind, count(*) AS n FROM gone GROUP BY 1 ORDER BY 1
				), noted AS (
				    UPDATE @.specwatch_meta SET pruned_before = greatest(pruned_before, $1), pruned = pruned + (SELECT coalesce(sum(n), 0) FROM counted)
				), kept AS (
				    INSERT INTO @.specwatch_pruned AS p (kind, events) SELECT kind, n FROM counted
				    ON CONFLICT (kind) DO UPDATE SET events = p.events + excluded.events
				)
				SELECT coalesce(sum(n), 0)::bigint FROM counted`), before, pruneBatch).Scan(&n)
			return n, err
		})
		if err != nil {
			return total, ownersOnly(ctx, s, err)
		}
		total += n
		if n == 0 {
			return total, nil
		}
		progress(total)
	}
}

// ownersOnly says, of an error that says that the user may not remove rows, who
// may.
func ownersOnly(ctx context.Context, s *store.Store, err error) error {
	var lacks *store.Problem
	if !errors.As(err, &lacks) || lacks.Code != store.NoRights {
		return err
	}
	owner, unknown := store.Writing(ctx, s, func(conn *pgx.Conn) (name string, err error) {
		err = conn.QueryRow(ctx, s.SQL(`SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = '@.events'::regclass`)).Scan(&name)
		return name, err
	})
	if unknown != nil {
		return err
	}
	user := s.User()
	return store.NewProblem(store.NoRights, err, "only the owner of the events table can remove events, and %s is not; run this as %s, or run as an administrator: GRANT %s TO %s",
		user, owner, pgx.Identifier{owner}.Sanitize(), pgx.Identifier{user}.Sanitize())
}
