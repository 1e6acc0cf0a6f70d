package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
)

// ErrExpired is returned for a cursor of another table or database, or of a
// history of this one that a restore or a fail-over ended. Start again with
// SinceTime.
var ErrExpired = errors.New("the cursor belongs to another database or to a history that a restore or fail-over ended; start afresh")

// pageBytes bounds the data of one page, so that a page of large events fits in
// memory. The first event of a page is returned whatever its size.
const pageBytes = 8 << 20

// Page is the result of one read.
type Page struct {
	Events []event.Event
	Xids   []uint64      // of the events, in their order
	Cursor cursor.Cursor // where to read on
	More   bool          // there is or may be more: read on at once; false: nothing was missing when this was read
	At     time.Time     // the database's clock
	Xmin   uint64        // every transaction below it had ended
	Pruned int64         // how many events prune has removed so far

	moment moment
}

// Since returns the events that the cursor has not seen, at most limit: by
// transaction, then by id. The zero cursor means DefaultHistory back, in time
// order.
func (s *Store) Since(ctx context.Context, c cursor.Cursor, limit int) (Page, error) {
	return s.pooled(ctx, query{cursor: c, limit: limit})
}

// SinceTime returns the events with at >= from, oldest first, as the first
// page of a reader that has no cursor yet. Its cursor goes to Since.
func (s *Store) SinceTime(ctx context.Context, from time.Time, limit int) (Page, error) {
	return s.pooled(ctx, query{from: from, limit: limit})
}

// SinceLast is SinceTime from the n-th newest event, for a reader that wants to
// show events even if there was none for long. Of two events at the same time,
// the one with the greater id is the newer.
func (s *Store) SinceLast(ctx context.Context, n, limit int) (Page, error) {
	// The event is only where to begin: what is written meanwhile is in this page
	// or after its cursor.
	type place struct {
		At time.Time
		ID int64
	}
	nth, err := Collect(ctx, s, `SELECT `+AtSQL+`, e.id::bigint FROM @.events e WHERE e.at IS NOT NULL ORDER BY e.at DESC, e.id DESC OFFSET $1 LIMIT 1`, []any{n - 1}, pgx.RowToStructByPos[place])
	if err != nil {
		return Page{}, err
	}
	if len(nth) == 0 {
		return s.SinceTime(ctx, earliest, limit)
	}
	return s.pooled(ctx, query{from: nth[0].At, first: nth[0].ID, limit: limit})
}

func (s *Store) pooled(ctx context.Context, q query) (Page, error) {
	return Reading(ctx, s, func(conn *pgx.Conn) (Page, error) { return s.since(ctx, conn, q) })
}

type query struct {
	cursor cursor.Cursor
	from   time.Time
	first  int64 // the least id of the events at that time; 0: any
	limit  int
	here   bool // no rows: only the current position
	own    bool // the connection is not of a pool
}

// earliest and latestTime are the lowest and the highest time that AtSQL
// returns. Rows of earlier versions may have times that are refused for new
// events.
var (
	earliest   = time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)
	latestTime = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
)

// The columns of a row as readers receive them. They replace what a row may
// hold and readers cannot take: infinite times, years that JSON cannot
// represent, and NULL.
const (
	earliestSQL = `'0001-01-01 00:00:01+00'`
	latestSQL   = `'9999-12-31 23:59:59.999999+00'`
	AtSQL       = `least(greatest(e.at, ` + earliestSQL + `), ` + latestSQL + `)`
	StoredSQL   = `CASE WHEN e.stored IS NOT NULL THEN least(greatest(e.stored, ` + earliestSQL + `), ` + latestSQL + `) END`
	ColumnsSQL  = `e.id::bigint, coalesce(e.kind, '')::text AS kind, ` + AtSQL + ` AS at, coalesce(e.session, '')::text AS session, coalesce(e.spec, '')::text AS spec, coalesce(e.data::text, '{}') AS data, e.async_commit, ` + StoredSQL + ` AS stored`
)

// moment identifies a state of the server. If two are equal, nothing was
// committed between them, and the server neither restarted nor was promoted.
type moment struct {
	snapshot string
	standby  bool
	started  time.Time
}

