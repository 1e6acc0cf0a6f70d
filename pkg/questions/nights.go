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

// attempts selects the attempts at specs that started in the range, each with
// what ended it, even after the range.
const attempts = `
	SELECT id, session, spec, at, next,
	       CASE WHEN next <> 'spec_started' THEN extract(epoch FROM ended - at)::float8 END AS took
	FROM (
	    SELECT id, coalesce(session, '')::text AS session, coalesce(spec, '')::text AS spec, kind, ` + store.AtSQL + ` AS at, lead(` + store.AtSQL + `) OVER w AS ended, lead(` + boundSQL + `) OVER w AS next
	    FROM @.events e
	    WHERE at >= $1 AND kind IN (` + bounds + `) AND ` + named + `
	    WINDOW w AS (PARTITION BY session, spec ORDER BY e.at, e.id)
	) e WHERE kind = 'spec_started' AND at <= $2`

// SpecHistory sums up the attempts at one spec, in all sessions.
type SpecHistory struct {
	Spec                                  string
	Attempts, Completed, Failed, TimedOut int64
	Limited                               int64    // ended by a usage limit: counts neither as a failure nor as a change
	Changes                               int64    // how often an attempt completed and the one before did not, or the reverse
	Seconds                               float64  // of all attempts that ended
	Typical                               *float64 // the median of those that completed, in seconds
	Slower                                *float64 // the median of the later half of those over that of the earlier half
	Last                                  Outcome
	LastSession                           string
	LastStarted                           time.Time
}

// fewest is how many completed attempts Slower needs: two in each half.
const fewest = 4

// SpecHistories returns the specs that started in the range, those that failed
// most first, at most f.Limit; total counts all of them. f.Kinds is ignored.
func (q Questions) SpecHistories(ctx context.Context, f Filter) (found []SpecHistory, total int64, err error) {
	f.Kinds = nil
	found, err = store.Collect(ctx, q.store, `
		WITH attempts AS (`+attempts+`), ended AS (
		    SELECT *, next = 'spec_completed' AS well, lag(next = 'spec_completed') OVER (PARTITION BY spec ORDER BY at, id) AS before
		    FROM attempts WHERE took IS NOT NULL AND next <> $8
		), halves AS (
		    SELECT spec, took, ntile(2) OVER (PARTITION BY spec ORDER BY at, id) AS half FROM ended WHERE well
		), pace AS (
		    SELECT spec, count(*) AS n, percentile_cont(0.5) WITHIN GROUP (ORDER BY took) AS typical,
		           percentile_cont(0.5) WITHIN GROUP (ORDER BY took) FILTER (WHERE half = 1) AS early,
		           percentile_cont(0.5) WITHIN GROUP (ORDER BY took) FILTER (WHERE half = 2) AS late
		    FROM halves GROUP BY spec
		), steadiness AS (
		    SELECT spec, count(*) FILTER (WHERE well <> before) AS changes FROM ended GROUP BY spec
		)
		SELECT a.spec, count(*), count(*) FILTER (WHERE next = 'spec_completed'), count(*) FILTER (WHERE next = 'spec_failed') AS failed,
		       count(*) FILTER (WHERE next = 'timeout_triggered') AS timed_out, count(*) FILTER (WHERE next = $8), coalesce(max(st.changes), 0), coalesce(sum(took), 0)::float8,
		       max(p.typical), max(CASE WHEN p.n >= $7 AND p.early > 0 THEN p.late / p.early END),
		       (array_agg(next ORDER BY at DESC, id DESC))[1], (array_agg(session ORDER BY at DESC, id DESC))[1], max(at), count(*) OVER ()
		FROM attempts a LEFT JOIN pace p USING (spec) LEFT JOIN steadiness st USING (spec)
		GROUP BY a.spec
		ORDER BY count(*) FILTER (WHERE next IN ('spec_failed', 'timeout_triggered')) DESC, max(at) DESC, a.spec LIMIT $6`, append(f.args(), f.Limit, fewest, Limit),
		func(row pgx.CollectableRow) (h SpecHistory, err error) {
			var next *event.Kind
			err = row.Scan(&h.Spec, &h.Attempts, &h.Completed, &h.Failed, &h.TimedOut, &h.Limited, &h.Changes, &h.Seconds, &h.Typical, &h.Slower, &next, &h.LastSession, &h.LastStarted, &total)
			h.Last, h.LastStarted = Running, h.LastStarted.UTC()
			if next != nil {
				h.Last = OutcomeOf(*next)
			}
			return h, err
		})
	return found, total, err
}

