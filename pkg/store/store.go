// Package store keeps events in PostgreSQL, the only truth: it migrates,
// appends, and reads after a cursor, over a time range, or summed up.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specwatch/specwatch/pkg/event"
)

// Config says where the events are.
type Config struct {
	URL      string      // a PostgreSQL URL or keyword/value string; libpq's PG… variables and passfile fill what it leaves out
	Schema   string      // empty: the connection's current schema
	MaxConns int32       // of the pool; 0: four
	TLS      *tls.Config // replaces what the URL says of TLS; for certificates that are not in files
}

const connectTimeout = 10 * time.Second

func (c Config) pool() (*pgxpool.Config, error) {
	pool, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		// pgx's text repeats the URL with its password masked; of a text that
		// it could not take apart it cannot know what is a password.
		return nil, errors.New("the database URL cannot be read; it looks like postgres://user@host:5432/database?sslmode=require")
	}
	conn := pool.ConnConfig
	if c.Schema != "" {
		conn.RuntimeParams["search_path"] = pgx.Identifier{c.Schema}.Sanitize()
	}
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = "specwatch"
	}
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = connectTimeout
	}
	if c.TLS != nil {
		conn.TLSConfig = c.TLS.Clone()
		conn.TLSConfig.ServerName = conn.Host
		conn.Fallbacks = slices.DeleteFunc(conn.Fallbacks, func(f *pgconn.FallbackConfig) bool {
			return f.Host == conn.Host && f.Port == conn.Port
		})
		for _, f := range conn.Fallbacks {
			f.TLSConfig = c.TLS.Clone()
			f.TLSConfig.ServerName = f.Host
		}
	}
	pool.MaxConns = 4
	if c.MaxConns > 0 {
		pool.MaxConns = c.MaxConns
	}
	return pool, nil
}

// Store is a pool of connections to one events table. It is safe for
// concurrent use.
type Store struct {
	pool *pgxpool.Pool

	mu       sync.Mutex
	identity identity // of the server that answered last
	epoch    uint64
}

// Open returns a store that connects when it is first used: the database need
// not be up yet. The error is about the config alone.
func Open(ctx context.Context, c Config) (*Store, error) {
	config, err := c.pool()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &Store{pool: pool}, nil
}

// Close ends the store's connections.
func (s *Store) Close() { s.pool.Close() }

// Problem is a fault of the set-up that a person can mend.
type Problem struct {
	Code   string // one of the codes below
	Detail string // what is wrong and what to do about it
	cause  error
}

// Codes of problems.
const (
	NoConnection = "no_connection"
	NoTable      = "no_table"
	NoRights     = "no_rights"
	ReadOnly     = "read_only"
	SchemaOld    = "schema_old"
	SchemaNew    = "schema_new"
	Restored     = "restored"
)

func (p *Problem) Error() string { return p.Detail }
func (p *Problem) Unwrap() error { return p.cause }

func problem(code string, cause error, format string, args ...any) *Problem {
	return &Problem{Code: code, Detail: fmt.Sprintf(format, args...), cause: cause}
}

var errRestored = problem(Restored, nil, "the events were restored from another database cluster, so their transaction ids mean nothing here; run: specwatch migrate")

// explain turns the errors of PostgreSQL that a person or a writer can do
// something about into *Problem or *event.FieldError.
func explain(err error) error {
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &pg):
		return explainPg(pg)
	case errors.As(err, &connect):
		return problem(NoConnection, err, "cannot connect to PostgreSQL at %s as %s: %s; check address, database name, user and TLS mode, and that the server is up",
			connect.Config.Host, connect.Config.User, reason(connect))
	case errors.As(err, &network), pgconn.SafeToRetry(err):
		return problem(NoConnection, err, "the connection to PostgreSQL was lost; check that the server is up and can be reached")
	}
	return err
}

// reason is the last part of a connect error: pgx lists every address that it
// tried.
func reason(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Message
	}
	text := err.Error()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := lines[len(lines)-1]
	if i := strings.LastIndex(last, "): "); i >= 0 {
		last = last[i+3:]
	}
	return last
}

