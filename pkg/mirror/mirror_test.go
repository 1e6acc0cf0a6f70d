package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/mirror"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/schema/migrations"
	"github.com/specwatch/specwatch/pkg/store"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// watched is a database of a program with its tables in public, and Specwatch
// in a schema beside them.
func watched(t *testing.T, tables ...string) (*store.Store, *pgx.Conn, store.Config) {
	t.Helper()
	address := postgrestest.Database(t)
	conn := postgrestest.Connect(t, address)
	for _, sql := range tables {
		storetest.Exec(t, conn, sql)
	}
	config := store.Config{URL: address, Schema: "watch"}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	return storetest.Open(t, config), conn, config
}

func makeMirror(t *testing.T, s *store.Store, table string, m mirror.Mapping) {
	t.Helper()
	if _, err := mirror.Make(t.Context(), s, table, m, nil); err != nil {
		t.Fatal(err)
	}
}

func fillMirror(t *testing.T, s *store.Store, table string) mirror.Filled {
	t.Helper()
	done, err := mirror.Fill(t.Context(), s, table, nil)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func text(t *testing.T, conn *pgx.Conn, sql string, args ...any) string {
	t.Helper()
	var got *string
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&got); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if got == nil {
		return ""
	}
	return *got
}

// listed is all events, by id, each as "kind session spec data".
func listed(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	return text(t, conn, `SELECT string_agg(format('%s %s %s %s', kind, session, spec, data), E'\n' ORDER BY id) FROM watch.events`)
}

const jobs = `CREATE TABLE jobs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), state state, created timestamp DEFAULT now(), run text, task int, details json)`
const states = `CREATE TYPE state AS ENUM ('queued', 'running', 'done')`

var jobsMapping = mirror.Mapping{
	Kind: "state", At: "created", Session: "run", Spec: "task", Data: "details", TimeZone: "Europe/Berlin",
	Kinds: map[string]string{"running": "spec_started", "done": "spec_completed"},
}

func TestMirrorMapsKindsColumnsAndTimes(t *testing.T) {
	t.Parallel()
	s, conn, _ := watched(t, states, jobs)
	storetest.Exec(t, conn, `INSERT INTO jobs (state, created, run, task) VALUES ('done', '2026-07-01 12:00', 'old', 1)`)
	makeMirror(t, s, "jobs", jobsMapping)
	storetest.Exec(t, conn, `SET timezone = 'Asia/Tokyo'`) // the program's own setting changes nothing
	storetest.Exec(t, conn, `INSERT INTO jobs (state, created, run, task, details) VALUES ('queued', '2026-01-01 12:00', 'r', 2, '{"a": [1]}'), ('running', '2026-01-01 12:01', 'r', 2, NULL)`)
	want := "jobs.queued r 2 {\"a\": [1]}\nspec_started r 2 {}"
	if got := listed(t, conn); got != want {
		t.Fatalf("%s", got)
	}
	if done := fillMirror(t, s, "jobs"); done != (mirror.Filled{Rows: 3, Read: 3, Written: 1, Known: 2}) {
		t.Fatalf("%+v", done)
	}
	if done := fillMirror(t, s, "jobs"); done != (mirror.Filled{Rows: 3, Read: 3, Known: 3}) {
		t.Fatalf("again: %+v", done)
	}
	if got := listed(t, conn); got != want+"\nspec_completed old 1 {}" {
		t.Fatalf("%s", got)
	}
	if got := text(t, conn, `SELECT string_agg((at AT TIME ZONE 'UTC')::text, ' ' ORDER BY id) FROM watch.events`); got != "2026-01-01 11:00:00 2026-01-01 11:01:00 2026-07-01 10:00:00" {
		t.Fatalf("times: %s", got)
	}
	events, _ := storetest.Drain(t, s, cursor.Cursor{}, 10)
	if len(events) != 0 {
		t.Fatalf("events of the last five minutes: %v", events)
	}
}

// An insert is an event in the same transaction, however it comes, and none if
// it is rolled back.
func TestMirrorFollowsTransactions(t *testing.T) {
	t.Parallel()
	s, conn, _ := watched(t, `CREATE TABLE journal (id bigserial, kind text, at timestamptz DEFAULT now(), session text, spec text)`)
	makeMirror(t, s, "journal", mirror.Mapping{})
	c := storetest.Here(t, s)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, tx, `INSERT INTO journal (kind, session, spec) VALUES ('spec_started', 's', '1')`)
	storetest.Exec(t, tx, `SAVEPOINT one`)
	storetest.Exec(t, tx, `INSERT INTO journal (kind, session, spec) VALUES ('spec_started', 's', 'undone')`)
	storetest.Exec(t, tx, `ROLLBACK TO one`)
	if got, _ := storetest.Drain(t, s, c, 10); len(got) != 0 {
		t.Fatalf("before the commit: %s", storetest.Specs(got))
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tx, err = conn.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, tx, `INSERT INTO journal (kind, session, spec) VALUES ('spec_started', 's', 'undone')`)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.CopyFrom(t.Context(), pgx.Identifier{"journal"}, []string{"kind", "session", "spec"}, pgx.CopyFromRows([][]any{{"spec_started", "s", "2"}, {"spec_failed", "s", "3"}})); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, conn, `WITH a AS (INSERT INTO journal (kind, session, spec) VALUES ('spec_started', 's', '4')) INSERT INTO journal (kind, session, spec) VALUES ('spec_started', 's', '5')`)
	storetest.Exec(t, conn, `UPDATE journal SET spec = 'updated'`)
	storetest.Exec(t, conn, `DELETE FROM journal`)
	got, _ := storetest.Drain(t, s, c, 10)
	if storetest.Specs(got) != "1 2 3 5 4" {
		t.Fatalf("%q", storetest.Specs(got))
	}
	// Emptied and counted anew, the same numbers are other rows.
	storetest.Exec(t, conn, `TRUNCATE journal RESTART IDENTITY`)
	storetest.Exec(t, conn, `INSERT INTO journal (kind, session, spec) VALUES ('spec_started', 's', '6'), ('spec_started', 's', '7')`)
	if got, _ = storetest.Drain(t, s, c, 10); storetest.Specs(got) != "1 2 3 5 4 6 7" {
		t.Fatalf("%q", storetest.Specs(got))
	}
}

