package mirror

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/store"
)

// Filled is the progress of Fill.
type Filled struct {
	Rows     int64 // of the table
	Read     int64
	Written  int64 // as events
	Known    int64 // whose events were there already
	Pruned   int64 // older than what prune has removed
	Unmapped int64
}

// maxReasonsKept bounds how many different reasons a fill counts separately.
const maxReasonsKept = 1_000

// Fill makes events of the rows that the table already holds, while other
// programs write into it. After an interruption it can be started again: events
// that were written stay, and only the missing ones are added. The unmapped
// rows that it finds replace those counted before. progress may be nil.
func Fill(ctx context.Context, s *store.Store, table string, progress func(Filled)) (Filled, error) {
	f := fill{store: s, progress: progress, reasons: map[string]*Reason{}}
	// One snapshot shows each row once, whatever is updated meanwhile. The
	// trigger maps the rows that are inserted after it.
	conn, err := s.Connect(ctx, func(*pgx.ConnConfig) {})
	if err != nil {
		return f.done, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := f.find(ctx, tx, table); err != nil {
			return err
		}
		if err := evaluateAsTrigger(ctx, tx, cmp.Or(f.mirror.Mapping.TimeZone, "UTC")); err != nil {
			return err
		}
		var snapshot string
		if err := tx.QueryRow(ctx, `SELECT pg_current_snapshot()::text, set_config('row_security', 'off', true)`).Scan(&snapshot, nil); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM "+f.table.rows()).Scan(&f.done.Rows); err != nil {
			return err
		}
		if err := f.read(ctx, tx); err != nil {
			return err
		}
		return f.end(ctx, snapshot)
	})
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return f.done, s.Explain(err)
}

// fill is one run of Fill.
type fill struct {
	store    *store.Store
	progress func(Filled) // may be nil

	schema  string
	table   source
	mirror  Mirror
	done    Filled
	reasons map[string]*Reason // of the unmapped rows, by their text
	batch   batch
}

// find looks the table and its mirror up.
func (f *fill) find(ctx context.Context, tx pgx.Tx, table string) (err error) {
	if f.table, err = mirrorable(ctx, f.store, tx, table); err != nil {
		return err
	}
	if f.schema, err = ownSchema(ctx, f.store, tx); err != nil {
		return err
	}
	all, err := mirrors(ctx, f.store, tx)
	if err != nil {
		return err
	}
	f.mirror = mirrorOf(all, f.table)
	switch {
	case !f.mirror.Active:
		return store.NewProblem(store.NoTable, nil, "table %s is not mirrored", f.table)
	case f.mirror.Mapping.Key == "":
		return mappingErrorf("key", "table %s has no column that tells its rows apart, so those that it holds cannot be brought over; name an SQL expression that does", f.table)
	}
	return nil
}

// filledRow is a row of the table. What only an event needs is nil unless the
// state is "new".
type filledRow struct {
	state                                   string
	kind, session, spec, data, key, problem *string
	at                                      *time.Time
}

// read maps the rows of the table and writes their events.
func (f *fill) read(ctx context.Context, tx pgx.Tx) error {
	old := "false"
	if f.mirror.upTo != nil { // ReturnAdopted made events of these, with other keys
		old = fmt.Sprintf("t.id <= %d", *f.mirror.upTo)
	}
	rows, err := tx.Query(ctx, `
		SELECT state, CASE WHEN state = 'new' THEN kind END, CASE WHEN state = 'new' THEN at END, CASE WHEN state = 'new' THEN session END,
		       CASE WHEN state = 'new' THEN spec END, CASE WHEN state = 'new' THEN data::text END, key, problem
		FROM (
		    SELECT m.*, CASE WHEN NOT m.taken THEN 'left out' WHEN m.problem IS NOT NULL THEN 'unmapped' WHEN `+old+` OR e.key IS NOT NULL THEN 'known' WHEN m.at < meta.pruned_before THEN 'pruned' ELSE 'new' END AS state
		    FROM `+own(f.schema, "specwatch_meta")+` meta, `+f.table.rows()+` AS t, LATERAL `+mapFunction(f.schema, f.mirror.id)+`(t) AS `+mappedColumns+` LEFT JOIN `+own(f.schema, "events")+` e ON e.key = m.key
		) r`)
	if err != nil {
		return err
	}
	var r filledRow
	_, err = pgx.ForEachRow(rows, []any{&r.state, &r.kind, &r.at, &r.session, &r.spec, &r.data, &r.key, &r.problem}, func() error { return f.take(ctx, r) })
	if err == nil {
		err = f.flush(ctx)
	}
	return err
}