// headSQL reads what every read needs beside its rows, in the same statement
// and so with the same snapshot. "target" is the snapshot up to which rows are
// read: $1 between two pages, else the current one. On a standby,
// pg_current_snapshot() does not list the transactions in progress on the
// primary, so the target ends at its xmin. "top" is the greatest row of the
// target, "known" whether the table has the rows that the cursor names ($3, $4),
// except those that prune may have removed.
// The WAL positions are read after the snapshot was taken: what is visible in
// it lies before "inserted", and before "lsn" if it was flushed when it
// committed.
const headSQL = `
WITH head AS MATERIALIZED (
    SELECT s.target, ARRAY[s.current::text, s.target::text, m.epoch::text] AS texts, ARRAY[pg_postmaster_start_time(), clock_timestamp()] AS times,
           ARRAY[s.standby::int, m.system_identifier, m.pruned,
               (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()),
               to_regclass('@.events')::oid::bigint,
               CASE WHEN s.standby THEN @.specwatch_standby_timeline()
                    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END,
               (CASE WHEN s.standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0')::bigint,
               (CASE WHEN s.standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint,
               CASE WHEN s.standby THEN coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000, 0)::bigint ELSE 0 END,
               (NOT EXISTS (SELECT FROM unnest($3::timestamptz[], $4::bigint[]) AS named (at, id)
                            WHERE named.at >= m.pruned_before AND NOT EXISTS (SELECT FROM @.events e WHERE e.id = named.id AND ` + AtSQL + ` = named.at)))::int
           ] AS numbers
    FROM (SELECT current, standby,
                 coalesce(nullif($1::text, '')::pg_snapshot, CASE WHEN standby THEN format('%1$s:%1$s:', pg_snapshot_xmin(current))::pg_snapshot ELSE current END) AS target
          FROM (SELECT pg_current_snapshot() AS current, pg_is_in_recovery() AS standby) c) s, @.specwatch_meta m
), top AS MATERIALIZED (
    SELECT e.xid::text::bigint AS xid, e.id::bigint, ` + AtSQL + ` AS at, e.async_commit FROM @.events e
    WHERE e.xid IS NOT NULL AND e.xid < (SELECT pg_snapshot_xmax(target) FROM head) AND pg_visible_in_snapshot(e.xid, (SELECT target FROM head))
    ORDER BY e.xid DESC, e.id DESC LIMIT 1
)`

// tailSQL returns the head in a row with n = 0, with "top" in the columns of an
// event, and the rows of "page" up to the limit ($2) and the size in bytes ($5),
// numbered from 1, in any order. "page" has one row more than the limit, which
// shows whether there are more. PostgreSQL takes most of the time of a small
// read to set up its plan, which costs for each column in each step. Hence the
// arrays.
const tailSQL = `
, sized AS (
    SELECT *, row_number() OVER w AS n, lead(true, 1, false) OVER w AS more, sum(octet_length(data)) OVER w - octet_length(data) AS before
    FROM page WINDOW w AS (ORDER BY place, id ROWS UNBOUNDED PRECEDING)
)
SELECT 0 AS n, h.texts, h.times, h.numbers, NULL::boolean AS more, t.xid, t.id, NULL::text AS kind, t.at, NULL::text AS session, NULL::text AS spec, NULL::text AS data, t.async_commit, NULL::timestamptz AS stored
FROM head h LEFT JOIN top t ON true
UNION ALL
SELECT n, NULL, NULL, NULL, more, xid, id, kind, at, session, spec, data, async_commit, stored
FROM sized WHERE n <= $2 AND before < $5`

// sinceSQL reads in the order (xid, id) the rows after the end of the cursor
// ($6, $7).
const sinceSQL = headSQL + `
, page AS (` + afterSQL + `)` + tailSQL

const afterSQL = `
    SELECT e.xid AS place, e.xid::text::bigint AS xid, ` + ColumnsSQL + `
    FROM @.events e
    WHERE e.xid IS NOT NULL AND (e.xid, e.id) > ($6::text::xid8, $7::bigint)
      AND e.xid < (SELECT pg_snapshot_xmax(target) FROM head) AND pg_visible_in_snapshot(e.xid, (SELECT target FROM head))
    ORDER BY e.xid, e.id LIMIT $2 + 1
`

