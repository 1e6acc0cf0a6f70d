package store

import (
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

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
)

// ErrExpired is the answer to a cursor of another table or database, or of
// another history of this one: a restore, a fail-over, an older state put
// back. Start afresh with SinceTime.
var ErrExpired = errors.New("the cursor belongs to another database or to a history that a restore or fail-over ended; start afresh")

// pageBytes bounds the data of one page, so that a page of large events fits
// in memory; one event always fits.
const pageBytes = 8 << 20

// Page is what one read brought.
type Page struct {
	Events []event.Event
	Xids   []uint64      // of the events, in their order
	Cursor cursor.Cursor // where to read on
	More   bool          // there is or may be more: read on at once; false: nothing was missing when this was read
	At     time.Time     // the database's clock
	Xmin   uint64        // every transaction below it had ended
	Pruned int64         // how many events prune has ever removed

	moment moment
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
	moments, err := collect(ctx, s, `SELECT `+atSQL+` FROM @.events e ORDER BY at DESC, id DESC OFFSET $1 LIMIT 1`, []any{n - 1}, pgx.RowTo[time.Time])
	if err != nil {
		return Page{}, err
	}
	from := earliest
	if len(moments) > 0 {
		from = moments[0]
	}
	return s.SinceTime(ctx, from, limit)
}

func (s *Store) pooled(ctx context.Context, q query) (Page, error) {
	return reading(ctx, s, func(conn *pgx.Conn) (Page, error) { return s.since(ctx, conn, q) })
}

type query struct {
	cursor cursor.Cursor
	from   time.Time
	limit  int
}

// earliest lies before every time that a row can have: a table may hold what
// the rules for new events refuse.
var earliest = time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)

// The columns of a row as readers get them, whatever a row may hold: infinite
// times and years that JSON cannot write, and NULL where a column of the table
// allows it.
const (
	atSQL     = `least(greatest(e.at, '0001-01-01 00:00:01+00'), '9999-12-31 23:59:59.999999+00')`
	columnSQL = `e.id::bigint, coalesce(e.kind, '')::text AS kind, ` + atSQL + ` AS at, coalesce(e.session, '')::text AS session, coalesce(e.spec, '')::text AS spec, coalesce(e.data::text, '{}') AS data, e.async_commit, e.stored`
)

// moment is the same as long as nothing is committed and the server neither
// restarts nor is promoted.
type moment struct {
	snapshot string
	standby  bool
	started  time.Time
}

// headSQL is what every read learns beside its rows, in the same statement
// and so by the same snapshot. The target is the snapshot that the read aims
// at: given ($1) while turning pages, else the current one. On a standby the
// snapshot does not list what is in progress on the primary, so only what
// lies below its xmin counts there. "top" is the greatest row of the target,
// "known" whether the table holds the row that the cursor names ($3, $4).
// The log positions are read after the snapshot was taken: what it shows lies
// before "inserted", and before "lsn" as far as it was flushed when it
// committed.
const headSQL = `
WITH head AS MATERIALIZED (
    SELECT coalesce(nullif($1::text, '')::pg_snapshot,
                    CASE WHEN s.standby THEN format('%1$s:%1$s:', pg_snapshot_xmin(s.current))::pg_snapshot ELSE s.current END) AS target,
           s.current, s.standby, pg_postmaster_start_time() AS started, clock_timestamp() AS clock,
           m.epoch::text AS epoch, m.system_identifier, m.pruned_before, m.pruned,
           (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()) AS database,
           to_regclass('@.events')::oid::bigint AS relation,
           CASE WHEN s.standby THEN @.specwatch_standby_timeline()
                ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END AS timeline,
           (CASE WHEN s.standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0')::bigint AS lsn,
           (CASE WHEN s.standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint AS inserted,
           CASE WHEN s.standby THEN coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)::float8 ELSE 0 END AS age,
           EXISTS (SELECT FROM @.events e WHERE e.id = $4::bigint AND ` + atSQL + ` = $3::timestamptz) AS known
    FROM (SELECT pg_current_snapshot() AS current, pg_is_in_recovery() AS standby) s, @.specwatch_meta m
), top AS MATERIALIZED (
    SELECT e.xid::text::bigint AS xid, e.id::bigint, ` + atSQL + ` AS at, e.async_commit FROM @.events e
    WHERE e.xid IS NOT NULL AND e.xid < (SELECT pg_snapshot_xmax(target) FROM head) AND pg_visible_in_snapshot(e.xid, (SELECT target FROM head))
    ORDER BY e.xid DESC, e.id DESC LIMIT 1
)`

