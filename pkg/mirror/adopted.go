package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specwatch/specwatch/pkg/store"
)

// ReturnAdopted undoes what version 0.2 could do: it made another program's
// table the events table by renaming it, and left a view under the old name.
// The view lost grants and bypassed row security policies. ReturnAdopted gives
// the table its name back, copies its rows with their ids into an events table
// of Specwatch's own, and mirrors later inserts. It may be interrupted and
// repeated. It returns the table's name, or "" if there was none.
func ReturnAdopted(ctx context.Context, conn *pgx.Conn, schema string, told func(string)) (string, error) {
	err := patientlyOn(ctx, conn, told, func(tx pgx.Tx) error { return swapAdopted(ctx, tx, schema) })
	if err != nil {
		return "", err
	}
	var r returned
	err = conn.QueryRow(ctx, store.Qualify(schema, `
		SELECT m.id, m.up_to, format('%I.%I', n.nspname, c.relname) FROM @.specwatch_mirrors m JOIN pg_trigger t ON t.tgfoid = to_regproc('@.specwatch_mirror_' || m.id)
		JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE m.up_to IS NOT NULL AND m.filled IS NULL`)).Scan(&r.id, &r.upTo, &r.relation)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if err := r.copyRows(ctx, conn, schema, told); err != nil {
		return r.relation, err
	}
	// The columns that version 0.2 added are dropped last: the copy above reads
	// them.
	return r.relation, patientlyOn(ctx, conn, told, func(tx pgx.Tx) error {
		added, err := addedColumns(ctx, tx, r.relation)
		if err != nil {
			return err
		}
		for _, column := range added {
			if _, err := tx.Exec(ctx, "ALTER TABLE "+r.relation+" DROP COLUMN "+pgx.Identifier{column}.Sanitize()); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, store.Qualify(schema, `UPDATE @.specwatch_mirrors SET filled = now() WHERE id = $1`), r.id)
		return err
	})
}

// returned is a table that has its name back. Its rows up to upTo are copied
// into the events table.
type returned struct {
	id       int // of its mirror
	upTo     int64
	relation string // its quoted name
}

// copyRows copies the rows that no earlier attempt has copied.
func (r returned) copyRows(ctx context.Context, conn *pgx.Conn, schema string, told func(string)) error {
	var after, copied int64
	if err := conn.QueryRow(ctx, store.Qualify(schema, `SELECT coalesce(max(id), -9223372036854775808) FROM @.events WHERE id <= $1`), r.upTo).Scan(&after); err != nil {
		return err
	}
	for {
		last, rows, err := r.copyPage(ctx, conn, schema, after)
		if err != nil || last == nil {
			return err
		}
		after = *last
		if copied += rows; told != nil && copied%100_000 == 0 {
			told(fmt.Sprintf("%d rows of %s became events", copied, r.relation))
		}
	}
}

