package maintenance

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/store"
)

// rollBatch bounds how many events one step adds to the rollups.
const rollBatch = 200_000

// RollUp adds the next events to the rollups, in one step, and returns how
// many; more reports that there are, or may be, others. It does nothing while
// another process does the same. Queries over time are answered from the
// rollups and from the events that they lack, so the answers are right whenever
// this was last called, and slower the longer ago that is. A step takes about a
// second for each 50,000 events. The technique, an aggregate with the snapshot
// that it contains, is that of incremental view maintenance.
func RollUp(ctx context.Context, s *store.Store) (added int64, more bool, err error) {
	rolled, err := store.Writing(ctx, s, func(conn *pgx.Conn) (n *int64, err error) {
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, s.SQL(`SELECT @.specwatch_roll_up($1)`), rollBatch).Scan(&n)
		})
		return n, err
	})
	if err != nil || rolled == nil {
		return 0, false, store.NotAllowed(err)
	}
	return *rolled, *rolled >= rollBatch, nil
}

// RollUpAll adds all events to the rollups. After each step it calls told with
// the number of events added so far and an estimate, from PostgreSQL's
// statistics of the table, of how many there were to add; 0 or less means
// unknown. It adds nothing if the user may not write, or while another process
// does the same.
func RollUpAll(ctx context.Context, s *store.Store, told func(added, all int64)) error {
	all, err := store.Reading(ctx, s, func(conn *pgx.Conn) (n int64, err error) {
		err = conn.QueryRow(ctx, s.SQL(`
			SELECT coalesce((SELECT c.reltuples FROM pg_class c WHERE c.oid = (SELECT e.tableoid FROM @.events e LIMIT 1)), 0)::bigint
				- (SELECT coalesce(sum(d.events), 0) FROM @.specwatch_counts d WHERE d.seconds = 86400)::bigint`)).Scan(&n)
		return n, err
	})
	if err != nil {
		return err
	}
	var added int64
	for more := true; more; {
		var step int64
		if step, more, err = RollUp(ctx, s); errors.Is(err, store.ErrNotAllowed) {
			return nil
		} else if err != nil {
			return err
		}
		added += step
		told(added, all)
	}
	return nil
}
