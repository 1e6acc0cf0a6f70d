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
