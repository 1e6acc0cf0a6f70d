package store

import (
	"context"
	"database/sql"
	"embed"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed grants.sql
var grantsSQL string

// migrationLock keeps migrations of one database one after the other, from
// however many processes they are started.
const migrationLock = 0x5350454357 // "SPECW"

// MigrateReport says what was done.
type MigrateReport struct {
	Schema   string
	Version  int64
	Applied  int      // migrations that were run now
	Repaired int64    // rows whose xid was of another cluster
	Returned string   // a table that version 0.2 had adopted and that is its program's again
	Notices  []string // what PostgreSQL remarked, such as a role that could not be created
}

// Migrate creates or upgrades the schema. It is safe to repeat and to run
// from two places at once: told, unless nil, says whom it waits for. Errors are
// *Problem where a person can mend them.
func Migrate(ctx context.Context, c Config, told func(string)) (MigrateReport, error) {
	var report MigrateReport
	s, err := Open(ctx, c)
	if err != nil {
		return report, err
	}
	defer s.Close()
	conn, err := s.connect(ctx, func(config *pgx.ConnConfig) {
		config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			// "already exists, skipping" is what being safe to repeat looks like.
			if !strings.HasSuffix(n.Message, "skipping") {
				report.Notices = append(report.Notices, n.Message)
			}
		}
	})
	if err != nil {
		return report, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// The lock belongs to a transaction: a pooler gives a session's lock to
	// whoever gets that server connection next.
	lock, err := s.lockMigrations(ctx, told)
	if err != nil {
		return report, explain(err)
	}
	defer lock.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // gives the lock back
	if report.Schema, err = mayMigrate(ctx, conn, c.Schema); err != nil {
		return report, explain(err)
	}
	if err := refuseForeign(ctx, conn, report.Schema); err != nil {
		return report, err
	}

	db := stdlib.OpenDB(*s.config.ConnConfig, stdlib.OptionBeforeConnect(func(_ context.Context, config *pgx.ConnConfig) error {
		s.adapt(config)
		return nil
	}))
	defer db.Close()
	provider, err := newProvider(db, report.Schema)
	if err != nil {
		return report, err
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return report, explain(err)
	}
	report.Applied = len(results)
	report.Version = latestMigration()
	if report.Repaired, err = repair(ctx, conn, report.Schema); err != nil {
		return report, explain(err)
	}
	// Before the roles get their rights: it may make the events table anew.
	if report.Returned, err = s.returnAdopted(ctx, conn, report.Schema, told); err != nil {
		return report, explain(err)
	}
	if _, err := conn.Exec(ctx, qualify(report.Schema, grantsSQL)); err != nil {
		return report, explain(err)
	}
	return report, nil
}

// mayMigrate finds the schema, and makes it where it is missing. It asks for
// the rights that a migration needs before anything is done: PostgreSQL's own
// errors do not say what would give them.
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
		return "", problem(NoTable, nil, "the search_path of user %s names no schema that exists and that it may use; name one with --schema, such as specwatch", user)
	}
	identifier := pgx.Identifier{*schema}.Sanitize()
	switch {
	case !exists && !makes:
		return "", problem(NoRights, nil, "user %s lacks the right CREATE on database %s, to make the schema %s; run as an administrator: CREATE SCHEMA %s AUTHORIZATION %s", user, database, *schema, identifier, quoted)
	case !exists:
		_, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+identifier)
		return *schema, err
	case !use || !create && !migrated:
		return "", problem(NoRights, nil, "user %s lacks the right USAGE or CREATE on schema %s, which %s owns; run as an administrator: GRANT USAGE, CREATE ON SCHEMA %s TO %s, or give Specwatch a schema of its own: CREATE SCHEMA specwatch AUTHORIZATION %s, and then: specwatch migrate --schema specwatch", user, *schema, owner, identifier, quoted, quoted)
	case owns != "":
		return "", problem(NoRights, nil, "the tables in schema %s belong to %s, and only their owner may change them; run this as %s, or run as an administrator: GRANT %s TO %s", *schema, owns, owns, pgx.Identifier{owns}.Sanitize(), quoted)
	}
	return *schema, nil
}

