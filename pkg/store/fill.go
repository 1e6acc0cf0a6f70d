package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Filled is the progress of FillMirror.
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

// FillMirror makes events of the rows that the table already holds, while other
// programs write into it. After an interruption it can be started again: events
// that were written stay, and only the missing ones are added. The unmapped
// rows that it finds replace those counted before. progress may be nil.
func (s *Store) FillMirror(ctx context.Context, table string, progress func(Filled)) (Filled, error) {
	var done Filled
	// One snapshot shows each row once, whatever is updated meanwhile. The
	// trigger maps the rows that are inserted after it.
	conn, err := s.connect(ctx, func(*pgx.ConnConfig) {})
	if err != nil {
		return done, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		t, err := s.mirrorable(ctx, tx, table)
		if err != nil {
			return err
		}
		schema, err := s.ownSchema(ctx, tx)
		if err != nil {
			return err
		}
		all, err := s.mirrors(ctx, tx)
		if err != nil {
			return err
		}
		m := mirrorOf(all, t)
		switch {
		case !m.Active:
			return problem(NoTable, nil, "table %s is not mirrored", t)
		case m.Mapping.Key == "":
			return mappingErrorf("key", "table %s has no column that tells its rows apart, so those that it holds cannot be brought over; name an SQL expression that does", t)
		}
		zone := m.Mapping.TimeZone
		if zone == "" {
			zone = "UTC"
		}
		if err := evaluateAsTrigger(ctx, tx, zone); err != nil {
			return err
		}
		var snapshot string
		if err := tx.QueryRow(ctx, `SELECT pg_current_snapshot()::text, set_config('row_security', 'off', true)`).Scan(&snapshot, nil); err != nil {
			return err
		}
		old := "false"
		if m.upTo != nil { // returnAdopted made events of these, with other keys
			old = fmt.Sprintf("t.id <= %d", *m.upTo)
		}
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM "+t.rows()).Scan(&done.Rows); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT state, CASE WHEN state = 'new' THEN kind END, CASE WHEN state = 'new' THEN at END, CASE WHEN state = 'new' THEN session END,
			       CASE WHEN state = 'new' THEN spec END, CASE WHEN state = 'new' THEN data::text END, key, problem
			FROM (
			    SELECT m.*, CASE WHEN NOT m.taken THEN 'left out' WHEN m.problem IS NOT NULL THEN 'unmapped' WHEN `+old+` OR e.key IS NOT NULL THEN 'known' WHEN m.at < meta.pruned_before THEN 'pruned' ELSE 'new' END AS state
			    FROM `+own(schema, "specwatch_meta")+` meta, `+t.rows()+` AS t, LATERAL `+mapFunction(schema, m.id)+`(t) AS `+mappedColumns+` LEFT JOIN `+own(schema, "events")+` e ON e.key = m.key
			) r`)
		if err != nil {
			return err
		}
		reasons := map[string]*Reason{}
		b := batch{}
		flush := func() error {
			n, err := s.writeBatch(ctx, schema, &b)
			done.Written += n
			done.Known += int64(len(b.kinds)) - n
			b = batch{}
			if err == nil && progress != nil {
				progress(done)
			}
			return err
		}
		var state string
		var kind, session, spec, data, key, problem *string
		var at *time.Time
		_, err = pgx.ForEachRow(rows, []any{&state, &kind, &at, &session, &spec, &data, &key, &problem}, func() error {
			done.Read++
			switch state {
			case "known":
				done.Known++
			case "pruned":
				done.Pruned++
			case "unmapped":
				done.Unmapped++
				if reasons[*problem] == nil && len(reasons) < maxReasonsKept {
					r := reasonOf(*problem, 0, key)
					reasons[*problem] = &r
				}
				if reasons[*problem] == nil {
					*problem = "other reasons"
					reasons[*problem] = &Reason{Text: *problem}
				}
				reasons[*problem].Rows++
			case "new":
				b.add(*kind, *at, *session, *spec, *data, *key)
				if len(b.kinds) == chunkEvents || b.bytes >= chunkBytes {
					return flush()
				}
			}
			if done.Read%100_000 == 0 && progress != nil {
				progress(done)
			}
			return nil
		})
		if err == nil {
			err = flush()
		}
		if err != nil {
			return err
		}
		return s.inTransaction(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, s.sql(`DELETE FROM @.specwatch_unmapped WHERE mirror = $1 AND pg_visible_in_snapshot(xid, $2::text::pg_snapshot)`), m.id, snapshot); err != nil {
				return err
			}
			for _, r := range reasons {
				if _, err := tx.Exec(ctx, s.sql(`INSERT INTO @.specwatch_unmapped (mirror, rows, reason, example) VALUES ($1, $2, $3, nullif($4, ''))`), m.id, r.Rows, r.Text, r.Example); err != nil {
					return err
				}
			}
			_, err := tx.Exec(ctx, s.sql(`UPDATE @.specwatch_mirrors SET filled = now() WHERE id = $1`), m.id)
			return err
		})
	})
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return done, explain(err)
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
func (s *Store) writeBatch(ctx context.Context, schema string, b *batch) (int64, error) {
	if len(b.kinds) == 0 {
		return 0, nil
	}
	return writing(ctx, s, func(conn *pgx.Conn) (int64, error) {
		tag, err := conn.Exec(ctx, qualify(schema, `
			INSERT INTO @.events (kind, at, session, spec, data, key, stored)
			SELECT kind, at, session, spec, data::jsonb, key, NULL
			FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[]) WITH ORDINALITY AS e (kind, at, session, spec, data, key, n)
			ORDER BY n
			ON CONFLICT (key) WHERE key IS NOT NULL DO NOTHING`), b.kinds, b.times, b.sessions, b.specs, b.data, b.keys)
		return tag.RowsAffected(), err
	})
}