// openSQL also reads the rows, after ($8, $9), of transactions that were open in
// the cursor's snapshot ($10). It is a statement of its own because these are
// rare, and PostgreSQL takes most of the time of a small read to set up its
// plan. Each open transaction is looked up in the index. Otherwise one long
// transaction would make every read scan all rows written since it began.
// The two comparisons with an open xid stand for "=", with which the rows of a
// small table would be read by the index of id, which has their order, too.
const openSQL = headSQL + `
, page AS (
    (SELECT e.xid AS place, e.xid::text::bigint AS xid, ` + ColumnsSQL + `
     FROM unnest($10::text[]) AS open (xid), LATERAL (
         SELECT * FROM @.events e
         WHERE e.xid >= open.xid::xid8 AND e.xid <= open.xid::xid8 AND e.xid IS NOT NULL AND (e.xid, e.id) > ($8::text::xid8, $9::bigint)
         ORDER BY e.xid, e.id LIMIT $2 + 1
     ) e
     WHERE pg_visible_in_snapshot(open.xid::xid8, (SELECT target FROM head))
     ORDER BY 1, 3 LIMIT $2 + 1)
    UNION ALL
    (` + afterSQL + `)
    ORDER BY 1, 3 LIMIT $2 + 1
)` + tailSQL

// historySQL reads in time order from $6, after ($7, $8). Without $6 it begins
// $9 before now. The second part has the rows whose time AtSQL replaces: their
// order in the index is another one.
const historySQL = headSQL + `
, page AS (
    (SELECT ` + historyColumns + `
     FROM @.events e
     WHERE e.at >= coalesce($6::timestamptz, statement_timestamp() - $9::interval) AND e.at BETWEEN ` + earliestSQL + ` AND ` + latestSQL + ` AND ` + historyRest + `
     ORDER BY e.at, e.id LIMIT $2 + 1)
    UNION ALL
    (SELECT ` + historyColumns + `
     FROM @.events e
     WHERE (e.at < ` + earliestSQL + ` OR e.at > ` + latestSQL + ` OR e.at IS NULL) AND ` + AtSQL + ` >= coalesce($6::timestamptz, statement_timestamp() - $9::interval) AND ` + historyRest + `
     ORDER BY 1, 3 LIMIT $2 + 1)
    ORDER BY 1, 3 LIMIT $2 + 1
)` + tailSQL

const (
	historyColumns = `(extract(epoch FROM ` + AtSQL + `) * 1000000)::bigint AS place, e.xid::text::bigint AS xid, ` + ColumnsSQL
	historyRest    = `(` + AtSQL + `, e.id) > ($7::timestamptz, $8::bigint) AND (e.xid IS NULL OR pg_visible_in_snapshot(e.xid, (SELECT target FROM head)))`
)

// head is the result of headSQL.
type head struct {
	current, target cursor.Snapshot
	standby         bool
	clock           time.Time
	origin          origin
	timeline        int32
	system          int64
	pruned          int64
	lsn, inserted   uint64
	age             time.Duration // of the last transaction that a standby replayed
	known           bool
	top             *row
}

// origin identifies a table, and a run of its server from start to stop.
type origin struct {
	started            time.Time
	database, relation int64
	epoch              string
}

// replica is a standby and the log position that it is known to have replayed.
type replica struct {
	started time.Time
	lsn     uint64
}

// row is an event with what a read needs to know of it.
type row struct {
	event.Event
	n     int64 // its place in the page, from 1
	more  bool  // another row follows
	xid   uint64
	async bool // its commit may be seen before it is flushed
}

func (r row) moment() cursor.Moment { return cursor.Moment{Micros: r.At.UnixMicro(), ID: r.ID} }

// answer is one statement's result.
type answer struct {
	head
	rows []row
	more bool
}

// since reads one page and computes the cursor after it. Both contain only what
// is flushed, so that a crash cannot undo it. On a standby it waits until what
// the cursor has seen is replayed.
func (s *Store) since(ctx context.Context, conn *pgx.Conn, q query) (Page, error) {
	if q.limit < 1 {
		return Page{}, fmt.Errorf("limit must be 1 or more, not %d", q.limit)
	}
	c := q.cursor
	proven := s.replayed()
	a, err := s.ask(ctx, conn, q)
	if err != nil {
		return Page{}, err
	}
	epoch, err := s.epoch(ctx, conn, a.head)
	if err != nil {
		return Page{}, err
	}
	if !c.IsZero() {
		if a, err = s.check(ctx, conn, q, a, epoch, proven); err != nil {
			return Page{}, err
		}
	}
	if err := s.settle(ctx, conn, &a); err != nil {
		return Page{}, err
	}
	page := Page{Events: make([]event.Event, len(a.rows)), Xids: make([]uint64, len(a.rows)), More: a.more, At: a.clock, Xmin: a.current.Xmin, Pruned: a.pruned, moment: moment{a.current.String(), a.standby, a.origin.started}}
	for i, r := range a.rows {
		page.Events[i], page.Xids[i] = r.Event, r.xid
	}
	page.Cursor = next(c, a, epoch)
	// The target was fixed with the first page. Only a read from a cursor at
	// rest shows that no rows came since.
	page.More = page.More || c.Paging()
	return page, nil
}