// copyPage copies some rows after an id and returns the last id and how many
// they are; nil if there are no more.
func (r returned) copyPage(ctx context.Context, conn *pgx.Conn, schema string, after int64) (last *int64, rows int64, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := evaluateAsTrigger(ctx, tx, "UTC"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			WITH page AS MATERIALIZED (
			    SELECT t.id::bigint AS id, t.key::text AS own, coalesce(t.spec::text, '') AS spec, coalesce(t.data, '{}') AS data, t.stored, m.kind, m.at, m.session, m.key, m.problem
			    FROM `+r.relation+` AS t, LATERAL `+mapFunction(schema, r.id)+`(t) AS `+mappedColumns+`
			    WHERE t.id > $1::bigint AND t.id <= $2::bigint ORDER BY t.id LIMIT $3
			), kept AS (
			    INSERT INTO `+own(schema, "events")+` (id, kind, at, session, spec, data, key, stored)
			    SELECT id, kind, at, session, spec, data, coalesce(own, key), stored FROM page WHERE problem IS NULL ORDER BY id
			    ON CONFLICT DO NOTHING
			), unmapped AS (
			    INSERT INTO `+own(schema, "specwatch_unmapped")+` (mirror, rows, reason, example)
			    SELECT $4, count(*), problem, min(key) FROM page WHERE problem IS NOT NULL GROUP BY problem
			)
			SELECT max(id), count(*) FROM page`, after, r.upTo, store.ChunkEvents, r.id).Scan(&last, &rows)
	})
	return last, rows, err
}

// addedColumns returns the columns that version 0.2 added to the table: xid,
// which came first, and all after it.
func addedColumns(ctx context.Context, tx pgx.Tx, relation string) ([]string, error) {
	rows, err := tx.Query(ctx, `
		SELECT a.attname::text FROM pg_attribute a JOIN pg_attribute x ON x.attrelid = a.attrelid AND x.attname = 'xid' AND NOT x.attisdropped
		WHERE a.attrelid = to_regclass($1) AND a.attnum >= x.attnum AND NOT a.attisdropped ORDER BY a.attnum`, relation)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// swapAdopted gives the table its name back and creates an empty events table
// in its place, in one transaction that copies no rows.
func swapAdopted(ctx context.Context, tx pgx.Tx, schema string) error {
	events := own(schema, "events")
	a, err := findAdopted(ctx, tx, events)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE "+events); err != nil {
		return err
	}
	if err := a.read(ctx, tx); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, "SELECT coalesce(max(id), 0)::bigint FROM "+events).Scan(&a.upTo); err != nil {
		return err
	}
	if err := a.dropView(ctx, tx); err != nil {
		return err
	}
	if err := execAll(ctx, tx, a.swapSQL(schema)); err != nil {
		return err
	}
	return a.mirror(ctx, tx, schema)
}

// adopted is a table that version 0.2 adopted. Its source has the name that the
// view has in its place.
type adopted struct {
	source
	view    uint32
	upTo    int64 // its greatest id
	columns []string

	grants, revokes    []string // statements: privileges of the view, and of version 0.2's roles
	added, constraints []string // clauses of ALTER TABLE that add the columns and constraints of version 0.2
	dropped            []string // clauses that drop these constraints
	again, gone        []string // statements that create and drop the indexes and triggers of version 0.2
}

// findAdopted returns pgx.ErrNoRows if the events table is none that was
// adopted.
func findAdopted(ctx context.Context, tx pgx.Tx, events string) (a adopted, err error) {
	err = tx.QueryRow(ctx, `
		SELECT c.oid, n.nspname::text, c.relname::text, pg_get_userbyid(e.relowner)::text, e.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_class e
		WHERE c.relkind = 'v' AND obj_description(c.oid, 'pg_class') = 'specwatch: adopted' AND e.oid = to_regclass($1)
		  AND EXISTS (SELECT FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid AND d.classid = 'pg_rewrite'::regclass WHERE r.ev_class = c.oid AND d.refobjid = e.oid)`, events).
		Scan(&a.view, &a.schema, &a.name, &a.owner, &a.oid)
	return a, err
}

// read reads what the table and the view have besides rows.
func (a *adopted) read(ctx context.Context, tx pgx.Tx) (err error) {
	texts := func(sql string, args ...any) []string {
		if err != nil {
			return nil
		}
		var rows pgx.Rows
		if rows, err = tx.Query(ctx, sql, args...); err != nil {
			return nil
		}
		var found []string
		found, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return found
	}
	const ours = `'specwatch\_%'`
	a.columns = texts(`SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, a.oid)
	// Privileges that were granted on the view are granted on the table.
	a.grants = texts(`SELECT format('GRANT %s ON %s TO %s', a.privilege_type, $2::text, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = $1 AND a.grantee <> c.relowner`, a.view, a.quoted())
	// Version 0.2 knew no other roles.
	a.revokes = texts(`SELECT format('REVOKE ALL ON %s FROM %I', $1::text, rolname) FROM pg_roles WHERE rolname IN ('specwatch_reader', 'specwatch_writer')`, a.quoted())
	a.added = texts(`SELECT format('ADD COLUMN %I %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod), coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), ''), CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END)
		FROM pg_attribute a JOIN pg_attribute x ON x.attrelid = a.attrelid AND x.attname = 'xid' LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attrelid = $1 AND a.attnum >= x.attnum AND NOT a.attisdropped AND a.attname NOT IN ('spec', 'data', 'key') ORDER BY a.attnum`, a.oid)
	a.constraints = texts(`SELECT format('ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid = $1 AND contype = 'c' AND conname LIKE `+ours, a.oid)
	a.dropped = texts(`SELECT format('DROP CONSTRAINT %I', conname) FROM pg_constraint WHERE conrelid = $1 AND contype = 'c' AND conname LIKE `+ours, a.oid)
	a.again = texts(`SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1 AND c.relname LIKE `+ours, a.oid)
	a.again = append(a.again, texts(`SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgname LIKE `+ours, a.oid)...)
	a.gone = texts(`SELECT format('DROP INDEX %s', i.indexrelid::regclass) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1 AND c.relname LIKE `+ours, a.oid)
	a.gone = append(a.gone, texts(`SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass) FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgname LIKE `+ours, a.oid)...)
	return err
}