// Every way into a partitioned table counts, and so do partitions that come
// later and those with columns in another order.
func TestMirrorOfPartitions(t *testing.T) {
	t.Parallel()
	s, conn, _ := watched(t,
		`CREATE TABLE log (n int, part text, "When" timestamptz DEFAULT now(), who text, PRIMARY KEY (n, part)) PARTITION BY LIST (part)`,
		`CREATE TABLE log_b (who text, gone int, part text NOT NULL, n int NOT NULL, "When" timestamptz DEFAULT now())`,
		`ALTER TABLE log_b DROP COLUMN gone`, `ALTER TABLE log ATTACH PARTITION log_b FOR VALUES IN ('b')`,
		`CREATE TABLE log_a PARTITION OF log FOR VALUES IN ('a')`, `INSERT INTO log VALUES (1, 'a', now(), 'old'), (1, 'b', now(), 'old')`)
	makeMirror(t, s, "log", mirror.Mapping{Kind: "'log.' || part", At: `"When"`, Session: "who", Spec: "n", Data: "to_jsonb(log) - 'When'"})
	storetest.Exec(t, conn, `CREATE TABLE log_c PARTITION OF log FOR VALUES IN ('c')`)
	storetest.Exec(t, conn, `INSERT INTO log (n, part, who) VALUES (2, 'a', 'x'), (3, 'b', 'x'), (4, 'c', 'x'), (5, 'b', NULL)`)
	storetest.Exec(t, conn, `INSERT INTO log_b (n, part, who) VALUES (6, 'b', 'x')`)
	storetest.Exec(t, conn, `INSERT INTO log_c (n, part, who) VALUES (7, 'c', 'x')`)
	done := fillMirror(t, s, "log")
	if done != (mirror.Filled{Rows: 8, Read: 8, Written: 2, Known: 5, Unmapped: 1}) {
		t.Errorf("%+v", done)
	}
	want := `log.a x 2 {"n": 2, "who": "x", "part": "a"}
log.b x 3 {"n": 3, "who": "x", "part": "b"}
log.c x 4 {"n": 4, "who": "x", "part": "c"}
log.b x 6 {"n": 6, "who": "x", "part": "b"}
log.c x 7 {"n": 7, "who": "x", "part": "c"}
log.a old 1 {"n": 1, "who": "old", "part": "a"}
log.b old 1 {"n": 1, "who": "old", "part": "b"}`
	if got := listed(t, conn); got != want {
		t.Errorf("%s", got)
	}
}

// What cannot be mapped never breaks an insert. It is counted and listed, once.
func TestUnmappedRowsAreCountedAndBreakNothing(t *testing.T) {
	t.Parallel()
	s, conn, config := watched(t, `CREATE TABLE journal (id int PRIMARY KEY, kind text, at timestamptz DEFAULT now(), session text, n text, email text)`)
	storetest.Exec(t, conn, `INSERT INTO journal (id, kind, session) VALUES (0, 'spec_started', NULL)`)
	m := mirror.Mapping{Data: `jsonb_build_object('n', n::int, 'at', email LIKE '%@.%')`}
	makeMirror(t, s, "journal", m)
	storetest.Exec(t, conn, `INSERT INTO journal (id, kind, session, n, email) VALUES (1, 'spec_started', 's', '1', 'a@.b'), (2, 'spec_started', 's', 'one', NULL), (3, NULL, 's', '1', NULL), (4, '', 's', '1', NULL), (5, 'deploy', 's', '1', NULL)`)
	storetest.Exec(t, conn, `INSERT INTO journal (id, kind, session, at) VALUES (6, 'spec_started', 's', 'infinity'), (7, 'spec_started', 's', '-infinity'), (8, 'spec_started', 's', NULL), (9, 'spec_started', repeat('x', 513), now()), (10, repeat('k', 600), 's', now())`)
	if got := listed(t, conn); got != `spec_started s  {"n": 1, "at": true}`+"\n"+`journal.deploy s  {"n": 1, "at": null}` {
		t.Fatalf("%s", got)
	}
	unmapped := func() (int64, string) {
		t.Helper()
		all, err := mirror.List(t.Context(), s)
		if err != nil || len(all) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		var lines []string
		for _, r := range all[0].Reasons {
			lines = append(lines, fmt.Sprintf("%d %s %s", r.Rows, r.Text, r.Example))
		}
		return all[0].Unmapped, strings.Join(lines, "\n")
	}
	if n, why := unmapped(); n != 8 || !strings.Contains(why, "2 its kind is null or empty mirror:public.journal:3") || !strings.Contains(why, `invalid input syntax for type integer: "one" mirror:public.journal:2`) {
		t.Fatalf("%d: %s", n, why)
	}
	for range 2 {
		fillMirror(t, s, "journal")
		if n, why := unmapped(); n != 9 || !strings.Contains(why, "1 its session is null or empty mirror:public.journal:0") {
			t.Fatalf("%d: %s", n, why)
		}
	}
	// With another mapping what fits now comes over.
	makeMirror(t, s, "journal", mirror.Mapping{Session: "coalesce(session, 'nobody')", Data: "n"})
	if done := fillMirror(t, s, "journal"); done.Written != 2 || done.Unmapped != 7 {
		t.Fatalf("%+v", done)
	}

	// Whatever happens to Specwatch's own tables, the program goes on.
	storetest.Exec(t, conn, `ALTER TABLE watch.events ADD CONSTRAINT odd CHECK (session <> 'odd')`)
	storetest.Exec(t, conn, `INSERT INTO journal (id, kind, session) VALUES (20, 'spec_started', 'odd')`)
	if n, why := unmapped(); n != 8 || !strings.Contains(why, "odd") {
		t.Fatalf("%d: %s", n, why)
	}
	storetest.Exec(t, conn, `ALTER TABLE journal RENAME COLUMN session TO run`)
	storetest.Exec(t, postgrestest.Connect(t, config.URL), `INSERT INTO journal (id, kind, run) VALUES (21, 'spec_started', 's')`)
	if n, why := unmapped(); n != 9 || !strings.Contains(why, `column "session" does not exist`) {
		t.Fatalf("%d: %s", n, why)
	}
	for i, sql := range []string{`ALTER TABLE journal ADD COLUMN more int`, `ALTER TABLE watch.events RENAME TO elsewhere`, `DROP TABLE watch.specwatch_unmapped`, `DROP FUNCTION watch.specwatch_map_1(anyelement)`, `ALTER TABLE journal RENAME TO other`} {
		storetest.Exec(t, conn, sql)
		table := "journal"
		if strings.HasSuffix(sql, "other") {
			table = "other"
		}
		storetest.Exec(t, conn, fmt.Sprintf(`INSERT INTO %s (id, kind, run) VALUES (%d, 'spec_started', 's')`, table, 30+i))
	}
	storetest.Exec(t, conn, `DROP TABLE other`)
}

