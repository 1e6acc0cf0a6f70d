package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
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
		exec(t, conn, `ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO `+to)
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
			  AND a.grantee NOT IN (SELECT oid FROM pg_roles WHERE rolname IN ('specwatch_reader', 'specwatch_writer'))
			UNION ALL
			SELECT format('%s %s to %s', a.privilege_type, p.proname, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END)
			FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
			WHERE p.pronamespace = 'watch'::regnamespace AND a.grantee <> p.proowner
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
// writer, those that run as the owner take nothing from their caller; nobody may
// execute more of them than the statements of its role contain; and the writer's
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
		SELECT p.proname || ': ' || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END
		FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
		WHERE p.pronamespace = $1::regnamespace AND a.grantee <> p.proowner ORDER BY 1`, pgx.Identifier{config.Schema}.Sanitize())
	if err != nil {
		t.Fatal(err)
	}
	executable, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if got, want := strings.Join(executable, ", "), "specwatch_roll_up: specwatch_writer, specwatch_standby_timeline: specwatch_reader, specwatch_system_identifier: specwatch_reader"; err != nil || got != want {
		t.Errorf("others may execute %s, want %s: %v", got, want, err)
	}
	rows, err = conn.Query(t.Context(), `
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

// The functions of the triggers run as the owner of the rollups. A user who may
// only read cannot have them run by a table of its own.
func TestAReaderCannotFalsifyTheCounts(t *testing.T) {
	t.Parallel()
	address := postgrestest.Database(t)
	admin := postgrestest.Connect(t, address)
	config := store.Config{URL: address, Schema: "watch"}
	if _, err := store.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	exec(t, admin, `INSERT INTO watch.events (kind, session, xid) SELECT 'spec_started', 's', NULL FROM generate_series(1, 5)`)
	s := open(t, config)
	if err := s.RollUpAll(t.Context(), func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"specwatch_reader", "specwatch_writer"} {
		user, as := login(t, admin, address, "false")
		exec(t, admin, `GRANT `+role+` TO `+user)
		conn := postgrestest.Connect(t, as)
		exec(t, conn, `CREATE TEMP TABLE own (LIKE pg_catalog.pg_description)`)
		for function, sql := range map[string]string{
			"specwatch_take_out":     `CREATE TRIGGER own AFTER DELETE ON own REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION watch.specwatch_take_out()`,
			"specwatch_void_rollups": `CREATE TRIGGER own AFTER UPDATE ON own FOR EACH STATEMENT EXECUTE FUNCTION watch.specwatch_void_rollups()`,
		} {
			if _, err := conn.Exec(t.Context(), sql); err == nil || !regexp.MustCompile("permission denied for function (watch\\.)?"+function).MatchString(err.Error()) {
				t.Errorf("%s: %s: %v", role, function, err)
			}
		}
	}
	var rolled bool
	if err := admin.QueryRow(t.Context(), `SELECT seen IS NOT NULL FROM watch.specwatch_rollup`).Scan(&rolled); err != nil || !rolled {
		t.Errorf("rolled up %t, %v", rolled, err)
	}
	if n, err := s.Total(t.Context(), store.Filter{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour)}); err != nil || n != 5 {
		t.Errorf("%d events, %v", n, err)
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
	reopen := func() { // of a new role a session knows in full only after it connects again
		s.Close()
		s = open(t, reads)
	}
	exec(t, admin, regexp.MustCompile(`GRANT specwatch_writer TO "[^"]+"`).FindString(err.Error()))
	reopen()
	if _, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}}); err != nil {
		t.Errorf("a writer: %v", err)
	}

	third, asThird := login(t, admin, address, "third")
	exec(t, admin, `GRANT specwatch_reader, specwatch_writer TO `+third)
	prunes := store.Config{URL: asThird, Schema: "watch"}
	_, err = open(t, prunes).Prune(t.Context(), time.Now().Add(time.Minute), nil)
	follow(err, "only the owner of the events table can remove events")
	if n, err := open(t, prunes).Prune(t.Context(), time.Now().Add(time.Minute), nil); err != nil || n != 1 {
		t.Errorf("%d pruned: %v", n, err)
	}

	// An upgrade replaces functions, for which it needs CREATE.
	exec(t, admin, `REVOKE CREATE ON SCHEMA watch FROM `+user)
	if err := migrate(as, "watch"); err != nil {
		t.Errorf("nothing is pending: %v", err)
	}
	exec(t, admin, `DELETE FROM watch.specwatch_migrations WHERE version_id > 5`)
	follow(migrate(as, "watch"), "CREATE on schema watch")
	if err := migrate(as, "watch"); err != nil {
		t.Error(err)
	}

	// A preview of a mirror makes a temporary function.
	exec(t, admin, `CREATE TABLE public.jobs (id int PRIMARY KEY, kind text, at timestamptz, session text)`)
	exec(t, admin, `ALTER TABLE public.jobs OWNER TO `+user)
	var database string
	if err := admin.QueryRow(t.Context(), `SELECT current_database()::text`).Scan(&database); err != nil {
		t.Fatal(err)
	}
	exec(t, admin, `REVOKE TEMPORARY ON DATABASE `+pgx.Identifier{database}.Sanitize()+` FROM PUBLIC`)
	preview := func() error {
		_, err := open(t, store.Config{URL: as, Schema: "watch"}).PreviewMirror(t.Context(), "public.jobs", store.Mapping{})
		return err
	}
	follow(preview(), "to create temporary tables")
	if err := preview(); err != nil {
		t.Error(err)
	}

	// The right to connect.
	exec(t, admin, `REVOKE CONNECT ON DATABASE `+pgx.Identifier{database}.Sanitize()+` FROM PUBLIC`)
	err = open(t, prunes).Ready(t.Context())
	if found := remedies.FindStringSubmatch(fmt.Sprint(err)); found == nil || !strings.Contains(found[1], "GRANT CONNECT") {
		t.Errorf("no right to connect: %v", err)
	} else {
		exec(t, admin, found[1])
	}
	if err := open(t, prunes).Ready(t.Context()); err != nil {
		t.Error(err)
	}
	exec(t, admin, `GRANT CONNECT ON DATABASE `+pgx.Identifier{database}.Sanitize()+` TO PUBLIC`)

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

