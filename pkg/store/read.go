package store

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
)

// ErrExpired is the answer to a cursor of another database, or of another
// history of this one: a restore, a fail-over. Start afresh with SinceTime.
var ErrExpired = errors.New("the cursor belongs to another database or to a history that a restore or fail-over ended; start afresh")

// pageBytes bounds the data of one page, so that a page of large events fits
// in memory; one event always fits.
const pageBytes = 8 << 20

// Page is what one read brought.
type Page struct {
	Events []event.Event
	Xids   []uint64      // of the events, in their order
	Cursor cursor.Cursor // where to read on
	More   bool          // the target holds more: read on at once
	At     time.Time     // the database's clock
}

// Since returns what the cursor has not seen, at most limit events: by
// transaction, then by id. The zero cursor means DefaultHistory back.
func (s *Store) Since(ctx context.Context, c cursor.Cursor, limit int) (Page, error) {
	return s.pooled(ctx, query{cursor: c, limit: limit})
}

// SinceTime returns the events with at >= from, oldest first, as the first
// page of a reader that has no cursor yet. Its cursor goes to Since.
func (s *Store) SinceTime(ctx context.Context, from time.Time, limit int) (Page, error) {
	return s.pooled(ctx, query{from: from, limit: limit})
}

// SinceLast is SinceTime from the moment of the n-th newest event: the first
// page of a reader who wants to see something even if nothing happened for
// long. Events of that very moment may make it more than n.
func (s *Store) SinceLast(ctx context.Context, n, limit int) (Page, error) {
	// The moment says only where to begin: what is written meanwhile comes
	// with this page or by its cursor.
	moments, err := collect(ctx, s, `SELECT at FROM events ORDER BY at DESC, id DESC OFFSET $1 LIMIT 1`, []any{n - 1}, pgx.RowTo[time.Time])
	if err != nil {
		return Page{}, err
	}
	from := event.Earliest
	if len(moments) > 0 {
		from = moments[0]
	}
	return s.SinceTime(ctx, from, limit)
}

func (s *Store) pooled(ctx context.Context, q query) (Page, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return Page{}, explain(err)
	}
	defer conn.Release()
	return s.since(ctx, conn.Conn(), q)
}

type query struct {
	cursor cursor.Cursor
	from   time.Time
	limit  int
}

// headSQL is what every read learns beside its rows, in the same statement
// and so by the same snapshot. The target is the snapshot that the read aims
// at: given ($1) while turning pages, else the current one. On a standby the
// snapshot does not list what is in progress on the primary, so only what
// lies below its xmin counts there.
const headSQL = `
WITH head AS MATERIALIZED (
    SELECT coalesce(nullif($1, '')::pg_snapshot,
                    CASE WHEN pg_is_in_recovery() THEN format('%1$s:%1$s:', pg_snapshot_xmin(s.current))::pg_snapshot ELSE s.current END) AS target,
           s.current, pg_is_in_recovery() AS standby, pg_postmaster_start_time() AS started, clock_timestamp() AS clock,
           m.epoch::text AS epoch, m.system_identifier
    FROM (SELECT pg_current_snapshot() AS current) s, specwatch_meta m
)`

// tailSQL answers the head as its first row, then the rows of "page" as far
// as they fit in the limit ($2) and in bytes ($3). A page holds one row more
// than the limit, which tells whether there is more.
const tailSQL = `
, sized AS (
    SELECT *, row_number() OVER w AS n, count(*) OVER () AS found, sum(octet_length(data)) OVER w - octet_length(data) AS before
    FROM page WINDOW w AS (ORDER BY place, id)
)
SELECT 0 AS n, current::text, target::text, standby, started, clock, epoch, system_identifier,
       NULL::bigint AS found, NULL::bigint AS xid, NULL::bigint AS id, NULL::text AS kind, NULL::timestamptz AS at, NULL::text AS session, NULL::text AS spec, NULL::text AS data
FROM head
UNION ALL
SELECT n, NULL, NULL, NULL, NULL, NULL, NULL, NULL, found, xid, id, kind, at, session, spec, data
FROM sized WHERE n <= $2 AND before < $3
ORDER BY n`

