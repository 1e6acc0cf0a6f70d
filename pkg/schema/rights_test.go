package schema_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/mirror"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// Default privileges that give everybody, or a role, rights on every new table
// do not open Specwatch's own. What is granted on purpose afterwards stays.
func TestDefaultPrivilegesOpenNothing(t *testing.T) {
	t.Parallel()
	address := postgrestest.Database(t)
	conn := postgrestest.Connect(t, address)
	role := fmt.Sprintf("specwatch_anybody_%d", time.Now().UnixNano())
	storetest.Exec(t, conn, `CREATE ROLE `+role)
	t.Cleanup(func() {
		for _, sql := range []string{`DROP OWNED BY ` + role, `DROP ROLE ` + role} {
			if _, err := conn.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	for _, to := range []string{"PUBLIC", role} {
		storetest.Exec(t, conn, `ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO `+to)
		storetest.Exec(t, conn, `ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO `+to)
		storetest.Exec(t, conn, `ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO `+to)
	}
	config := store.Config{URL: address, Schema: "watch"}
	migrate := func() {
		t.Helper()
		if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
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
	storetest.Exec(t, conn, `INSERT INTO watch.events (kind, session) VALUES ('spec_started', 's')`)
	storetest.Exec(t, conn, `GRANT SELECT ON watch.events TO `+role)
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
	_, conn, config := storetest.New(t)
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
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, admin, `INSERT INTO watch.events (kind, session, xid) SELECT 'spec_started', 's', NULL FROM generate_series(1, 5)`)
	s := storetest.Open(t, config)
	if err := maintenance.RollUpAll(t.Context(), s, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"specwatch_reader", "specwatch_writer"} {
		user, as := storetest.Login(t, admin, address, "false")
		storetest.Exec(t, admin, `GRANT `+role+` TO `+user)
		conn := postgrestest.Connect(t, as)
		storetest.Exec(t, conn, `CREATE TEMP TABLE own (LIKE pg_catalog.pg_description)`)
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
	if n, err := questions.To(s).Total(t.Context(), questions.Filter{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour)}); err != nil || n != 5 {
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
	user, as := storetest.Login(t, admin, address, "plain")
	other, asOther := storetest.Login(t, admin, address, "other")
	storetest.Exec(t, admin, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`) // the default since PostgreSQL 15
	// What some managed servers keep from users.
	storetest.Exec(t, admin, `REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint(), pg_control_recovery() FROM PUBLIC`)
	migrate := func(address, name string) error {
		_, err := schema.Migrate(t.Context(), store.Config{URL: address, Schema: name}, nil)
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
		storetest.Exec(t, admin, found[1])
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
	follow(storetest.Open(t, reads).Ready(t.Context()), "USAGE on schema")
	s := storetest.Open(t, reads)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}})
	if err == nil || !strings.Contains(err.Error(), "GRANT specwatch_writer TO "+pgx.Identifier{other}.Sanitize()) {
		t.Errorf("a reader that writes: %v", err)
	}
	reopen := func() { // of a new role a session knows in full only after it connects again
		s.Close()
		s = storetest.Open(t, reads)
	}
	storetest.Exec(t, admin, regexp.MustCompile(`GRANT specwatch_writer TO "[^"]+"`).FindString(err.Error()))
	reopen()
	if _, err := s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}}); err != nil {
		t.Errorf("a writer: %v", err)
	}

	third, asThird := storetest.Login(t, admin, address, "third")
	storetest.Exec(t, admin, `GRANT specwatch_reader, specwatch_writer TO `+third)
	prunes := store.Config{URL: asThird, Schema: "watch"}
	_, err = maintenance.Prune(t.Context(), storetest.Open(t, prunes), time.Now().Add(time.Minute), nil)
	follow(err, "only the owner of the events table can remove events")
	if n, err := maintenance.Prune(t.Context(), storetest.Open(t, prunes), time.Now().Add(time.Minute), nil); err != nil || n != 1 {
		t.Errorf("%d pruned: %v", n, err)
	}

	// An upgrade replaces functions, for which it needs CREATE.
	storetest.Exec(t, admin, `REVOKE CREATE ON SCHEMA watch FROM `+user)
	if err := migrate(as, "watch"); err != nil {
		t.Errorf("nothing is pending: %v", err)
	}
	storetest.Exec(t, admin, `DELETE FROM watch.specwatch_migrations WHERE version_id > 5`)
	follow(migrate(as, "watch"), "CREATE on schema watch")
	if err := migrate(as, "watch"); err != nil {
		t.Error(err)
	}

	// A preview of a mirror makes a temporary function.
	storetest.Exec(t, admin, `CREATE TABLE public.jobs (id int PRIMARY KEY, kind text, at timestamptz, session text)`)
	storetest.Exec(t, admin, `ALTER TABLE public.jobs OWNER TO `+user)
	var database string
	if err := admin.QueryRow(t.Context(), `SELECT current_database()::text`).Scan(&database); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, admin, `REVOKE TEMPORARY ON DATABASE `+pgx.Identifier{database}.Sanitize()+` FROM PUBLIC`)
	preview := func() error {
		_, err := mirror.Try(t.Context(), storetest.Open(t, store.Config{URL: as, Schema: "watch"}), "public.jobs", mirror.Mapping{})
		return err
	}
	follow(preview(), "to create temporary tables")
	if err := preview(); err != nil {
		t.Error(err)
	}

	// The right to connect.
	storetest.Exec(t, admin, `REVOKE CONNECT ON DATABASE `+pgx.Identifier{database}.Sanitize()+` FROM PUBLIC`)
	err = storetest.Open(t, prunes).Ready(t.Context())
	if found := remedies.FindStringSubmatch(fmt.Sprint(err)); found == nil || !strings.Contains(found[1], "GRANT CONNECT") {
		t.Errorf("no right to connect: %v", err)
	} else {
		storetest.Exec(t, admin, found[1])
	}
	if err := storetest.Open(t, prunes).Ready(t.Context()); err != nil {
		t.Error(err)
	}
	storetest.Exec(t, admin, `GRANT CONNECT ON DATABASE `+pgx.Identifier{database}.Sanitize()+` TO PUBLIC`)

	follow(migrate(asOther, "watch"), "only their owner")
	if err := migrate(asOther, "watch"); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, admin, `REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC`)
	err = storetest.Open(t, store.Config{URL: as, Schema: "watch"}).Ready(t.Context())
	if err == nil || !strings.Contains(err.Error(), "GRANT EXECUTE ON FUNCTION pg_catalog.pg_walfile_name TO "+pgx.Identifier{user}.Sanitize()) {
		t.Errorf("a closed function: %v", err)
	}
	storetest.Exec(t, admin, `GRANT EXECUTE ON FUNCTION pg_catalog.pg_walfile_name TO `+user)
	if err := storetest.Open(t, store.Config{URL: as, Schema: "watch"}).Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// A migration whose user may not create roles leaves the roles out. The error of
