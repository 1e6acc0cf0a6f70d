package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
)

// Condition is something that a person may want to be woken for, as the end
// of a range found it. It is judged by the events of the range alone, so what
// came about before the range, or was put right within it, is none.
type Condition struct {
	Session, Spec string
	Since         time.Time     // when it came about
	Age           time.Duration // how long it has lasted: to the end of the range, or until now where that is sooner
	Events        int64         // how many events make it up
}

// latest is the last event of each spec in the range, of the given kinds.
func latest(kinds string) string {
	return `SELECT DISTINCT ON (session, spec) id, session, spec, kind, at FROM @.events
		WHERE at BETWEEN $1 AND $2 AND kind IN (` + kinds + `) AND ` + named + `
		ORDER BY session, spec, at DESC, id DESC`
}

const (
	ends   = `'spec_completed', 'spec_failed', 'timeout_triggered'`
	bounds = `'spec_started', ` + ends
)

// TimedOut returns the specs whose last start or end is a timeout, the newest
// first, at most f.Limit. Kinds in the filter do not count, here and below.
func (s *Store) TimedOut(ctx context.Context, f Filter) ([]Condition, error) {
	return s.conditions(ctx, f, `SELECT session, spec, at AS since, 1 AS n FROM (`+latest(bounds)+`) e WHERE kind = 'timeout_triggered'`)
}

var waiting = `
		SELECT r.session, r.spec, min(r.at) AS since, count(*) AS n
		FROM (SELECT id, at, session, spec FROM @.events WHERE at BETWEEN $1 AND $2 AND kind = 'intervention_request' AND ` + named + `) r
		LEFT JOIN (` + latest(bounds) + `) bound ON bound.session = r.session AND bound.spec = r.spec
		WHERE (bound.at, bound.id) > (r.at, r.id) IS NOT TRUE AND NOT EXISTS (
		    SELECT FROM @.events a
		    WHERE a.at BETWEEN $1 AND $2 AND a.kind = 'intervention_answered' AND a.session = r.session
		      AND CASE WHEN jsonb_typeof(a.data -> 'request') IN ('number', 'string') THEN a.data ->> 'request' = r.id::text
		               ELSE a.spec = r.spec AND (a.at, a.id) > (r.at, r.id) END)
		GROUP BY 1, 2`

// Waiting returns the specs with intervention requests that nothing has
// answered, neither an answer nor a later start or end of the spec, since the
// oldest of them, the newest first, at most f.Limit.
func (s *Store) Waiting(ctx context.Context, f Filter) ([]Condition, error) {
	return s.conditions(ctx, f, waiting)
}

// tellsWork is true of a heartbeat that tells of work, and workSQL says when it
// was heard and what work it tells of, as the summary reads it. Times are the
// writer's, or those of storing, whichever is earlier.
const tellsWork = `kind = 'session_heartbeat' AND (jsonb_typeof(data -> 'silentSeconds') = 'number' OR jsonb_typeof(data -> 'doing') = 'string')`

var workSQL = fmt.Sprintf(`least(at, stored) AS heard, least(at, stored) - CASE
	    WHEN jsonb_typeof(data -> 'doing') = 'string' THEN interval '0'
	    WHEN jsonb_typeof(data -> 'cpuSeconds') = 'number' AND (data ->> 'cpuSeconds')::numeric >= %g THEN interval '0'
	    WHEN jsonb_typeof(data -> 'silentSeconds') = 'number' THEN make_interval(secs => round(least(greatest((data ->> 'silentSeconds')::numeric, 0), %.0f), 6)::float8)
	    ELSE interval '0' END AS worked`, state.BusyCPU, state.MaxSilence)

// clocks says by how much the clock of a session's writers is wrong, where it is.
var clocks = `
		    SELECT session, ahead FROM (
		        SELECT DISTINCT ON (session) session, at - stored AS ahead,
		               max(stored) FILTER (WHERE kind = 'session_heartbeat') OVER s - min(stored) FILTER (WHERE kind = 'session_heartbeat') OVER s AS span
		        FROM @.events
		        WHERE at BETWEEN $1 AND $2 AND kind <> 'intervention_answered' AND stored IS NOT NULL AND (cardinality($4::text[]) = 0 OR session = ANY($4))
		        WINDOW s AS (PARTITION BY session)
		        ORDER BY session, abs(extract(epoch FROM at - stored)), at - stored
		    ) nearest WHERE abs(extract(epoch FROM ahead)) BETWEEN ` + fmt.Sprintf("%d AND %d AND (ahead > '0' OR span >= '%d seconds')",
	int(state.ClockOff.Seconds()), int(state.ClockMost.Seconds()), int(state.ClockSpan.Seconds())) + `
`

