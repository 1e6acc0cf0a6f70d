package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
)

// Filter narrows a question to a time range and to what it names; an empty
// list means all.
type Filter struct {
	From, To time.Time // both included
	Kinds    []event.Kind
	Sessions []string
	Specs    []string
	Limit    int // rows, where an answer has rows; at least 1
}

func (f Filter) args() []any {
	text := make([]string, len(f.Kinds))
	for i, k := range f.Kinds {
		text[i] = string(k)
	}
	list := func(names []string) []string { return append([]string{}, names...) }
	return []any{f.From, f.To, text, list(f.Sessions), list(f.Specs)}
}

// named is the filter but for its range, over the arguments of Filter.args.
const named = `(cardinality($3::text[]) = 0 OR kind = ANY($3)) AND (cardinality($4::text[]) = 0 OR session = ANY($4)) AND (cardinality($5::text[]) = 0 OR spec = ANY($5))`

// Range returns the newest events of the range, newest first, at most
// f.Limit.
func (s *Store) Range(ctx context.Context, f Filter) ([]event.Event, error) {
	return collect(ctx, s, `
		SELECT id::bigint, kind::text, at, session::text, coalesce(spec, '')::text, coalesce(data::text, '{}')
		FROM events WHERE at BETWEEN $1 AND $2 AND `+named+`
		ORDER BY at DESC, id DESC LIMIT $6`, append(f.args(), f.Limit),
		func(row pgx.CollectableRow) (e event.Event, err error) {
			var data string
			err = row.Scan(&e.ID, &e.Kind, &e.At, &e.Session, &e.Spec, &data)
			e.At, e.Data = e.At.UTC(), json.RawMessage(data)
			return e, err
		})
}

// Count is how many events of a kind fell in the bucket that begins at At.
type Count struct {
	At   time.Time
	Kind event.Kind
	N    int64
}

// Counts returns the events of the range in buckets of the given step, oldest
// first; empty buckets are left out. Buckets are aligned to 1970.
func (s *Store) Counts(ctx context.Context, f Filter, step time.Duration) ([]Count, error) {
	// date_bin would say it better, but PostgreSQL 13 lacks it.
	return collect(ctx, s, `
		SELECT to_timestamp(floor(extract(epoch FROM at)::float8 / $6::float8) * $6::float8) AS bucket, kind::text, count(*)
		FROM events WHERE at BETWEEN $1 AND $2 AND `+named+`
		GROUP BY 1, 2 ORDER BY 1, 2`, append(f.args(), max(step, time.Millisecond).Seconds()),
		func(row pgx.CollectableRow) (c Count, err error) {
			err = row.Scan(&c.At, &c.Kind, &c.N)
			c.At = c.At.UTC()
			return c, err
		})
}

// Outcomes counts what happened to specs in a range.
type Outcomes struct {
	Started, Completed, Failed, TimedOut int64
}

// Outcomes counts starts and ends of specs in the range.
func (s *Store) Outcomes(ctx context.Context, f Filter) (Outcomes, error) {
	found, err := collect(ctx, s, `
		SELECT count(*) FILTER (WHERE kind = 'spec_started'), count(*) FILTER (WHERE kind = 'spec_completed'),
		       count(*) FILTER (WHERE kind = 'spec_failed'), count(*) FILTER (WHERE kind = 'timeout_triggered')
		FROM events WHERE at BETWEEN $1 AND $2 AND `+named, f.args(),
		func(row pgx.CollectableRow) (o Outcomes, err error) {
			err = row.Scan(&o.Started, &o.Completed, &o.Failed, &o.TimedOut)
			return o, err
		})
	if err != nil {
		return Outcomes{}, err
	}
	return found[0], nil
}

// Attempt is one try at a spec, from its start to what ended it.
type Attempt struct {
	Session, Spec string
	Started       time.Time
	Ended         *time.Time // nil: open, or abandoned
	Outcome       Outcome
}

// Outcome of an attempt.
type Outcome string

const (
	Running   Outcome = "running"
	Completed Outcome = "completed"
	Failed    Outcome = "failed"
	TimedOut  Outcome = "timed out"
	Abandoned Outcome = "abandoned" // started again before it ended
	Waiting   Outcome = "waiting"   // asked for a person; on timelines only
)

