package store_test

import (
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

// Of 200,000 events, forty loops that run side by side: a spec of twenty
// events, a session of a thousand.
const hotRows = `
	INSERT INTO events (kind, at, session, spec)
	SELECT CASE k WHEN 0 THEN 'spec_started' WHEN 19 THEN 'spec_completed' WHEN 10 THEN 'agent.step' ELSE 'session_heartbeat' END,
	       now() - interval '1 day' * (200000 - i)::float8 / 2000, 'night-' || i / 40000 || '-' || i % 40, 'spec-' || i / 40 % 1000 / 20
	FROM (SELECT i, i / 40 % 20 AS k FROM generate_series($1::int, $2::int) i) e`

// The statements of readers and panels find their rows by an index, whatever
// the table holds. The server itself tells the plans of the statements that
// are really sent.
func TestHotStatementsUseTheirIndexes(t *testing.T) {
	t.Parallel()
	// A server of its own, since plans depend on what runs beside: transactions of
	// other tests that are open in a cursor are looked up, too, and an automatic
	// ANALYZE comes at any time.
	server := postgrestest.Cluster(t, map[string]string{"autovacuum": "off", "max_prepared_transactions": "10"})
	address := server.URL()
	config := store.Config{URL: address}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	db := postgrestest.Connect(t, address)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	var mu sync.Mutex
	var plans []string
	s.ConnConfig().OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(n.Message, "plan:") {
			plans = append(plans, n.Message)
		}
	}
	for name, value := range map[string]string{"session_preload_libraries": "auto_explain", "auto_explain.log_min_duration": "0", "client_min_messages": "log"} {
		s.ConnConfig().RuntimeParams[name] = value
	}

	// planned runs ask and returns the plans of its statements.
	planned := func(name string, ask func() error) string {
		t.Helper()
		mu.Lock()
		plans = nil
		mu.Unlock()
		if err := ask(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		plan := strings.Join(plans, "\n")
		if plan == "" {
			t.Fatalf("%s: the server told no plan", name)
		}
		if found := scanned.FindString(plan); found != "" {
			t.Errorf("%s: %s\n%s", name, found, plan)
		}
		return plan
	}
	// The plan of a reader is made while the table has one page.
	exec(`INSERT INTO events (kind, session) VALUES ('spec_started', 'first')`)
	exec(`VACUUM ANALYZE`)
	reader, err := s.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	// The transaction is open in the first cursor, and has ended in the second.
	open := postgrestest.Connect(t, address)
	var cursors []cursor.Cursor
	for _, end := range []string{`BEGIN; INSERT INTO events (kind, session) VALUES ('spec_started', 'open')`, `COMMIT`} {
		if _, err := open.PgConn().Exec(t.Context(), end).ReadAll(); err != nil {
			t.Fatal(err)
		}
		exec(`INSERT INTO events (kind, session) VALUES ('spec_started', 'between')`)
		page, err := reader.Here(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cursors = append(cursors, page.Cursor)
	}
	read := func(name string) {
		t.Helper()
		for i, scans := range []int{3, 2} {
			plan := planned(name, func() error { _, err := reader.Since(t.Context(), cursors[i], 1_000); return err })
			if n := strings.Count(plan, "using specwatch_events_xid"); n != scans || strings.Contains(plan, "JIT:") {
				t.Errorf("%s: %d scans of specwatch_events_xid, expected %d:\n%s", name, n, scans, plan)
			}
		}
	}
	read("a reader of one page")
	// stay keeps the session of the reader from being idle for idleSession.
	stay := func() {
		t.Helper()
		if _, _, err := reader.Unchanged(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	exec(`ALTER TABLE events DISABLE TRIGGER USER`)
	for i := range 20 {
		exec(hotRows, i*10_000, (i+1)*10_000-1)
		stay()
	}
	exec(`ALTER TABLE events ENABLE TRIGGER USER`)
	exec(`SELECT specwatch_roll_up(1000000)`)
	stay()
	for i := range 50 {
		if i == 25 {
			exec(`SELECT specwatch_roll_up(1000000)`)
			stay()
		}
		exec(`INSERT INTO events (kind, session, spec) SELECT 'session_heartbeat', 'last', 'spec' FROM generate_series(1, 10)`)
	}
	read("a reader, before the table is analyzed")
	exec(`VACUUM ANALYZE`)
	read("a reader, after the table was analyzed")

	now := time.Now()
	ask := questions.To(s)
	all := questions.Filter{From: now.Add(-200 * 24 * time.Hour), To: now, Limit: 100}
	day := all
	day.From = now.Add(-24 * time.Hour)
	one := all
	one.Sessions = []string{"night-2-7"}
	page, err := s.SinceTime(t.Context(), now.Add(time.Hour), 1)
	if err != nil {
		t.Fatal(err)
	}
	here := page.Cursor
	first, err := s.SinceTime(t.Context(), now.Add(-200*24*time.Hour), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, hot := range []struct {
		name    string
		indexes []string // that the plan names
		ask     func() error
	}{
		{"since, with nothing new", []string{"specwatch_events_xid"}, func() error { _, err := s.Since(t.Context(), here, 1_000); return err }},
		{"since, as the start of a feed", []string{"specwatch_events_at"}, func() error { _, err := s.Since(t.Context(), cursor.Cursor{}, 1_000); return err }},
		{"history", []string{"specwatch_events_at"}, func() error { _, err := s.SinceTime(t.Context(), day.From, 1_000); return err }},
		{"history, the next page", []string{"specwatch_events_at"}, func() error { _, err := s.Since(t.Context(), first.Cursor, 1_000); return err }},
		{"the newest events", []string{"specwatch_events_at"}, func() error { _, err := s.SinceLast(t.Context(), 50, 50); return err }},
		{"counts", []string{"specwatch_counts_pkey", "specwatch_events_xid"}, func() error { _, err := ask.Counts(t.Context(), all, time.Hour); return err }},
		{"outcomes", []string{"specwatch_counts_pkey", "specwatch_events_xid"}, func() error { _, err := ask.Outcomes(t.Context(), all); return err }},
		{"names", []string{"specwatch_events_xid"}, func() error { _, _, err := ask.Sessions(t.Context(), all, ""); return err }},
		{"timeline", []string{"specwatch_events_timeline", "specwatch_events_xid"}, func() error { _, _, err := ask.Timeline(t.Context(), day); return err }},
		{"durations", []string{"specwatch_events_timeline"}, func() error { _, err := ask.Durations(t.Context(), day); return err }},
		// Backward: in the order of the index, without a sort of the whole range.
		{"one session's events", []string{"Index Scan Backward using specwatch_events_session"}, func() error { _, err := ask.Range(t.Context(), one); return err }},
		{"the newest events of a range", []string{"Index Scan Backward using specwatch_events_at"}, func() error { _, err := ask.Range(t.Context(), day); return err }},
	} {
		plan := planned(hot.name, hot.ask)
		for _, index := range hot.indexes {
			if !strings.Contains(plan, index) {
				t.Errorf("%s does not use %s:\n%s", hot.name, index, plan)
			}
		}
	}
}

// scanned is what a plan says that reads all events.
var scanned = regexp.MustCompile(`Seq Scan on (\S+\.)?events\b`)
