package questions

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// Filter restricts a query to a time range and to what it lists; an empty list
// means all.
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

// named is the condition of a Filter without its time range, over the
// parameters of Filter.args. The kind "other" means all custom ones. A list of
// one session is compared as one name: then the index on (session, at, id)
// returns the rows in order.
const (
	named     = namedKind + ` AND ` + namedSpec
	namedKind = `(cardinality($3::text[]) = 0 OR kind = ANY($3) OR 'other' = ANY($3) AND position('.' IN kind) > 0)`
	namedSpec = `(cardinality($4::text[]) = 0 OR cardinality($4) = 1 AND session = ($4)[1] OR cardinality($4) > 1 AND session = ANY($4)) AND (cardinality($5::text[]) = 0 OR spec = ANY($5))`
)

// Range returns the newest events of the range, newest first, at most
// f.Limit. It names e.at, the column: at alone would be the expression of
// store.ColumnsSQL, by which no index is ordered.
func (q Questions) Range(ctx context.Context, f Filter) ([]event.Event, error) {
	return store.Collect(ctx, q.store, `
		SELECT `+store.ColumnsSQL+`
		FROM @.events e WHERE at BETWEEN $1 AND $2 AND `+named+`
		ORDER BY e.at DESC, e.id DESC LIMIT $6`, append(f.args(), f.Limit),
		func(row pgx.CollectableRow) (e event.Event, err error) {
			var data string
			var stored *time.Time
			err = row.Scan(&e.ID, &e.Kind, &e.At, &e.Session, &e.Spec, &data, nil, &stored)
			e.At, e.Data = e.At.UTC(), event.Readable(data)
			if stored != nil {
				e.Stored = stored.UTC()
			}
			return e, err
		})
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
	Limited   Outcome = "usage limit"
	Abandoned Outcome = "abandoned" // started again before it ended
	Silent    Outcome = "silent"    // not ended, and its session does not run
)

// Limit is used as the kind of an event that ends a spec by a usage limit,
// which does not count as a failure.
const Limit = event.Kind(event.LimitReason)

// boundSQL is the kind, or Limit, of an event e that starts or ends a spec.
const boundSQL = `CASE WHEN ` + limitSQL + ` THEN '` + string(Limit) + `' ELSE e.kind::text END`

// outcomes has the outcome of an attempt for the kind of event that ended it.
var outcomes = map[event.Kind]Outcome{event.SpecCompleted: Completed, event.SpecFailed: Failed, event.TimeoutTriggered: TimedOut, Limit: Limited, event.SpecStarted: Abandoned}

// OutcomeOf returns the outcome of an attempt that an event of this kind ends;
// "" if it ends none.
func OutcomeOf(kind event.Kind) Outcome { return outcomes[kind] }

// Durations returns the attempts that started in the range, newest first, at
// most f.Limit. They may end after the range. f.Kinds is ignored.
func (q Questions) Durations(ctx context.Context, f Filter) ([]Attempt, error) {
	f.Kinds = nil
	return store.Collect(ctx, q.store, `
		SELECT coalesce(s.session, '')::text, coalesce(s.spec, '')::text, s.at, n.at, n.kind
		FROM (SELECT id, session, spec, at FROM @.events WHERE at BETWEEN $1 AND $2 AND kind = 'spec_started' AND `+named+` ORDER BY at DESC, id DESC LIMIT $6) s
		LEFT JOIN LATERAL (
		    SELECT `+store.AtSQL+` AS at, `+boundSQL+` AS kind FROM @.events e
		    WHERE e.session = s.session AND e.spec = s.spec AND e.kind IN (`+bounds+`) AND e.kind IN (`+told+`) AND (e.at, e.id) > (s.at, s.id)
		    ORDER BY e.at, e.id LIMIT 1
		) n ON true
		ORDER BY s.at DESC, s.id DESC`, append(f.args(), f.Limit),
		func(row pgx.CollectableRow) (a Attempt, err error) {
			var next *event.Kind
			err = row.Scan(&a.Session, &a.Spec, &a.Started, &a.Ended, &next)
			a.Started = a.Started.UTC()
			if next == nil {
				a.Outcome = Running
			} else if a.Outcome = OutcomeOf(*next); a.Outcome == Abandoned {
				a.Ended = nil
			} else {
				*a.Ended = a.Ended.UTC()
			}
			return a, err
		})
}

// Change is an event that may change what a timeline shows of a spec.
type Change struct {
	ID            int64
	Session, Spec string
	At            time.Time
	Kind          event.Kind // or Limit
	Request       int64      // of an answer: the request that it names; 0: none
}

// told lists the kinds that change what a timeline shows. The index
// specwatch_events_timeline has the same condition.
const told = bounds + `, 'intervention_request', 'intervention_answered'`