// A migration whose user may not create roles leaves the roles out. The error of
// a reader then names the steps that bring them.
func TestRolesThatAreMissingAreNamed(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	admin := postgrestest.Connect(t, server.URL())
	exec(t, admin, `CREATE SCHEMA watch`)
	_, as := login(t, admin, server.URL(), "owner")
	owner, _ := url.Parse(as)
	exec(t, admin, `ALTER SCHEMA watch OWNER TO `+owner.User.Username())
	user, asUser := login(t, admin, server.URL(), "reader")
	migrate := func() {
		t.Helper()
		if _, err := store.Migrate(t.Context(), store.Config{URL: as, Schema: "watch"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	migrate()
	ready := func() error { return open(t, store.Config{URL: asUser, Schema: "watch"}).Ready(t.Context()) }
	grant := "GRANT specwatch_reader TO " + pgx.Identifier{user}.Sanitize()
	err := ready()
	if err == nil || !strings.Contains(err.Error(), "run as an administrator: CREATE ROLE specwatch_reader NOLOGIN, and then: specwatch migrate, and then as an administrator: "+grant) {
		t.Fatalf("no roles: %v", err)
	}
	exec(t, admin, `CREATE ROLE specwatch_reader NOLOGIN`)
	if err = ready(); err == nil || !strings.Contains(err.Error(), "run: specwatch migrate, and then as an administrator: "+grant) {
		t.Fatalf("a role without rights: %v", err)
	}
	migrate()
	if err = ready(); err == nil || !strings.HasSuffix(err.Error(), "run as an administrator: "+grant) {
		t.Fatalf("a role with rights: %v", err)
	}
	exec(t, admin, grant)
	if err := ready(); err != nil {
		t.Error(err)
	}
}