func (a *adopted) dropView(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "DROP VIEW "+a.quoted())
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "2BP01" { // dependent_objects_still_exist
		return store.NewProblem(store.DatabaseError, err, "the view %s, which version 0.2 left in place of the table, cannot be dropped, because other objects depend on it: %s; save their definitions, drop them, run specwatch migrate, and create them again: %s is the table then",
			a, strings.ReplaceAll(pg.Detail, "\n", "; "), a)
	}
	return err
}

// swapSQL returns the statements that give the table its name back, and create
// an events table with what version 0.2 added to that one.
func (a *adopted) swapSQL(schema string) []string {
	events := own(schema, "events")
	steps := a.gone
	for _, drop := range a.dropped {
		steps = append(steps, "ALTER TABLE "+events+" "+drop)
	}
	for _, column := range a.columns {
		if slices.Contains([]string{"xid", "async_commit", "stored"}, column) {
			steps = append(steps, "ALTER TABLE "+events+" ALTER COLUMN "+pgx.Identifier{column}.Sanitize()+" DROP DEFAULT, ALTER COLUMN "+pgx.Identifier{column}.Sanitize()+" DROP NOT NULL")
		}
	}
	if a.name != "events" {
		steps = append(steps, "ALTER TABLE "+events+" RENAME TO "+pgx.Identifier{a.name}.Sanitize())
	}
	if a.schema != schema {
		steps = append(steps, "ALTER TABLE "+own(schema, a.name)+" SET SCHEMA "+pgx.Identifier{a.schema}.Sanitize())
	}
	steps = append(steps, "CREATE TABLE "+events+` (
		id      bigint GENERATED BY DEFAULT AS IDENTITY (START WITH `+fmt.Sprint(a.upTo+1)+`) PRIMARY KEY,
		kind    text        NOT NULL,
		at      timestamptz NOT NULL DEFAULT now(),
		session text        NOT NULL,
		spec    text        NOT NULL DEFAULT '',
		data    jsonb       NOT NULL DEFAULT '{}',
		key     text
	)`)
	for _, add := range append(a.added, a.constraints...) {
		steps = append(steps, "ALTER TABLE "+events+" "+add)
	}
	steps = append(append(append(steps, a.again...), a.revokes...), a.grants...)
	return append(steps, "UPDATE "+own(schema, "specwatch_rollup")+" SET seen = NULL") // they are of the old table
}

// mirror makes each later insert into the table an event.
func (a *adopted) mirror(ctx context.Context, tx pgx.Tx, schema string) error {
	t, err := findSource(ctx, tx, a.quoted())
	if err != nil {
		return err
	}
	x := slices.Index(a.columns, "xid")
	m := Mapping{}
	for column, text := range map[string]*string{"spec": &m.Spec, "data": &m.Data} {
		if i := slices.Index(a.columns, column); x >= 0 && i > x {
			*text = map[string]string{"spec": "''", "data": "'{}'::jsonb"}[column] // a column that version 0.2 added and that is dropped
		}
	}
	m, e, err := m.complete(ctx, tx, t)
	if err != nil {
		return err
	}
	made := Mirror{Source: t.String(), Mapping: m}
	if err := install(ctx, tx, schema, &made, e, nil); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, store.Qualify(schema, `UPDATE @.specwatch_mirrors SET up_to = $2 WHERE id = $1`), made.id, a.upTo)
	return err
}
