package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
)

// Hearing says how a reader learns of new events.
type Hearing int

const (
	// ByLooking: the reader polls. LISTEN does not work on a standby and behind
	// a pooler.
	ByLooking Hearing = iota
	// BySome: inserts notify, except in two-phase commits, which the server
	// allows: a transaction that has notified cannot be prepared.
	BySome
	// ByAll: every insert notifies.
	ByAll
)

// Reader is one connection of its own, on which notifications arrive. It is
// not safe for concurrent use.
type Reader struct {
	store   *Store
	conn    *pgx.Conn
	bell    int64
	hearing Hearing
	notes   int    // notifications since the last Wait
	last    moment // of the last Since
}

// idleSession is after how long without a statement the server ends a reader's
// session and so releases its advisory lock: a process that is frozen or cut
// off cannot release it.
const idleSession = 30 * time.Second

// NewReader connects. It runs LISTEN before anything is read, so that no event
// is missed between the two.
func (s *Store) NewReader(ctx context.Context) (*Reader, error) {
	r := &Reader{store: s}
	prepare := func(c *pgx.ConnConfig) {
		// Notifications are hints: they are counted and not kept.
		c.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { r.notes++ }
		// Not the handler of the pools: a cancel request for a wait that has
		// ended could cancel the next statement.
		c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
		}
	}
	conn, err := s.Connect(ctx, prepare)
	// Idle connections of the pools may use up the connection limit of this
	// user.
	for try := 0; isCrowded(err) && try < maxCrowded && ctx.Err() == nil; try++ {
		s.crowded(s.narrow.Load())
		select {
		case <-ctx.Done():
		case <-time.After(crowdedPause):
		}
		conn, err = s.Connect(ctx, prepare)
	}
	if err != nil {
		return nil, err
	}
	r.conn = conn
	var standby bool
	var version, prepared int
	err = conn.QueryRow(ctx, s.SQL(`
		SELECT bell, pg_is_in_recovery(), current_setting('server_version_num')::int, current_setting('max_prepared_transactions')::int FROM @.specwatch_meta`)).
		Scan(&r.bell, &standby, &version, &prepared)
	if err == nil && !standby && !s.Pooled() {
		r.hearing = ByAll
		if prepared > 0 {
			r.hearing = BySome
		}
		err = r.listen(ctx, version)
	}
	if err != nil {
		r.Close()
		return nil, s.Explain(err)
	}
	return r, nil
}

func (r *Reader) listen(ctx context.Context, version int) error {
	limits := fmt.Sprintf(`SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; SET tcp_user_timeout = '%dms'`, idleSession.Milliseconds())
	if version >= 14_00_00 {
		limits += fmt.Sprintf(`; SET idle_session_timeout = '%dms'`, idleSession.Milliseconds())
	}
	_, err := r.conn.PgConn().Exec(ctx, fmt.Sprintf(`%s; %s; LISTEN specwatch_%d`, limits, onePlan, r.bell)).ReadAll()
	return err
}

// onePlan makes the server plan the statements of a reader once: planning takes
// four times as long as reading a few new rows. A generic plan does not follow
// the size of the table, so it must not scan the table, even if that is empty
// when it is made.
const onePlan = `SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off`

// Close closes the connection, which releases the advisory lock.
func (r *Reader) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r.conn.Close(ctx)
}

// Since reads as Store.Since does, on this connection.
func (r *Reader) Since(ctx context.Context, c cursor.Cursor, limit int) (Page, error) {
	page, err := r.store.since(ctx, r.conn, query{cursor: c, limit: limit, own: true})
	r.last = page.moment
	return page, r.explain(err)
}

// Unchanged reports whether no transaction has committed since the last Since,
// which would then bring nothing, and returns the database's clock. It costs a
// tenth of Since.
func (r *Reader) Unchanged(ctx context.Context) (same bool, at time.Time, err error) {
	var now moment
	err = r.conn.QueryRow(ctx, `SELECT pg_current_snapshot()::text, pg_is_in_recovery(), pg_postmaster_start_time(), clock_timestamp()`).
		Scan(&now.snapshot, &now.standby, &now.started, &at)
	return now.snapshot == r.last.snapshot && now.standby == r.last.standby && now.started.Equal(r.last.started), at.UTC(), r.explain(err)
}

// Here returns the current position of the table: a page without events.
func (r *Reader) Here(ctx context.Context) (Page, error) {
	page, err := r.store.Here(ctx, r.conn)
	return page, r.explain(err)
}

// explain is that of the store, and knows that a closed connection is lost,
// whatever error pgx returns.
func (r *Reader) explain(err error) error { return r.store.Explain(ifClosed(r.conn, err)) }

// Hearing says how this reader learns of new events.
func (r *Reader) Hearing() Hearing { return r.hearing }

// ErrHeld is returned by EnableNotify while another session holds the advisory
// lock exclusively.
var ErrHeld = errors.New("another session holds the advisory lock of the events table exclusively")

const (
	lockTries = 10
	lockPause = time.Millisecond
)