// Timeline returns the starts, ends, requests and answers of the range, oldest
// first. For a spec that was open or waiting when the range began it also
// returns the latest event of each kind before it, up to state.Horizon back. If
// there are more than f.Limit specs, it returns those that changed last; specs
// counts all of them. f.Kinds is ignored.
func (q Questions) Timeline(ctx context.Context, f Filter) (changes []Change, specs int64, err error) {
	f.Kinds = nil
	const ofSpec = `FROM @.events e WHERE e.session = s.session AND e.spec = s.spec AND e.kind IN (` + told + `) AND `
	const before = `e.at < $1 AND e.at >= $1::timestamptz - $6::interval`
	const wasOpen = `coalesce((SELECT e.kind ` + ofSpec + before + ` AND e.kind <> 'intervention_answered' ORDER BY e.at DESC, e.id DESC LIMIT 1) IN ('spec_started', 'intervention_request'), false)`
	changes, err = rolled(ctx, q.store, func(tx pgx.Tx, seen string) (found []Change, err error) {
		args := append(f.args(), state.Horizon, f.Limit)
		// The specs that changed, and when they last did.
		changed := `SELECT session, spec, max(at) AS changed FROM @.events WHERE session IS NOT NULL AND spec IS NOT NULL AND at <= $2 AND at >= $1::timestamptz - $6::interval AND kind IN (` + told + `) AND ` + named + ` GROUP BY 1, 2`
		if seen != "" {
			args = append(args, seen)
			changed = `SELECT session, spec, max(changed) AS changed FROM (
				    SELECT session, spec, changed FROM @.specwatch_names WHERE first <= $2 AND changed >= $1::timestamptz - $6::interval
				    UNION ALL
				    SELECT session, spec, at FROM (` + unseenSQL("session, spec, at, kind", "$8") + `) e WHERE at <= $2 AND at >= $1::timestamptz - $6::interval AND kind IN (` + told + `)
				) e WHERE session IS NOT NULL AND spec IS NOT NULL AND cardinality($3::text[]) = 0 AND ` + namedSpec + ` GROUP BY 1, 2`
		}
		return store.RowsOf(ctx, q.store, tx, `
			WITH changed AS (`+changed+`), touched AS (
			    SELECT s.session, s.spec, CASE WHEN s.changed <= $2 THEN s.changed ELSE (SELECT e.at `+ofSpec+`e.at <= $2 AND e.at >= $1::timestamptz - $6::interval ORDER BY e.at DESC, e.id DESC LIMIT 1) END AS at
			    FROM changed s
			), latest AS MATERIALIZED (
			    SELECT session, spec, count(*) OVER () AS specs FROM touched s WHERE CASE WHEN at < $1 THEN `+wasOpen+` ELSE at IS NOT NULL END
			    ORDER BY at DESC, session, spec LIMIT $7
			)
			SELECT e.id::bigint, s.session, s.spec, `+store.AtSQL+`, `+boundSQL+`,
			       coalesce(CASE WHEN e.kind = 'intervention_answered' AND e.data ->> 'request' ~ '^[0-9]{1,18}$' THEN e.data ->> 'request' END::bigint, 0), s.specs
			FROM (SELECT *, `+wasOpen+` AS was_open FROM latest s) s, LATERAL (
			    SELECT e.id, e.at, e.kind, e.data `+ofSpec+`e.at BETWEEN $1 AND $2
			    UNION ALL
			    (SELECT DISTINCT ON (e.kind) e.id, e.at, e.kind, e.data `+ofSpec+before+` AND s.was_open ORDER BY e.kind, e.at DESC, e.id DESC)
			) e ORDER BY e.at, e.id`, args, func(row pgx.CollectableRow) (c Change, err error) {
			err = row.Scan(&c.ID, &c.Session, &c.Spec, &c.At, &c.Kind, &c.Request, &specs)
			c.At = c.At.UTC()
			return c, err
		})
	})
	return changes, specs, err
}

// maxNames bounds the lists for the menus of a user interface.
const maxNames = 1_000

// Sessions lists the sessions of the range whose names contain text, in any
// case, by their latest event, newest first, at most 1,000 of the total.
func (q Questions) Sessions(ctx context.Context, f Filter, text string) (names []string, total int64, err error) {
	return q.names(ctx, f, "session", text)
}

// Specs lists the specs of the range whose names contain text, in any case, by
// their latest event, newest first, at most 1,000 of the total.
func (q Questions) Specs(ctx context.Context, f Filter, text string) (names []string, total int64, err error) {
	return q.names(ctx, f, "spec", text)
}

// names costs time in proportion to the number of sessions and specs or, if the
// filter has kinds, to the number of events in the range.
func (q Questions) names(ctx context.Context, f Filter, column, text string) (names []string, total int64, err error) {
	wanted := `session IS NOT NULL AND spec IS NOT NULL AND ` + column + ` <> '' AND position(lower($7) IN lower(` + column + `)) > 0 AND `
	names, err = rolled(ctx, q.store, func(tx pgx.Tx, seen string) ([]string, error) {
		args := append(f.args(), maxNames, text)
		heard := `SELECT session, spec, at FROM @.events WHERE at BETWEEN $1 AND $2 AND ` + wanted + named
		if seen != "" && len(f.Kinds) == 0 {
			args = append(args, seen)
			heard = `
				SELECT session, spec, CASE WHEN last <= $2 THEN last ELSE (
				    SELECT e.at FROM @.events e WHERE e.session = n.session AND e.spec = n.spec AND e.at BETWEEN $1 AND $2 ORDER BY e.at DESC LIMIT 1
				) END AS at FROM @.specwatch_names n WHERE first <= $2 AND last >= $1 AND ` + wanted + namedSpec + ` AND cardinality($3::text[]) = 0
				UNION ALL
				SELECT session, spec, at FROM (` + unseenSQL("session, spec, at", "$8") + `) e WHERE at BETWEEN $1 AND $2 AND ` + wanted + namedSpec
		}
		return store.RowsOf(ctx, q.store, tx, `SELECT `+column+`::text, count(*) OVER () FROM (`+heard+`) e WHERE at IS NOT NULL GROUP BY 1 ORDER BY max(at) DESC, 1 LIMIT $6`, args, func(row pgx.CollectableRow) (name string, err error) {
			err = row.Scan(&name, &total)
			return name, err
		})
	})
	return names, total, err
}