// tailSQL answers the head as its first row, with the top in the columns of a
// row, then the rows of "page" as far as they fit in the limit ($2) and in
// bytes ($5). A page holds one row more than the limit, which tells whether
// there is more.
const tailSQL = `
, sized AS (
    SELECT *, row_number() OVER w AS n, count(*) OVER () AS found, sum(octet_length(data)) OVER w - octet_length(data) AS before
    FROM page WINDOW w AS (ORDER BY place, id)
)
SELECT 0 AS n, h.current::text, h.target::text, h.standby, h.started, h.clock, h.epoch, h.system_identifier, h.pruned_before, h.pruned, h.database, h.relation, h.timeline, h.lsn, h.inserted, h.age, h.known,
       NULL::bigint AS found, t.xid, t.id, NULL::text AS kind, t.at, NULL::text AS session, NULL::text AS spec, NULL::text AS data, t.async_commit, NULL::timestamptz AS stored
FROM head h LEFT JOIN top t ON true
UNION ALL
SELECT n, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, found, xid, id, kind, at, session, spec, data, async_commit, stored
FROM sized WHERE n <= $2 AND before < $5
ORDER BY n`

// sinceSQL reads in the order (xid, id) after ($6, $7): of the transactions
// that the cursor saw open ($8), and of those that it knows nothing about
// ($9, $10). Looking each open one up keeps a single long transaction from
// making every read scan all that was written since it began.
const sinceSQL = headSQL + `
, page AS (
    (SELECT e.xid::text::bigint AS place, e.xid::text::bigint AS xid, ` + columnSQL + `
     FROM unnest($8::text[]) AS open (xid), LATERAL (
         SELECT * FROM @.events e
         WHERE e.xid = open.xid::xid8 AND e.xid IS NOT NULL AND (e.xid, e.id) > ($6::text::xid8, $7::bigint)
         ORDER BY e.xid, e.id LIMIT $2 + 1
     ) e
     WHERE pg_visible_in_snapshot(open.xid::xid8, (SELECT target FROM head))
     ORDER BY 1, 3 LIMIT $2 + 1)
    UNION ALL
    (SELECT e.xid::text::bigint, e.xid::text::bigint, ` + columnSQL + `
     FROM @.events e
     WHERE e.xid IS NOT NULL AND (e.xid, e.id) > ($9::text::xid8, $10::bigint)
       AND e.xid < (SELECT pg_snapshot_xmax(target) FROM head) AND pg_visible_in_snapshot(e.xid, (SELECT target FROM head))
     ORDER BY e.xid, e.id LIMIT $2 + 1)
    ORDER BY 1, 3 LIMIT $2 + 1
)` + tailSQL

// historySQL reads in the order of time from $6, after ($7, $8). Without $6 it
// begins $9 before now.
const historySQL = headSQL + `
, page AS (
    SELECT (extract(epoch FROM ` + atSQL + `) * 1000000)::bigint AS place, e.xid::text::bigint AS xid, ` + columnSQL + `
    FROM @.events e
    WHERE e.at >= coalesce($6::timestamptz, clock_timestamp() - $9::interval) AND (` + atSQL + `, e.id) > ($7::timestamptz, $8::bigint)
      AND (e.xid IS NULL OR pg_visible_in_snapshot(e.xid, (SELECT target FROM head)))
    ORDER BY e.at, e.id LIMIT $2 + 1
)` + tailSQL

// head is what a read learnt beside its rows.
type head struct {
	current, target cursor.Snapshot
	standby         bool
	clock           time.Time
	origin          origin
	timeline        int32
	system          int64
	prunedBefore    time.Time
	pruned          int64
	lsn, inserted   uint64
	age             time.Duration // of what a standby replayed last
	known           bool
	top             *row
}

