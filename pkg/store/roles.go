package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Roles are the names of the roles of a schema, as SQL names them.
type Roles struct{ Reader, Writer string }

// defaultRoles are those of every schema that was given no others.
var defaultRoles = Roles{"specwatch_reader", "specwatch_writer"}

// checkRoles returns an error if PostgreSQL would not take the roles of this
// prefix, or would cut their names off.
func checkRoles(prefix string) error {
	const longest = 63 - len("_reader")
	switch {
	case strings.HasPrefix(prefix, "pg_"):
		return fmt.Errorf("the roles cannot be named %s_reader and %[1]s_writer, because PostgreSQL keeps names that begin with pg_ for itself; choose another name", prefix)
	case len(prefix) > longest:
		return fmt.Errorf("the name of the roles has %d bytes, and %d are allowed, because PostgreSQL cuts names off after 63 bytes and _reader is appended; choose a shorter name", len(prefix), longest)
	case strings.ContainsFunc(prefix, unicode.IsControl) || !utf8.ValidString(prefix):
		return errors.New("the name of the roles contains a control character, or bytes that are not UTF-8; choose another name")
	}
	return nil
}

// rolesSQL returns the names of the roles of the schema $1; of an empty one,
// those of the schema that search_path names first. Every user may run it.
// grants.sql writes the comment.
const rolesSQL = `
	SELECT quote_ident(p.prefix || '_reader'), quote_ident(p.prefix || '_writer') FROM (SELECT coalesce((
	    SELECT col_description(c.oid, a.attnum) FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'specwatch_meta' JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'roles'
	    WHERE n.nspname = coalesce(nullif($1, ''), current_schema())
	), 'specwatch') AS prefix) p`

// RolesOf returns the roles of a schema; of an empty one, those of the schema
// that search_path names first.
func RolesOf(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, schema string) (r Roles, err error) {
	err = q.QueryRow(ctx, rolesSQL, schema).Scan(&r.Reader, &r.Writer)
	return r, err
}

// rolesFor returns the roles to name in the explanation of an error. They are
// asked for only if the error is that a right is missing.
func (s *Store) rolesFor(err error) Roles {
	const patience = 2 * time.Second
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	if !errors.As(err, &pg) || pg.Code != insufficientPrivilege || errors.As(err, &connect) {
		return defaultRoles
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found, unknown := RolesOf(ctx, s.reads, s.schema)
	if unknown != nil {
		return defaultRoles
	}
	return found
}

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
func grant(ctx context.Context, conn *pgx.Conn, schema, prefix string) (now Roles, left *Roles, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var before string
		var old Roles
		if err := tx.QueryRow(ctx, Qualify(schema, `SELECT m.roles, quote_ident(m.roles || '_reader'), quote_ident(m.roles || '_writer') FROM @.specwatch_meta m`)).Scan(&before, &old.Reader, &old.Writer); err != nil {
			return err
		}
		if prefix != "" && prefix != before {
			rows, err := tx.Query(ctx, Qualify(schema, revokesSQL), schema, before)
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
			if err := execAll(ctx, tx, revokes); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, Qualify(schema, `UPDATE @.specwatch_meta SET roles = $1`), prefix); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, Qualify(schema, grantsSQL)); err != nil {
			return err
		}
		now, err = RolesOf(ctx, tx, schema)
		return err
	})
	return now, left, err
}
