package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed grants.sql
var grantsSQL string

// migrationLock keeps migrations of one database one after the other, from
// however many processes they are started.
const migrationLock = 0x5350454357 // "SPECW"

// MigrateOptions are what a person may ask for beside the schema itself.
type MigrateOptions struct {
	Adopt string // an existing table, "name" or "schema.name", that becomes the events table
}

// MigrateReport says what was done.
type MigrateReport struct {
	Schema   string
	Version  int64
	Applied  int      // migrations that were run now
	Repaired int64    // rows whose xid was of another cluster
	Notices  []string // what PostgreSQL remarked, such as a role that could not be created
}

// Migrate creates or upgrades the schema. It is safe to repeat and to run
// from two places at once. Errors are *Problem where a person can mend them.
func Migrate(ctx context.Context, c Config, o MigrateOptions) (MigrateReport, error) {
	var report MigrateReport
	pool, err := c.pool()
	if err != nil {
		return report, err
	}
	config := pool.ConnConfig
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		// "already exists, skipping" is what being safe to repeat looks like.
		if !strings.HasSuffix(n.Message, "skipping") {
			report.Notices = append(report.Notices, n.Message)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return report, explain(err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // gives back the lock, too
	// Not pg_advisory_lock: a session that waits inside a statement holds a
	// snapshot, for which CREATE INDEX CONCURRENTLY elsewhere would wait.
	for locked := false; !locked; {
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, migrationLock).Scan(&locked); err != nil {
			return report, explain(err)
		}
		if !locked {
			select {
			case <-ctx.Done():
				return report, ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	if c.Schema != "" {
		if _, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{c.Schema}.Sanitize()); err != nil {
			return report, explain(err)
		}
	}
	var schema *string
	if err := conn.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		return report, explain(err)
	}
	if schema == nil {
		return report, problem(NoTable, nil, "the search_path of this connection names no schema that exists; name one with --schema")
	}
	report.Schema = *schema
	if o.Adopt != "" {
		if err := adopt(ctx, conn, *schema, o.Adopt); err != nil {
			return report, explain(err)
		}
	} else if err := refuseForeign(ctx, conn, *schema); err != nil {
		return report, err
	}

	db := stdlib.OpenDB(*config)
	defer db.Close()
	provider, err := newProvider(db)
	if err != nil {
		return report, err
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return report, explain(err)
	}
	report.Applied = len(results)
	report.Version = latestMigration()
	if report.Repaired, err = repair(ctx, conn); err != nil {
		return report, explain(err)
	}
	if _, err := conn.Exec(ctx, grantsSQL); err != nil {
		return report, explain(err)
	}
	return report, nil
}

func newProvider(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName("specwatch_migrations"), goose.WithDisableGlobalRegistry(true))
}

// latestMigration is the version that this program knows.
func latestMigration() int64 {
	entries, err := migrations.ReadDir("migrations")
	if err != nil {
		panic(err) // they are embedded
	}
	var latest int64
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			panic(err)
		}
		latest = max(latest, version)
	}
	return latest
}

