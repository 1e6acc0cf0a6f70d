package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
)

// Reader is one connection of its own, which can sleep until a writer rings.
// It is not safe for concurrent use.
type Reader struct {
	store *Store
	conn  *pgx.Conn
	bell  int64
	rings bool // whether LISTEN works here
}

// NewReader connects. It listens before anything is read, so that no event
// falls between the two.
func (s *Store) NewReader(ctx context.Context) (*Reader, error) {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return nil, explain(err)
	}
	r := &Reader{store: s, conn: conn}
	var standby bool
	if err := conn.QueryRow(ctx, `SELECT bell, pg_is_in_recovery() FROM specwatch_meta`).Scan(&r.bell, &standby); err != nil {
		r.Close()
		return nil, explain(err)
	}
	// A standby takes neither LISTEN nor advisory locks of the primary.
	if r.rings = !standby; r.rings {
		if _, err := conn.Exec(ctx, fmt.Sprintf("LISTEN specwatch_%d", r.bell)); err != nil {
			r.Close()
			return nil, explain(err)
		}
	}
	return r, nil
}

// Close ends the connection, and with it the lock of a sleeper.
func (r *Reader) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r.conn.Close(ctx) //nolint:errcheck // it is gone either way
}

// Since reads as Store.Since does, on this connection.
func (r *Reader) Since(ctx context.Context, c cursor.Cursor, limit int) (Page, error) {
	return r.store.since(ctx, r.conn, query{cursor: c, limit: limit})
}

// Load sums up what is stored and returns the cursor that has seen just that.
func (r *Reader) Load(ctx context.Context) (*state.Summary, cursor.Cursor, time.Time, error) {
	return r.store.load(ctx, r.conn)
}

// Rings reports whether writers can wake this reader; if not, it has to look
// for itself.
func (r *Reader) Rings() bool { return r.rings }

// Sleepy asks writers to ring from now on. A transaction that inserted before
// does not know: the reader must go on reading until its cursor's To.Xmin has
// reached the returned xid, and may then Wait.
func (r *Reader) Sleepy(ctx context.Context) (uint64, error) {
	// Two statements: the xid must be younger than the lock. A snapshot's
	// xmax would not do: transactions that run may have that xid and more.
	if _, err := r.conn.Exec(ctx, `SELECT pg_advisory_lock_shared($1)`, r.bell); err != nil {
		return 0, explain(err)
	}
	var xid uint64
	err := r.conn.QueryRow(ctx, `SELECT pg_current_xact_id()::text::bigint`).Scan(&xid)
	return xid, explain(err)
}

// Awake tells writers that they need not ring.
func (r *Reader) Awake(ctx context.Context) error {
	_, err := r.conn.Exec(ctx, `SELECT pg_advisory_unlock_shared($1)`, r.bell)
	return explain(err)
}

// Wait sleeps until a writer rings (true), or until ctx ends (false). Any
// other end is an error: the connection is lost.
func (r *Reader) Wait(ctx context.Context) (bool, error) {
	_, err := r.conn.WaitForNotification(ctx)
	switch {
	case err == nil:
		// One look answers all the rings that have arrived by now. With an
		// ended context pgx hands out what it holds and waits for nothing.
		ended, end := context.WithCancel(ctx)
		for end(); err == nil; {
			_, err = r.conn.WaitForNotification(ended)
		}
		return true, nil
	case ctx.Err() != nil && !r.conn.IsClosed():
		return false, nil
	}
	return false, explain(err)
}

// State sums up what is stored now.
func (s *Store) State(ctx context.Context) (state.State, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return state.State{}, explain(err)
	}
	defer conn.Release()
	summary, _, now, err := s.load(ctx, conn.Conn())
	if err != nil {
		return state.State{}, err
	}
	return summary.State(now), nil
}

// load reads, by one snapshot, the counts, the latest event of each kind in
// each spec, and the failures since each session's last completion: all that
// a summary remembers.
func (s *Store) load(ctx context.Context, conn *pgx.Conn) (summary *state.Summary, at cursor.Cursor, now time.Time, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		first, err := s.since(ctx, conn, query{from: time.Now().Add(1000 * time.Hour), limit: 1})
		if err != nil {
			return err
		}
		at, now = first.Cursor, first.At
		// On a standby the cursor lies behind the snapshot of this
		// transaction: count only what it has seen, or it comes twice.
		seen := first.Cursor.To.String()
		totals := map[event.Kind]int64{}
		rows, err := tx.Query(ctx, `
			SELECT kind, sum(n)::bigint FROM (
			    SELECT kind::text, count(*) AS n FROM events WHERE xid IS NULL OR pg_visible_in_snapshot(xid, $1::text::pg_snapshot) GROUP BY 1
			    UNION ALL SELECT kind, events FROM specwatch_pruned
			) counted GROUP BY kind`, seen)
		if err != nil {
			return err
		}
		var kind event.Kind
		var n int64
		if _, err := pgx.ForEachRow(rows, []any{&kind, &n}, func() error {
			totals[kind] = n
			return nil
		}); err != nil {
			return err
		}
		summary = state.NewSummary(totals)
		// Heartbeats name the session only; what spec they carry is left out
		// so that one row answers for all of them. A session's rows come
		// together: a summary that is full lets whole sessions go.
		rows, err = tx.Query(ctx, `
			WITH seen AS NOT MATERIALIZED (
			    SELECT id::bigint, kind::text, at, session::text, CASE WHEN kind = 'session_heartbeat' THEN '' ELSE coalesce(spec, '') END::text AS spec, data
			    FROM events WHERE at >= $2 AND (xid IS NULL OR pg_visible_in_snapshot(xid, $1::text::pg_snapshot))
			)
			(SELECT DISTINCT ON (session, spec, kind) id, kind, at, session, spec, CASE WHEN kind = 'intervention_request' THEN data::text ELSE '{}' END AS data
			 FROM seen ORDER BY session, spec, kind, at DESC, id DESC)
			UNION ALL
			(SELECT id, kind, at, session, spec, '{}' FROM (
			    SELECT *, row_number() OVER newest AS n, count(*) FILTER (WHERE kind = 'spec_completed') OVER newest AS completed
			    FROM seen WHERE kind IN ('spec_completed', 'spec_failed', 'timeout_triggered')
			    WINDOW newest AS (PARTITION BY session ORDER BY at DESC, id DESC)
			 ) e WHERE completed = 0 AND n <= $3)
			ORDER BY session`, seen, now.Add(-state.Horizon), state.MaxStreak)
		if err != nil {
			return err
		}
		var e event.Event
		var data string
		_, err = pgx.ForEachRow(rows, []any{&e.ID, &e.Kind, &e.At, &e.Session, &e.Spec, &data}, func() error {
			e.Data = []byte(data)
			summary.Note(e)
			return nil
		})
		return err
	})
	var known *Problem
	if err != nil && !errors.As(err, &known) {
		err = explain(err)
	}
	return summary, at, now, err
}