// Asking is a request for a person and what became of it.
type Asking struct {
	ID                      int64
	At                      time.Time
	Session, Spec, Question string
	End                     Ending
	Answer                  string
	Ended                   *time.Time // nil: it waits
}

// Ending is what became of a request.
type Ending string

const (
	Answered  Ending = "answered"
	Dismissed Ending = "dismissed"
	WentOn    Ending = "went on" // the spec started or ended without an answer
	Waits     Ending = "waits"
)

// patience is for how long after a request its end is searched for. The search
// begins an hour before the range, because the writers' clocks may differ: an
// answer may seem to come before its request.
const patience = `interval '7 days'`

// askings selects the requests of the range, each with what ended it. An answer
// that names its request may come from a clock that is behind, and may name
// another spec or none; one that names no request answers the earlier requests
// of its spec. The window counts number the ends of requests within a spec, so
// that the next one is found by its number, at the same cost however many
// events there are.
const askings = `
	WITH told AS (
	    SELECT id, kind, at, coalesce(session, '')::text AS session, coalesce(spec, '')::text AS spec, data,
	           CASE WHEN kind = 'intervention_answered' AND jsonb_typeof(data -> 'request') IN ('number', 'string') THEN data ->> 'request' END AS request,
	           count(*) FILTER (WHERE kind IN (` + bounds + `)) OVER w AS bound,
	           count(*) FILTER (WHERE kind = 'intervention_answered' AND jsonb_typeof(data -> 'request') IN ('number', 'string') IS NOT TRUE) OVER w AS answer
	    FROM @.events
	    WHERE at BETWEEN $1::timestamptz - interval '1 hour' AND $2::timestamptz + ` + patience + `
	      AND (kind IN ('intervention_request', ` + bounds + `) AND ` + named + ` OR kind = 'intervention_answered' AND (cardinality($4::text[]) = 0 OR session = ANY($4)))
	    WINDOW w AS (PARTITION BY session, spec ORDER BY at, id)
	), ended AS (
	    SELECT r.id, r.at, r.session, r.spec, coalesce(r.data ->> 'question', '') AS question, bound.at AS bound,
	           CASE WHEN named.at <= coalesce(bound.at, r.at + ` + patience + `) THEN named.at END AS named_at, named.data AS named_data,
	           CASE WHEN plain.at <= coalesce(bound.at, r.at + ` + patience + `) THEN plain.at END AS plain_at, plain.data AS plain_data
	    FROM told r
	    LEFT JOIN told bound ON bound.kind IN (` + bounds + `) AND bound.session = r.session AND bound.spec = r.spec AND bound.bound = r.bound + 1 AND bound.at < r.at + ` + patience + `
	    LEFT JOIN told plain ON plain.kind = 'intervention_answered' AND plain.request IS NULL AND plain.session = r.session AND plain.spec = r.spec AND plain.answer = r.answer + 1
	    LEFT JOIN (
	        SELECT DISTINCT ON (session, request) session, request, at, data FROM told WHERE request IS NOT NULL ORDER BY session, request, at, id
	    ) named ON named.session = r.session AND named.request = r.id::text
	    WHERE r.kind = 'intervention_request' AND r.at BETWEEN $1 AND $2
	), answered AS (
	    SELECT id, at, session, spec, question, bound, least(named_at, plain_at) AS answered,
	           CASE WHEN plain_at < named_at OR named_at IS NULL THEN plain_data ELSE named_data END AS data
	    FROM ended
	)
	SELECT id, at, session, spec, question,
	       CASE WHEN answered IS NULL THEN CASE WHEN bound IS NULL THEN 'waits' ELSE 'went on' END
	            WHEN data -> 'dismissed' = 'true' THEN 'dismissed' ELSE 'answered' END AS ending,
	       CASE WHEN answered IS NOT NULL THEN data ->> 'answer' END AS answer, coalesce(answered, bound) AS ended
	FROM answered`