func explainPg(pg *pgconn.PgError) error {
	field := func(name, detail string) error { return &event.FieldError{Field: name, Detail: detail} }
	switch pg.Code {
	case "23514": // check_violation
		switch pg.ConstraintName {
		case "specwatch_kind":
			return field("kind", "is not known to the database")
		case "specwatch_at":
			return field("at", "lies before 1970 or more than an hour ahead of the database's clock")
		case "specwatch_session", "specwatch_spec", "specwatch_key":
			return field(strings.TrimPrefix(pg.ConstraintName, "specwatch_"), fmt.Sprintf("is empty or has more than %d bytes", event.MaxNameBytes))
		case "specwatch_data":
			return field("data", fmt.Sprintf("has more than %d bytes as PostgreSQL prints it", event.MaxDataBytes))
		}
	case "23502": // not_null_violation
		return field(pg.ColumnName, "must not be null")
	case "22P02", "22P05", "22003", "54001", "54000", "22021":
		// Of what the writers of this package send, only data reaches
		// PostgreSQL unread: odd escapes, numbers out of range, depth.
		return field("data", "is not accepted by PostgreSQL: "+pg.Message)
	case "42P01", "3F000", "42703", "42883": // undefined table, schema, column, function
		return problem(NoTable, pg, "there is no events table of Specwatch in this schema (%s); run: specwatch migrate", pg.Message)
	case "42501": // insufficient_privilege
		return problem(NoRights, pg, "the database user lacks a right (%s); grant it specwatch_reader to read or specwatch_writer to write", pg.Message)
	case "25006": // read_only_sql_transaction
		return problem(ReadOnly, pg, "this PostgreSQL server takes no writes (a standby, or default_transaction_read_only); connect to the primary")
	case "57P01", "57P02", "57P03", "53300": // shut down, crash, starting up, too many connections
		return problem(NoConnection, pg, "PostgreSQL is not available right now: %s", pg.Message)
	}
	return pg
}

// Ready reports whether events can be read here. The error is a *Problem
// where a person can mend it.
func (s *Store) Ready(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return explain(err)
	}
	defer conn.Release()
	var schema *string
	var table, readable bool
	var user string
	err = conn.QueryRow(ctx, `
		SELECT current_schema(), current_user, to_regclass('events') IS NOT NULL AND to_regclass('specwatch_migrations') IS NOT NULL AND to_regclass('specwatch_meta') IS NOT NULL,
		       coalesce(has_table_privilege(to_regclass('events'), 'SELECT')
		            AND has_table_privilege(to_regclass('specwatch_meta'), 'SELECT')
		            AND has_table_privilege(to_regclass('specwatch_pruned'), 'SELECT')
		            AND has_table_privilege(to_regclass('specwatch_migrations'), 'SELECT'), false)`).
		Scan(&schema, &user, &table, &readable)
	switch {
	case err != nil:
		return explain(err)
	case schema == nil:
		return problem(NoTable, nil, "the schema does not exist, or user %q may not use it; run: specwatch migrate, and grant the role specwatch_reader to that user", user)
	case !table:
		return problem(NoTable, nil, "there is no events table of Specwatch in schema %q; run: specwatch migrate, or name the schema that holds it", *schema)
	case !readable:
		return problem(NoRights, nil, "user %q may not read the events in schema %q; run as an administrator: GRANT specwatch_reader TO %s", user, *schema, pgx.Identifier{user}.Sanitize())
	}
	var version int64
	if err := conn.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM specwatch_migrations WHERE is_applied`).Scan(&version); err != nil {
		return explain(err)
	}
	switch want := latestMigration(); {
	case version < want:
		return problem(SchemaOld, nil, "the schema has version %d and this Specwatch needs %d; run: specwatch migrate", version, want)
	case version > want:
		return problem(SchemaNew, nil, "the schema has version %d and this Specwatch knows %d at most; update Specwatch", version, want)
	}
	_, err = s.since(ctx, conn.Conn(), query{limit: 1})
	return err
}
