// Package schema makes and upgrades Specwatch's schema in a database: its tables
// and functions by migrations, and the rights of its roles.
package schema

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/specwatch/specwatch/pkg/mirror"
	"github.com/specwatch/specwatch/pkg/schema/migrations"
	"github.com/specwatch/specwatch/pkg/store"
)

//go:embed notify.sql
var notifySQL string

// Report says what was done.
type Report struct {
	Schema   string
	Version  int64
	Applied  int      // migrations that were run now
	Repaired int64    // rows whose xid was of another cluster
	Returned string   // the table that version 0.2 had adopted and that mirror.ReturnAdopted gave back
	Writer   string   // the role that may write, as SQL names it
	Notices  []string // such as PostgreSQL's that a role could not be created
}

// Migrate creates or upgrades the schema. It can be repeated, and be run by two
// processes at once: one waits for the other, and told, unless nil, is called
// with what it waits for. Errors are *Problem if a person can fix them.
func Migrate(ctx context.Context, c store.Config, told func(string)) (Report, error) {
	var report Report
	s, err := store.Open(ctx, c)
	if err != nil {
		return report, err
	}
	defer s.Close()
	conn, err := s.Connect(ctx, func(config *pgx.ConnConfig) {
		config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			// A repeated migration causes notices that end like this.
			if !strings.HasSuffix(n.Message, "skipping") {
				report.Notices = append(report.Notices, n.Message)
			}
		}
	})
	if err != nil {
		return report, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// The lock belongs to a transaction: behind a pooler, a lock of the session
	// would go to the client that gets the server connection next.
	lock, err := lockMigrations(ctx, s, told)
	if err != nil {
		return report, s.Explain(err)
	}
	defer lock.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // gives the lock back
	if report.Schema, err = mayMigrate(ctx, conn, c.Schema); err != nil {
		return report, s.Explain(err)
	}
	if err := refuseForeign(ctx, conn, report.Schema); err != nil {
		return report, s.Explain(err)
	}
	err = migrate(ctx, s, conn, c.Roles, told, &report)
	return report, err
}

// migrate does what Migrate does, once the schema is known and the lock is
// held.
func migrate(ctx context.Context, s *store.Store, conn *pgx.Conn, roles string, told func(string), report *Report) error {
	var err error
	shared := false
	if roles == "" {
		if shared, err = rolesAreShared(ctx, conn, report.Schema); err != nil {
			return s.Explain(err)
		}
	}

	db := s.DB()
	defer db.Close()
	provider, err := newProvider(db, report.Schema)
	if err != nil {
		return err
	}
	if report.Applied, err = up(ctx, s, conn, provider, report.Schema, told); err != nil {
		return s.Explain(err)
	}
	report.Version = migrations.Latest()
	if report.Repaired, err = repair(ctx, conn, report.Schema); err != nil {
		return s.Explain(err)
	}
	// Before the grants, because it may create a new events table.
	if report.Returned, err = mirror.ReturnAdopted(ctx, conn, report.Schema, told); err != nil {
		return s.Explain(err)
	}
	names, left, err := grant(ctx, conn, report.Schema, roles)
	if err != nil {
		return s.Explain(err)
	}
	report.Writer = names.Writer
	if left != nil {
		report.Notices = append(report.Notices, fmt.Sprintf("the roles of schema %s are %s and %s now; %s and %s have no rights on its events any more", report.Schema, names.Reader, names.Writer, left.Reader, left.Writer))
	}
	if shared {
		report.Notices = append(report.Notices, fmt.Sprintf("schema %s shares its roles with other schemas or databases of this server: whoever is a member of %s or %s there reads or writes the events here as well; to give this schema roles of its own, run: specwatch migrate --roles NAME", report.Schema, names.Reader, names.Writer))
	}
	notes, err := mirror.Renew(ctx, s, conn, report.Schema, told)
	report.Notices = append(report.Notices, notes...)
	return s.Explain(err)
}