// origin tells one table from another, and one run of a server from another.
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

// since reads one page and says what its reader has seen then. It claims, and
// delivers, only what a crash cannot take back, and answers only what the
// server has replayed.
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
	// The target of earlier pages is as old as the first of them. Only a read
	// from a cursor at rest shows that nothing has come since.
	page.More = page.More || c.Paging()
	return page, nil
}

// next is the cursor of a reader who had c and was given the answer.
func next(c cursor.Cursor, a answer, epoch uint64) cursor.Cursor {
	history := c.IsZero() || c.InHistory()
	reached := cursor.Cursor{Epoch: epoch, LSN: max(c.LSN, a.lsn), From: cursor.Nothing()}
	if a.top != nil {
		// What lies behind the last event of the target may be given out
		// again after a crash.
		reached.From, reached.Last = a.target.Through(a.top.xid), a.top.moment()
	}
	reached.To = reached.From
	switch {
	case a.more && history:
		last := a.rows[len(a.rows)-1].moment()
		return cursor.Cursor{Epoch: epoch, LSN: reached.LSN, To: reached.To, History: last, Last: last}
	case a.more:
		last := a.rows[len(a.rows)-1]
		return cursor.Cursor{Epoch: epoch, LSN: reached.LSN, From: c.From, To: reached.To, After: cursor.Position{Xid: last.xid, ID: last.ID}, Last: last.moment()}
	case history:
		return reached
	case len(a.rows) == 0 && !c.Paging() && c.From.Contains(reached.From):
		return c // it stays valid, and its text the same
	}
	// On a standby the target may lie behind what the cursor has seen.
	seen := cursor.Cursor{Epoch: epoch, LSN: c.LSN, From: c.From, To: c.From, Last: c.Last}
	return seen.Union(reached)
}

// ask runs the statement.
func (s *Store) ask(ctx context.Context, conn *pgx.Conn, q query) (answer, error) {
	c := q.cursor
	target := ""
	if c.Paging() {
		target = c.To.String()
	}
	args := []any{target, q.limit, time.UnixMicro(c.Last.Micros), c.Last.ID, pageBytes}
	sql := s.sinceSQL
	if c.IsZero() || c.InHistory() {
		sql = s.historySQL
		var from *time.Time // nil: DefaultHistory back, by the database's clock
		after, id := earliest, int64(math.MinInt64)
		switch {
		case c.InHistory():
			from, after, id = &after, time.UnixMicro(c.History.Micros), c.History.ID
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
		args = append(args, strconv.FormatUint(c.After.Xid, 10), c.After.ID, open, strconv.FormatUint(lower.Xid, 10), lower.ID)
	}
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return answer{}, err
	}
	return scan(rows)
}

func scan(rows pgx.Rows) (a answer, err error) {
	defer rows.Close()
	seen := false
	var found int64
	for rows.Next() {
		var n int64
		var current, target, epoch *string
		var standby, known, async *bool
		var started, clock, pruned, at, stored *time.Time
		var system, removed, database, relation, lsn, inserted, rowFound, xid, id *int64
		var timeline *int32
		var age *float64
		var kind, session, spec, data *string
		if err = rows.Scan(&n, &current, &target, &standby, &started, &clock, &epoch, &system, &pruned, &removed, &database, &relation, &timeline, &lsn, &inserted, &age, &known,
			&rowFound, &xid, &id, &kind, &at, &session, &spec, &data, &async, &stored); err != nil {
			return
		}
		var r row
		if id != nil {
			r.ID, r.At, r.async = *id, at.UTC(), async != nil && *async
		}
		if xid != nil {
			r.xid = uint64(*xid) // #nosec G115 -- xid8 as a bigint
		}
		if stored != nil {
			r.Stored = stored.UTC()
		}
		if n > 0 {
			found = *rowFound
			r.Kind, r.Session, r.Spec, r.Data = event.Kind(*kind), *session, *spec, event.Readable(*data)
			a.rows = append(a.rows, r)
			continue
		}
		if relation == nil {
			// ALTER SCHEMA RENAME waits for no reader.
			return answer{}, problem(NoTable, nil, "the schema of the events table was renamed or removed while it was read; name the new one, or run: specwatch migrate")
		}
		seen = true
		a.head = head{
			standby: *standby, clock: clock.UTC(), timeline: *timeline, system: *system, prunedBefore: *pruned, pruned: *removed,
			lsn: uint64(*lsn), inserted: uint64(*inserted), // #nosec G115 -- positions of the log, never negative
			age: time.Duration(*age * float64(time.Second)), known: *known,
		}
		a.origin = origin{started: *started, epoch: *epoch, database: *database, relation: *relation}
		if id != nil {
			a.top = &r
		}
		if a.current, err = cursor.ParseSnapshot(*current); err != nil {
			return
		}
		if a.target, err = cursor.ParseSnapshot(*target); err != nil {
			return
		}
	}
	a.more = int64(len(a.rows)) < found
	if err = rows.Err(); err == nil && !seen {
		err = problem(NoTable, nil, "specwatch_meta is empty; run: specwatch migrate")
	}
	return
}