// next returns the cursor of a reader that had c and received the answer.
func next(c cursor.Cursor, a answer, epoch uint64) cursor.Cursor {
	history := c.IsZero() || c.InHistory()
	reached := cursor.Cursor{Epoch: epoch, LSN: max(c.LSN, a.lsn), From: cursor.Nothing()}
	if a.top != nil {
		// Xids after that of the last event of the target may be reused after a
		// crash.
		reached.From, reached.Last = a.target.Through(a.top.xid), a.top.moment()
	}
	reached.To = reached.From
	switch {
	case a.more && history:
		last, top := a.rows[len(a.rows)-1].moment(), c.Top
		if c.IsZero() {
			top = reached.Last
		}
		return cursor.Cursor{Epoch: epoch, LSN: reached.LSN, To: reached.To, History: last, Last: last, Top: top}
	case a.more:
		last, top := a.rows[len(a.rows)-1], c.Top
		if !c.Paging() {
			top = c.Toward(reached).Top
		}
		return cursor.Cursor{Epoch: epoch, LSN: reached.LSN, From: c.From, To: reached.To, After: cursor.Position{Xid: last.xid, ID: last.ID}, Last: last.moment(), Top: top}
	case history:
		return reached
	case len(a.rows) == 0 && !c.Paging() && c.From.Contains(reached.From):
		return c // nothing new: the token stays the same
	}
	// On a standby the target may be older than the cursor.
	seen := cursor.Cursor{Epoch: epoch, LSN: c.LSN, From: c.From, To: c.From, Last: c.Last}
	if c.Top != (cursor.Moment{}) {
		seen.Last = c.Top // c.Last is a row of the last page
	}
	return seen.Union(reached)
}

// ask runs the statement.
func (s *Store) ask(ctx context.Context, conn *pgx.Conn, q query) (answer, error) {
	c := q.cursor
	target := ""
	if c.Paging() {
		target = c.To.String()
	}
	times, ids := []time.Time{}, []int64{} // of the rows that the cursor names
	for _, named := range []cursor.Moment{c.Last, c.Top} {
		if named != (cursor.Moment{}) {
			times, ids = append(times, time.UnixMicro(named.Micros)), append(ids, named.ID)
		}
	}
	args := []any{target, q.limit, times, ids, pageBytes}
	sql := s.sinceSQL
	if c.IsZero() || c.InHistory() {
		sql = s.historySQL
		var from *time.Time // nil: DefaultHistory back, by the database's clock
		after, id := earliest, int64(math.MinInt64)
		switch {
		case q.here:
			from, after, id = &latestTime, latestTime, math.MaxInt64
		case c.InHistory():
			from, after, id = &after, time.UnixMicro(c.History.Micros), c.History.ID
		case q.first != 0:
			from, after, id = &q.from, q.from, q.first-1
		case !q.from.IsZero():
			from = &q.from
		}
		args = append(args, from, after, id, event.DefaultHistory)
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
		args = append(args, strconv.FormatUint(lower.Xid, 10), lower.ID)
		if len(open) > 0 {
			sql = s.openSQL
			args = append(args, strconv.FormatUint(c.After.Xid, 10), c.After.ID, open)
		}
	}
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return answer{}, err
	}
	return scan(rows)
}