// mayMigrate returns the schema, and creates it if it is missing. It first
// checks the privileges that a migration needs: PostgreSQL's own errors do not
// say how to get them.
func mayMigrate(ctx context.Context, conn *pgx.Conn, name string) (string, error) {
	var user, database, owner, owns string
	var schema *string
	var exists, makes, use, create, migrated bool
	err := conn.QueryRow(ctx, `
		WITH wanted AS (SELECT coalesce(nullif($1, ''), current_schema())::text AS name)
		SELECT current_user::text, current_database()::text, w.name, n.oid IS NOT NULL, has_database_privilege(current_database(), 'CREATE'),
		       coalesce(has_schema_privilege(n.oid, 'USAGE'), false), coalesce(has_schema_privilege(n.oid, 'CREATE'), false), coalesce(pg_get_userbyid(n.nspowner)::text, ''),
		       coalesce((SELECT pg_get_userbyid(c.relowner)::text FROM pg_class c WHERE c.relnamespace = n.oid AND (c.relname = 'events' OR c.relname LIKE 'specwatch\_%') AND NOT pg_has_role(c.relowner, 'USAGE') LIMIT 1), ''),
		       EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'specwatch_migrations')
		FROM wanted w LEFT JOIN pg_namespace n ON n.nspname = w.name`, name).
		Scan(&user, &database, &schema, &exists, &makes, &use, &create, &owner, &owns, &migrated)
	if err != nil {
		return "", err
	}
	quoted := pgx.Identifier{user}.Sanitize()
	if schema == nil {
		return "", store.NewProblem(store.NoTable, nil, "the search_path of user %s names no schema that exists and that it may use; name one with --schema, such as specwatch", user)
	}
	identifier := pgx.Identifier{*schema}.Sanitize()
	lacksCreate := func() error {
		return store.NewProblem(store.NoRights, nil, "user %s lacks the right USAGE or CREATE on schema %s, which %s owns; run as an administrator: GRANT USAGE, CREATE ON SCHEMA %s TO %s, or give Specwatch a schema of its own: CREATE SCHEMA specwatch AUTHORIZATION %s, and then: specwatch migrate --schema specwatch", user, *schema, owner, identifier, quoted, quoted)
	}
	switch {
	case !exists && !makes:
		return "", store.NewProblem(store.NoRights, nil, "user %s lacks the right CREATE on database %s, to make the schema %s; run as an administrator: CREATE SCHEMA %s AUTHORIZATION %s", user, database, *schema, identifier, quoted)
	case !exists:
		_, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+identifier)
		return *schema, err
	case !use || !create && !migrated:
		return "", lacksCreate()
	case owns != "":
		return "", store.NewProblem(store.NoRights, nil, "the tables in schema %s belong to %s, and only their owner may change them; run this as %s, or run as an administrator: GRANT %s TO %s", *schema, owns, owns, pgx.Identifier{owns}.Sanitize(), quoted)
	case !create:
		var version int64
		if err := conn.QueryRow(ctx, store.Qualify(*schema, `SELECT coalesce(max(version_id), 0) FROM @.specwatch_migrations WHERE is_applied`)).Scan(&version); err != nil {
			return "", err
		}
		if version < migrations.Latest() {
			return "", lacksCreate()
		}
	}
	return *schema, nil
}

// lockMigrations returns a transaction that holds the migration lock until it
// ends.
func lockMigrations(ctx context.Context, s *store.Store, told func(string)) (pgx.Tx, error) {
	const again = 50 * time.Millisecond
	for try := 0; ; try++ {
		tx, err := s.Begin(ctx)
		if err != nil {
			return nil, err
		}
		var locked bool
		// By the simple protocol: the extended one leaves a portal with its
		// snapshot open, and CREATE INDEX CONCURRENTLY would wait for it.
		err = tx.QueryRow(ctx, `SELECT set_config('idle_in_transaction_session_timeout', '0', true) = '0' AND pg_try_advisory_xact_lock($1)`, pgx.QueryExecModeSimpleProtocol, store.MigrationLock).Scan(&locked)
		if err == nil && locked {
			return tx, nil
		}
		if err == nil && told != nil && try == int(time.Second/again) {
			var holder string
			err = tx.QueryRow(ctx, `
				SELECT coalesce(string_agg(format('process %s, user %s, %s since %s', l.pid, a.usename, coalesce(a.state, 'state not shown'), a.state_change), '; '), 'somebody')
				FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
				WHERE l.locktype = 'advisory' AND l.granted AND (l.classid::bigint << 32 | l.objid::bigint) = $1`, store.MigrationLock).Scan(&holder)
			if err == nil {
				told("waiting for another migration to end: its lock is held by " + holder + "; if that is none, end the session with: SELECT pg_terminate_backend(process)")
			}
		}
		// Not pg_advisory_xact_lock: a session that waits inside a statement
		// holds a snapshot, for which CREATE INDEX CONCURRENTLY elsewhere
		// would wait.
		tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing was done
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(again):
		}
	}
}