// Askings returns the requests of the range, newest first, at most f.Limit.
func (q Questions) Askings(ctx context.Context, f Filter) ([]Asking, error) {
	f.Kinds = nil
	return store.Collect(ctx, q.store, `
		SELECT id, at, session, spec, question, ending, coalesce(answer, ''), ended FROM (`+askings+`) e ORDER BY at DESC, id DESC LIMIT $6`, append(f.args(), f.Limit),
		func(row pgx.CollectableRow) (a Asking, err error) {
			err = row.Scan(&a.ID, &a.At, &a.Session, &a.Spec, &a.Question, &a.End, &a.Answer, &a.Ended)
			a.At = a.At.UTC()
			return a, err
		})
}

// Night is what happened from one noon to the next.
type Night struct {
	From, To                             time.Time
	Sessions                             int64
	Started, Completed, Failed, TimedOut int64
	Limited                              int64    // ended by a limit of usage, which is no failure
	Asked, Answered                      int64    // requests, and those among them that a person answered or dismissed
	AnswerTime                           *float64 // the median of these, in seconds
	Usage                                state.Usage
	Silence                              *float64 // the longest time between two events of a session, in seconds
	SilentSession                        *string  // that session; nil: no session has two events
	SilentUntil                          *time.Time
}

// Nights returns the nights of the range, the latest first, at most f.Limit;
// total counts those with events. Noon is in the given time zone.
func (q Questions) Nights(ctx context.Context, f Filter, zone *time.Location) (found []Night, total int64, err error) {
	f.Kinds = nil
	const night = `date_trunc('day', (at AT TIME ZONE $7) - interval '12 hours')`
	found, err = store.Collect(ctx, q.store, fmt.Sprintf(`
		WITH told AS (
		    SELECT `+night+` AS night, session, `+boundSQL+` AS kind, at, at - lag(at) OVER (PARTITION BY `+night+`, session ORDER BY at, id) AS gap
		    FROM @.events e WHERE at BETWEEN $1 AND $2 AND `+named+`
		), nights AS (
		    SELECT night, count(DISTINCT session) AS sessions, count(*) FILTER (WHERE kind = 'spec_started') AS started, count(*) FILTER (WHERE kind = 'spec_completed') AS completed,
		           count(*) FILTER (WHERE kind = 'spec_failed') AS failed, count(*) FILTER (WHERE kind = 'timeout_triggered') AS timed_out, count(*) FILTER (WHERE kind = $8) AS limited,
		           count(*) FILTER (WHERE kind = 'intervention_request') AS asked, extract(epoch FROM max(gap))::float8 AS silence
		    FROM told GROUP BY night
		), silent AS (
		    SELECT DISTINCT ON (night) night, coalesce(session, '')::text AS session, at FROM told WHERE gap IS NOT NULL ORDER BY night, gap DESC, at DESC, session
		), asked AS (
		    SELECT `+night+` AS night, count(*) FILTER (WHERE ending IN ('answered', 'dismissed')) AS answered,
		           percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM ended - at)::float8) FILTER (WHERE ending IN ('answered', 'dismissed')) AS took
		    FROM (`+askings+`) e GROUP BY 1
		), spent (night, input, cached, output, cost) AS (
		    SELECT `+night+`, %s FROM @.events WHERE at BETWEEN $1 AND $2 AND `+named+` AND %s GROUP BY 1
		)
		SELECT (night + interval '12 hours') AT TIME ZONE $7, (night + interval '36 hours') AT TIME ZONE $7, sessions, started, completed, failed, timed_out, limited, asked,
		       coalesce(answered, 0), took, silence, silent.session, silent.at, coalesce(input, 0), coalesce(cached, 0), coalesce(output, 0), coalesce(cost, 0), count(*) OVER ()
		FROM nights LEFT JOIN silent USING (night) LEFT JOIN asked USING (night) LEFT JOIN spent USING (night) ORDER BY night DESC LIMIT $6`, usageSQL, tellsUsage), append(f.args(), f.Limit, zone.String(), Limit),
		func(row pgx.CollectableRow) (n Night, err error) {
			targets := []any{&n.From, &n.To, &n.Sessions, &n.Started, &n.Completed, &n.Failed, &n.TimedOut, &n.Limited, &n.Asked, &n.Answered, &n.AnswerTime, &n.Silence, &n.SilentSession, &n.SilentUntil}
			err = row.Scan(append(append(targets, usageTargets(&n.Usage)...), &total)...)
			n.From, n.To = n.From.UTC(), n.To.UTC()
			return n, err
		})
	return found, total, err
}
