//go:build linux

package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	smallRows   = 10_000
	chunkRows   = 20_000          // in one transaction
	fillers     = 2               // that write at once
	fixtureDays = 100             // over which the events are spread
	loops       = 40              // sessions that run side by side
	each        = 1_000           // events of a session
	sayEvery    = 5 * time.Second // how far a long step has come
)

// fixtureSQL writes rows $1 to $2 of $3. Forty loops run side by side; each
// session has fifty specs of twenty events: a start, heartbeats, usage, and an
// end: of a hundred, eighty complete, fifteen fail and five time out.
var fixtureSQL = fmt.Sprintf(`
	INSERT INTO events (kind, at, session, spec, data)
	SELECT CASE WHEN k = 0 THEN 'spec_started' WHEN k = 10 THEN 'agent.usage'
	            WHEN k = 19 THEN CASE WHEN (spec * 7 + loop * 13 + run) %% 100 < 80 THEN 'spec_completed' WHEN (spec * 7 + loop * 13 + run) %% 100 < 95 THEN 'spec_failed' ELSE 'timeout_triggered' END
	            ELSE 'session_heartbeat' END,
	       now() - interval '%[1]d days' * (($3::bigint - i)::float8 / $3::bigint),
	       'night-' || run || '-' || loop, 'spec-' || spec,
	       CASE WHEN k = 10 THEN '{"usage":{"inputTokens":1200,"outputTokens":34,"costUsd":0.05}}' WHEN k IN (0, 19) THEN '{}' ELSE '{"silentSeconds":3}' END::jsonb
	FROM (
	    SELECT i, i %% %[2]d AS loop, i / (%[2]d * %[3]d) AS run, (i / %[2]d) %% %[3]d / 20 AS spec, (i / %[2]d) %% 20 AS k
	    FROM generate_series($1::bigint, $2::bigint) i
	) e`, fixtureDays, loops, each)

// fill makes a table of so many rows: without indexes and triggers, which come
// back at the end.
func (w *world) fill(ctx context.Context, database string, rows int) error {
	conn, err := connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	type index struct{ Name, Definition string }
	found, err := conn.Query(ctx, `SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'events'::regclass AND NOT indisprimary`)
	if err != nil {
		return err
	}
	indexes, err := pgx.CollectRows(found, pgx.RowToStructByPos[index])
	if err != nil {
		return err
	}
	large := rows > smallRows
	if large {
		for _, i := range indexes {
			if _, err := conn.Exec(ctx, `DROP INDEX `+i.Name); err != nil {
				return err
			}
		}
	}
	if _, err := conn.Exec(ctx, `ALTER TABLE events DISABLE TRIGGER USER; ALTER TABLE events SET (autovacuum_enabled = false)`); err != nil {
		return err
	}
	began := time.Now()
	if err := w.fillRows(ctx, database, rows); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `SET maintenance_work_mem = '1GB'; SET max_parallel_maintenance_workers = 2`); err != nil {
		return err
	}
	if large {
		w.say("fixture: %d rows after %s; indexes follow", rows, time.Since(began).Round(time.Second))
		for _, i := range indexes {
			if _, err := conn.Exec(ctx, i.Definition); err != nil {
				return err
			}
			w.say("fixture: index %s after %s", i.Name, time.Since(began).Round(time.Second))
		}
	}
	// As a writer with synchronous_commit = on leaves it.
	if _, err := conn.Exec(ctx, `ALTER TABLE events ENABLE TRIGGER USER; ALTER TABLE events RESET (autovacuum_enabled)`); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `VACUUM (ANALYZE, FREEZE) events`); err != nil {
		return err
	}
	if large {
		w.say("fixture: %d rows are ready after %s", rows, time.Since(began).Round(time.Second))
	}
	return nil
}

// fillRows writes the rows by several connections, and says how far it has come.
func (w *world) fillRows(ctx context.Context, database string, rows int) error {
	var next, done atomic.Int64
	var writing sync.WaitGroup
	failed := make(chan error, fillers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range fillers {
		writing.Go(func() {
			if err := fillChunks(ctx, database, int64(rows), &next, &done); err != nil {
				failed <- err
				cancel()
			}
		})
	}
	filled := make(chan struct{})
	go func() { writing.Wait(); close(filled) }()
	for say := time.NewTicker(sayEvery); ; {
		select {
		case <-say.C:
			w.say("fixture: %d of %d rows", done.Load(), rows)
			continue
		case <-filled:
		}
		say.Stop()
		break
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// fillChunks writes chunks of rows until none is left. next is the first row of
// the next chunk, for all connections.
func fillChunks(ctx context.Context, database string, rows int64, next, done *atomic.Int64) error {
	conn, err := connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `SET synchronous_commit = off`); err != nil {
		return err
	}
	for {
		first := next.Add(chunkRows) - chunkRows
		if first >= rows {
			return nil
		}
		last := min(first+chunkRows, rows) - 1
		if _, err := conn.Exec(ctx, fixtureSQL, first, last, rows); err != nil {
			return err
		}
		done.Add(last - first + 1)
	}
}