// lockMigrations keeps other migrations of this database out until its
// transaction ends.
func (s *Store) lockMigrations(ctx context.Context, told func(string)) (pgx.Tx, error) {
	const again = 50 * time.Millisecond
	for try := 0; ; try++ {
		tx, err := s.begin(ctx)
		if err != nil {
			return nil, err
		}
		var locked bool
		// By the simple protocol: the other leaves a portal, with its snapshot,
		// for which CREATE INDEX CONCURRENTLY would wait.
		err = tx.QueryRow(ctx, `SELECT set_config('idle_in_transaction_session_timeout', '0', true) = '0' AND pg_try_advisory_xact_lock($1)`, pgx.QueryExecModeSimpleProtocol, migrationLock).Scan(&locked)
		if err == nil && locked {
			return tx, nil
		}
		if err == nil && told != nil && try == int(time.Second/again) {
			var holder string
			err = tx.QueryRow(ctx, `
				SELECT coalesce(string_agg(format('process %s, user %s, %s since %s', l.pid, a.usename, coalesce(a.state, 'state not shown'), a.state_change), '; '), 'somebody')
				FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
				WHERE l.locktype = 'advisory' AND l.granted AND (l.classid::bigint << 32 | l.objid::bigint) = $1`, migrationLock).Scan(&holder)
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

// newProvider makes one migration of each file: the schema is written into its
// SQL, and it runs in a transaction of its own where it can.
func newProvider(db *sql.DB, schema string) (*goose.Provider, error) {
	var all []*goose.Migration
	for version, file := range migrationFiles() {
		text, err := migrations.ReadFile(file)
		if err != nil {
			return nil, err
		}
		step := goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, qualify(schema, string(text)))
			return err
		}}
		if strings.Contains(string(text), "CONCURRENTLY") { // which PostgreSQL refuses in a transaction
			step = goose.GoFunc{RunDB: func(ctx context.Context, db *sql.DB) error {
				var written bool
				if err := db.QueryRowContext(ctx, qualify(schema, `SELECT EXISTS (SELECT FROM @.events)`)).Scan(&written); err != nil {
					return err
				}
				for statement := range strings.SplitSeq(string(text), "\n\n") {
					if !written { // there is no writer to wait for, and others need not be
						statement = strings.ReplaceAll(statement, "CONCURRENTLY", "")
					}
					if _, err := db.ExecContext(ctx, qualify(schema, statement)); err != nil {
						return err
					}
				}
				return nil
			}}
		}
		all = append(all, goose.NewGoMigration(version, &step, nil))
	}
	store, err := database.NewStore(database.DialectPostgres, qualify(schema, "@.specwatch_migrations"))
	if err != nil {
		return nil, err
	}
	return goose.NewProvider("", db, nil, goose.WithGoMigrations(all...), goose.WithStore(versions{store}), goose.WithDisableGlobalRegistry(true))
}

// versions is goose's table of versions. Goose itself does not find a table by
// a quoted name.
type versions struct{ database.Store }

func (v versions) TableExists(ctx context.Context, db database.DBTxConn) (exists bool, err error) {
	err = db.QueryRowContext(ctx, `SELECT to_regclass($1) IS NOT NULL`, v.Tablename()).Scan(&exists)
	return exists, err
}

// migrationFiles are the embedded files by their version.
func migrationFiles() map[int64]string {
	entries, err := migrations.ReadDir("migrations")
	if err != nil {
		panic(err) // they are embedded
	}
	files := map[int64]string{}
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			panic(err)
		}
		files[version] = "migrations/" + entry.Name()
	}
	return files
}

// latestMigration is the version that this program knows.
func latestMigration() int64 { return slices.Max(slices.Collect(maps.Keys(migrationFiles()))) }

// repair mends events that were restored from another cluster: their xids are
// of a counter that means nothing here. Rows below this cluster's counter
// count as seen already; those above it would stay hidden until the counter
// passes them, and then come up in the middle of other events.
func repair(ctx context.Context, conn *pgx.Conn, schema string) (int64, error) {
	var rows int64
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var foreign, future bool
		err := tx.QueryRow(ctx, qualify(schema, `
			SELECT m.system_identifier <> @.specwatch_system_identifier() AND m.system_identifier <> 0 AND @.specwatch_system_identifier() <> 0, EXISTS (SELECT 1 FROM @.events WHERE xid IS NOT NULL AND xid >= pg_snapshot_xmax(pg_current_snapshot()))
			FROM @.specwatch_meta m`)).Scan(&foreign, &future)
		if err != nil || !foreign && !future {
			return err
		}
		if _, err := tx.Exec(ctx, qualify(schema, `UPDATE @.specwatch_rollup SET seen = NULL`)); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, qualify(schema, `UPDATE @.events SET xid = NULL WHERE xid IS NOT NULL AND xid >= pg_snapshot_xmax(pg_current_snapshot()) AND xid <> pg_current_xact_id()`))
		if err != nil {
			return err
		}
		rows = tag.RowsAffected()
		_, err = tx.Exec(ctx, qualify(schema, `UPDATE @.specwatch_meta SET epoch = gen_random_uuid(), system_identifier = @.specwatch_system_identifier()`))
		return err
	})
	return rows, err
}

// refuseForeign keeps a migration from changing an events table that is not
// Specwatch's unless it was asked to.
func refuseForeign(ctx context.Context, conn *pgx.Conn, schema string) error {
	var foreign bool
	err := conn.QueryRow(ctx, `SELECT to_regclass(format('%I.events', $1::text)) IS NOT NULL AND to_regclass(format('%I.specwatch_migrations', $1::text)) IS NULL`, schema).Scan(&foreign)
	if err != nil {
		return explain(err)
	}
	if foreign {
		return problem(NoTable, nil, "schema %q already has a table named events that is not Specwatch's; choose another schema with --schema, such as specwatch, and then, to have what is inserted into that table as events, run: specwatch mirror %[1]s.events", schema)
	}
	return nil
}

// quote writes a text as an SQL literal.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
