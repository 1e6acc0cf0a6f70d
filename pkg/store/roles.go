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