// repair mends events that were restored from another cluster: their xids are
// of a counter that means nothing here. Rows below this cluster's counter
// count as seen already; those above it would stay hidden until the counter
// passes them, and then come up in the middle of other events.
func repair(ctx context.Context, conn *pgx.Conn) (int64, error) {
	var rows int64
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var foreign, future bool
		err := tx.QueryRow(ctx, `
			SELECT m.system_identifier <> c.system_identifier, EXISTS (SELECT 1 FROM events WHERE xid IS NOT NULL AND xid >= pg_snapshot_xmax(pg_current_snapshot()))
			FROM specwatch_meta m, pg_control_system() c`).Scan(&foreign, &future)
		if err != nil || !foreign && !future {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE events SET xid = NULL WHERE xid IS NOT NULL AND xid >= pg_snapshot_xmax(pg_current_snapshot()) AND xid <> pg_current_xact_id()`)
		if err != nil {
			return err
		}
		rows = tag.RowsAffected()
		_, err = tx.Exec(ctx, `UPDATE specwatch_meta SET epoch = gen_random_uuid(), system_identifier = (SELECT system_identifier FROM pg_control_system())`)
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
		return problem(NoTable, nil, "schema %q already has a table named events that is not Specwatch's; to use it as it is run: specwatch migrate --adopt events, or choose another schema with --schema", schema)
	}
	return nil
}

// adoptable is what a table must bring to become the events table; what else
// it lacks the migration adds without rewriting it.
var adoptable = map[string][]string{
	"id":      {"bigint", "integer"},
	"kind":    {"text", "character varying"},
	"at":      {"timestamp with time zone"},
	"session": {"text", "character varying"},
	"spec":    {"text", "character varying"},
	"data":    {"jsonb"},
	"key":     {"text", "character varying"},
	"xid":     {"xid8"},
}

// adopt moves a table into place, in one transaction that touches the catalog
// only; a view under the old name serves the programs that know it.
func adopt(ctx context.Context, conn *pgx.Conn, schema, table string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var oid uint32
		var from, name string
		var isTable bool
		err := tx.QueryRow(ctx, `
			SELECT c.oid, n.nspname, c.relname, c.relkind = 'r' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.oid = to_regclass($1)`, table).Scan(&oid, &from, &name, &isTable)
		if errors.Is(err, pgx.ErrNoRows) {
			return problem(NoTable, nil, "there is no table %q to adopt; write it as name or schema.name", table)
		}
		if err != nil {
			return err
		}
		var migrated, taken bool
		err = tx.QueryRow(ctx, `SELECT to_regclass(format('%I.specwatch_migrations', $1::text)) IS NOT NULL,
			coalesce(to_regclass(format('%I.events', $1::text)) <> $2::oid, false)`, schema, oid).Scan(&migrated, &taken)
		switch {
		case err != nil:
			return err
		case migrated && from == schema && name == "events":
			return nil // adopted before: repeating is safe
		case migrated || taken:
			// The view that an adoption left under the old name leads here.
			var view bool
			if err := tx.QueryRow(ctx, `SELECT obj_description($1::oid, 'pg_class') = 'specwatch: adopted'`, oid).Scan(&view); err == nil && view {
				return nil
			}
			return problem(NoTable, nil, "schema %q has an events table already; adopt %q into another with --schema", schema, table)
		case !isTable:
			return problem(NoTable, nil, "%q is not an ordinary table; a view or a partitioned table cannot be adopted", table)
		}
		columns := map[string]string{}
		rows, err := tx.Query(ctx, `SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped`, oid)
		if err != nil {
			return err
		}
		var column, kind string
		if _, err := pgx.ForEachRow(rows, []any{&column, &kind}, func() error { columns[column] = kind; return nil }); err != nil {
			return err
		}
		for _, column := range []string{"id", "kind", "at", "session", "spec", "data", "key", "xid"} {
			have, there := columns[column]
			switch {
			case !there && slices.Contains([]string{"id", "kind", "at", "session"}, column):
				return problem(NoTable, nil, "table %q cannot be adopted: it lacks the column %s (%s)", table, column, adoptable[column][0])
			case there && !slices.Contains(adoptable[column], have):
				return problem(NoTable, nil, "table %q cannot be adopted: its column %s is %s and must be %s", table, column, have, adoptable[column][0])
			}
		}
		var unique, notNull, filled bool
		err = tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum),
			       a.attnotnull, a.atthasdef OR a.attidentity <> ''
			FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = 'id'`, oid).Scan(&unique, &notNull, &filled)
		switch {
		case err != nil:
			return err
		case !unique || !notNull:
			return problem(NoTable, nil, "table %q cannot be adopted: its column id must be NOT NULL and have a unique index, such as a primary key", table)
		}
		quoted := pgx.Identifier{from, name}.Sanitize()
		if !filled {
			if _, err := tx.Exec(ctx, "ALTER TABLE "+quoted+" ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY"); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, fmt.Sprintf(`SELECT setval(pg_get_serial_sequence(%s, 'id'), coalesce((SELECT max(id) FROM %s), 0) + 1, false)`, quote(quoted), quoted)); err != nil {
				return err
			}
		}
		if from == schema && name == "events" {
			return nil
		}
		var steps []string
		if from != schema {
			steps = append(steps, fmt.Sprintf("ALTER TABLE %s SET SCHEMA %s", quoted, pgx.Identifier{schema}.Sanitize()))
		}
		if name != "events" {
			steps = append(steps, fmt.Sprintf("ALTER TABLE %s RENAME TO events", pgx.Identifier{schema, name}.Sanitize()))
		}
		steps = append(steps,
			fmt.Sprintf("CREATE VIEW %s AS SELECT * FROM %s", quoted, pgx.Identifier{schema, "events"}.Sanitize()),
			fmt.Sprintf("COMMENT ON VIEW %s IS 'specwatch: adopted'", quoted))
		for _, step := range steps {
			if _, err := tx.Exec(ctx, step); err != nil {
				return err
			}
		}
		return nil
	})
}

// quote writes a text as an SQL literal.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