// up runs the missing migrations, and then notify.sql, and returns how many
// migrations it ran. One that does not get its lock on the events table in time
// is run again later: writers wait behind a statement that waits for such a
// lock. told, unless nil, is called with what a migration waits for.
func up(ctx context.Context, s *store.Store, conn *pgx.Conn, provider *goose.Provider, schema string, told func(string)) (applied int, err error) {
	if told != nil {
		watching, end := context.WithCancel(ctx)
		var watch sync.WaitGroup
		watch.Go(func() { tellWaits(watching, s, schema, told) })
		defer watch.Wait()
		defer end()
	}
	err = store.UntilLocked(ctx, nil, func() error {
		results, err := provider.Up(ctx)
		var partial *goose.PartialError
		if errors.As(err, &partial) {
			results = partial.Applied
		}
		applied += len(results)
		if err != nil {
			return err
		}
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, store.LockShortlySQL+"; "+store.Qualify(schema, notifySQL))
			return err
		})
	})
	return applied, err
}

// waitsSQL returns the processes and prepared transactions that a migration
// waits for, as a list of process ids and as text. The migration is known by
// the lock on the events table that it waits for, or by the index that it
// builds, because behind a pooler its process may change.
const waitsSQL = `
	WITH migration AS (
	    SELECT pid FROM pg_locks
	    WHERE relation = to_regclass('@.events') AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
	      AND NOT granted AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'AccessExclusiveLock')
	    UNION SELECT pid FROM pg_stat_progress_create_index WHERE relid = to_regclass('@.events') AND datname = current_database()
	), others AS (
	    SELECT DISTINCT b.pid FROM migration m, unnest(pg_blocking_pids(m.pid)) AS b (pid)
	)
	SELECT coalesce(string_agg(o.pid::text, ' ' ORDER BY o.pid), ''),
	       coalesce(string_agg(CASE WHEN o.pid > 0 THEN format('process %s, user %s, %s since %s', o.pid, a.usename, coalesce(a.state, 'state not shown'), a.state_change)
	           ELSE coalesce((
	               SELECT string_agg(format('prepared transaction %L of user %s since %s', p.gid, p.owner, p.prepared), '; ') FROM pg_prepared_xacts p
	               WHERE p.database = current_database() AND EXISTS (
	                   SELECT FROM pg_locks l JOIN pg_locks x USING (virtualtransaction)
	                   WHERE l.relation = to_regclass('@.events') AND l.pid IS NULL AND x.transactionid = p.transaction AND x.pid IS NULL
	               )
	           ), 'a prepared transaction') END, '; ' ORDER BY o.pid), '')
	FROM others o LEFT JOIN pg_stat_activity a ON a.pid = o.pid`

// tellWaits calls told, until ctx ends, with what a migration has waited for
// longer than a moment; once for each set of processes.
func tellWaits(ctx context.Context, s *store.Store, schema string, told func(string)) {
	const after, again, moment = time.Second, 100 * time.Millisecond, 500 * time.Millisecond
	pause := func(d time.Duration) bool {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(d):
			return true
		}
	}
	if !pause(after) {
		return
	}
	// If this fails, the migration goes on without being explained.
	conn, err := s.Connect(ctx, func(*pgx.ConnConfig) {})
	if err != nil {
		return
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var seen, said string
	var since time.Time
	for pause(again) {
		var pids, names string
		if err := conn.QueryRow(ctx, store.Qualify(schema, waitsSQL)).Scan(&pids, &names); err != nil {
			return
		}
		// Between two attempts the migration waits for nobody.
		if pids != "" && pids != seen {
			seen, since = pids, time.Now()
		}
		if pids != "" && pids != said && time.Since(since) >= moment {
			said = pids
			told("waiting for transactions that use the events table to end: " + names + "; other programs go on writing meanwhile. To end a session: SELECT pg_terminate_backend(process); to end a prepared transaction: COMMIT PREPARED or ROLLBACK PREPARED")
		}
	}
}

func lockShortly(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, store.LockShortlySQL)
	return err
}

// newProvider makes one migration of each file. The schema is written into its
// SQL, and it runs in a transaction of its own if it can.
func newProvider(db *sql.DB, schema string) (*goose.Provider, error) {
	var all []*goose.Migration
	for version, text := range migrations.All() {
		step := goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error { return inTx(ctx, tx, schema, text) }}
		if strings.Contains(text, "CONCURRENTLY") { // which PostgreSQL refuses in a transaction
			step = goose.GoFunc{RunDB: func(ctx context.Context, db *sql.DB) error { return outsideTx(ctx, db, schema, text) }}
		}
		all = append(all, goose.NewGoMigration(version, &step, nil))
	}
	table, err := database.NewStore(database.DialectPostgres, store.Qualify(schema, "@.specwatch_migrations"))
	if err != nil {
		return nil, err
	}
	return goose.NewProvider("", db, nil, goose.WithGoMigrations(all...), goose.WithStore(versions{table}), goose.WithDisableGlobalRegistry(true))
}

