package questions

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

// rolled runs f with the snapshot that the rollups contain, in a transaction in
// which f sees rollups and events as of the same moment; "" means that there
// are no rollups.
func rolled[T any](ctx context.Context, s *store.Store, f func(tx pgx.Tx, seen string) (T, error)) (T, error) {
	return store.Reading(ctx, s, func(conn *pgx.Conn) (found T, err error) {
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			seen, err := rolledUp(ctx, s, tx)
			if err != nil {
				return err
			}
			found, err = f(tx, seen)
			return err
		})
		return found, err
	})
}

// rolledUp returns the snapshot that the rollups contain; "" if there are none.
func rolledUp(ctx context.Context, s *store.Store, tx pgx.Tx) (seen string, err error) {
	err = tx.QueryRow(ctx, s.SQL(`SELECT coalesce(max(seen::text), '') FROM @.specwatch_rollup WHERE system_identifier = @.specwatch_system_identifier()`)).Scan(&seen)
	return seen, err
}

// unseenSQL returns SQL for the events that rollups of the snapshot lack. Both
// parts use the index on (xid, id): OFFSET 0 keeps the planner from joining the
// few open transactions with the whole table.
func unseenSQL(columns, snapshot string) string {
	return `SELECT ` + columns + ` FROM @.events e WHERE e.xid IS NOT NULL AND e.xid >= pg_snapshot_xmax(` + snapshot + `::text::pg_snapshot)
		UNION ALL SELECT e.* FROM pg_snapshot_xip(` + snapshot + `::text::pg_snapshot) x, LATERAL (SELECT ` + columns + ` FROM @.events e WHERE e.xid = x AND e.xid IS NOT NULL OFFSET 0) e`
}

// span is a time range, its end excluded, that is counted from rows of
// specwatch_counts of this length; 0: from the events themselves.
type span struct {
	seconds  int64
	from, to time.Time
}

// lengths of the rows of specwatch_counts, in seconds.
var lengths = []int64{86400, 3600, 60}

// cover divides a time range, its end excluded, into spans of the longest rows
// of specwatch_counts, none longer than most seconds, and spans of events at
// its ends.
func cover(from, to time.Time, most int64) []span {
	if !from.Before(to) {
		return nil
	}
	for _, seconds := range lengths {
		if seconds > most {
			continue
		}
		length := time.Duration(seconds) * time.Second
		first, last := from.Truncate(length), to.Truncate(length)
		if first.Before(from) {
			first = first.Add(length)
		}
		if first.Before(last) {
			spans := append(cover(from, first, seconds-1), span{seconds, first, last})
			return append(spans, cover(last, to, seconds-1)...)
		}
	}
	return []span{{0, from, to}}
}

// Count is how many events of a kind fell in the bucket that begins at At.
type Count struct {
	At      time.Time
	Kind    event.Kind
	N       int64
	Limited int64 // of N: ends of a spec by a limit of usage
}

// bucketSQL is where the bucket of an event begins; $6 is the step in seconds,
// 0 for one bucket. PostgreSQL 13 has no date_bin.
const bucketSQL = `CASE WHEN $6::float8 > 0 THEN to_timestamp(floor(extract(epoch FROM at)::float8 / nullif($6::float8, 0)) * $6::float8) ELSE to_timestamp(0) END`

// Counts returns the events of the range in buckets of the given step, oldest
// first; empty buckets are left out. Buckets are aligned to 1970; the step 0
// makes one of the whole range. For steps of whole minutes over all sessions
// and specs, the cost grows with the number of buckets; else with the number of
// events in the range.
func (q Questions) Counts(ctx context.Context, f Filter, step time.Duration) ([]Count, error) {
	args := append(f.args(), step.Seconds())
	scan := func(row pgx.CollectableRow) (c Count, err error) {
		err = row.Scan(&c.At, &c.Kind, &c.N, &c.Limited)
		c.At = c.At.UTC()
		return c, err
	}
	most := int64(0)
	if i := slices.IndexFunc(lengths, func(seconds int64) bool { return step%(time.Duration(seconds)*time.Second) == 0 }); i >= 0 {
		most = lengths[i]
	}
	return rolled(ctx, q.store, func(tx pgx.Tx, seen string) ([]Count, error) {
		sql := `SELECT ` + bucketSQL + ` AS bucket, coalesce(kind, '')::text, count(*), count(*) FILTER (WHERE ` + limitSQL + `) FROM @.events e WHERE at BETWEEN $1 AND $2 AND ` + named + ` GROUP BY 1, 2 ORDER BY 1, 2`
		if seen != "" && most > 0 && len(f.Sessions) == 0 && len(f.Specs) == 0 {
			var seconds []int64
			var from, to []time.Time
			for _, sp := range cover(f.From.Truncate(time.Microsecond), f.To.Truncate(time.Microsecond).Add(time.Microsecond), most) {
				seconds, from, to = append(seconds, sp.seconds), append(from, sp.from), append(to, sp.to)
			}
			args = append(args, seen, seconds, from, to)
			sql = `
				WITH counted AS (
				    SELECT c.at, c.kind, c.events, c.limited FROM unnest($8::int[], $9::timestamptz[], $10::timestamptz[]) s (seconds, lower, upper), LATERAL (
				        SELECT at, kind, events, limited FROM @.specwatch_counts WHERE seconds = s.seconds AND at >= s.lower AND at < s.upper OFFSET 0
				    ) c WHERE s.seconds > 0
				    UNION ALL
				    SELECT e.at, e.kind, 1, (` + limitSQL + `)::int FROM unnest($8::int[], $9::timestamptz[], $10::timestamptz[]) s (seconds, lower, upper), LATERAL (
				        SELECT at, kind, data FROM @.events WHERE at >= s.lower AND at < s.upper AND (xid IS NULL OR pg_visible_in_snapshot(xid, $7::text::pg_snapshot)) OFFSET 0
				    ) e WHERE s.seconds = 0
				    UNION ALL
				    SELECT at, kind, 1, (` + limitSQL + `)::int FROM (` + unseenSQL("at, kind, data", "$7") + `) e WHERE at BETWEEN $1 AND $2
				)
				SELECT ` + bucketSQL + ` AS bucket, coalesce(kind, '')::text, sum(events)::bigint, coalesce(sum(limited), 0)::bigint FROM counted
				WHERE cardinality($4::text[]) + cardinality($5::text[]) = 0 AND ` + namedKind + ` GROUP BY 1, 2 ORDER BY 1, 2`
		}
		return store.RowsOf(ctx, q.store, tx, sql, args, scan)
	})
}

// Total counts the events of the range.
func (q Questions) Total(ctx context.Context, f Filter) (total int64, err error) {
	counts, err := q.Counts(ctx, f, 0)
	for _, c := range counts {
		total += c.N
	}
	return total, err
}

// Outcomes counts what happened to specs in a range.
type Outcomes struct {
	Started, Completed, Failed, TimedOut, Limited int64
}

// Outcomes counts starts and ends of specs in the range.
func (q Questions) Outcomes(ctx context.Context, f Filter) (o Outcomes, err error) {
	counts, err := q.Counts(ctx, f, 0)
	fields := map[event.Kind]*int64{event.SpecStarted: &o.Started, event.SpecCompleted: &o.Completed, event.SpecFailed: &o.Failed, event.TimeoutTriggered: &o.TimedOut}
	for _, c := range counts {
		if n := fields[c.Kind]; n != nil {
			*n += c.N - c.Limited
			o.Limited += c.Limited
		}
	}
	return o, err
}