// sinceSQL reads in the order (xid, id) after ($4, $5): of the transactions
// that the cursor saw open ($6), and of those that it knows nothing about
// ($7, $8). Looking each open one up keeps a single long transaction from
// making every read scan all that was written since it began.
const sinceSQL = headSQL + `
, page AS (
    (SELECT e.xid::text::bigint AS place, e.xid::text::bigint AS xid, e.id::bigint, e.kind::text, e.at, e.session::text, coalesce(e.spec, '')::text AS spec, coalesce(e.data::text, '{}') AS data
     FROM unnest($6::text[]) AS open (xid), LATERAL (
         SELECT * FROM events e
         WHERE e.xid = open.xid::xid8 AND e.xid IS NOT NULL AND (e.xid, e.id) > ($4::text::xid8, $5::bigint)
         ORDER BY e.xid, e.id LIMIT $2 + 1
     ) e
     WHERE pg_visible_in_snapshot(open.xid::xid8, (SELECT target FROM head))
     ORDER BY 1, 3 LIMIT $2 + 1)
    UNION ALL
    (SELECT e.xid::text::bigint, e.xid::text::bigint, e.id::bigint, e.kind::text, e.at, e.session::text, coalesce(e.spec, '')::text, coalesce(e.data::text, '{}')
     FROM events e
     WHERE e.xid IS NOT NULL AND (e.xid, e.id) > ($7::text::xid8, $8::bigint)
       AND e.xid < (SELECT pg_snapshot_xmax(target) FROM head) AND pg_visible_in_snapshot(e.xid, (SELECT target FROM head))
     ORDER BY e.xid, e.id LIMIT $2 + 1)
    ORDER BY 1, 3 LIMIT $2 + 1
)` + tailSQL

// historySQL reads in the order of time from $4, after ($5, $6).
const historySQL = headSQL + `
, page AS (
    SELECT (extract(epoch FROM e.at) * 1000000)::bigint AS place, e.xid::text::bigint AS xid, e.id::bigint, e.kind::text, e.at, e.session::text, coalesce(e.spec, '')::text AS spec, coalesce(e.data::text, '{}') AS data
    FROM events e
    WHERE e.at >= coalesce($4::timestamptz, clock_timestamp() - $7::interval) AND (e.at, e.id) > ($5::timestamptz, $6::bigint)
      AND (e.xid IS NULL OR pg_visible_in_snapshot(e.xid, (SELECT target FROM head)))
    ORDER BY e.at, e.id LIMIT $2 + 1
)` + tailSQL

type head struct {
	current, target cursor.Snapshot
	standby         bool
	clock           time.Time
	epoch           uint64
}

func (s *Store) since(ctx context.Context, conn *pgx.Conn, q query) (Page, error) {
	if q.limit < 1 {
		return Page{}, fmt.Errorf("limit must be 1 or more, not %d", q.limit)
	}
	c := q.cursor
	history := c.IsZero() || c.InHistory()
	target := ""
	if c.Paging() {
		target = c.To.String()
	}
	var rows pgx.Rows
	var err error
	if history {
		var from *time.Time // nil: DefaultHistory back, by the database's clock
		after, id := event.Earliest, int64(math.MinInt64)
		switch {
		case c.InHistory():
			from, after, id = &after, time.UnixMicro(c.History.Micros), c.History.ID
		case !q.from.IsZero():
			from = &q.from
		}
		rows, err = conn.Query(ctx, historySQL, target, q.limit, pageBytes, from, after, id, event.DefaultHistory)
	} else {
		open := []string{}
		for _, xip := range c.From.Xip {
			if xip >= c.After.Xid {
				open = append(open, strconv.FormatUint(xip, 10))
			}
		}
		lower := cursor.Position{Xid: c.From.Xmax - 1, ID: math.MaxInt64}
		if c.After.Xid >= c.From.Xmax {
			lower = c.After
		}
		rows, err = conn.Query(ctx, sinceSQL, target, q.limit, pageBytes,
			strconv.FormatUint(c.After.Xid, 10), c.After.ID, open, strconv.FormatUint(lower.Xid, 10), lower.ID)
	}
	if err != nil {
		return Page{}, explain(err)
	}
	h, id, page, found, err := scan(rows)
	if err != nil {
		return Page{}, explain(err)
	}
	if h.epoch, err = s.epochOf(ctx, conn, id); err != nil {
		return Page{}, err
	}
	if !c.IsZero() {
		if c.Epoch != h.epoch || !h.standby && max(c.From.Xmax, c.To.Xmax) > h.current.Xmax {
			return Page{}, ErrExpired
		}
	}
	page.At = h.clock
	page.More = int64(len(page.Events)) < found
	switch {
	case page.More && history:
		last := page.Events[len(page.Events)-1]
		page.Cursor = cursor.Cursor{Epoch: h.epoch, To: h.target, History: cursor.Moment{Micros: last.At.UnixMicro(), ID: last.ID}}
	case page.More:
		n := len(page.Events) - 1
		page.Cursor = cursor.Cursor{Epoch: h.epoch, From: c.From, To: h.target, After: cursor.Position{Xid: page.Xids[n], ID: page.Events[n].ID}}
	case history:
		page.Cursor = cursor.At(h.epoch, h.target)
	default:
		// On a standby the target may lie behind what the cursor has seen.
		page.Cursor = cursor.At(h.epoch, c.From.Union(h.target))
	}
	return page, nil
}

