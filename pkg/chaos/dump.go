//go:build linux

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// dump is the content of a database's tables and sequences, as pg_dump saves
// it. npm's packages have no pg_dump, and that of another version refuses to work.
type dump struct {
	tables    []tableDump
	sequences map[string]int64
}

type tableDump struct {
	name, columns string
	rows          []byte
}

const tablesSQL = `
SELECT format('%I.%I', n.nspname, c.relname), string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind = 'r' AND n.nspname IN ('public', 'chaos') AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
GROUP BY 1 ORDER BY 1`

const sequencesSQL = `SELECT format('%I.%I', schemaname, sequencename), coalesce(last_value, 0) FROM pg_sequences WHERE schemaname IN ('public', 'chaos')`

func readDump(ctx context.Context, database string) (*dump, error) {
	conn, err := connect(ctx, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	d := &dump{sequences: map[string]int64{}}
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, tablesSQL)
		if err != nil {
			return err
		}
		var t tableDump
		if _, err := pgx.ForEachRow(rows, []any{&t.name, &t.columns}, func() error { d.tables = append(d.tables, t); return nil }); err != nil {
			return err
		}
		for i := range d.tables {
			var out bytes.Buffer
			t := &d.tables[i]
			if _, err := conn.PgConn().CopyTo(ctx, &out, fmt.Sprintf("COPY %s (%s) TO STDOUT", t.name, t.columns)); err != nil {
				return err
			}
			t.rows = out.Bytes()
		}
		if rows, err = tx.Query(ctx, sequencesSQL); err != nil {
			return err
		}
		var name string
		var last int64
		_, err = pgx.ForEachRow(rows, []any{&name, &last}, func() error { d.sequences[name] = last; return nil })
		return err
	})
	return d, err
}

// restore replaces what is in the tables of a database with the same schema.
func (d *dump) restore(ctx context.Context, database string) error {
	conn, err := connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// pg_restore, too, makes triggers after the rows.
		if _, err := tx.Exec(ctx, "SET LOCAL session_replication_role = replica"); err != nil {
			return err
		}
		var names []string
		for _, t := range d.tables {
			names = append(names, t.name)
		}
		if _, err := tx.Exec(ctx, "TRUNCATE "+strings.Join(names, ", ")); err != nil {
			return err
		}
		for _, t := range d.tables {
			if _, err := conn.PgConn().CopyFrom(ctx, bytes.NewReader(t.rows), fmt.Sprintf("COPY %s (%s) FROM STDIN", t.name, t.columns)); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
		for name, last := range d.sequences {
			if last > 0 {
				if _, err := tx.Exec(ctx, "SELECT setval($1::regclass, $2)", name, last); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
