package store_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/store"
)

// Default privileges that give everybody, or a role, rights on every new table
// do not open Specwatch's own. What is granted on purpose afterwards stays.
func TestDefaultPrivilegesOpenNothing(t *testing.T) {
	t.Parallel()
	address := postgrestest.Database(t)
	conn := postgrestest.Connect(t, address)
	role := fmt.Sprintf("specwatch_anybody_%d", time.Now().UnixNano())
	exec(t, conn, `CREATE ROLE `+role)
	t.Cleanup(func() {
		for _, sql := range []string{`DROP OWNED BY ` + role, `DROP ROLE ` + role} {
			if _, err := conn.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	for _, to := range []string{"PUBLIC", role} {
		exec(t, conn, `ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO `+to)
		exec(t, conn, `ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO `+to)
	}
	config := store.Config{URL: address, Schema: "watch"}
	migrate := func() {
		t.Helper()
		if _, err := store.Migrate(t.Context(), config, nil); err != nil {
			t.Fatal(err)
		}
	}
	open := func() string {
		t.Helper()
		rows, err := conn.Query(t.Context(), `
			SELECT format('%s %s to %s', a.privilege_type, c.relname, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END)
			FROM pg_class c, aclexplode(c.relacl) a
			WHERE c.relnamespace = 'watch'::regnamespace AND a.grantee <> c.relowner
			  AND a.grantee NOT IN (SELECT oid FROM pg_roles WHERE rolname IN ('specwatch_reader', 'specwatch_writer')) ORDER BY 1`)
		if err != nil {
			t.Fatal(err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(found, ", ")
	}
	migrate()
	if got := open(); got != "" {
		t.Fatalf("open: %s", got)
	}
	exec(t, conn, `INSERT INTO watch.events (kind, session) VALUES ('spec_started', 's')`)
	exec(t, conn, `GRANT SELECT ON watch.events TO `+role)
	migrate()
	if got := open(); got != "SELECT events to "+role {
		t.Fatalf("after a grant on purpose: %s", got)
	}
}

// Functions look names up in pg_catalog only; those of the trigger run as the
// writer, those that run as the owner take nothing from their caller; and the writer's
// role reads nothing but what tells it whether a key is stored.
func TestRightsAreNarrow(t *testing.T) {
	t.Parallel()
	_, conn, config := fresh(t)
	var functions, fixed int
	if err := conn.QueryRow(t.Context(), `
		SELECT count(*), count(*) FILTER (WHERE 'search_path=pg_catalog, pg_temp' = ANY (proconfig) AND (NOT prosecdef OR proname IN ('specwatch_system_identifier', 'specwatch_standby_timeline', 'specwatch_roll_up', 'specwatch_take_out', 'specwatch_void_rollups')))
		FROM pg_proc WHERE pronamespace = $1::regnamespace AND proname <> 'specwatch_finite' -- it looks nothing up`, pgx.Identifier{config.Schema}.Sanitize()).Scan(&functions, &fixed); err != nil || functions != 7 || fixed != 7 {
		t.Errorf("%d of %d functions have a fixed search_path: %v", fixed, functions, err)
	}
	rows, err := conn.Query(t.Context(), `
		SELECT table_name || '.' || column_name FROM information_schema.column_privileges
		WHERE table_schema = $1 AND grantee = 'specwatch_writer' AND privilege_type = 'SELECT' ORDER BY 1`, config.Schema)
	if err != nil {
		t.Fatal(err)
	}
	readable, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if got := strings.Join(readable, " "); err != nil || got != "events.id events.key" {
		t.Errorf("the writer reads %s: %v", got, err)
	}
}

var remedies = regexp.MustCompile(`run as (?:an administrator|its owner): (.*?)(?:, or |, and then: |$)`)

// A migration names the right that is missing and the statement that gives it;
// that statement is run here as it is named.
func TestMissingRightsAreNamedWithWhatGivesThem(t *testing.T) {
	t.Parallel()
	address := postgrestest.Database(t)
	admin := postgrestest.Connect(t, address)
	user, as := login(t, admin, address, "plain")
	other, asOther := login(t, admin, address, "other")
	exec(t, admin, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`) // the default since PostgreSQL 15
	// What some managed servers keep from users.
	exec(t, admin, `REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint(), pg_control_recovery() FROM PUBLIC`)
	migrate := func(address, schema string) error {
		_, err := store.Migrate(t.Context(), store.Config{URL: address, Schema: schema}, nil)
		return err
	}
	follow := func(err error, says string) {
		t.Helper()
		var problem *store.Problem
		if !errors.As(err, &problem) || problem.Code != store.NoRights || !strings.Contains(problem.Detail, says) {
			t.Fatalf("expected %q: %v", says, err)
		}
		found := remedies.FindStringSubmatch(problem.Detail)
		if found == nil {
			t.Fatalf("no statement: %v", err)
		}
		exec(t, admin, found[1])
	}
	follow(migrate(as, ""), "CREATE on schema public")
	if err := migrate(as, ""); err != nil {
		t.Fatal(err)
	}
	follow(migrate(as, "watch"), "CREATE on database")
	for range 2 { // on a schema that exists, without the right to make one
		if err := migrate(as, "watch"); err != nil {
			t.Fatal(err)
		}
	}
	reads := store.Config{URL: asOther, Schema: "watch"}
	follow(open(t, reads).Ready(t.Context()), "USAGE on schema")
	s := open(t, reads)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}})
	if err == nil || !strings.Contains(err.Error(), "GRANT specwatch_writer TO "+pgx.Identifier{other}.Sanitize()) {
		t.Errorf("a reader that writes: %v", err)
	}
	follow(migrate(asOther, "watch"), "only their owner")
	if err := migrate(asOther, "watch"); err != nil {
		t.Fatal(err)
	}
	exec(t, admin, `REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC`)
	err = open(t, store.Config{URL: as, Schema: "watch"}).Ready(t.Context())
	if err == nil || !strings.Contains(err.Error(), "GRANT EXECUTE ON FUNCTION pg_catalog.pg_walfile_name TO "+pgx.Identifier{user}.Sanitize()) {
		t.Errorf("a closed function: %v", err)
	}
	exec(t, admin, `GRANT EXECUTE ON FUNCTION pg_catalog.pg_walfile_name TO `+user)
	if err := open(t, store.Config{URL: as, Schema: "watch"}).Ready(t.Context()); err != nil {
		t.Error(err)
	}
}
