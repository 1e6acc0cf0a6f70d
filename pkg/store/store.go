// Package store keeps events in PostgreSQL, the only source of truth: it
// connects, appends events, reads them after a cursor, and says of each error
// what to do about it.
package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sync/semaphore"

	"github.com/specwatch/specwatch/pkg/schema/migrations"
)

// Config says where the events are.
type Config struct {
	URL      string      // a PostgreSQL URL or keyword/value string; libpq's PG… variables and passfile fill what it leaves out
	Schema   string      // empty: found by the connection's search_path
	Roles    string      // of schema.Migrate: the schema's roles are this name with _reader and _writer; empty: those it has
	MaxConns int32       // of the pool that reads, unless the URL says pool_max_conns; 0: four
	TLS      *tls.Config // replaces what the URL says of TLS; for certificates that are not in files
}

const (
	connectTimeout = 10 * time.Second
	readConns      = 4 // of the pool that reads, unless the config says otherwise
	writeConns     = 4 // at most; fewer where the pool that reads has fewer
	cancelAllowed  = 3 * time.Second
)

// pool parses the config. Its errors repeat nothing of the URL, which may hold
// a password.
func (c Config) pool() (*pgxpool.Config, error) {
	if strings.ContainsAny(c.Schema, `'%$\`+"\x00") {
		return nil, errors.New("the schema's name contains one of ' % $ \\, which Specwatch does not take; name another schema")
	}
	if err := checkRoles(c.Roles); err != nil {
		return nil, err
	}
	if misplaced(c.URL) {
		return nil, errURL
	}
	pool, err := pgxpool.ParseConfig(strings.TrimSpace(c.URL))
	if err != nil {
		return nil, unusable(err)
	}
	conn := pool.ConnConfig
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = "specwatch"
	}
	// Without it, a database in another encoding sends text in that one.
	conn.RuntimeParams["client_encoding"] = "UTF8"
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = connectTimeout
	}
	// Without a handler pgx keeps all notifications. Only a Reader counts them.
	conn.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
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
	if !strings.Contains(c.URL, "pool_max_conns") { // a setting of the operator has precedence
		pool.MaxConns = cmp.Or(c.MaxConns, readConns)
	}
	return pool, nil
}

// misplaced reports whether a URL has an @ that is not the one before its host:
// what follows one in a password would be taken for the host or the database,
// and named in errors.
func misplaced(address string) bool {
	_, rest, isURL := strings.Cut(address, "://")
	end := strings.IndexAny(rest+"/", "/?#")
	return isURL && (strings.Count(rest[:end], "@") > 1 || strings.Contains(rest[end:], "@"))
}

// Store holds connections to one events table. Reading and writing have pools
// of their own, so that writers which wait for a lock do not hold up readers.
// It is safe for concurrent use.
type Store struct {
	schema string // empty: found by search_path
	config *pgxpool.Config
	reads  *pgxpool.Pool
	writes *pgxpool.Pool
	pooler atomic.Bool // a pooler sits in between
	narrow atomic.Pointer[narrow]

	waiting atomic.Int64        // reads that wait for a standby with a connection of the pool
	turns   *semaphore.Weighted // of writes that wait for another transaction

	// The statements of every read, with the schema written out.
	sinceSQL, openSQL, historySQL string

	mu      sync.Mutex
	checked origin  // the server and table that sound checked last
	replica replica // what the standby that answered last is known to have replayed
}

// Open returns a store that connects when it is first used: the database need
// not be up yet. The error is about the config alone.
func Open(ctx context.Context, c Config) (*Store, error) {
	config, err := c.pool()
	if err != nil {
		return nil, err
	}
	s := &Store{schema: c.Schema, config: config, turns: semaphore.NewWeighted(1)}
	s.sinceSQL, s.openSQL, s.historySQL = s.SQL(sinceSQL), s.SQL(openSQL), s.SQL(historySQL)
	// When ctx ends, the statement is cancelled on the server, too: otherwise
	// one that waits for a lock would go on waiting there.
	config.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		if s.pooler.Load() {
			return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
		}
		conn.CustomData()[sendsCancel] = true
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelAllowed}
	}
	config.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error {
		s.adapt(conn)
		return nil
	}
	config.AfterConnect = s.greet
	if s.reads, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	writes := config.Copy()
	writes.MaxConns = min(writeConns, config.MaxConns)
	// A write may not be repeatable after a lost connection, so the connection
	// is checked first.
	writes.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	if s.writes, err = pgxpool.NewWithConfig(ctx, writes); err != nil {
		s.reads.Close()
		return nil, err
	}
	return s, nil
}

// Schema is that of the events; empty: search_path finds them.
func (s *Store) Schema() string { return s.schema }

// User is the database user.
func (s *Store) User() string { return s.config.ConnConfig.User }

// DB returns connections outside the pools, as package database/sql has them.
// The caller closes them.
func (s *Store) DB() *sql.DB {
	return stdlib.OpenDB(*s.config.ConnConfig, stdlib.OptionBeforeConnect(func(_ context.Context, config *pgx.ConnConfig) error {
		s.adapt(config)
		return nil
	}))
}

// Close ends the store's connections.
func (s *Store) Close() {
	s.reads.Close()
	s.writes.Close()
}

// sendsCancel marks a connection whose statements are ended by cancel requests.
const sendsCancel = "specwatch sends cancel requests"

// errPooler ends a connection that was made before the pooler was noticed.
var errPooler = errors.New("a connection pooler was found; connecting again without prepared statements and cancel requests")

// adapt configures a connection for a pooler once one was found: a transaction
// pooler gives each transaction another server connection, where statements
// that were prepared before are unknown or belong to another client.
func (s *Store) adapt(conn *pgx.ConnConfig) {
	if !s.pooler.Load() {
		return
	}
	if conn.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		conn.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	// pgx sends a cancel request, over a second connection, whenever it closes
	// a busy connection. PgBouncer before 1.19 may exit on one ("bad client
	// state"), so it is not sent. It is not needed either: PgBouncer ends the
	// statement's session when its client disconnects.
	var connected atomic.Bool
	dial := conn.DialFunc
	conn.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if connected.Load() {
			return nil, errNoCancel
		}
		return dial(ctx, network, address)
	}
	conn.AfterConnect = func(context.Context, *pgconn.PgConn) error {
		connected.Store(true)
		return nil
	}
}

var errNoCancel = errors.New("no cancel requests are sent through a connection pooler")

// greet finds out whether a pooler is in between: a pooler reports process ids
// of its own, which are not those of the backends.
func (s *Store) greet(ctx context.Context, conn *pgx.Conn) error {
	if s.pooler.Load() {
		if conn.Config().DefaultQueryExecMode == pgx.QueryExecModeCacheStatement || conn.PgConn().CustomData()[sendsCancel] != nil {
			return errPooler // it was being made when the pooler was noticed
		}
		return nil
	}
	results, err := conn.PgConn().Exec(ctx, "SELECT pg_backend_pid()").ReadAll()
	if err != nil {
		return err
	}
	if string(results[0].Rows[0][0]) == strconv.FormatUint(uint64(conn.PgConn().PID()), 10) {
		return nil
	}
	s.pooler.Store(true)
	return errPooler
}

// PoolerNote explains to a person what a connection pooler changes.
const PoolerNote = "A connection pooler is in between, where PostgreSQL's notifications do not arrive: live events are looked for every 10 to 100 ms. Connect to PostgreSQL directly to have them announced."

// Pooled reports whether a connection pooler is in between. It is known once
// the store has connected.
func (s *Store) Pooled() bool { return s.pooler.Load() }

// Connect makes a connection outside the pools, which the caller closes.
func (s *Store) Connect(ctx context.Context, change func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	for {
		config := s.config.ConnConfig.Copy()
		s.adapt(config)
		change(config)
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return nil, explain(err)
		}
		if err = s.greet(ctx, conn); err == nil {
			return conn, nil
		}
		conn.Close(ctx)
		if !errors.Is(err, errPooler) {
			return nil, explain(err)
		}
	}
}

// Reading runs f on a connection of the pool that reads. After a lost
// connection, idle or in the middle of a read, f is run again: reads may be
// repeated. Errors are explained.
func Reading[T any](ctx context.Context, s *Store, f func(*pgx.Conn) (T, error)) (T, error) {
	return using(ctx, s, s.reads, func(error) bool { return true }, f)
}

// Collect runs a query on a connection of the pool that reads, with the schema
// written out, and scans its rows. Errors are explained.
func Collect[T any](ctx context.Context, s *Store, sql string, args []any, scan pgx.RowToFunc[T]) ([]T, error) {
	return Reading(ctx, s, func(conn *pgx.Conn) ([]T, error) { return RowsOf(ctx, s, conn, sql, args, scan) })
}

// RowsOf runs a query whose best plan depends on its arguments, such as whether
// it lists sessions. It is not a named prepared statement, because PostgreSQL
// may soon use one generic plan for all arguments of such a statement.
func RowsOf[T any](ctx context.Context, s *Store, q querier, sql string, args []any, scan pgx.RowToFunc[T]) ([]T, error) {
	rows, err := q.Query(ctx, s.SQL(sql), append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// Apart runs f on a connection of its own, for a read that takes long: Close
// waits for connections of the pools, and this one is closed at once when ctx
// ends. It is one of the pool that reads if the server has none left.
func Apart[T any](ctx context.Context, s *Store, f func(*pgx.Conn) (T, error)) (result T, err error) {
	conn, err := s.Connect(ctx, func(c *pgx.ConnConfig) {
		c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
		}
	})
	switch {
	case err == nil:
		result, err = f(conn)
		err = s.Explain(ifClosed(conn, err))
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(closing)
	case isCrowded(err):
		result, err = Reading(ctx, s, f)
	}
	return result, err
}

// using runs f on a connection of the pool. After a lost connection it runs f
// again if again allows that, at most maxLost times; while PostgreSQL refuses
// connections, at most maxCrowded times. Errors are explained.
func using[T any](ctx context.Context, s *Store, pool *pgxpool.Pool, again func(error) bool, f func(*pgx.Conn) (T, error)) (T, error) {
	lost, crowded := 0, 0
	for {
		narrow := s.narrow.Load()
		switch {
		case narrow == nil:
		case time.Now().After(narrow.until):
			s.narrow.CompareAndSwap(narrow, nil)
			narrow = nil
		default:
			pool = s.reads
		}
		result, err := once(ctx, pool, narrow, f)
		switch {
		case err == nil:
			return result, nil
		case ctx.Err() != nil:
			// err, such as that the statement was cancelled, is because of ctx.
			return result, explain(ctx.Err())
		case errors.Is(err, errPooler):
			// Once: the next connection is made for a pooler.
		case lost < maxLost && isLost(err) && again(err):
			// The other connections of the pool are probably lost as well.
			lost++
			pool.Reset()
		case crowded < maxCrowded && isCrowded(err):
			s.crowded(narrow)
			crowded++
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(crowded) * crowdedPause):
			}
		default:
			return result, s.Explain(err)
		}
	}
}

const (
	maxLost      = 2
	maxCrowded   = 20
	crowdedPause = 20 * time.Millisecond
)

// narrow limits the store to fewer connections after PostgreSQL has refused one
// to this user: callers take turns. The pool that reads then serves writers as
// well, because an idle connection of one pool cannot be used by the other.
type narrow struct {
	turns *semaphore.Weighted
	size  int64
	until time.Time // then all connections are tried again: the limit or its use may have changed
}

const narrowFor = time.Minute

// crowded allows fewer connections than the caller had when it was refused,
// unless another caller has changed that since.
func (s *Store) crowded(was *narrow) {
	size := int64(s.reads.Stat().TotalConns())
	if was != nil {
		size = was.size / 2
	}
	size = max(1, size)
	s.narrow.CompareAndSwap(was, &narrow{turns: semaphore.NewWeighted(size), size: size, until: time.Now().Add(narrowFor)})
	s.writes.Reset()
	if was != nil {
		s.reads.Reset() // the pool may have more connections than turns
	}
}

func once[T any](ctx context.Context, pool *pgxpool.Pool, n *narrow, f func(*pgx.Conn) (T, error)) (result T, err error) {
	if n != nil {
		if err := n.turns.Acquire(ctx, 1); err != nil {
			return result, err
		}
		defer n.turns.Release(1)
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return result, err
	}
	defer conn.Release()
	result, err = f(conn.Conn())
	return result, ifClosed(conn.Conn(), err)
}

// errClosed marks an error after which the connection is closed: it counts as
// lost, whatever the error says, such as that a message was cut off.
var errClosed = errors.New("the connection is closed")

func ifClosed(conn *pgx.Conn, err error) error {
	if err != nil && conn.IsClosed() {
		return errors.Join(err, errClosed)
	}
	return err
}

// Ready returns nil if events can be read here. The error is a *Problem if a
// person can fix it.
func (s *Store) Ready(ctx context.Context) error {
	_, err := Reading(ctx, s, func(conn *pgx.Conn) (struct{}, error) { return struct{}{}, s.ready(ctx, conn) })
	return err
}

func (s *Store) ready(ctx context.Context, conn *pgx.Conn) error {
	var schema *string
	var user string
	var usable, exists, granted bool
	names, err := RolesOf(ctx, conn, s.schema)
	if err != nil {
		return err
	}
	err = conn.QueryRow(ctx, `
		SELECT current_user::text, s.name, coalesce((SELECT has_schema_privilege(n.oid, 'USAGE') FROM pg_namespace n WHERE n.nspname = s.name), false),
		       to_regrole($2) IS NOT NULL, s.name IS NULL OR coalesce((SELECT has_schema_privilege(to_regrole($2)::oid, n.oid, 'USAGE') FROM pg_namespace n WHERE n.nspname = s.name), false)
		FROM (SELECT CASE WHEN $1 = '' THEN current_schema()::text ELSE (SELECT nspname::text FROM pg_namespace WHERE nspname = $1) END AS name) s`, s.schema, names.Reader).
		Scan(&user, &schema, &usable, &exists, &granted)
	grant := names.letRead(user, exists, granted)
	switch {
	case err != nil:
		return err
	case schema == nil && s.schema != "":
		return NewProblem(NoTable, nil, "the schema %q does not exist; run: specwatch migrate, or name the schema that holds the events", s.schema)
	case schema == nil:
		return NewProblem(NoTable, nil, "the search_path of user %q names no schema that exists and that it may use; name one with --schema, or %s", user, grant)
	case !usable:
		return NewProblem(NoRights, nil, "user %q lacks the right USAGE on schema %q; %s", user, *schema, grant)
	}
	var table, readable bool
	err = conn.QueryRow(ctx, s.SQL(`
		SELECT to_regclass('@.events') IS NOT NULL AND to_regclass('@.specwatch_migrations') IS NOT NULL AND to_regclass('@.specwatch_meta') IS NOT NULL,
		       coalesce(has_table_privilege(to_regclass('@.events'), 'SELECT')
		            AND has_table_privilege(to_regclass('@.specwatch_meta'), 'SELECT')
		            AND has_table_privilege(to_regclass('@.specwatch_pruned'), 'SELECT')
		            AND has_table_privilege(to_regclass('@.specwatch_migrations'), 'SELECT'), false)`)).
		Scan(&table, &readable)
	switch {
	case err != nil:
		return err
	case !table:
		return NewProblem(NoTable, nil, "there is no events table of Specwatch in schema %q; run: specwatch migrate, or name the schema that holds it", *schema)
	case !readable:
		return NewProblem(NoRights, nil, "user %q may not read the events in schema %q; %s", user, *schema, grant)
	}
	var version int64
	if err := conn.QueryRow(ctx, s.SQL(`SELECT coalesce(max(version_id), 0) FROM @.specwatch_migrations WHERE is_applied`)).Scan(&version); err != nil {
		return err
	}
	switch want := migrations.Latest(); {
	case version < want:
		return NewProblem(SchemaOld, nil, "the schema has version %d and this Specwatch needs %d; run: specwatch migrate", version, want)
	case version > want:
		return NewProblem(SchemaNew, nil, "the schema has version %d and this Specwatch knows %d at most; update Specwatch", version, want)
	}
	_, err = s.since(ctx, conn, query{limit: 1})
	return err
}
