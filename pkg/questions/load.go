package questions

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// Load returns a summary of the stored events, as of the cursor of the page. It
// begins with the stored summary if that is recent; else it reads the events of
// the last week.
func (q Questions) Load(ctx context.Context) (*state.Summary, store.Page, error) {
	type loaded struct {
		*state.Summary
		store.Page
	}
	found, err := store.Apart(ctx, q.store, func(conn *pgx.Conn) (l loaded, err error) {
		l.Summary, l.Page, err = kept(ctx, q.store, conn)
		if err == nil && l.Summary == nil {
			l.Summary, l.Page, err = load(ctx, q.store, conn)
		}
		return l, err
	})
	return found.Summary, found.Page, err
}

// load reads, as of one cursor, all that a summary holds: the totals, the
// latest event of each kind in each spec, the work that heartbeats report, the
// latest requests and answers, and the failures since each session's last
// completion.
func load(ctx context.Context, s *store.Store, conn *pgx.Conn) (summary *state.Summary, page store.Page, err error) {
	page, err = s.Here(ctx, conn)
	if err != nil {
		return nil, page, err
	}
	// The transaction below sees more: count only what the cursor has seen.
	seen := page.Cursor.To.String()
	// One snapshot, so that prune moves nothing from the rows to its counts
	// in between.
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		totals, err := totals(ctx, s, tx, seen)
		if err != nil {
			return err
		}
		summary = state.NewSummary(nil)
		rows, err := tx.Query(ctx, s.SQL(summarySQL), seen, page.At.Add(-state.Horizon), state.MaxStreak, state.MaxRequests)
		if err != nil {
			return err
		}
		var e event.Event
		var data string
		var stored *time.Time
		_, err = pgx.ForEachRow(rows, []any{&e.ID, &e.Kind, &e.At, &e.Session, &e.Spec, &data, &stored}, func() error {
			e.Data, e.Stored = event.Readable(data), time.Time{}
			if stored != nil {
				e.Stored = *stored
			}
			summary.Note(e)
			return nil
		})
		summary.SetTotals(totals)
		return err
	})
	return summary, page, err
}

