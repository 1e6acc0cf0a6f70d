package schema

import (
	"context"
	_ "embed"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/store"
)

//go:embed grants.sql
var grantsSQL string

// rolesAreShared reports whether a migration will make a new schema although
// the roles that it gets by default have rights on tables elsewhere.
func rolesAreShared(ctx context.Context, conn *pgx.Conn, schema string) (shared bool, err error) {
	err = conn.QueryRow(ctx, `
		SELECT to_regclass(format('%I.specwatch_migrations', $1::text)) IS NULL AND EXISTS (
		    SELECT FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
		    WHERE d.refclassid = 'pg_authid'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'a' AND r.rolname IN ('specwatch_reader', 'specwatch_writer')
		)`, schema).Scan(&shared)
	return shared, err
}

// revokesSQL returns the statements that take from the roles of a prefix what
// they may do with the schema and with what is Specwatch's in it.
const revokesSQL = `
	SELECT DISTINCT format('REVOKE ALL ON %s FROM %I', CASE
	        WHEN p.oid IS NOT NULL THEN 'FUNCTION ' || p.oid::regprocedure
	        WHEN c.relkind = 'S' THEN 'SEQUENCE ' || c.oid::regclass
	        WHEN c.oid IS NOT NULL THEN 'TABLE ' || c.oid::regclass
	        ELSE 'SCHEMA ' || quote_ident(n.nspname)
	    END, r.rolname)
	FROM pg_namespace n CROSS JOIN pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
	LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
	LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
	WHERE n.nspname = $1 AND r.rolname IN ($2 || '_reader', $2 || '_writer')
	  AND d.refclassid = 'pg_authid'::regclass AND d.deptype = 'a' AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
	  AND (c.relnamespace = n.oid AND (c.relname = 'events' OR c.relname LIKE 'specwatch\_%' OR c.oid = pg_get_serial_sequence('@.events', 'id')::regclass)
	       OR p.pronamespace = n.oid AND p.proname LIKE 'specwatch\_%'
	       OR d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION'))`

// grant brings the rights of the schema's roles up to date. A prefix other than
// the schema's gives it other roles; left are those of before, if they had
// rights. It is one transaction: a migration that is interrupted changes no rights.
func grant(ctx context.Context, conn *pgx.Conn, schema, prefix string) (now store.Roles, left *store.Roles, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var before string
		var old store.Roles
		if err := tx.QueryRow(ctx, store.Qualify(schema, `SELECT m.roles, quote_ident(m.roles || '_reader'), quote_ident(m.roles || '_writer') FROM @.specwatch_meta m`)).Scan(&before, &old.Reader, &old.Writer); err != nil {
			return err
		}
		if prefix != "" && prefix != before {
			rows, err := tx.Query(ctx, store.Qualify(schema, revokesSQL), schema, before)
			if err != nil {
				return err
			}
			revokes, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return err
			}
			if len(revokes) > 0 {
				left = &old
			}
			for _, revoke := range revokes {
				if _, err := tx.Exec(ctx, revoke); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(ctx, store.Qualify(schema, `UPDATE @.specwatch_meta SET roles = $1`), prefix); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, store.Qualify(schema, grantsSQL)); err != nil {
			return err
		}
		now, err = store.RolesOf(ctx, tx, schema)
		return err
	})
	return now, left, err
}