// epoch names the table, database, cluster and timeline of an answer. After a
// fail-over, transaction ids that were lost are given out again, so the
// timeline is part of it; a copy of a table or database has ids of its own.
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

// sound reports whether the rows' transaction ids are of this cluster. It asks
// once per table and run of the server.
func (s *Store) sound(ctx context.Context, conn *pgx.Conn, h head) error {
	s.mu.Lock()
	checked := s.checked
	s.mu.Unlock()
	if checked == h.origin {
		return nil
	}
	var system int64
	var future bool
	err := conn.QueryRow(ctx, s.sql(`
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

// Waiting for a standby.
const (
	behindPatience = 3 * time.Second
	behindPause    = 20 * time.Millisecond
)

// check holds the cursor against the server that answered: whether it is of
// this history, and whether the server has replayed all that it has seen. A
// standby is given a moment to get there; the answer is then a new one. The
// replica is what was known before the answer was asked for.
func (s *Store) check(ctx context.Context, conn *pgx.Conn, q query, a answer, epoch uint64, before replica) (answer, error) {
	c := q.cursor
	if c.Epoch != epoch {
		return a, ErrExpired
	}
	if !a.standby {
		if c.LSN > a.inserted || max(c.From.Xmax, c.To.Xmax) > a.current.Xmax {
			return a, ErrExpired
		}
		return a, a.verify(c)
	}
	// The position was read after the statement's snapshot was taken, by this
	// request or by another: only a position that was known before the
	// statement proves that the snapshot shows all up to it.
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
	return a, a.verify(c)
}

// has reports whether the standby that runs since then had replayed that far.
func (r replica) has(started time.Time, lsn uint64) bool {
	return lsn == 0 || r.started.Equal(started) && r.lsn >= lsn
}

// replayed is what a standby is known to have replayed by now.
func (s *Store) replayed() replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replica
}

// noteReplayed keeps what an answer tells, for those who ask later.
func (s *Store) noteReplayed(a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.replica.started.Equal(a.origin.started) {
		s.replica = replica{started: a.origin.started}
	}
	s.replica.lsn = max(s.replica.lsn, a.lsn)
}

// verify looks for the row that the cursor names. Only prune removes rows.
func (a answer) verify(c cursor.Cursor) error {
	if c.Last == (cursor.Moment{}) || a.known || time.UnixMicro(c.Last.Micros).Before(a.prunedBefore) {
		return nil
	}
	return ErrExpired
}

// Waiting for a flush that this server does not let a reader ask for.
const flushPause = 5 * time.Millisecond

// settle waits until everything in the answer is flushed, so that no crash
// takes back what was delivered. Commits are flushed before they can be seen,
// but for those with synchronous_commit = off.
func (s *Store) settle(ctx context.Context, conn *pgx.Conn, a *answer) error {
	async := a.top != nil && a.top.async || slices.ContainsFunc(a.rows, func(r row) bool { return r.async })
	if a.standby || !async || a.lsn >= a.inserted {
		return nil // a standby gets what is flushed
	}
	// The commit of a transaction with a message flushes the log.
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
