package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
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
	return `SELECT DISTINCT ON (session, spec) id, session, spec, kind, at FROM events
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

// Waiting returns the intervention requests that no later start or end of
// their spec answered, the newest first, at most f.Limit.
func (s *Store) Waiting(ctx context.Context, f Filter) ([]Condition, error) {
	return s.conditions(ctx, f, `SELECT session, spec, at AS since, 1 AS n FROM (`+latest(bounds+`, 'intervention_request'`)+`) e WHERE kind = 'intervention_request'`)
}

// Silent returns the sessions with open specs, with the spec that started
// last, since the last heartbeat. A start is a sign of life, too: a session
// that paused between two specs was not silent, and one that died before its
// first heartbeat is silent since then.
func (s *Store) Silent(ctx context.Context, f Filter) ([]Condition, error) {
	return s.conditions(ctx, f, `
		SELECT session, spec, greatest(opened.at, heard.at) AS since, 1 AS n FROM (
		    SELECT DISTINCT ON (session) session, spec, at FROM (`+latest(bounds)+`) e
		    WHERE kind = 'spec_started' ORDER BY session, at DESC, id DESC
		) opened LEFT JOIN (
		    SELECT session, max(at) AS at FROM events
		    WHERE at BETWEEN $1 AND $2 AND kind = 'session_heartbeat' AND (cardinality($4::text[]) = 0 OR session = ANY($4))
		    GROUP BY 1
		) heard USING (session)`)
}

// Failing returns the sessions whose last spec failed or timed out, with the
// number of such ends in a row, and with the spec and the moment that the row
// began with: those stay the same while it grows.
func (s *Store) Failing(ctx context.Context, f Filter) ([]Condition, error) {
	return s.conditions(ctx, f, `
		SELECT session, (array_agg(spec ORDER BY at, id))[1] AS spec, min(at) AS since, count(*) AS n FROM (
		    SELECT id, session, spec, at, count(*) FILTER (WHERE kind = 'spec_completed') OVER (PARTITION BY session ORDER BY at DESC, id DESC) AS completed
		    FROM events WHERE at BETWEEN $1 AND $2 AND kind IN (`+ends+`) AND `+named+`
		) e WHERE completed = 0 GROUP BY session`)
}

// conditions runs a query that gives session, spec, since and n.
func (s *Store) conditions(ctx context.Context, f Filter, sql string) ([]Condition, error) {
	f.Kinds = nil
	// The range may end ahead of the database's clock, by which ages go.
	return collect(ctx, s, `
		SELECT session::text, coalesce(spec, '')::text, since, least($2, now()), n
		FROM (`+sql+`) found ORDER BY since DESC, session, spec LIMIT $6`, append(f.args(), f.Limit),
		func(row pgx.CollectableRow) (c Condition, err error) {
			var until time.Time
			err = row.Scan(&c.Session, &c.Spec, &c.Since, &until, &c.Events)
			c.Since, c.Age = c.Since.UTC(), max(0, until.Sub(c.Since))
			return c, err
		})
}