// scan reads the result of tailSQL.
func scan(rows pgx.Rows) (a answer, err error) {
	defer rows.Close()
	seen := false
	var texts []string
	var times []time.Time
	var numbers []pgtype.Int8
	var more, async pgtype.Bool
	var at, stored pgtype.Timestamptz
	var xid, id pgtype.Int8
	var kind, session, spec, data pgtype.Text
	for rows.Next() {
		var r row
		if err = rows.Scan(&r.n, &texts, &times, &numbers, &more, &xid, &id, &kind, &at, &session, &spec, &data, &async, &stored); err != nil {
			return
		}
		r.ID, r.At, r.async, r.more = id.Int64, at.Time.UTC(), async.Bool, more.Bool
		r.xid = uint64(xid.Int64) // #nosec G115 -- xid8 as a bigint
		if stored.Valid {
			r.Stored = stored.Time.UTC()
		}
		if r.n > 0 {
			r.Kind, r.Session, r.Spec, r.Data = event.Kind(kind.String), session.String, spec.String, event.Readable(data.String)
			a.rows = append(a.rows, r)
			continue
		}
		seen = true
		if a.head, err = readHead(texts, times, numbers); err != nil {
			return
		}
		if id.Valid {
			a.top = &r
		}
	}
	if err = rows.Err(); err == nil && !seen {
		err = NewProblem(NoTable, nil, "specwatch_meta is empty; run: specwatch migrate")
	}
	slices.SortFunc(a.rows, func(x, y row) int { return cmp.Compare(x.n, y.n) })
	a.more = len(a.rows) > 0 && a.rows[len(a.rows)-1].more
	return
}

// readHead takes the arrays of headSQL apart.
func readHead(texts []string, times []time.Time, numbers []pgtype.Int8) (h head, err error) {
	const standby, system, pruned, database, relation, timeline, lsn, inserted, age, known = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
	if !numbers[relation].Valid {
		// ALTER SCHEMA RENAME does not wait for readers, so to_regclass may
		// return NULL in the middle of a read.
		return h, NewProblem(NoTable, nil, "the schema of the events table was renamed or removed while it was read; name the new one, or run: specwatch migrate")
	}
	h = head{
		standby: numbers[standby].Int64 == 1, clock: times[1].UTC(), timeline: int32(numbers[timeline].Int64), system: numbers[system].Int64, pruned: numbers[pruned].Int64, // #nosec G115 -- timelines have 32 bits
		lsn: uint64(numbers[lsn].Int64), inserted: uint64(numbers[inserted].Int64), // #nosec G115 -- positions of the log, never negative
		age: time.Duration(numbers[age].Int64) * time.Millisecond, known: numbers[known].Int64 == 1,
		origin: origin{started: times[0], epoch: texts[2], database: numbers[database].Int64, relation: numbers[relation].Int64},
	}
	if h.current, err = cursor.ParseSnapshot(texts[0]); err != nil {
		return h, err
	}
	h.target, err = cursor.ParseSnapshot(texts[1])
	return h, err
}

// epoch returns a digest of the table, database, cluster and timeline of an
// answer. The timeline is included because a promoted standby reuses the xids
// of transactions that were lost. The object ids are included because a copy of
// a table or database has others.
func (s *Store) epoch(ctx context.Context, conn *pgx.Conn, h head) (uint64, error) {
	if err := s.sound(ctx, conn, h); err != nil {
		return 0, err
	}
	f := fnv.New64a()
	f.Write([]byte(h.origin.epoch))
	for _, part := range []int64{h.system, h.origin.database, h.origin.relation, int64(h.timeline)} {
		f.Write(binary.BigEndian.AppendUint64(nil, uint64(part))) // #nosec G115 -- only its bits are used
	}
	return f.Sum64(), nil
}

// sound returns errRestored if the xids of the rows are of another cluster. It
// queries once per table and run of the server.
func (s *Store) sound(ctx context.Context, conn *pgx.Conn, h head) error {
	s.mu.Lock()
	checked := s.checked
	s.mu.Unlock()
	if checked == h.origin {
		return nil
	}
	var system int64
	var future bool
	err := conn.QueryRow(ctx, s.SQL(`
		SELECT @.specwatch_system_identifier(),
		       NOT pg_is_in_recovery() AND EXISTS (SELECT 1 FROM @.events WHERE xid IS NOT NULL AND xid >= pg_snapshot_xmax(pg_current_snapshot()))`)).
		Scan(&system, &future)
	if err != nil {
		return err
	}
	if system != h.system && system != 0 && h.system != 0 || future {
		return errRestored
	}
	s.mu.Lock()
	s.checked = h.origin
	s.mu.Unlock()
	return nil
}