// A program that may insert into its table and no more, and only see some of
// its rows, is mirrored as it is, and gets no right on the events.
func TestMirrorLeavesRightsAsTheyAre(t *testing.T) {
	t.Parallel()
	s, conn, config := watched(t, `CREATE TABLE journal (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text, at timestamptz DEFAULT now(), session text, owner text DEFAULT current_user)`)
	owner, _ := storetest.Login(t, conn, config.URL, "owner")
	program, address := storetest.Login(t, conn, config.URL, "program")
	storetest.Exec(t, conn, `ALTER TABLE journal OWNER TO `+owner)
	storetest.Exec(t, conn, `GRANT INSERT, SELECT ON journal TO `+program)
	storetest.Exec(t, conn, `ALTER TABLE journal ENABLE ROW LEVEL SECURITY`)
	storetest.Exec(t, conn, `CREATE POLICY own ON journal USING (owner = current_user)`)
	storetest.Exec(t, conn, `INSERT INTO journal (kind, session) VALUES ('spec_started', 'secret')`)
	const trace = `
		SELECT jsonb_build_object('class', (SELECT to_jsonb(c) - ARRAY['relhastriggers', 'relpages', 'reltuples', 'relallvisible', 'relallfrozen', 'relfrozenxid', 'relminmxid'] FROM pg_class c WHERE c.oid = 'journal'::regclass),
		       'triggers', (SELECT jsonb_agg(tgname ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'journal'::regclass),
		       'functions', (SELECT jsonb_agg(oid::regprocedure::text ORDER BY oid) FROM pg_proc WHERE pronamespace IN ('watch'::regnamespace, 'public'::regnamespace)),
		       'schema', (SELECT nspacl::text[] FROM pg_namespace WHERE nspname = 'watch'), 'events', (SELECT relacl::text[] FROM pg_class WHERE oid = 'watch.events'::regclass),
		       'columns', (SELECT jsonb_agg(attacl::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'watch.events'::regclass),
		       'depends', (SELECT jsonb_agg(classid::regclass::text ORDER BY classid, objid, objsubid) FROM pg_depend WHERE refobjid = 'journal'::regclass),
		       'unmapped', (SELECT coalesce(relacl, acldefault('r', relowner))::text[] FROM pg_class WHERE oid = 'watch.specwatch_unmapped'::regclass), 'rows', (SELECT count(*) FROM watch.specwatch_unmapped) + (SELECT count(*) FROM watch.specwatch_mirrors))::text`
	before := text(t, conn, trace)
	makeMirror(t, s, "public.journal", mirror.Mapping{})
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil { // takes no right back
		t.Fatal(err)
	}
	as := postgrestest.Connect(t, address)
	storetest.Exec(t, as, `INSERT INTO journal (kind, session) VALUES ('spec_started', 'mine'), ('spec_failed', NULL)`)
	if got := text(t, as, `SELECT string_agg(session, ' ') FROM journal`); got != "mine" {
		t.Errorf("the program sees %s", got)
	}
	for _, sql := range []string{`SELECT * FROM watch.events`, `INSERT INTO watch.events (kind, session) VALUES ('spec_started', 's')`, `SELECT watch.specwatch_mirror_1()`, `SELECT * FROM watch.specwatch_unmapped`} {
		if _, err := as.Exec(t.Context(), sql); err == nil {
			t.Errorf("the program may: %s", sql)
		}
	}
	if done := fillMirror(t, s, "journal"); done.Written != 1 || done.Known != 1 || done.Unmapped != 1 {
		t.Errorf("%+v", done)
	}
	if got := listed(t, conn); got != "spec_started mine  {}\nspec_started secret  {}" {
		t.Errorf("%s", got)
	}
	if got := text(t, conn, `SELECT string_agg(DISTINCT pg_get_userbyid(proowner), ' ') FROM pg_proc WHERE proname IN ('specwatch_mirror_1', 'specwatch_map_1')`); got != owner {
		t.Errorf("the functions run as %s", got)
	}
	storetest.Exec(t, conn, `INSERT INTO journal (kind, session) VALUES (NULL, NULL)`)
	if err := mirror.Remove(t.Context(), s, "journal", nil); err != nil {
		t.Fatal(err)
	}
	if after := text(t, conn, trace); after != before {
		t.Errorf("before: %s\nafter:  %s", before, after)
	}
	storetest.Exec(t, as, `INSERT INTO journal (kind, session) VALUES ('spec_started', 'mine')`)
	if got := strings.Count(listed(t, conn), "\n"); got != 1 {
		t.Errorf("%d events", got+1)
	}
}