func scan(rows pgx.Rows) (h head, id identity, page Page, found int64, err error) {
	defer rows.Close()
	page.Events = []event.Event{}
	seen := false
	for rows.Next() {
		var n int64
		var current, target, epoch *string
		var standby *bool
		var started, clock *time.Time
		var system, rowFound, xid, rowID *int64
		var kind, session, spec, data *string
		var at *time.Time
		if err = rows.Scan(&n, &current, &target, &standby, &started, &clock, &epoch, &system, &rowFound, &xid, &rowID, &kind, &at, &session, &spec, &data); err != nil {
			return
		}
		if n == 0 {
			seen = true
			h.standby, h.clock = *standby, clock.UTC()
			id = identity{*started, *standby, *epoch, *system}
			if h.current, err = cursor.ParseSnapshot(*current); err != nil {
				return
			}
			if h.target, err = cursor.ParseSnapshot(*target); err != nil {
				return
			}
			continue
		}
		found = *rowFound
		e := event.Event{ID: *rowID, Kind: event.Kind(*kind), At: at.UTC(), Session: *session, Spec: *spec, Data: json.RawMessage(*data)}
		page.Events = append(page.Events, e)
		var x uint64
		if xid != nil {
			x = uint64(*xid)
		}
		page.Xids = append(page.Xids, x)
	}
	if err = rows.Err(); err == nil && !seen {
		err = problem(NoTable, nil, "specwatch_meta is empty; run: specwatch migrate")
	}
	return
}

// identity is what tells one server, and one history of its events, from
// another without asking it each time: a server that restarts or is promoted
// changes it.
type identity struct {
	started time.Time
	standby bool
	epoch   string
	system  int64
}

// epochOf returns the epoch of the cursors of the server behind conn. The
// timeline is part of it: after a fail-over, xids that were lost are given
// out again.
func (s *Store) epochOf(ctx context.Context, conn *pgx.Conn, id identity) (uint64, error) {
	s.mu.Lock()
	if s.identity == id {
		defer s.mu.Unlock()
		return s.epoch, nil
	}
	s.mu.Unlock()
	var system, timeline int64
	var future bool
	err := conn.QueryRow(ctx, `
		SELECT (SELECT system_identifier FROM pg_control_system()),
		       CASE WHEN pg_is_in_recovery()
		            THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()), (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
		            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END,
		       NOT pg_is_in_recovery() AND EXISTS (SELECT 1 FROM events WHERE xid IS NOT NULL AND xid >= pg_snapshot_xmax(pg_current_snapshot()))`).
		Scan(&system, &timeline, &future)
	if err != nil {
		return 0, explain(err)
	}
	if system != id.system || future {
		return 0, errRestored
	}
	h := fnv.New64a()
	h.Write([]byte(id.epoch))
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(system)), uint64(timeline)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity, s.epoch = id, h.Sum64()
	return s.epoch, nil
}