// summarySQL reads the rows of load from the events that the snapshot $1 contains
// and that are not older than $2: the latest $3 failures of a session and $4
// requests of a spec. The spec of a heartbeat is left out, so that one row is
// read for the whole session. The rows of a session come together, because a
// full summary drops whole sessions, and answers after what they answer.
var summarySQL = `
WITH seen AS NOT MATERIALIZED (
    SELECT e.id::bigint, coalesce(e.kind, '')::text AS kind, ` + store.AtSQL + ` AS at, coalesce(e.session, '')::text AS session, CASE WHEN e.kind = 'session_heartbeat' THEN '' ELSE coalesce(e.spec, '') END::text AS spec,
           CASE WHEN e.kind IN ('intervention_request', 'intervention_answered') OR ` + limitSQL + ` THEN coalesce(e.data::text, '{}') ELSE '{}' END AS data, ` + store.StoredSQL + ` AS stored,
           CASE WHEN e.kind = 'intervention_answered' AND jsonb_typeof(e.data -> 'request') IN ('number', 'string') THEN e.data ->> 'request' END AS named
    FROM @.events e WHERE e.at >= $2 AND (xid IS NULL OR pg_visible_in_snapshot(xid, $1::text::pg_snapshot))
), telling AS NOT MATERIALIZED (
    SELECT id, 'session_heartbeat' AS kind, at, session, spec, data::text AS data, stored, ` + workSQL + ` FROM (
        SELECT e.id::bigint, ` + store.AtSQL + ` AS at, coalesce(e.session, '')::text AS session, coalesce(e.spec, '')::text AS spec, e.data, ` + store.StoredSQL + ` AS stored
        FROM @.events e WHERE e.at >= $2 AND (xid IS NULL OR pg_visible_in_snapshot(xid, $1::text::pg_snapshot)) AND ` + tellsWork + `
    ) e
), asked AS MATERIALIZED (
    SELECT * FROM (
        SELECT *, row_number() OVER (PARTITION BY session, spec ORDER BY at DESC, id DESC) AS n FROM seen WHERE kind = 'intervention_request'
    ) e WHERE n <= $4
), answers AS MATERIALIZED (
    SELECT * FROM seen WHERE kind = 'intervention_answered'
)
SELECT id, kind, at, session, spec, data, stored FROM (
(SELECT DISTINCT ON (session, spec, kind) id, kind, at, session, spec, data, stored
 FROM seen WHERE kind NOT IN ('intervention_request', 'intervention_answered') AND position('.' in kind) = 0 ORDER BY session, spec, kind, at DESC, id DESC)
UNION ALL
(SELECT DISTINCT ON (session, spec) id, kind, at, session, spec, data, stored FROM seen WHERE position('.' in kind) > 0 ORDER BY session, spec, least(at, stored) DESC, id DESC)
UNION ALL -- the last heartbeat of each spec that tells of work, and the one that tells of the last work
(SELECT DISTINCT ON (session, spec) id, kind, at, session, spec, data, stored FROM telling ORDER BY session, spec, heard DESC)
UNION ALL
(SELECT DISTINCT ON (session, spec) id, kind, at, session, spec, data, stored FROM telling ORDER BY session, spec, worked DESC)
UNION ALL -- what a session was last heard by, and where its clock is nearest to the database's
(SELECT DISTINCT ON (session, kind = 'session_heartbeat') id, kind, at, session, spec, data, stored FROM seen WHERE kind <> 'intervention_answered' ORDER BY session, kind = 'session_heartbeat', least(at, stored) DESC, id DESC)
UNION ALL
(SELECT DISTINCT ON (session) id, kind, at, session, spec, data, stored FROM seen WHERE kind = 'session_heartbeat' AND stored IS NOT NULL ORDER BY session, stored)
UNION ALL
(SELECT DISTINCT ON (session) id, kind, at, session, spec, data, stored FROM seen WHERE kind = 'session_heartbeat' AND stored IS NOT NULL ORDER BY session, stored DESC)
UNION ALL
(SELECT DISTINCT ON (session) id, kind, at, session, spec, data, stored FROM seen WHERE kind <> 'intervention_answered' AND stored IS NOT NULL ORDER BY session, abs(extract(epoch FROM at - stored)), at - stored)
UNION ALL
(SELECT id, kind, at, session, spec, data, stored FROM asked)
UNION ALL -- the latest answer of each spec, the latest that names no request, and all that name a request which is read
(SELECT DISTINCT ON (session, spec, named IS NULL) id, kind, at, session, spec, data, stored FROM answers ORDER BY session, spec, named IS NULL, at DESC, id DESC)
UNION ALL
(SELECT a.id, a.kind, a.at, a.session, a.spec, a.data, a.stored FROM answers a JOIN asked r ON r.session = a.session AND r.id::text = a.named)
UNION ALL
(SELECT id, kind, at, session, spec, data, stored FROM (
    SELECT *, row_number() OVER newest AS n, count(*) FILTER (WHERE kind = 'spec_completed') OVER newest AS completed
    FROM seen WHERE kind IN ('spec_completed', 'spec_failed', 'timeout_triggered') AND NOT (kind = 'spec_failed' AND data <> '{}')
    WINDOW newest AS (PARTITION BY session ORDER BY at DESC, id DESC)
 ) e WHERE completed = 0 AND n <= $3)
) e ORDER BY session, kind = 'intervention_answered'`

// totals counts the events of a snapshot and those that prune removed, by kind,
// and sums up the usage. Events that were removed before any reader saw them
// count too; their usage does not.
func totals(ctx context.Context, s *store.Store, tx pgx.Tx, seen string) (totals state.Totals, err error) {
	rolled, err := rolledUp(ctx, s, tx)
	if err != nil {
		return totals, err
	}
	args := []any{seen}
	counted := `SELECT kind::text, count(*) AS n FROM @.events WHERE xid IS NULL OR pg_visible_in_snapshot(xid, $1::text::pg_snapshot) GROUP BY 1`
	if rolled != "" {
		// Events that this transaction sees and the snapshot does not contain
		// are subtracted.
		args = append(args, rolled)
		counted = `SELECT kind, events AS n FROM @.specwatch_counts WHERE seconds = 86400
			UNION ALL SELECT kind, 1 FROM (` + unseenSQL("kind", "$2") + `) e
			UNION ALL SELECT kind, -1 FROM (` + unseenSQL("kind", "$1") + `) e`
	}
	rows, err := tx.Query(ctx, s.SQL(`
		SELECT coalesce(kind, ''), sum(n)::bigint FROM (
		    `+counted+`
		    UNION ALL SELECT kind, events FROM @.specwatch_pruned
		) counted GROUP BY kind`), args...)
	if err != nil {
		return totals, err
	}
	totals.Events = map[event.Kind]int64{}
	var kind event.Kind
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&kind, &n}, func() error {
		totals.Events[kind.Counted()] += n
		return nil
	})
	if err == nil {
		totals.Usage, err = used(ctx, s, tx, seen)
	}
	return totals, err
}
