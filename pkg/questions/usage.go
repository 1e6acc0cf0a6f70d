package questions

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// usageSQL sums the usage of events, as state.UsageIn reads it: the input
// tokens, those of them from a cache, the output tokens, and the cost.
var usageSQL = func() string {
	// A JSON number may be too large or too small for float8, on both sides of 0,
	// so it is limited as numeric first.
	count := func(unit float64, names ...string) string {
		var sum []string
		for _, name := range names {
			sum = append(sum, fmt.Sprintf(`CASE WHEN jsonb_typeof(data -> 'usage' -> '%[1]s') = 'number' THEN
			    round(least(round(least(greatest((data -> 'usage' ->> '%[1]s')::numeric, 0), %[2]d), 30)::float8 * %[3]g, %[2]d)::float8)::bigint ELSE 0 END`,
				name, int64(state.MaxUsage), unit))
		}
		return fmt.Sprintf(`least(sum(least(%s, %[2]d)), %[2]d)::bigint`, strings.Join(sum, " + "), int64(state.MaxUsage))
	}
	return strings.Join([]string{
		count(1, "inputTokens", "input_tokens"), count(1, "cachedInputTokens", "cached_input_tokens"),
		count(1, "outputTokens", "output_tokens"), count(state.CostUnits, "costUsd", "cost_usd"),
	}, ", ")
}()

// tellsUsage is true for an event that may report usage.
const tellsUsage = `jsonb_typeof(data -> 'usage') = 'object'`

func usageTargets(u *state.Usage) []any {
	return []any{&u.InputTokens, &u.CachedInputTokens, &u.OutputTokens, (*int64)(&u.Cost)}
}

// used sums the usage of each spec and UTC day, over the last UsageDays, of the
// events in a snapshot.
func used(ctx context.Context, s *store.Store, tx pgx.Tx, seen string) ([]state.Used, error) {
	rows, err := tx.Query(ctx, s.SQL(fmt.Sprintf(`
		SELECT coalesce(session, '')::text, coalesce(spec, '')::text, min(%s), %s FROM @.events e
		WHERE at >= now() - interval '%d days' AND (xid IS NULL OR pg_visible_in_snapshot(xid, $1::text::pg_snapshot)) AND %s
		GROUP BY 1, 2, date_trunc('day', at AT TIME ZONE 'UTC')`, store.AtSQL, usageSQL, state.UsageDays, tellsUsage)), seen)
	if err != nil {
		return nil, err
	}
	return collectUsed(rows)
}

func collectUsed(rows pgx.Rows) (all []state.Used, err error) {
	var u state.Used
	_, err = pgx.ForEachRow(rows, append([]any{&u.Session, &u.Spec, &u.At}, usageTargets(&u.Usage)...), func() error {
		all = append(all, u)
		return nil
	})
	return all, err
}

// Usage sums the usage of each spec in the range, the highest cost first, at
// most f.Limit; specs counts all of them. At is the latest event of the sum.
func (q Questions) Usage(ctx context.Context, f Filter) (used []state.Used, specs int64, err error) {
	used, err = store.Collect(ctx, q.store, fmt.Sprintf(`
		SELECT session, spec, at, input, cached, output, cost, count(*) OVER () FROM (
		    SELECT coalesce(session, '')::text, coalesce(spec, '')::text, max(%s), %s
		    FROM @.events e WHERE at BETWEEN $1 AND $2 AND %s AND %s GROUP BY 1, 2
		) e (session, spec, at, input, cached, output, cost)
		ORDER BY cost DESC, input::numeric + output DESC, session, spec LIMIT $6`, store.AtSQL, usageSQL, named, tellsUsage), append(f.args(), f.Limit),
		func(row pgx.CollectableRow) (u state.Used, err error) {
			err = row.Scan(append(append([]any{&u.Session, &u.Spec, &u.At}, usageTargets(&u.Usage)...), &specs)...)
			u.At = u.At.UTC()
			return u, err
		})
	return used, specs, err
}

// UsageOver sums the usage of all specs together, in buckets as those of
// Counts, of a step of at least 1 ms. At is where the bucket begins.
func (q Questions) UsageOver(ctx context.Context, f Filter, step time.Duration) ([]state.Used, error) {
	return store.Collect(ctx, q.store, fmt.Sprintf(`
		SELECT %s AS bucket, %s FROM @.events
		WHERE at BETWEEN $1 AND $2 AND %s AND %s GROUP BY 1 ORDER BY 1`, bucketSQL, usageSQL, named, tellsUsage), append(f.args(), max(step, time.Millisecond).Seconds()),
		func(row pgx.CollectableRow) (u state.Used, err error) {
			err = row.Scan(append([]any{&u.At}, usageTargets(&u.Usage)...)...)
			u.At = u.At.UTC()
			return u, err
		})
}