// How long a read waits for a standby, and how long between two attempts.
const (
	behindPatience = 3 * time.Second
	behindPause    = 20 * time.Millisecond
)

// check returns ErrExpired if the cursor is not of the history of the server
// that answered. On a standby it waits, up to behindPatience, until what the
// cursor has seen is replayed, and then returns a new answer; while too many
// reads wait so, it does not wait. before is what was known to be replayed
// before the answer was requested.
func (s *Store) check(ctx context.Context, conn *pgx.Conn, q query, a answer, epoch uint64, before replica) (answer, error) {
	c := q.cursor
	if c.Epoch != epoch {
		return a, ErrExpired
	}
	if !a.standby {
		if c.LSN > a.inserted || max(c.From.Xmax, c.To.Xmax) > a.current.Xmax {
			return a, ErrExpired
		}
		return a, a.verify()
	}
	if c.LSN > a.lsn && !q.own {
		if !s.mayWait() {
			return a, errBehind(c.LSN-a.lsn, a.age)
		}
		defer s.waiting.Add(-1)
	}
	// A replay position is read after its statement's snapshot was taken. Only
	// a position that was known before the statement proves that the snapshot
	// shows all up to it.
	patience := time.Now().Add(behindPatience)
	for s.noteReplayed(a); !before.has(a.origin.started, c.LSN); s.noteReplayed(a) {
		if c.LSN > a.lsn {
			if time.Now().After(patience) {
				return a, errBehind(c.LSN-a.lsn, a.age)
			}
			select {
			case <-ctx.Done():
				return a, ctx.Err()
			case <-time.After(behindPause):
			}
		}
		before = replica{a.origin.started, a.lsn}
		var err error
		if a, err = s.ask(ctx, conn, q); err != nil {
			return a, err
		}
	}
	return a, a.verify()
}

// mayWait reports whether another read may wait for the standby with its
// connection of the pool: half of the connections are left for reads that can
// be answered. The caller subtracts 1 from waiting afterwards.
func (s *Store) mayWait() bool {
	conns := int64(s.config.MaxConns)
	if narrow := s.narrow.Load(); narrow != nil {
		conns = min(conns, narrow.size)
	}
	if s.waiting.Add(1) <= conns/2 {
		return true
	}
	s.waiting.Add(-1)
	return false
}

// has reports whether the standby that was started then is known to have
// replayed up to lsn.
func (r replica) has(started time.Time, lsn uint64) bool {
	return lsn == 0 || r.started.Equal(started) && r.lsn >= lsn
}

// replayed returns what the standby is known to have replayed so far.
func (s *Store) replayed() replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replica
}

// noteReplayed keeps the replay position of an answer for later reads.
func (s *Store) noteReplayed(a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.replica.started.Equal(a.origin.started) {
		s.replica = replica{started: a.origin.started}
	}
	s.replica.lsn = max(s.replica.lsn, a.lsn)
}

// verify returns ErrExpired if a row that the cursor names is missing and prune
// did not remove it. Only prune removes rows.
func (a answer) verify() error {
	if a.known {
		return nil
	}
	return ErrExpired
}

// flushPause is the time between two checks whether the WAL is flushed, on a
// server that does not let this user request a flush.
const flushPause = 5 * time.Millisecond

// settle waits until everything in the answer is flushed, so that a crash
// cannot undo what was delivered. Only commits with synchronous_commit = off
// can be seen before they are flushed.
func (s *Store) settle(ctx context.Context, conn *pgx.Conn, a *answer) error {
	async := a.top != nil && a.top.async || slices.ContainsFunc(a.rows, func(r row) bool { return r.async })
	if a.standby || !async || a.lsn >= a.inserted {
		return nil // a standby receives only what is flushed
	}
	// The commit of a transaction with a logical message flushes the WAL.
	_, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'specwatch', '')`)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "42501" || pg.Code == "42883" || pg.Code == "25006") {
		err = waitForFlush(ctx, conn, a.inserted)
	}
	a.lsn = a.inserted
	return err
}

func waitForFlush(ctx context.Context, conn *pgx.Conn, lsn uint64) error {
	for {
		var flushed int64
		if err := conn.QueryRow(ctx, `SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint`).Scan(&flushed); err != nil || uint64(flushed) >= lsn { // #nosec G115 -- a position of the log, never negative
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(flushPause):
		}
	}
}