// Old rows come over beside writers that insert, change and remove them; after
// an interruption the rest follows; none is missing or there twice.
func TestFillBesideWritersIsResumed(t *testing.T) {
	t.Parallel()
	s, conn, config := watched(t, `CREATE TABLE journal (id int PRIMARY KEY, kind text DEFAULT 'spec_started', at timestamptz DEFAULT now(), session text)`)
	const old = 30_000
	storetest.Exec(t, conn, fmt.Sprintf(`INSERT INTO journal (id, session) SELECT n, CASE WHEN n %% 100 > 0 THEN 's' END FROM generate_series(1, %d) n`, old))
	makeMirror(t, s, "journal", mirror.Mapping{})
	ctx, stop := context.WithCancel(t.Context())
	written, begun := make(chan int, 1), make(chan struct{})
	go func() {
		writer, err := pgx.Connect(ctx, config.URL)
		if err != nil {
			written <- 0
			return
		}
		defer writer.Close(context.Background())
		n := 0
		for ; ctx.Err() == nil; n++ {
			if _, err := writer.Exec(context.Background(), `WITH a AS (UPDATE journal SET session = coalesce(session, NULL) WHERE id = $2) INSERT INTO journal (id, session) VALUES ($1, 's')`, old+1+n, 1+n*7%old); err != nil {
				break
			}
			if n == 0 {
				close(begun)
			}
		}
		written <- n
	}()
	select {
	case <-begun:
	case n := <-written:
		t.Fatalf("the writer ends after %d inserts", n)
	}
	short, cancel := context.WithCancel(t.Context())
	var last mirror.Filled
	_, err := mirror.Fill(short, s, "journal", func(f mirror.Filled) {
		if last = f; f.Written >= 10_000 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || last.Written < 10_000 || last.Written == old {
		t.Fatalf("interrupted: %v, %+v", err, last)
	}
	done := fillMirror(t, s, "journal")
	stop()
	n := <-written
	if n == 0 || done.Written > old-10_000 || done.Unmapped != old/100 {
		t.Errorf("%d inserts beside it, %+v", n, done)
	}
	if got := text(t, conn, `SELECT count(*) || ' ' || count(DISTINCT key) FROM watch.events`); got != fmt.Sprintf("%[1]d %[1]d", old-old/100+n) {
		t.Errorf("%s events of %d rows", got, old-old/100+n)
	}
}

// While a transaction has locked the table, others write into it: the mirror
// waits for a short time, and tries again.
func TestMirrorDelaysNoWriter(t *testing.T) {
	t.Parallel()
	s, conn, config := watched(t, `CREATE TABLE journal (id bigserial PRIMARY KEY, kind text, at timestamptz DEFAULT now(), session text)`)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, tx, `INSERT INTO journal (kind, session) VALUES ('spec_started', 'long')`)
	waits := make(chan struct{}, 1)
	made := make(chan error, 1)
	go func() {
		_, err := mirror.Make(t.Context(), s, "journal", mirror.Mapping{}, func(string) { waits <- struct{}{} })
		made <- err
	}()
	<-waits
	other := postgrestest.Connect(t, config.URL)
	for range 20 {
		began := time.Now()
		storetest.Exec(t, other, `INSERT INTO journal (kind, session) VALUES ('spec_started', 'short')`)
		if took := time.Since(began); took > 20*time.Second { // a lock that is waited for without an end lasts longer
			t.Errorf("a writer waited %s", took)
		}
	}
	select {
	case err := <-made:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	if done := fillMirror(t, s, "journal"); done.Written != 21 {
		t.Errorf("%+v", done)
	}
}

// keys are the keys of all events, by id.
func keys(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	return text(t, conn, `SELECT string_agg(key, ' ' ORDER BY id) FROM watch.events`)
}

// Two mirrors of one owner's tables use the same rights. They stay until the
// last of the two is removed, or its table has another owner.
func TestMirrorsOfOneOwnerShareRights(t *testing.T) {
	t.Parallel()
	const columns = ` (id bigserial PRIMARY KEY, kind text DEFAULT 'spec_started', at timestamptz DEFAULT now(), session text)`
	s, conn, config := watched(t, `CREATE TABLE one`+columns, `CREATE TABLE two`+columns)
	owner, address := storetest.Login(t, conn, config.URL, "owner")
	other, _ := storetest.Login(t, conn, config.URL, "other")
	for _, table := range []string{"one", "two"} {
		storetest.Exec(t, conn, `ALTER TABLE `+table+` OWNER TO `+owner)
	}
	as := postgrestest.Connect(t, address)
	may := func(role string) string {
		t.Helper()
		return text(t, conn, `SELECT concat_ws(' ', has_schema_privilege($1, 'watch', 'USAGE'), has_column_privilege($1, 'watch.events', 'key', 'SELECT'), has_table_privilege($1, 'watch.specwatch_unmapped', 'INSERT'))`, role)
	}
	for _, c := range []struct{ name, before string }{
		{"recorded", `SELECT`},
		{"recorded by an older version", `UPDATE watch.specwatch_mirrors SET granted = NULL WHERE source = 'public.two'`},
	} {
		storetest.Exec(t, conn, `TRUNCATE watch.events`)
		makeMirror(t, s, "one", mirror.Mapping{})
		makeMirror(t, s, "two", mirror.Mapping{})
		storetest.Exec(t, conn, c.before)
		if err := mirror.Remove(t.Context(), s, "one", nil); err != nil {
			t.Fatal(err)
		}
		storetest.Exec(t, as, `INSERT INTO two (session) VALUES ('two')`)
		if got := listed(t, conn); got != "spec_started two  {}" {
			t.Errorf("%s: events %q", c.name, got)
		}
		if err := mirror.Remove(t.Context(), s, "two", nil); err != nil {
			t.Fatal(err)
		}
		if got := may(owner); got != "f f f" {
			t.Errorf("%s: left: %s", c.name, got)
		}
	}
	storetest.Exec(t, conn, `TRUNCATE watch.events`)
	makeMirror(t, s, "one", mirror.Mapping{})
	storetest.Exec(t, conn, `ALTER TABLE one OWNER TO `+other)
	makeMirror(t, s, "one", mirror.Mapping{})
	storetest.Exec(t, conn, `INSERT INTO one (session) VALUES ('one')`)
	if got := listed(t, conn); got != "spec_started one  {}" {
		t.Errorf("another owner: events %q", got)
	}
	if got := may(owner) + ", " + may(other); got != "f f f, t t t" {
		t.Errorf("another owner: %s", got)
	}
	if err := mirror.Remove(t.Context(), s, "one", nil); err != nil {
		t.Fatal(err)
	}
	if got := may(other); got != "f f f" {
		t.Errorf("left: %s", got)
	}
}

// traces is what the catalog has about rights, functions, triggers, columns and
// dependencies.
func traces(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	return text(t, conn, `
		SELECT string_agg(line, E'\n' ORDER BY line) FROM (
		    SELECT format('schema %s: %s of %s', n.nspname, a.privilege_type, a.grantee::regrole) FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a WHERE n.nspname IN ('watch', 'public')
		    UNION ALL SELECT format('%s: %s of %s', c.oid::regclass, a.privilege_type, a.grantee::regrole) FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text IN ('watch', 'public')
		    UNION ALL SELECT format('%s.%s: %s of %s', c.attrelid::regclass, c.attname, a.privilege_type, a.grantee::regrole) FROM pg_attribute c, aclexplode(c.attacl) a
		    UNION ALL SELECT format('column %s.%s %s', c.attrelid::regclass, c.attnum, c.attname) FROM pg_attribute c JOIN pg_class r ON r.oid = c.attrelid WHERE r.relnamespace = 'public'::regnamespace
		    UNION ALL SELECT format('function %s of %s', p.oid::regprocedure, p.proowner::regrole) FROM pg_proc p WHERE p.pronamespace::regnamespace::text IN ('watch', 'public')
		    UNION ALL SELECT format('trigger %s on %s', tgname, tgrelid::regclass) FROM pg_trigger
		    UNION ALL SELECT format('mirror %s', m.source) FROM watch.specwatch_mirrors m
		    UNION ALL SELECT format('unmapped row of %s', u.mirror) FROM watch.specwatch_unmapped u
		    UNION ALL SELECT format('%s %s depends on %s by %s', d.classid::regclass, d.objid, d.refobjid, d.deptype) FROM pg_shdepend d WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND d.refclassid = 'pg_authid'::regclass
		    UNION ALL SELECT format('%s %s depends on the table %s', d.classid::regclass, d.objid, d.refobjid::regclass) FROM pg_depend d JOIN pg_class c ON c.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass WHERE c.relnamespace = 'public'::regnamespace
		) all_of (line)`)
}

// A removed mirror leaves nothing behind, and takes nothing that the owner of
// the table had been granted before by somebody else.
func TestRemovedMirrorLeavesNoTrace(t *testing.T) {
	t.Parallel()
	const columns = ` (id bigserial PRIMARY KEY, kind text DEFAULT 'spec_started', at timestamptz DEFAULT now(), session text)`
	s, conn, config := watched(t, `CREATE TABLE one`+columns, `CREATE TABLE two`+columns)
	owner, address := storetest.Login(t, conn, config.URL, "owner")
	other, _ := storetest.Login(t, conn, config.URL, "other")
	for _, table := range []string{"one", "two"} {
		storetest.Exec(t, conn, `ALTER TABLE `+table+` OWNER TO `+owner)
	}
	as := postgrestest.Connect(t, address)
	remove := func(table string) {
		t.Helper()
		if err := mirror.Remove(t.Context(), s, table, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, grants string
		do           func()
	}{
		{"once", `SELECT`, func() {}},
		{"had some rights", `GRANT USAGE ON SCHEMA watch TO ` + owner, func() {}},
		{"had others too", `GRANT INSERT (kind, session), SELECT (key) ON watch.events TO ` + owner, func() {}},
		{"mirrored again", `SELECT`, func() { makeMirror(t, s, "one", mirror.Mapping{}) }},
		{"with another", `SELECT`, func() { makeMirror(t, s, "two", mirror.Mapping{}) }},
		{"the first is removed first", `SELECT`, func() {
			makeMirror(t, s, "two", mirror.Mapping{})
			remove("one")
			storetest.Exec(t, as, `INSERT INTO two (session) VALUES ('two')`)
		}},
		{"a right is granted in between", `SELECT`, func() {
			storetest.Exec(t, conn, `GRANT INSERT, SELECT ON watch.events TO `+other)
			makeMirror(t, s, "two", mirror.Mapping{})
			storetest.Exec(t, conn, `REVOKE INSERT, SELECT ON watch.events FROM `+other)
		}},
		{"another owner in between", `GRANT INSERT (kind), SELECT (key) ON watch.events TO ` + other, func() {
			storetest.Exec(t, conn, `ALTER TABLE one OWNER TO `+other)
			makeMirror(t, s, "one", mirror.Mapping{})
			storetest.Exec(t, conn, `ALTER TABLE one OWNER TO `+owner)
		}},
		{"had all rights", `GRANT INSERT, SELECT ON watch.events, watch.specwatch_unmapped TO ` + owner, func() {}},
	} {
		storetest.Exec(t, conn, c.grants)
		before := traces(t, conn)
		makeMirror(t, s, "one", mirror.Mapping{})
		storetest.Exec(t, conn, `TRUNCATE watch.events`)
		storetest.Exec(t, as, `INSERT INTO one (session) VALUES ('one'), (NULL)`)
		if got := listed(t, conn); got != "spec_started one  {}" {
			t.Errorf("%s: events %q", c.name, got)
		}
		c.do()
		all, err := mirror.List(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			remove(m.Source)
		}
		if after := traces(t, conn); after != before {
			t.Errorf("%s: before\n%s\nafter\n%s", c.name, without(before, after), without(after, before))
		}
	}
	if got := listed(t, conn); got != "spec_started one  {}" {
		t.Errorf("events %q", got)
	}
}

// A migration renews the functions of mirrors, so that they are of its version.
// A mirror that cannot be renewed is named, and the migration does not fail.
func TestMigrationRenewsMirrors(t *testing.T) {
	t.Parallel()
	const columns = ` (id bigserial PRIMARY KEY, kind text DEFAULT 'spec_started', at timestamptz DEFAULT now(), session text)`
	s, conn, config := watched(t, `CREATE TABLE one`+columns, `CREATE TABLE two`+columns)
	migrator, as := storetest.Login(t, conn, config.URL, "migrator")
	makeMirror(t, s, "one", mirror.Mapping{})
	makeMirror(t, s, "two", mirror.Mapping{})
	insert := func() string {
		t.Helper()
		storetest.Exec(t, conn, `TRUNCATE watch.events`)
		storetest.Exec(t, conn, `INSERT INTO one (session) VALUES ('s')`)
		return listed(t, conn)
	}
	age := func() {
		storetest.Exec(t, conn, `CREATE OR REPLACE FUNCTION watch.specwatch_mirror_1() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
		if got := insert(); got != "" {
			t.Fatalf("the old function makes events: %s", got)
		}
	}
	age()
	storetest.Exec(t, conn, `ALTER TABLE two DROP COLUMN kind`)
	report, err := schema.Migrate(t.Context(), config, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := insert(); got != "spec_started s  {}" {
		t.Errorf("after the migration: %q", got)
	}
	if len(report.Notices) != 1 || !strings.Contains(report.Notices[0], "public.two") || !strings.Contains(report.Notices[0], "specwatch mirror public.two") {
		t.Errorf("notes: %q", report.Notices)
	}
	// The owner of the events who does not own the table.
	storetest.Exec(t, conn, `DO $$ DECLARE o record; BEGIN
		EXECUTE 'ALTER SCHEMA watch OWNER TO `+migrator+`';
		FOR o IN SELECT oid::regclass AS name FROM pg_class WHERE relnamespace = 'watch'::regnamespace AND relkind = 'r' LOOP EXECUTE format('ALTER TABLE %s OWNER TO `+migrator+`', o.name); END LOOP;
		FOR o IN SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'watch'::regnamespace AND proname !~ '_[0-9]+$' LOOP EXECUTE format('ALTER FUNCTION %s OWNER TO `+migrator+`', o.name); END LOOP;
	END $$`)
	age()
	report, err = schema.Migrate(t.Context(), store.Config{URL: as, Schema: "watch"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if notes := strings.Join(report.Notices, "\n"); !strings.Contains(notes, "the mirror of public.one keeps the functions of an earlier version: only the owner of table public.one") {
		t.Errorf("notes: %q", notes)
	}
}

// without returns the lines of one text that another lacks.
func without(one, other string) string {
	lines := strings.Split(other, "\n")
	return strings.Join(slices.DeleteFunc(strings.Split(one, "\n"), func(line string) bool { return slices.Contains(lines, line) }), "\n")
}

// A mirror reads nothing that other inserts write, so it causes no
// serialization failures.
func TestMirrorOfSerializablePrograms(t *testing.T) {
	t.Parallel()
	const columns = ` (id int PRIMARY KEY, kind text DEFAULT 'spec_started', at timestamptz DEFAULT now(), session text)`
	s, conn, config := watched(t, `CREATE TABLE plain`+columns, `CREATE TABLE parted`+columns+` PARTITION BY RANGE (id)`, `CREATE TABLE part PARTITION OF parted DEFAULT`)
	for _, table := range []string{"plain", "parted"} {
		makeMirror(t, s, table, mirror.Mapping{})
		storetest.Exec(t, conn, `INSERT INTO `+table+` (id, session) VALUES (0, 's')`)
		var open []pgx.Tx
		for range 2 {
			tx, err := postgrestest.Connect(t, config.URL).BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.Serializable})
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, tx)
		}
		for id := range 4 { // in turn, so that each writes after the other
			storetest.Exec(t, open[id%2], `INSERT INTO `+table+` (id, session) VALUES ($1, 's')`, id+1)
		}
		for _, tx := range open {
			if err := tx.Commit(t.Context()); err != nil {
				t.Errorf("%s: %v", table, err)
			}
		}
		if got := text(t, conn, `SELECT (SELECT count(*) FROM watch.events WHERE key LIKE $1) || ' ' || (SELECT count(*) FROM watch.specwatch_unmapped)`, "mirror:public."+table+":%"); got != "5 0" {
			t.Errorf("%s: %s events and unmapped rows", table, got)
		}
		// A statement with rows whose keys are stored, a new row and one that
		// cannot be mapped. The order stays.
		storetest.Exec(t, conn, `DELETE FROM `+table)
		storetest.Exec(t, conn, `INSERT INTO `+table+` (id, session) VALUES (2, 'again'), (7, 'new'), (1, 'again'), (8, NULL)`)
		if got := text(t, conn, `SELECT string_agg(session || coalesce(' ' || key, ''), ', ' ORDER BY id) FROM (SELECT * FROM watch.events ORDER BY id DESC LIMIT 3) e`); got != "again, new mirror:public."+table+":7, again" {
			t.Errorf("%s: %s", table, got)
		}
		storetest.Exec(t, conn, `TRUNCATE watch.specwatch_unmapped`)
	}
}

// Columns that an index only includes are no part of the key.
func TestMirrorKeysOfIndexesWithIncludedColumns(t *testing.T) {
	t.Parallel()
	s, conn, _ := watched(t,
		`CREATE TABLE one (id int, kind text DEFAULT 'spec_started', at timestamptz DEFAULT now(), session text, note text, PRIMARY KEY (id) INCLUDE (note))`,
		`CREATE TABLE two (a uuid NOT NULL, b text NOT NULL, kind text DEFAULT 'spec_started', at timestamptz DEFAULT now(), session text, note text)`, `CREATE UNIQUE INDEX ON two (b, a) INCLUDE (note)`)
	makeMirror(t, s, "one", mirror.Mapping{})
	makeMirror(t, s, "two", mirror.Mapping{})
	storetest.Exec(t, conn, `INSERT INTO one (id, session, note) VALUES (1, 's', 'first')`)
	storetest.Exec(t, conn, `INSERT INTO two (a, b, session, note) VALUES ('6f1c5e0e-0000-0000-0000-000000000000', 'b', 's', 'first')`)
	storetest.Exec(t, conn, `UPDATE one SET note = 'second'`)
	storetest.Exec(t, conn, `UPDATE two SET note = 'second'`)
	for _, table := range []string{"one", "two"} {
		if done := fillMirror(t, s, table); done.Known != 1 || done.Written != 0 {
			t.Errorf("%s: %+v", table, done)
		}
	}
	if got := keys(t, conn); got != "mirror:public.one:1 mirror:public.two:(b,6f1c5e0e-0000-0000-0000-000000000000)" {
		t.Errorf("%s", got)
	}
}

// The settings of the program's session change neither keys nor kinds.
func TestMirrorKeysDoNotDependOnSettings(t *testing.T) {
	t.Parallel()
	const columns = ` (b bytea, i interval, f float8, d date, z timestamptz, m money, kind text, at timestamptz DEFAULT now(), session text DEFAULT 's', PRIMARY KEY (b, i, f, d, z, m))`
	s, conn, config := watched(t, `CREATE TABLE plain`+columns, `CREATE TABLE parted`+columns+` PARTITION BY RANGE (f)`, `CREATE TABLE part PARTITION OF parted DEFAULT`,
		`CREATE TABLE moments (z timestamptz PRIMARY KEY, kind text, at timestamptz DEFAULT now(), session text DEFAULT 's')`)
	for _, table := range []string{"plain", "parted", "moments"} {
		makeMirror(t, s, table, mirror.Mapping{TimeZone: "Europe/Berlin", Kinds: map[string]string{`do\ne`: "spec_completed"}})
	}
	for i, settings := range []string{
		`SELECT`,
		`SET bytea_output = 'escape'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = -3; SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'; SET standard_conforming_strings = off; SET backslash_quote = on`,
	} {
		program := postgrestest.Connect(t, config.URL)
		for setting := range strings.SplitSeq(settings, "; ") {
			storetest.Exec(t, program, setting)
		}
		for _, table := range []string{"plain", "parted"} {
			storetest.Exec(t, program, `INSERT INTO `+table+` (b, i, f, d, z, m, kind) VALUES ('a', '1 month 3 days', 0.1::float8 + 0.2 + $1, '2026-02-01', '2026-01-01 11:00:00+00', 1234.5, E'do\\ne')`, i)
		}
		storetest.Exec(t, program, `INSERT INTO moments (z, kind) VALUES (timestamptz '2026-01-01 11:00:00+00' + $1 * interval '1 second', E'do\\ne')`, i)
	}
	if got := text(t, conn, `SELECT string_agg(DISTINCT kind, ' ') || ' ' || count(*) FROM watch.events`); got != "spec_completed 6" {
		t.Errorf("%s", got)
	}
	// Nor does the time zone of the mapping change keys.
	for _, zone := range []string{"Europe/Berlin", "Asia/Tokyo"} {
		for _, table := range []string{"plain", "parted", "moments"} {
			makeMirror(t, s, table, mirror.Mapping{TimeZone: zone})
			if done := fillMirror(t, s, table); done.Known != 2 || done.Written != 0 {
				t.Errorf("%s in %s: %+v: %s", table, zone, done, keys(t, conn))
			}
		}
	}
	if got := text(t, conn, `SELECT string_agg(key, ' ' ORDER BY id) FROM watch.events WHERE key LIKE 'mirror:public.moments:%'`); got != "mirror:public.moments:2026-01-01 11:00:00+00 mirror:public.moments:2026-01-01 11:00:01+00" {
		t.Errorf("%s", got)
	}
}

// A table becomes a partition and an ordinary table again. Its trigger is
// renewed with the mirror.
func TestMirrorOfTableThatBecomesPartition(t *testing.T) {
	t.Parallel()
	const columns = ` (id int, part text NOT NULL DEFAULT 'b', kind text DEFAULT 'spec_started', at timestamptz DEFAULT now(), session text DEFAULT 's', PRIMARY KEY (id, part))`
	s, conn, _ := watched(t, `CREATE TABLE log`+columns+` PARTITION BY LIST (part)`, `CREATE TABLE log_b`+columns)
	makeMirror(t, s, "log_b", mirror.Mapping{Spec: "id"})
	storetest.Exec(t, conn, `INSERT INTO log_b VALUES (1)`)
	storetest.Exec(t, conn, `ALTER TABLE log ATTACH PARTITION log_b FOR VALUES IN ('b')`)
	makeMirror(t, s, "log_b", mirror.Mapping{})
	storetest.Exec(t, conn, `INSERT INTO log VALUES (2)`)
	storetest.Exec(t, conn, `INSERT INTO log_b VALUES (3), (4)`)
	storetest.Exec(t, conn, `ALTER TABLE log DETACH PARTITION log_b`)
	makeMirror(t, s, "log_b", mirror.Mapping{})
	storetest.Exec(t, conn, `INSERT INTO log_b VALUES (5), (6)`)
	if got := text(t, conn, `SELECT string_agg(spec, ' ' ORDER BY id) || ', ' || (SELECT count(*) FROM watch.specwatch_unmapped) FROM watch.events`); got != "1 2 3 4 5 6, 0" {
		t.Errorf("events, unmapped rows: %s", got)
	}
	if got := text(t, conn, `SELECT count(*) || ' ' || min(tgtype & 1) FROM pg_trigger WHERE tgrelid = 'log_b'::regclass AND NOT tgisinternal`); got != "1 0" {
		t.Errorf("triggers, of a row: %s", got)
	}
}

// A program renames its table and creates a new one in its place, which counts
// from 1 again. Both are mirrored, and no row is missing or there twice.
func TestMirrorOfRotatedTables(t *testing.T) {
	t.Parallel()
	const create = `CREATE TABLE journal (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text DEFAULT 'spec_started', at timestamptz DEFAULT now(), session text)`
	s, conn, _ := watched(t, create, `INSERT INTO journal (session) VALUES ('a1')`)
	sources := func() string {
		t.Helper()
		all, err := mirror.List(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range all {
			names = append(names, fmt.Sprint(m.Source, " ", m.Active))
		}
		return strings.Join(names, ", ")
	}
	makeMirror(t, s, "journal", mirror.Mapping{})
	fillMirror(t, s, "journal")
	storetest.Exec(t, conn, `INSERT INTO journal (session) VALUES ('a2')`)

	storetest.Exec(t, conn, `ALTER TABLE journal RENAME TO journal_old`)
	storetest.Exec(t, conn, create)
	storetest.Exec(t, conn, `INSERT INTO journal (session) VALUES ('b1')`)
	makeMirror(t, s, "journal", mirror.Mapping{})
	storetest.Exec(t, conn, `INSERT INTO journal (session) VALUES ('b2')`)
	storetest.Exec(t, conn, `INSERT INTO journal_old (session) VALUES ('a3')`)
	makeMirror(t, s, "journal_old", mirror.Mapping{}) // keeps its keys
	if old, done := fillMirror(t, s, "journal_old"), fillMirror(t, s, "journal"); old.Known != 3 || old.Written != 0 || done.Known != 1 || done.Written != 1 {
		t.Errorf("the old table: %+v, the new one: %+v", old, done)
	}
	if got := sources(); got != "public.journal true, public.journal_old true" {
		t.Errorf("%s", got)
	}

	// And again: the oldest one is gone.
	storetest.Exec(t, conn, `DROP TABLE journal_old`)
	storetest.Exec(t, conn, `ALTER TABLE journal RENAME TO journal_old`)
	storetest.Exec(t, conn, create)
	storetest.Exec(t, conn, `INSERT INTO journal (session) VALUES ('c1')`)
	makeMirror(t, s, "journal", mirror.Mapping{})
	storetest.Exec(t, conn, `INSERT INTO journal_old (session) VALUES ('b3')`)
	if old, done := fillMirror(t, s, "journal_old"), fillMirror(t, s, "journal"); old.Known != 3 || old.Written != 0 || done.Known != 0 || done.Written != 1 {
		t.Errorf("the old table: %+v, the new one: %+v", old, done)
	}
	if got := sources(); got != "public.journal true, public.journal_old true" {
		t.Errorf("%s", got)
	}
	if got := text(t, conn, `SELECT string_agg(session, ' ' ORDER BY session) || ' ' || count(DISTINCT key) FROM watch.events`); got != "a1 a2 a3 b1 b2 b3 c1 7" {
		t.Errorf("%s", got)
	}
	for _, table := range []string{"journal", "journal_old"} {
		if err := mirror.Remove(t.Context(), s, table, nil); err != nil {
			t.Error(err)
		}
	}
	if got := text(t, conn, `SELECT count(*)::text FROM pg_proc WHERE proname LIKE 'specwatch\_m%\__'`); got != "0" {
		t.Errorf("%s functions are left", got)
	}
}

// PostgreSQL computes a stored generated column before the trigger runs.
func TestMirrorOfGeneratedColumns(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"STORED", "VIRTUAL"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			columns := ` (id int, at timestamptz DEFAULT now(), run int, session text GENERATED ALWAYS AS ('run ' || lpad(run::text, 2, '0')) ` + kind + `, "State" text, kind text GENERATED ALWAYS AS ('log.' || "State") ` + kind + `, PRIMARY KEY (id))`
			s, conn, _ := watched(t)
			if kind == "VIRTUAL" && text(t, conn, `SELECT current_setting('server_version_num')`) < "180000" {
				t.Skip("virtual generated columns need PostgreSQL 18")
			}
			for i, sql := range []string{`CREATE TABLE plain` + columns, `CREATE TABLE parted` + columns + ` PARTITION BY RANGE (id)`} {
				storetest.Exec(t, conn, sql)
				table := []string{"plain", "parted"}[i]
				if table == "parted" {
					storetest.Exec(t, conn, `CREATE TABLE part PARTITION OF parted DEFAULT`)
				}
				storetest.Exec(t, conn, `INSERT INTO `+table+` (id, run, "State") VALUES (0, 0, 'old')`)
				makeMirror(t, s, table, mirror.Mapping{Data: "to_jsonb(" + table + ") - 'at'"})
				storetest.Exec(t, conn, `TRUNCATE watch.events`)
				storetest.Exec(t, conn, `INSERT INTO `+table+` (id, run, "State") VALUES (1, 1, 'new')`)
				if done := fillMirror(t, s, table); done.Known != 1 || done.Written != 1 || done.Unmapped != 0 {
					t.Errorf("%s: %+v", table, done)
				}
				want := `log.new run 01  {"id": 1, "run": 1, "kind": "log.new", "State": "new", "session": "run 01"}
log.old run 00  {"id": 0, "run": 0, "kind": "log.old", "State": "old", "session": "run 00"}`
				if got := listed(t, conn); got != want {
					t.Errorf("%s: %s", table, got)
				}
				// One row fails, so that rows are mapped one by one.
				makeMirror(t, s, table, mirror.Mapping{Data: "to_jsonb(100 / (id - 2))"})
				storetest.Exec(t, conn, `TRUNCATE watch.events`)
				storetest.Exec(t, conn, `INSERT INTO `+table+` (id, run, "State") VALUES (2, 1, 'bad'), (3, 1, 'good')`)
				if got := listed(t, conn); got != "log.good run 01  100" {
					t.Errorf("%s: %s", table, got)
				}
			}
		})
	}
}

func TestPreviewChangesNothing(t *testing.T) {
	t.Parallel()
	s, conn, _ := watched(t, states, jobs)
	storetest.Exec(t, conn, `INSERT INTO jobs (state, run, task) SELECT 'running', CASE WHEN n > 3 THEN 'r' END, n FROM generate_series(1, 20) n`)
	p, err := mirror.Try(t.Context(), s, "jobs", jobsMapping)
	if err != nil || len(p.Events) != 10 || p.Events[0].Kind != event.SpecStarted || p.Rows != 20 || len(p.Reasons) != 1 || p.Reasons[0].Rows != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	if got := text(t, conn, `SELECT (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'jobs'::regclass) || ' ' || (SELECT count(*) FROM watch.events) || ' ' || (SELECT count(*) FROM pg_proc WHERE proname LIKE 'specwatch_map%')`); got != "0 0 0" {
		t.Errorf("left: %s", got)
	}
}

func TestMappingsThatCannotBe(t *testing.T) {
	t.Parallel()
	s, conn, config := watched(t, states, jobs, `CREATE VIEW seen AS SELECT * FROM jobs`, `CREATE TABLE keyless (kind text, at timestamptz, session text)`)
	with := func(change func(*mirror.Mapping)) mirror.Mapping {
		m := jobsMapping
		change(&m)
		return m
	}
	for _, c := range []struct {
		table string
		m     mirror.Mapping
		says  string
	}{
		{"nothing", jobsMapping, `no table "nothing"`},
		{"no such; table", jobsMapping, "no table"},
		{"seen", jobsMapping, "is a view"},
		{"pg_class", jobsMapping, "PostgreSQL's own"},
		{"watch.events", jobsMapping, "Specwatch's own"},
		{"jobs", mirror.Mapping{Kind: "state"}, "no column named at"},
		{"jobs", with(func(m *mirror.Mapping) { m.TimeZone = "" }), "time-zone"},
		{"jobs", with(func(m *mirror.Mapping) { m.TimeZone = "Mars/Dusk" }), "Mars/Dusk"},
		{"jobs", with(func(m *mirror.Mapping) { m.At = "task" }), "to_timestamp"},
		{"jobs", with(func(m *mirror.Mapping) { m.Session = "nobody" }), `column "nobody" does not exist; its columns are id, state`},
		{"jobs", with(func(m *mirror.Mapping) { m.Session = "run, task" }), "not one value"},
		{"jobs", with(func(m *mirror.Mapping) { m.Session = "run) FROM jobs; DROP TABLE jobs; --" }), "session"},
		{"jobs", with(func(m *mirror.Mapping) { m.Session = "$1" }), "session"},
		{"jobs", with(func(m *mirror.Mapping) { m.Session = "max(run)" }), "together"},
		{"jobs", with(func(m *mirror.Mapping) { m.Where = "run" }), "neither true nor false"},
		{"jobs", with(func(m *mirror.Mapping) { m.Kinds = map[string]string{"done": "finished"} }), "finished"},
	} {
		_, err := mirror.Make(t.Context(), s, c.table, c.m, nil)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %+v: %v", c.table, c.m, err)
		}
	}
	makeMirror(t, s, "keyless", mirror.Mapping{})
	if _, err := mirror.Fill(t.Context(), s, "keyless", nil); err == nil || !strings.Contains(err.Error(), "tells its rows apart") {
		t.Errorf("without a key: %v", err)
	}
	storetest.Exec(t, conn, `INSERT INTO keyless VALUES ('spec_started', now(), 's'), ('spec_started', now(), 's')`)
	if got := listed(t, conn); got != "spec_started s  {}\nspec_started s  {}" {
		t.Errorf("without a key: %s", got)
	}
	role, address := storetest.Login(t, conn, config.URL, "stranger")
	config.URL = address
	if _, err := mirror.Make(t.Context(), storetest.Open(t, config), "jobs", jobsMapping, nil); err == nil || !strings.Contains(err.Error(), "GRANT") || !strings.Contains(err.Error(), role) {
		t.Errorf("a stranger: %v", err)
	}
}

// A table that version 0.2 had renamed and put a view in the place of gets its
// name back with its rights; no row is lost, and ids stay.
func TestTableThatVersion02AdoptedIsReturned(t *testing.T) {
	t.Parallel()
	address := postgrestest.Database(t)
	conn := postgrestest.Connect(t, address)
	program, as := storetest.Login(t, conn, address, "program")
	const old = 12_000
	for _, sql := range []string{
		`CREATE TABLE journal (id integer PRIMARY KEY, kind varchar(40), at timestamptz, session text, note text)`,
		`GRANT INSERT, SELECT ON journal TO ` + program,
		fmt.Sprintf(`INSERT INTO journal SELECT n, CASE WHEN n = 7 THEN 'deploy' ELSE 'spec_started' END, now() - interval '1 minute', CASE WHEN n %% 1000 > 0 THEN 's' END, 'x' FROM generate_series(1, %d) n`, old),
		// What 0.2 did.
		`ALTER TABLE journal ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY`, fmt.Sprintf(`ALTER TABLE journal ALTER COLUMN id RESTART WITH %d`, old+1),
		`ALTER TABLE journal RENAME TO events`, `CREATE VIEW journal AS SELECT * FROM events`, `COMMENT ON VIEW journal IS 'specwatch: adopted'`,
		`CREATE TABLE specwatch_migrations (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now())`,
		`INSERT INTO specwatch_migrations (version_id, is_applied) VALUES (0, true), (1, true)`,
	} {
		storetest.Exec(t, conn, sql)
	}
	if _, err := conn.PgConn().Exec(t.Context(), strings.ReplaceAll(migrations.All()[1], "@.", "")).ReadAll(); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, data, key) VALUES ('spec_failed', 's', 'own', '{"a": 1}', 'k')`)
	config := store.Config{URL: address}
	storetest.Exec(t, conn, `CREATE VIEW report AS SELECT count(*) FROM journal`)
	if _, err := schema.Migrate(t.Context(), config, nil); err == nil || !strings.Contains(err.Error(), "view report depends on view journal") || !strings.Contains(err.Error(), "specwatch migrate") {
		t.Errorf("with a view of the view: %v", err)
	}
	storetest.Exec(t, conn, `DROP VIEW report`)
	for range 2 {
		if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
			t.Fatal(err)
		}
	}
	s := storetest.Open(t, config)
	if got := text(t, conn, `SELECT count(*) || ' ' || min(id) || ' ' || max(id) FROM events`); got != fmt.Sprintf("%d 1 %d", old-old/1000+1, old+1) {
		t.Errorf("events: %s", got)
	}
	if got := text(t, conn, `SELECT string_agg(format('%s %s %s %s %s', id, kind, spec, data, key), ' ' ORDER BY id) FROM events WHERE id IN (7, 12001)`); got != `7 journal.deploy  {} mirror:public.journal:7 12001 spec_failed own {"a": 1} k` {
		t.Errorf("%s", got)
	}
	if got := text(t, conn, `SELECT string_agg(attname, ' ' ORDER BY attnum) || ' ' || (SELECT count(*) FROM journal) || ' ' || (SELECT relkind::text FROM pg_class WHERE oid = 'journal'::regclass) FROM pg_attribute WHERE attrelid = 'journal'::regclass AND attnum > 0 AND NOT attisdropped`); got != fmt.Sprintf("id kind at session note %d r", old+1) {
		t.Errorf("the table: %s", got)
	}
	if got := text(t, conn, `SELECT string_agg(conname, ' ') FROM pg_constraint WHERE conrelid = 'journal'::regclass AND conname LIKE 'specwatch%'`); got != "" {
		t.Errorf("left in the table: %s", got)
	}
	c := storetest.Here(t, s)
	storetest.Exec(t, postgrestest.Connect(t, as), `INSERT INTO journal (kind, at, session, note) VALUES ('queued', now(), 'new', 'y')`)
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 's', 'own')`)
	if got, _ := storetest.Drain(t, s, c, 10); len(got) != 2 || got[0].Kind != "journal.queued" || got[1].ID <= old+1 {
		t.Errorf("%+v", got)
	}
	if done := fillMirror(t, s, "journal"); done.Written != 0 || done.Known != old-old/1000+2 {
		t.Errorf("%+v", done)
	}
	all, err := mirror.List(t.Context(), s)
	if err != nil || len(all) != 1 || all[0].Unmapped != old/1000 {
		t.Errorf("%+v, %v", all, err)
	}
	if got := text(t, conn, `SELECT count(*)::text FROM pg_constraint WHERE conrelid = 'events'::regclass AND contype = 'c' AND conname LIKE 'specwatch%'`) + text(t, conn, `SELECT ' ' || count(*) FROM pg_trigger WHERE tgrelid = 'events'::regclass AND NOT tgisinternal`) + text(t, conn, `SELECT ' ' || count(*) FROM pg_index WHERE indrelid = 'events'::regclass`); got != "6 5 6" {
		t.Errorf("constraints, triggers and indexes of events: %s", got)
	}
}
