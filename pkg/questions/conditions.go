package questions

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// Condition is something that an alert may be about, as of the end of a range.
// Only events of the range count: what began before the range, or was resolved
// within it, is not found.
type Condition struct {
	Session, Spec string
	Since         time.Time     // when it began
	Age           time.Duration // from Since to the end of the range or to now, whichever is earlier
	Events        int64         // how many events make it up
}

// latest returns SQL for the last event of each spec in the range, of the given
// kinds.
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
// first, at most f.Limit. f.Kinds is ignored, here and below.
func (q Questions) TimedOut(ctx context.Context, f Filter) ([]Condition, error) {
	return q.conditions(ctx, f, `SELECT session, spec, at AS since, 1 AS n FROM (`+latest(bounds)+`) e WHERE kind = 'timeout_triggered'`)
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

// Waiting returns the specs with open intervention requests: neither an answer
// nor a later start or end of the spec has closed them. Since is the time of
// the oldest. The newest Since comes first; at most f.Limit.
func (q Questions) Waiting(ctx context.Context, f Filter) ([]Condition, error) {
	return q.conditions(ctx, f, waiting)
}

// tellsWork is true for a heartbeat that reports work or a usage limit, and
// tellsLimit for one of the latter. workSQL gives `heard`, the time of the
// heartbeat, and `worked`, the time of the last work that it reports; liftedSQL
// when the limit is lifted, 'infinity' if that is not known. Package state
// reads all of them in the same way. The time of a heartbeat is the writer's or
// when it was stored, whichever is earlier.
const (
	tellsWork  = `kind = 'session_heartbeat' AND (jsonb_typeof(data -> 'silentSeconds') = 'number' OR jsonb_typeof(data -> 'doing') = 'string' OR ` + tellsLimit + `)`
	tellsLimit = `data -> 'limited' = 'true'`
)

var workSQL = fmt.Sprintf(`least(at, stored) AS heard, least(at, stored) - CASE
	    WHEN `+tellsLimit+` THEN interval '%.0f seconds'
	    WHEN jsonb_typeof(data -> 'doing') = 'string' THEN interval '0'
	    WHEN jsonb_typeof(data -> 'cpuSeconds') = 'number' AND (data ->> 'cpuSeconds')::numeric >= %g THEN interval '0'
	    WHEN jsonb_typeof(data -> 'silentSeconds') = 'number' THEN `+secondsSQL("silentSeconds")+`
	    ELSE interval '0' END AS worked`, -state.LimitGrace.Seconds(), state.BusyCPU)

var liftedSQL = `CASE WHEN jsonb_typeof(data -> 'resetsInSeconds') = 'number' THEN least(at, stored) + ` + secondsSQL("resetsInSeconds") + ` ELSE 'infinity' END AS lifted`

// secondsSQL is the interval of a field with seconds.
func secondsSQL(field string) string {
	return fmt.Sprintf(`make_interval(secs => round(least(greatest((data ->> '%s')::numeric, 0), %.0f), 6)::float8)`, field, state.MaxSilence)
}

// clocks selects the sessions whose writer's clock is wrong, and by how much it
// is ahead.
var clocks = `
		    SELECT session, ahead FROM (
		        SELECT DISTINCT ON (session) session, at - stored AS ahead,
		               max(stored) FILTER (WHERE kind = 'session_heartbeat') OVER s - min(stored) FILTER (WHERE kind = 'session_heartbeat') OVER s AS span
		        FROM (
		            SELECT session, kind, ` + store.AtSQL + ` AS at, ` + store.StoredSQL + ` AS stored FROM @.events e
		            WHERE at BETWEEN $1 AND $2 AND kind <> 'intervention_answered' AND stored IS NOT NULL AND (cardinality($4::text[]) = 0 OR session = ANY($4))
		        ) e
		        WINDOW s AS (PARTITION BY session)
		        ORDER BY session, abs(extract(epoch FROM at - stored)), at - stored
		    ) nearest WHERE abs(extract(epoch FROM ahead)) BETWEEN ` + fmt.Sprintf("%d AND %d AND (ahead > '0' OR span >= '%d seconds')",
	int(state.ClockOff.Seconds()), int(state.ClockMost.Seconds()), int(state.ClockSpan.Seconds())) + `
`

// HeartbeatAge returns the sessions with open specs, each with the spec that started
// last. Since is the last heartbeat or that start, whichever is later: a
// session that paused between two specs was not silent, and one that died
// before its first heartbeat is silent since the start. A spec whose own
// heartbeats ended more than state.Awake before the last one of its session is
// returned by itself, since the last of its own. Times are corrected by the
// difference between the writer's clock and the database's.
func (q Questions) HeartbeatAge(ctx context.Context, f Filter) ([]Condition, error) {
	const ofSession = `at BETWEEN $1 AND $2 AND kind = 'session_heartbeat' AND (cardinality($4::text[]) = 0 OR session = ANY($4))`
	return q.conditions(ctx, f, `
		SELECT DISTINCT ON (session, CASE WHEN alone THEN id END) session, spec,
		       CASE WHEN alone THEN own ELSE greatest(started, heard) END AS since, 1 AS n
		FROM (
		    SELECT id, session, spec, started, heard, own, coalesce(own >= started AND own < heard - interval '`+fmt.Sprint(state.Awake.Seconds())+` seconds', false) AS alone FROM (
		        SELECT id, session, spec, at - coalesce(ahead, '0') AS started, heard - behind AS heard, own - behind AS own
		        FROM (`+latest(bounds)+`) e
		        LEFT JOIN (SELECT session, max(least(at, stored)) AS heard FROM @.events WHERE `+ofSession+` GROUP BY 1) beats USING (session)
		        LEFT JOIN (SELECT session AS teller, coalesce(spec, '') AS told, max(least(at, stored)) AS own FROM @.events WHERE `+ofSession+` AND `+tellsWork+` GROUP BY 1, 2) own
		            ON teller = session AND told = coalesce(spec, '')
		        LEFT JOIN (`+clocks+`) clocks USING (session)
		        CROSS JOIN LATERAL (SELECT least(coalesce(ahead, '0'), '0') AS behind) corrected
		        WHERE kind = 'spec_started'
		    ) open
		) told ORDER BY session, CASE WHEN alone THEN id END, started DESC, id DESC`)
}

// Idle returns the open specs that are not silent and wait neither for a person
// nor for the end of a usage limit, of those whose heartbeats report work up to
// the end of the range. Since is the last sign of work, as LastWork of state.Open.
func (q Questions) Idle(ctx context.Context, f Filter) ([]Condition, error) {
	const ofSession = `at BETWEEN $1 AND $2 AND (cardinality($4::text[]) = 0 OR session = ANY($4))`
	const newestLimit = `(array_agg(lifted ORDER BY limited DESC, lifted DESC) FILTER (WHERE limited IS NOT NULL))[1]`
	return q.conditions(ctx, f, `
		SELECT session, spec, least($2, now(), greatest(last, worked, CASE WHEN stopped THEN lifted END)) AS since, 1 AS n FROM (
		    SELECT session, spec, last.at - coalesce(ahead, '0') AS last, max(worked) - behind AS worked, max(heard) - behind AS heard, max(heard) FILTER (WHERE told = spec AND heard - behind >= started - coalesce(ahead, '0')) - behind AS own, `+newestLimit+` - behind AS lifted,
		           max(limited) + interval '`+fmt.Sprint(state.LimitGrace.Seconds())+` seconds' >= max(worked) AND max(limited) - behind >= started - coalesce(ahead, '0') AS stopped
		    FROM (SELECT session, coalesce(spec, '') AS spec, at AS started FROM (`+latest(bounds)+`) e WHERE kind = 'spec_started') open
		    JOIN (
		        SELECT session, coalesce(spec, '') AS spec, max(at) AS at FROM @.events
		        WHERE at BETWEEN $1 AND $2 AND kind <> 'session_heartbeat' AND `+named+` GROUP BY 1, 2
		    ) last USING (session, spec)
		    JOIN (
		        -- A heartbeat without a spec speaks for all of them.
		        SELECT session, coalesce(spec, '') AS told, max(heard) AS heard, max(worked) AS worked, max(limited) AS limited, `+newestLimit+` AS lifted FROM (
		            SELECT session, spec, `+workSQL+`, CASE WHEN `+tellsLimit+` THEN least(at, stored) END AS limited, `+liftedSQL+`
		            FROM @.events WHERE `+ofSession+` AND `+tellsWork+`
		        ) e GROUP BY 1, 2
		    ) beats USING (session)
		    LEFT JOIN (`+clocks+`) clocks USING (session)
		    CROSS JOIN LATERAL (SELECT least(coalesce(ahead, '0'), '0') AS behind) corrected
		    WHERE told IN (spec, '') AND NOT EXISTS (SELECT FROM (`+waiting+`) w WHERE w.session = open.session AND coalesce(w.spec, '') IN (open.spec, ''))
		    GROUP BY session, spec, started, last.at, ahead, behind
		) open WHERE heard >= least($2, now()) - interval '`+fmt.Sprint(state.Awake.Seconds())+` seconds'
		    AND (own < least($2, now()) - interval '`+fmt.Sprint(state.Awake.Seconds())+` seconds') IS NOT TRUE AND (stopped AND lifted > least($2, now())) IS NOT TRUE`)
}

// limitSQL is true for the end of a spec by a usage limit, which does not count
// as a failure.
const limitSQL = `(e.kind = 'spec_failed' AND e.data ->> 'reason' = '` + event.LimitReason + `')`

// Failing returns the sessions whose last spec failed or timed out. Events is
// the number of such ends since the last completion; Spec and Since are those
// of the first, which stay the same while the number grows.
func (q Questions) Failing(ctx context.Context, f Filter) ([]Condition, error) {
	return q.conditions(ctx, f, `
		SELECT session, (array_agg(spec ORDER BY at, id))[1] AS spec, min(at) AS since, count(*) AS n FROM (
		    SELECT id, session, spec, at, count(*) FILTER (WHERE kind = 'spec_completed') OVER (PARTITION BY session ORDER BY at DESC, id DESC) AS completed
		    FROM @.events e WHERE at BETWEEN $1 AND $2 AND kind IN (`+ends+`) AND `+named+` AND `+limitSQL+` IS NOT TRUE
		) e WHERE completed = 0 GROUP BY session`)
}

// conditions runs a query that returns session, spec, since and n.
func (q Questions) conditions(ctx context.Context, f Filter, sql string) ([]Condition, error) {
	f.Kinds = nil
	// Ages are measured by the database's clock, and the range may end after
	// it.
	return store.Collect(ctx, q.store, `
		SELECT coalesce(session, '')::text, coalesce(spec, '')::text, since, least($2, now()), n
		FROM (`+sql+`) found ORDER BY since DESC, session, spec LIMIT $6`, append(f.args(), f.Limit),
		func(row pgx.CollectableRow) (c Condition, err error) {
			var until time.Time
			err = row.Scan(&c.Session, &c.Spec, &c.Since, &until, &c.Events)
			c.Since, c.Age = c.Since.UTC(), max(0, until.Sub(c.Since))
			return c, err
		})
}