// inTx runs a migration in a transaction.
func inTx(ctx context.Context, tx *sql.Tx, schema, text string) error {
	if err := lockShortly(ctx, tx); err != nil {
		return err
	}
	// Version 0.2 was released with a migration that waits for 5 s, which is
	// too long. It gets its lock here.
	if strings.Contains(text, "lock_timeout") {
		if _, err := tx.ExecContext(ctx, store.Qualify(schema, `LOCK TABLE @.events`)); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, store.Qualify(schema, text))
	return err
}

// outsideTx runs a migration that contains CREATE INDEX CONCURRENTLY. Its
// statements are separated by empty lines. CONCURRENTLY waits for other
// transactions, but no writer waits behind it, so it may take long. In an empty
// table it would only wait.
func outsideTx(ctx context.Context, db *sql.DB, schema, text string) error {
	var written bool
	if err := db.QueryRowContext(ctx, store.Qualify(schema, `SELECT EXISTS (SELECT FROM @.events)`)).Scan(&written); err != nil {
		return err
	}
	for statement := range strings.SplitSeq(text, "\n\n") {
		statement = store.Qualify(schema, statement)
		if written && strings.Contains(statement, "CONCURRENTLY") {
			if _, err := db.ExecContext(ctx, statement); err != nil {
				return err
			}
			continue
		}
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err = lockShortly(ctx, tx); err == nil {
			_, err = tx.ExecContext(ctx, strings.ReplaceAll(statement, "CONCURRENTLY", ""))
		}
		if err != nil {
			tx.Rollback() //nolint:errcheck // nothing was done
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	return nil
}

// versions is goose's table of versions. Goose's own check does not find a
// table by a quoted name.
type versions struct{ database.Store }

func (v versions) TableExists(ctx context.Context, db database.DBTxConn) (exists bool, err error) {
	err = db.QueryRowContext(ctx, `SELECT to_regclass($1) IS NOT NULL`, v.Tablename()).Scan(&exists)
	return exists, err
}

// repair fixes events that were restored from another cluster: their xids are
// of that cluster's counter. Xids below this cluster's counter stay, and their
// rows count as seen. Those above it become NULL: the rows would be invisible
// to readers until the counter passes them, and then appear among newer events.
// It returns how many rows it changed.
func repair(ctx context.Context, conn *pgx.Conn, schema string) (int64, error) {
	var rows int64
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var foreign, future bool
		err := tx.QueryRow(ctx, store.Qualify(schema, `
			SELECT m.system_identifier <> @.specwatch_system_identifier() AND m.system_identifier <> 0 AND @.specwatch_system_identifier() <> 0, EXISTS (SELECT 1 FROM @.events WHERE xid IS NOT NULL AND xid >= pg_snapshot_xmax(pg_current_snapshot()))
			FROM @.specwatch_meta m`)).Scan(&foreign, &future)
		if err != nil || !foreign && !future {
			return err
		}
		if _, err := tx.Exec(ctx, store.Qualify(schema, `UPDATE @.specwatch_rollup SET seen = NULL`)); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, store.Qualify(schema, `UPDATE @.events SET xid = NULL WHERE xid IS NOT NULL AND xid >= pg_snapshot_xmax(pg_current_snapshot()) AND xid <> pg_current_xact_id()`))
		if err != nil {
			return err
		}
		rows = tag.RowsAffected()
		_, err = tx.Exec(ctx, store.Qualify(schema, `UPDATE @.specwatch_meta SET epoch = gen_random_uuid(), system_identifier = @.specwatch_system_identifier()`))
		return err
	})
	return rows, err
}

// refuseForeign returns an error if the schema has an events table that is not
// Specwatch's, which a migration must not change.
func refuseForeign(ctx context.Context, conn *pgx.Conn, schema string) error {
	var foreign bool
	err := conn.QueryRow(ctx, `SELECT to_regclass(format('%I.events', $1::text)) IS NOT NULL AND to_regclass(format('%I.specwatch_migrations', $1::text)) IS NULL`, schema).Scan(&foreign)
	if err != nil {
		return err
	}
	if foreign {
		return store.NewProblem(store.NoTable, nil, "schema %q already has a table named events that is not Specwatch's; choose another schema with --schema, such as specwatch, and then, to have what is inserted into that table as events, run: specwatch mirror %[1]s.events", schema)
	}
	return nil
}