// a reader then names the steps that bring them.
func TestRolesThatAreMissingAreNamed(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	admin := postgrestest.Connect(t, server.URL())
	storetest.Exec(t, admin, `CREATE SCHEMA watch`)
	_, as := storetest.Login(t, admin, server.URL(), "owner")
	owner, _ := url.Parse(as)
	storetest.Exec(t, admin, `ALTER SCHEMA watch OWNER TO `+owner.User.Username())
	user, asUser := storetest.Login(t, admin, server.URL(), "reader")
	migrate := func() {
		t.Helper()
		if _, err := schema.Migrate(t.Context(), store.Config{URL: as, Schema: "watch"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	migrate()
	ready := func() error { return storetest.Open(t, store.Config{URL: asUser, Schema: "watch"}).Ready(t.Context()) }
	grant := "GRANT specwatch_reader TO " + pgx.Identifier{user}.Sanitize()
	err := ready()
	if err == nil || !strings.Contains(err.Error(), "run as an administrator: CREATE ROLE specwatch_reader NOLOGIN, and then: specwatch migrate, and then as an administrator: "+grant) {
		t.Fatalf("no roles: %v", err)
	}
	storetest.Exec(t, admin, `CREATE ROLE specwatch_reader NOLOGIN`)
	if err = ready(); err == nil || !strings.Contains(err.Error(), "run: specwatch migrate, and then as an administrator: "+grant) {
		t.Fatalf("a role without rights: %v", err)
	}
	migrate()
	if err = ready(); err == nil || !strings.HasSuffix(err.Error(), "run as an administrator: "+grant) {
		t.Fatalf("a role with rights: %v", err)
	}
	storetest.Exec(t, admin, grant)
	if err := ready(); err != nil {
		t.Error(err)
	}
}

// Schemas and databases of one server can have roles of their own. Members of
// the roles of one then do not read the others.
func TestRolesOfASchema(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	admin := postgrestest.Connect(t, server.URL())
	storetest.Exec(t, admin, `CREATE DATABASE second`)
	second, _ := url.Parse(server.URL())
	second.Path = "/second"
	migrate := func(config store.Config) schema.Report {
		t.Helper()
		report, err := schema.Migrate(t.Context(), config, nil)
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	type place struct {
		config store.Config // with the roles that a migration gives it
		reads  string       // what its reader's role is, as SQL names it
	}
	places := []place{
		{store.Config{URL: server.URL(), Schema: "one", Roles: "one"}, `one_reader`},
		{store.Config{URL: server.URL(), Schema: "the other", Roles: "The Other"}, `"The Other_reader"`},
		{store.Config{URL: second.String(), Schema: "one", Roles: strings.Repeat("ü", 28)}, `"` + strings.Repeat("ü", 28) + `_reader"`},
		{store.Config{URL: second.String(), Schema: "plain"}, `specwatch_reader`},
	}
	for _, p := range places {
		migrate(p.config)
		kept := p.config
		kept.Roles = "" // the schema has them
		if report := migrate(kept); len(report.Notices) != 0 {
			t.Errorf("%s: repeated: %q", p.config.Schema, report.Notices)
		}
	}
	as := func(config store.Config, user string) store.Config {
		address, _ := url.Parse(config.URL)
		address.User = url.UserPassword(user, "not a secret")
		return store.Config{URL: address.String(), Schema: config.Schema}
	}
	// reads and writes are the roles that the user lacks.
	expect := func(config store.Config, user, reads, writes string) {
		t.Helper()
		check := func(err error, lacks string) {
			t.Helper()
			var problem *store.Problem
			if lacks == "" && err != nil || lacks != "" && (!errors.As(err, &problem) || problem.Code != store.NoRights || !strings.Contains(problem.Detail, fmt.Sprintf("GRANT %s TO %q", lacks, user))) {
				t.Errorf("%s in %s: %v, want %q", user, config.Schema, err, lacks)
			}
		}
		s := storetest.Open(t, as(config, user))
		check(s.Ready(t.Context()), reads)
		_, _, err := questions.To(s).Load(t.Context())
		check(err, reads)
		_, err = s.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}})
		check(err, writes)
	}
	writes := func(p place) string { return strings.Replace(p.reads, "_reader", "_writer", 1) }
	for i, p := range places {
		user := fmt.Sprintf("user%d", i)
		storetest.Exec(t, admin, `CREATE ROLE `+user+` LOGIN PASSWORD 'not a secret'`)
		storetest.Exec(t, admin, `GRANT `+p.reads+` TO `+user)
		storetest.Exec(t, admin, `CREATE ROLE `+user+`_both LOGIN PASSWORD 'not a secret'`)
		storetest.Exec(t, admin, `GRANT `+p.reads+`, `+writes(p)+` TO `+user+`_both`)
		for j, other := range places {
			reads, may := other.reads, writes(other)
			if i == j {
				reads, may = "", ""
			}
			expect(other.config, user, reads, writes(other))
			expect(other.config, user+"_both", reads, may)
		}
	}
	err := storetest.Open(t, as(places[0].config, "user0")).Writable(t.Context())
	if err == nil || !strings.Contains(err.Error(), "grant it the role one_writer") {
		t.Errorf("a reader: %v", err)
	}
	// Writers may update the rollups, and only the owner the stored summary.
	reader, both := storetest.Open(t, as(places[0].config, "user0")), storetest.Open(t, as(places[0].config, "user0_both"))
	if _, _, err := maintenance.RollUp(t.Context(), reader); !errors.Is(err, store.ErrNotAllowed) {
		t.Errorf("a reader updates the rollups: %v", err)
	}
	if _, _, err := maintenance.RollUp(t.Context(), both); err != nil {
		t.Errorf("a writer does not update the rollups: %v", err)
	}
	if err := questions.To(both).Keep(t.Context(), nil, cursor.Cursor{}, 0); !errors.Is(err, store.ErrNotAllowed) {
		t.Errorf("a writer stores a summary: %v", err)
	}

	// Other roles take the place of those before, and nobody else's rights change.
	conn := postgrestest.Connect(t, second.String())
	storetest.Exec(t, conn, `CREATE TABLE plain.own (id int)`)
	storetest.Exec(t, conn, `GRANT SELECT ON plain.own TO specwatch_reader`)
	storetest.Exec(t, conn, `GRANT USAGE ON SCHEMA plain TO user0`)
	storetest.Exec(t, conn, `GRANT SELECT ON plain.events TO user0`)
	rights := func() string {
		t.Helper()
		var told string
		if err := conn.QueryRow(t.Context(), `
			SELECT string_agg(format('%s: %s', role, what), E'\n' ORDER BY role, what) FROM (
			    SELECT r.rolname AS role, pg_describe_object(d.classid, d.objid, d.objsubid) AS what FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
			    WHERE d.deptype = 'a' AND d.dbid = (SELECT oid FROM pg_database WHERE datname = 'second')) a
			WHERE what LIKE '%plain%'`).Scan(&told); err != nil {
			t.Fatal(err)
		}
		return told
	}
	before := rights()
	changed := places[3].config
	changed.Roles = "moved"
	report := migrate(changed)
	if notes := strings.Join(report.Notices, "\n"); !strings.Contains(notes, "moved_reader and moved_writer now; specwatch_reader and specwatch_writer have no rights") {
		t.Errorf("it says %q", notes)
	}
	want := strings.NewReplacer("specwatch_reader: table plain.own", "specwatch_reader: table plain.own", "specwatch_reader:", "moved_reader:", "specwatch_writer:", "moved_writer:").Replace(before)
	if got := rights(); sorted(got) != sorted(want) {
		t.Errorf("the rights are\n%s\nand were\n%s", got, before)
	}
	expect(changed, "user3_both", "moved_reader", "moved_writer")
	for range 2 {
		if report := migrate(changed); len(report.Notices) != 0 {
			t.Errorf("repeated: %q", report.Notices)
		}
	}
	storetest.Exec(t, admin, `GRANT moved_reader, moved_writer TO user3_both`)
	expect(changed, "user3_both", "", "")
	changed.Roles = "specwatch"
	migrate(changed)
	if got := rights(); got != before {
		t.Errorf("back again, the rights are\n%s\nand were\n%s", got, before)
	}
	expect(changed, "user3", "", "specwatch_writer")
	expect(changed, "user0", "specwatch_reader", "specwatch_writer") // has no right to the other tables

	for prefix, says := range map[string]string{"pg_own": "begin with pg_", strings.Repeat("ü", 28) + "x": "57 bytes, and 56 are allowed", "a\nb": "a control character"} {
		changed.Roles = prefix
		if _, err := schema.Migrate(t.Context(), changed, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("roles %q: %v", prefix, err)
		}
	}
}

func sorted(lines string) string {
	all := strings.Split(lines, "\n")
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// A new schema whose roles have rights elsewhere on the server is told of.
func TestSharedRolesAreTold(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	storetest.Exec(t, postgrestest.Connect(t, server.URL()), `CREATE DATABASE second`)
	second, _ := url.Parse(server.URL())
	second.Path = "/second"
	for _, c := range []struct {
		config store.Config
		shared bool
	}{
		{store.Config{URL: server.URL(), Schema: "own", Roles: "own"}, false},
		{store.Config{URL: server.URL(), Schema: "first"}, false},
		{store.Config{URL: server.URL(), Schema: "first"}, false},
		{store.Config{URL: server.URL(), Schema: "second"}, true},
		{store.Config{URL: server.URL(), Schema: "second"}, false}, // is not new
		{store.Config{URL: second.String(), Schema: "first"}, true},
		{store.Config{URL: second.String(), Schema: "other", Roles: "other"}, false},
		{store.Config{URL: second.String(), Schema: "asked", Roles: "specwatch"}, false},
	} {
		report, err := schema.Migrate(t.Context(), c.config, nil)
		if err != nil {
			t.Fatal(err)
		}
		notes := strings.Join(report.Notices, "\n")
		if told := strings.Contains(notes, "schema "+c.config.Schema+" shares its roles") && strings.Contains(notes, "specwatch migrate --roles NAME"); told != c.shared || !told && notes != "" {
			t.Errorf("%+v: %q", c, notes)
		}
	}
}

// A migration that may not make the roles that it is asked for names them, and so
// do the errors of others.
func TestMissingRolesOfASchemaAreNamed(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	admin := postgrestest.Connect(t, server.URL())
	_, as := storetest.Login(t, admin, server.URL(), "owner")
	owner, _ := url.Parse(as)
	storetest.Exec(t, admin, `CREATE SCHEMA watch AUTHORIZATION `+owner.User.Username())
	user, asUser := storetest.Login(t, admin, server.URL(), "reader")
	config := store.Config{URL: as, Schema: "watch", Roles: "Team"}
	report, err := schema.Migrate(t.Context(), config, nil)
	if err != nil {
		t.Fatal(err)
	}
	config.Roles = ""
	ready := func() error { return storetest.Open(t, store.Config{URL: asUser, Schema: "watch"}).Ready(t.Context()) }
	grant := `GRANT "Team_reader" TO ` + pgx.Identifier{user}.Sanitize()
	if err := ready(); err == nil || !strings.HasSuffix(err.Error(), `run as an administrator: CREATE ROLE "Team_reader" NOLOGIN, and then: specwatch migrate, and then as an administrator: `+grant) {
		t.Errorf("no roles: %v", err)
	}
	for _, notice := range report.Notices {
		found := remedies.FindStringSubmatch(notice)
		if found == nil || !strings.HasPrefix(found[1], `CREATE ROLE "Team_`) {
			t.Fatalf("it says %q", notice)
		}
		storetest.Exec(t, admin, found[1])
	}
	if report, err = schema.Migrate(t.Context(), config, nil); err != nil || len(report.Notices) != 0 {
		t.Fatalf("%v, %q", err, report.Notices)
	}
	if err := ready(); err == nil || !strings.HasSuffix(err.Error(), "run as an administrator: "+grant) {
		t.Errorf("a role with rights: %v", err)
	}
	storetest.Exec(t, admin, grant)
	if err := ready(); err != nil {
		t.Error(err)
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	_, conn, config := storetest.New(t)
	role := fmt.Sprintf("specwatch_test_%d", time.Now().UnixNano())
	storetest.Exec(t, conn, `CREATE ROLE `+role+` LOGIN PASSWORD 'not a secret'`)
	t.Cleanup(func() { conn.Exec(context.Background(), `DROP ROLE `+role) })
	address, err := url.Parse(config.URL)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword(role, "not a secret")
	config.URL = address.String()
	s := storetest.Open(t, config)
	one := []event.Event{{Kind: event.SpecStarted, Session: "s", Key: "k"}}
	refused := func(what string, err error) {
		t.Helper()
		var problem *store.Problem
		if !errors.As(err, &problem) || problem.Code != store.NoRights && problem.Code != store.NoTable {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("nobody is ready", s.Ready(t.Context()))
	_, err = s.Append(t.Context(), one)
	refused("nobody writes", err)

	// Of a new role a session knows in full only after it connects again.
	storetest.Exec(t, conn, `GRANT specwatch_reader TO `+role)
	s = storetest.Open(t, config)
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := storetest.State(t, s); err != nil {
		t.Error(err)
	}
	r, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.EnableNotify(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = s.Append(t.Context(), one)
	refused("a reader writes", err)

	storetest.Exec(t, conn, `REVOKE specwatch_reader FROM `+role)
	storetest.Exec(t, conn, `GRANT specwatch_writer TO `+role)
	s = storetest.Open(t, config)
	for range 2 {
		if _, err := s.Append(t.Context(), one); err != nil {
			t.Errorf("a writer writes: %v", err)
		}
	}
	_, err = s.Since(t.Context(), cursor.Cursor{}, 1)
	refused("a writer reads", err)
	_, err = maintenance.Prune(t.Context(), s, time.Now(), nil)
	refused("a writer removes", err)
}