var outcomes = map[event.Kind]Outcome{
	event.SpecStarted: Running, event.SpecCompleted: Completed, event.SpecFailed: Failed,
	event.TimeoutTriggered: TimedOut, event.InterventionRequest: Waiting,
}

// Durations returns the attempts that started in the range, newest first, at
// most f.Limit. Ends count whenever they came; kinds in the filter do not.
func (s *Store) Durations(ctx context.Context, f Filter) ([]Attempt, error) {
	f.Kinds = nil
	return collect(ctx, s, `
		SELECT session::text, coalesce(spec, '')::text, at, ended, next FROM (
		    SELECT id, session, spec, kind, at, lead(at) OVER w AS ended, lead(kind::text) OVER w AS next
		    FROM events
		    WHERE at >= $1 AND kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered') AND `+named+`
		    WINDOW w AS (PARTITION BY session, spec ORDER BY at, id)
		) e WHERE kind = 'spec_started' AND at <= $2
		ORDER BY at DESC, id DESC LIMIT $6`, append(f.args(), f.Limit),
		func(row pgx.CollectableRow) (a Attempt, err error) {
			var next *event.Kind
			err = row.Scan(&a.Session, &a.Spec, &a.Started, &a.Ended, &next)
			a.Started = a.Started.UTC()
			switch {
			case next == nil:
				a.Outcome = Running
			case *next == event.SpecStarted:
				a.Outcome, a.Ended = Abandoned, nil
			default:
				a.Outcome = outcomes[*next]
				*a.Ended = a.Ended.UTC()
			}
			return a, err
		})
}

// Change is the moment from which a spec is in a new state.
type Change struct {
	Session, Spec string
	At            time.Time
	Outcome       Outcome
}

// Timeline returns the changes of the range, oldest first, preceded for each
// spec by the state in which the range found it, at f.From. Of many specs it
// returns the f.Limit that changed last.
func (s *Store) Timeline(ctx context.Context, f Filter) ([]Change, error) {
	f.Kinds = nil
	const told = `kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered', 'intervention_request')`
	return collect(ctx, s, `
		WITH inside AS (
		    SELECT id, session, spec, kind, at FROM events WHERE at BETWEEN $1 AND $2 AND `+told+` AND `+named+`
		), before AS (
		    SELECT DISTINCT ON (session, spec) id, session, spec, kind, $1::timestamptz AS at FROM events
		    WHERE at < $1 AND at >= $1 - $6::interval AND `+told+` AND `+named+`
		    ORDER BY session, spec, events.at DESC, id DESC
		), changes AS (
		    SELECT * FROM inside UNION ALL SELECT * FROM before WHERE kind IN ('spec_started', 'intervention_request')
		), latest AS (
		    SELECT session, spec FROM changes GROUP BY 1, 2 ORDER BY max(at) DESC, max(id) DESC LIMIT $7
		)
		SELECT session::text, coalesce(spec, '')::text, at, kind::text
		FROM changes JOIN latest USING (session, spec) ORDER BY at, id`, append(f.args(), state.Horizon, f.Limit),
		func(row pgx.CollectableRow) (c Change, err error) {
			var kind event.Kind
			err = row.Scan(&c.Session, &c.Spec, &c.At, &kind)
			c.At, c.Outcome = c.At.UTC(), outcomes[kind]
			return c, err
		})
}

// maxNames bounds the lists that fill a person's menus.
const maxNames = 1_000

// Sessions lists the sessions of the range, last heard first, at most 1,000.
func (s *Store) Sessions(ctx context.Context, f Filter) ([]string, error) {
	return s.names(ctx, f, "session")
}

// Specs lists the specs of the range, last touched first, at most 1,000.
func (s *Store) Specs(ctx context.Context, f Filter) ([]string, error) {
	return s.names(ctx, f, "spec")
}

func (s *Store) names(ctx context.Context, f Filter, column string) ([]string, error) {
	return collect(ctx, s, `
		SELECT `+column+`::text FROM events WHERE at BETWEEN $1 AND $2 AND `+column+` <> '' AND `+named+`
		GROUP BY 1 ORDER BY max(at) DESC, 1 LIMIT $6`, append(f.args(), maxNames), pgx.RowTo[string])
}

func collect[T any](ctx context.Context, s *Store, sql string, args []any, scan pgx.RowToFunc[T]) ([]T, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, explain(err)
	}
	found, err := pgx.CollectRows(rows, scan)
	return found, explain(err)
}