// Silent returns the sessions with specs that have not ended, with the spec
// that started last, since the last heartbeat. A start is a sign of life, too:
// a session that paused between two specs was not silent, and one that died
// before its first heartbeat is silent since then. Times are corrected by the
// difference between the writer's clock and the database's.
func (s *Store) Silent(ctx context.Context, f Filter) ([]Condition, error) {
	return s.conditions(ctx, f, `
		SELECT session, spec, greatest(opened.at - coalesce(ahead, '0'), heard.at - least(coalesce(ahead, '0'), '0')) AS since, 1 AS n FROM (
		    SELECT DISTINCT ON (session) session, spec, at FROM (`+latest(bounds)+`) e
		    WHERE kind = 'spec_started' ORDER BY session, at DESC, id DESC
		) opened LEFT JOIN (
		    SELECT session, max(least(at, stored)) AS at FROM @.events
		    WHERE at BETWEEN $1 AND $2 AND kind = 'session_heartbeat' AND (cardinality($4::text[]) = 0 OR session = ANY($4))
		    GROUP BY 1
		) heard USING (session) LEFT JOIN (
`+clocks+`		) clocks USING (session)`)
}

// Idle returns the specs that run and do not wait for a person, of those whose
// heartbeats tell of their work at the end of the range, since their last sign
// of work. It is as state.Open has it.
func (s *Store) Idle(ctx context.Context, f Filter) ([]Condition, error) {
	const ofSession = `at BETWEEN $1 AND $2 AND (cardinality($4::text[]) = 0 OR session = ANY($4))`
	return s.conditions(ctx, f, `
		SELECT session, spec, greatest(last.at - coalesce(ahead, '0'), max(worked) - least(coalesce(ahead, '0'), '0')) AS since, 1 AS n
		FROM (SELECT session, coalesce(spec, '') AS spec FROM (`+latest(bounds)+`) e WHERE kind = 'spec_started') open
		JOIN (
		    SELECT session, coalesce(spec, '') AS spec, max(at) AS at FROM @.events
		    WHERE at BETWEEN $1 AND $2 AND kind <> 'session_heartbeat' AND `+named+` GROUP BY 1, 2
		) last USING (session, spec)
		JOIN (
		    -- A heartbeat without a spec speaks for all of them.
		    SELECT session, coalesce(spec, '') AS told, max(heard) AS heard, max(worked) AS worked FROM (
		        SELECT session, spec, `+workSQL+` FROM @.events WHERE `+ofSession+` AND `+tellsWork+`
		    ) e GROUP BY 1, 2
		) beats USING (session)
		LEFT JOIN (`+clocks+`) clocks USING (session)
		WHERE told IN (spec, '') AND NOT EXISTS (SELECT FROM (`+waiting+`) w WHERE w.session = open.session AND coalesce(w.spec, '') IN (open.spec, ''))
		GROUP BY session, spec, last.at, ahead
		HAVING max(heard) - least(coalesce(ahead, '0'), '0') >= least($2, now()) - interval '`+fmt.Sprint(state.Awake.Seconds())+` seconds'`)
}

// limitSQL is true of the end of a spec by a limit of usage, which is no
// failure.
const limitSQL = `(e.kind = 'spec_failed' AND e.data ->> 'reason' = '` + event.LimitReason + `')`

// Failing returns the sessions whose last spec failed or timed out, with the
// number of such ends in a row, and with the spec and the moment that the row
// began with: those stay the same while it grows.
func (s *Store) Failing(ctx context.Context, f Filter) ([]Condition, error) {
	return s.conditions(ctx, f, `
		SELECT session, (array_agg(spec ORDER BY at, id))[1] AS spec, min(at) AS since, count(*) AS n FROM (
		    SELECT id, session, spec, at, count(*) FILTER (WHERE kind = 'spec_completed') OVER (PARTITION BY session ORDER BY at DESC, id DESC) AS completed
		    FROM @.events e WHERE at BETWEEN $1 AND $2 AND kind IN (`+ends+`) AND `+named+` AND `+limitSQL+` IS NOT TRUE
		) e WHERE completed = 0 GROUP BY session`)
}

// conditions runs a query that gives session, spec, since and n.
func (s *Store) conditions(ctx context.Context, f Filter, sql string) ([]Condition, error) {
	f.Kinds = nil
	// The range may end ahead of the database's clock, by which ages go.
	return collect(ctx, s, `
		SELECT coalesce(session, '')::text, coalesce(spec, '')::text, since, least($2, now()), n
		FROM (`+sql+`) found ORDER BY since DESC, session, spec LIMIT $6`, append(f.args(), f.Limit),
		func(row pgx.CollectableRow) (c Condition, err error) {
			var until time.Time
			err = row.Scan(&c.Session, &c.Spec, &c.Since, &until, &c.Events)
			c.Since, c.Age = c.Since.UTC(), max(0, until.Sub(c.Since))
			return c, err
		})
}