// take counts a row, and adds its event to the batch if it is new.
func (f *fill) take(ctx context.Context, r filledRow) error {
	f.done.Read++
	switch r.state {
	case "known":
		f.done.Known++
	case "pruned":
		f.done.Pruned++
	case "unmapped":
		f.done.Unmapped++
		f.countReason(*r.problem, r.key)
	case "new":
		f.batch.add(*r.kind, *r.at, *r.session, *r.spec, *r.data, *r.key)
		if len(f.batch.kinds) == store.ChunkEvents || f.batch.bytes >= store.ChunkBytes {
			return f.flush(ctx)
		}
	}
	if f.done.Read%100_000 == 0 && f.progress != nil {
		f.progress(f.done)
	}
	return nil
}

func (f *fill) countReason(text string, key *string) {
	if f.reasons[text] == nil && len(f.reasons) >= maxReasonsKept {
		text, key = "other reasons", nil
	}
	if f.reasons[text] == nil {
		r := reasonOf(text, 0, key)
		f.reasons[text] = &r
	}
	f.reasons[text].Rows++
}

func (f *fill) flush(ctx context.Context) error {
	n, err := writeBatch(ctx, f.store, f.schema, &f.batch)
	f.done.Written += n
	f.done.Known += int64(len(f.batch.kinds)) - n
	f.batch = batch{}
	if err == nil && f.progress != nil {
		f.progress(f.done)
	}
	return err
}

// end replaces the unmapped rows that were counted before the snapshot, and
// records that the mirror is filled.
func (f *fill) end(ctx context.Context, snapshot string) error {
	s := f.store
	return s.InTransaction(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.SQL(`DELETE FROM @.specwatch_unmapped WHERE mirror = $1 AND pg_visible_in_snapshot(xid, $2::text::pg_snapshot)`), f.mirror.id, snapshot); err != nil {
			return err
		}
		for _, r := range f.reasons {
			if _, err := tx.Exec(ctx, s.SQL(`INSERT INTO @.specwatch_unmapped (mirror, rows, reason, example) VALUES ($1, $2, $3, nullif($4, ''))`), f.mirror.id, r.Rows, r.Text, r.Example); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, s.SQL(`UPDATE @.specwatch_mirrors SET filled = now() WHERE id = $1`), f.mirror.id)
		return err
	})
}

// batch is what one INSERT of a fill carries.
type batch struct {
	kinds, sessions, specs, data, keys []string
	times                              []time.Time
	bytes                              int
}

func (b *batch) add(kind string, at time.Time, session, spec, data, key string) {
	b.kinds, b.sessions, b.specs = append(b.kinds, kind), append(b.sessions, session), append(b.specs, spec)
	b.data, b.keys, b.times = append(b.data, data), append(b.keys, key), append(b.times, at)
	b.bytes += len(session) + len(spec) + len(data) + len(key)
}

// writeBatch writes a batch and returns how many events are new. `stored` is
// NULL, because the rows are older than this insert.
func writeBatch(ctx context.Context, s *store.Store, schema string, b *batch) (int64, error) {
	if len(b.kinds) == 0 {
		return 0, nil
	}
	return store.Writing(ctx, s, func(conn *pgx.Conn) (int64, error) {
		tag, err := conn.Exec(ctx, store.Qualify(schema, `
			INSERT INTO @.events (kind, at, session, spec, data, key, stored)
			SELECT kind, at, session, spec, data::jsonb, key, NULL
			FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[]) WITH ORDINALITY AS e (kind, at, session, spec, data, key, n)
			ORDER BY n
			ON CONFLICT (key) WHERE key IS NOT NULL DO NOTHING`), b.kinds, b.times, b.sessions, b.specs, b.data, b.keys)
		return tag.RowsAffected(), err
	})
}