// EnableNotify takes the shared advisory lock, so that inserts notify from now
// on. A transaction that inserted before does not notify: the reader must poll
// until a page's Xmin has reached the returned xid, and may then Wait.
// EnableNotify tries for about 10 ms: writers hold the lock only briefly, and
// another session that holds it longer must not block the reader.
func (r *Reader) EnableNotify(ctx context.Context) (uint64, error) {
	for try := 0; ; try++ {
		var locked bool
		if err := r.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock_shared($1)`, r.bell).Scan(&locked); err != nil {
			return 0, r.explain(err)
		}
		if locked {
			break
		}
		if try == lockTries {
			return 0, ErrHeld
		}
		select {
		case <-ctx.Done():
			return 0, explain(ctx.Err())
		case <-time.After(lockPause):
		}
	}
	// In a second statement, so that the xid is assigned after the lock was
	// taken. The xmax of a snapshot would not do: running transactions may have
	// that xid or greater ones.
	var xid uint64
	err := r.conn.QueryRow(ctx, `SELECT pg_current_xact_id()::text::bigint`).Scan(&xid)
	return xid, r.explain(err)
}

// DisableNotify releases the advisory lock.
func (r *Reader) DisableNotify(ctx context.Context) error {
	_, err := r.conn.Exec(ctx, `SELECT pg_advisory_unlock_shared($1)`, r.bell)
	return r.explain(err)
}

// Wait waits for a notification, or until ctx ends, and returns how many came
// since the last Wait, those during other statements included. An error means
// that the connection is lost.
func (r *Reader) Wait(ctx context.Context) (notes int, err error) {
	if r.notes == 0 {
		err = r.conn.PgConn().WaitForNotification(ctx)
	}
	notes, r.notes = r.notes, 0
	switch {
	case err == nil, ctx.Err() != nil && !r.conn.IsClosed():
		return notes, nil
	case ctx.Err() != nil:
		err = errClosed // not the error of ctx
	}
	return notes, explain(err)
}

// Here returns a page without events, with the current cursor.
func (s *Store) Here(ctx context.Context, conn *pgx.Conn) (Page, error) {
	return s.since(ctx, conn, query{here: true, limit: 1})
}

// SinceOn is Since on a connection of this store that the caller has.
func (s *Store) SinceOn(ctx context.Context, conn *pgx.Conn, c cursor.Cursor, limit int) (Page, error) {
	return s.since(ctx, conn, query{cursor: c, limit: limit})
}

// Load returns a summary of the stored events, as of the cursor of the page. It
// begins with the stored summary if that is recent; else it reads the events of
// the last week.
func (s *Store) Load(ctx context.Context) (*state.Summary, Page, error) {
	type loaded struct {
		*state.Summary
		Page
	}
	found, err := Apart(ctx, s, func(conn *pgx.Conn) (l loaded, err error) {
		l.Summary, l.Page, err = s.kept(ctx, conn)
		if err == nil && l.Summary == nil {
			l.Summary, l.Page, err = s.load(ctx, conn)
		}
		return l, err
	})
	return found.Summary, found.Page, err
}

// load reads, as of one cursor, all that a summary holds: the totals, the
// latest event of each kind in each spec, the work that heartbeats report, the
// latest requests and answers, and the failures since each session's last
// completion.
func (s *Store) load(ctx context.Context, conn *pgx.Conn) (summary *state.Summary, page Page, err error) {
	page, err = s.Here(ctx, conn)
	if err != nil {
		return nil, page, err
	}
	// The transaction below sees more: count only what the cursor has seen.
	seen := page.Cursor.To.String()
	// One snapshot, so that prune moves nothing from the rows to its counts
	// in between.
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		totals, err := s.totals(ctx, tx, seen)
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
    SELECT e.id::bigint, coalesce(e.kind, '')::text AS kind, ` + AtSQL + ` AS at, coalesce(e.session, '')::text AS session, CASE WHEN e.kind = 'session_heartbeat' THEN '' ELSE coalesce(e.spec, '') END::text AS spec,
           CASE WHEN e.kind IN ('intervention_request', 'intervention_answered') OR ` + limitSQL + ` THEN coalesce(e.data::text, '{}') ELSE '{}' END AS data, ` + StoredSQL + ` AS stored,
           CASE WHEN e.kind = 'intervention_answered' AND jsonb_typeof(e.data -> 'request') IN ('number', 'string') THEN e.data ->> 'request' END AS named
    FROM @.events e WHERE e.at >= $2 AND (xid IS NULL OR pg_visible_in_snapshot(xid, $1::text::pg_snapshot))
), telling AS NOT MATERIALIZED (
    SELECT id, 'session_heartbeat' AS kind, at, session, spec, data::text AS data, stored, ` + workSQL + ` FROM (
        SELECT e.id::bigint, ` + AtSQL + ` AS at, coalesce(e.session, '')::text AS session, coalesce(e.spec, '')::text AS spec, e.data, ` + StoredSQL + ` AS stored
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
func (s *Store) totals(ctx context.Context, tx pgx.Tx, seen string) (totals state.Totals, err error) {
	rolled, err := s.rolledUp(ctx, tx)
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
		totals.Usage, err = s.used(ctx, tx, seen)
	}
	return totals, err
}
