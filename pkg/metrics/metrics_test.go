package metrics_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/metrics"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

const patience = time.Minute

type database struct {
	t      testing.TB
	schema string
	store  *store.Store
	conn   *pgx.Conn
}

func migrated(t testing.TB) *database {
	t.Helper()
	address, name := postgrestest.Schema(t)
	config := store.Config{URL: address, Schema: name}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &database{t, name, s, postgrestest.Connect(t, address)}
}

func (d *database) exec(sql string, args ...any) {
	d.t.Helper()
	if _, err := d.conn.Exec(d.t.Context(), sql, args...); err != nil {
		d.t.Fatal(err)
	}
}

// process is what a start of a gateway or of the plugin makes anew.
type process struct {
	*database
	source   *api.Source
	registry *prometheus.Registry
	stop     func()
}

func (d *database) start() *process {
	d.t.Helper()
	s := api.NewSource(d.store)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	d.t.Cleanup(stop)
	registry := prometheus.NewPedanticRegistry() // it checks what is collected against what was described
	registry.MustRegister(metrics.New(s.Feed, s.Overview))
	return &process{d, s, registry, stop}
}

// settle waits until the overview has seen what is written.
func (p *process) settle() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	page, err := p.store.SinceTime(ctx, time.Now().Add(time.Hour), 1)
	if err != nil {
		p.t.Fatal(err)
	}
	for {
		begun := time.Now()
		if _, err := p.source.Overview.At(ctx, page.Cursor); err != nil {
			p.t.Fatal(err)
		}
		// After two seconds At returns what there is, as a busy machine can need.
		if time.Since(begun) < 2*time.Second {
			return
		}
	}
}

// scrape returns the values by series, such as `name{label="value"}`.
func (p *process) scrape() map[string]float64 {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := strings.TrimPrefix(family.GetName(), "specwatch_")
			if labels != nil {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

func (p *process) expect(want map[string]float64) {
	p.t.Helper()
	got := p.scrape()
	for series, value := range want {
		if v, told := got[series]; !told || v != value {
			p.t.Errorf("%s is %v (told: %t), want %v", series, v, told, value)
		}
	}
}

const insert = `INSERT INTO events (kind, at, session, spec) VALUES ($1, $2, $3, $4)`

// night writes what brings out every metric, and returns when it began.
func (d *database) night() time.Time {
	d.t.Helper()
	start := time.Now().Add(-10 * time.Minute).Truncate(time.Second)
	for i, e := range [][3]string{
		{"spec_started", "night", "login"}, {"spec_completed", "night", "login"},
		{"spec_started", "night", "search"}, {"spec_failed", "night", "search"},
		{"spec_started", "night", "search"}, {"timeout_triggered", "night", "search"},
		{"session_heartbeat", "night", ""},
		{"spec_started", "night", "cart"}, {"intervention_request", "night", "cart"},
		{"spec_started", "sql", "only"},
	} {
		d.exec(insert, e[0], start.Add(time.Duration(i)*time.Minute), e[1], e[2])
	}
	return start
}

func TestMetricsOfANight(t *testing.T) {
	t.Parallel()
	d := migrated(t)
	start := d.night()
	d.exec(`INSERT INTO events (kind, at, session, spec, data) VALUES ('claude.usage', $1, 'night', 'cart', '{"usage": {"inputTokens": 1200, "outputTokens": 34, "costUsd": 0.5}}'), ('spec_completed', $1, 'night', 'login', '{"usage": {"costUsd": 0.25}}')`, start.Add(time.Minute))
	p := d.start()
	p.settle()
	minute := func(n int) float64 { return float64(start.Add(time.Duration(n) * time.Minute).Unix()) }
	p.expect(map[string]float64{
		`events_total{kind="spec_started"}`: 5, `events_total{kind="spec_completed"}`: 2, `events_total{kind="spec_failed"}`: 1,
		`events_total{kind="timeout_triggered"}`: 1, `events_total{kind="intervention_request"}`: 1, `events_total{kind="session_heartbeat"}`: 1,
		`spec_outcomes_total{outcome="started"}`: 5, `spec_outcomes_total{outcome="completed"}`: 2,
		`spec_outcomes_total{outcome="failed"}`: 1, `spec_outcomes_total{outcome="timeout"}`: 1,
		`interventions_open`: 1,
		`session_last_event_timestamp_seconds{session="night"}`:          minute(8),
		`session_last_heartbeat_timestamp_seconds{session="night"}`:      minute(6),
		`session_last_timeout_timestamp_seconds{session="night"}`:        minute(5),
		`session_oldest_intervention_timestamp_seconds{session="night"}`: minute(8),
		`session_specs_open{session="night"}`:                            0, // it is not heard from
		`session_specs_silent{session="night"}`:                          1,
		`session_failure_streak{session="night"}`:                        2,
		`session_cost_usd{session="night"}`:                              0.75,
		`session_tokens{direction="input",session="night"}`:              1_200,
		`session_tokens{direction="output",session="night"}`:             34,
		`session_last_work_timestamp_seconds{session="night"}`:           0, // it waits
		`session_tokens{direction="output",session="sql"}`:               0,
		`session_last_event_timestamp_seconds{session="sql"}`:            minute(9),
		`session_last_timeout_timestamp_seconds{session="sql"}`:          0,
		`session_oldest_intervention_timestamp_seconds{session="sql"}`:   0,
		`session_specs_open{session="sql"}`:                              0,
		`session_specs_silent{session="sql"}`:                            1,
		`session_failure_streak{session="sql"}`:                          0,
	})
	if _, told := p.scrape()[`session_last_heartbeat_timestamp_seconds{session="sql"}`]; told {
		t.Error("a session that gave no heartbeat has one")
	}
	d.exec(insert, "intervention_request", start.Add(9*time.Minute), "night", "login")
	d.exec(insert, "spec_completed", start.Add(9*time.Minute), "night", "cart")
	p.settle()
	p.expect(map[string]float64{
		`interventions_open`: 1, // cart's end answers the older one
		`session_oldest_intervention_timestamp_seconds{session="night"}`: minute(9),
		`session_specs_silent{session="night"}`:                          0,
		`session_failure_streak{session="night"}`:                        0,
	})
	// Alive, but nothing has come for twelve minutes.
	d.exec(`INSERT INTO events (kind, at, session, spec, data) VALUES ('spec_started', $1, 'night', 'hangs', '{}'), ('session_heartbeat', $2, 'night', 'hangs', '{"silentSeconds": 720, "cpuSeconds": 0.01}')`,
		start.Add(-time.Hour), time.Now().Truncate(time.Second))
	p.settle()
	p.expect(map[string]float64{`session_specs_open{session="night"}`: 1, `session_specs_silent{session="night"}`: 0})
	since, told := p.scrape()[`session_last_work_timestamp_seconds{session="night"}`]
	if idle := float64(time.Now().Unix()) - since; !told || idle < 720 || idle > 780 {
		t.Errorf("idle for %g s", idle)
	}
	// The session goes on, and the heartbeats of one of its specs have ended.
	d.exec(`INSERT INTO events (kind, at, session, spec, data) VALUES ('spec_started', $1, 'night', 'killed', '{}'), ('session_heartbeat', $2, 'night', 'killed', '{"silentSeconds": 0}')`,
		start.Add(-time.Hour), start)
	p.settle()
	p.expect(map[string]float64{`session_specs_open{session="night"}`: 1, `session_specs_silent{session="night"}`: 1})
}

// Counters count rows of the database, whatever this process has seen of
// them and whether or not they are still there.
func TestCountersOutliveRestartAndPrune(t *testing.T) {
	t.Parallel()
	d := migrated(t)
	d.night()
	p := d.start()
	p.settle()
	before := p.scrape()
	if n, err := maintenance.Prune(t.Context(), d.store, time.Now(), nil); err != nil || n != 10 {
		t.Fatalf("%d pruned: %v", n, err)
	}
	counts := func(add float64) map[string]float64 {
		want := map[string]float64{}
		for series, value := range before {
			if strings.HasPrefix(series, "events_total") || strings.HasPrefix(series, "spec_outcomes_total") {
				want[series] = value
			}
		}
		want[`events_total{kind="timeout_triggered"}`] += add
		want[`spec_outcomes_total{outcome="timeout"}`] += add
		return want
	}
	p.settle()
	p.expect(counts(0))
	p.stop()
	p = d.start()
	p.settle()
	p.expect(counts(0))
	d.exec(insert, "timeout_triggered", time.Now(), "night", "again")
	p.settle()
	p.expect(counts(1))
}

// While the database cannot be read, what was known stays, and the moment up
// to which it is known stands still.
func TestOutage(t *testing.T) {
	t.Parallel()
	d := migrated(t)
	d.night()
	p := d.start()
	until := func(what string, done func(map[string]float64) bool) map[string]float64 {
		t.Helper()
		for end := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
			if got := p.scrape(); done(got) {
				return got
			} else if time.Now().After(end) {
				t.Fatalf("%s does not come: %v", what, got)
			}
		}
	}
	connected := func(v map[string]float64) bool { return v["feed_connected"] == 1 && v["feed_lag_seconds"] == 0 }
	well := until("a connection", func(v map[string]float64) bool { return connected(v) && v[`events_total{kind="spec_started"}`] > 0 })
	d.exec(`ALTER SCHEMA ` + d.schema + ` RENAME TO ` + d.schema + `_away`)
	// The two clocks of the figure are read one after the other, between which a busy
	// machine may pause. A figure that moves on is never still for half a second.
	var later map[string]float64
	for end := time.Now().Add(patience); later == nil; {
		first := until("an outage", func(v map[string]float64) bool { return v["feed_connected"] == 0 && v["feed_lag_seconds"] > 0 })
		longer := until("a longer outage", func(v map[string]float64) bool { return v["feed_lag_seconds"] > first["feed_lag_seconds"]+0.5 })
		moved := longer["feed_seen_timestamp_seconds"] - first["feed_seen_timestamp_seconds"]
		if moved <= 0.1 && moved >= -0.1 {
			later = longer
		} else if time.Now().After(end) {
			t.Fatalf("during the outage the feed has seen %f seconds more", moved)
		}
	}
	if n := `events_total{kind="spec_started"}`; later[n] != well[n] || well[n] != 5 {
		t.Errorf("%s was %f and is %f", n, well[n], later[n])
	}
	d.exec(`ALTER SCHEMA ` + d.schema + `_away RENAME TO ` + d.schema)
	again := until("a connection", connected)
	if again["feed_seen_timestamp_seconds"] < later["feed_seen_timestamp_seconds"]+0.5 || again["feed_reconnects_total"] < 1 {
		t.Errorf("after the outage: %v", again)
	}
}

// A feed that has seen nothing yet tells of itself only.
func TestNothingKnownYet(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	s := api.NewSource(migrated(t).store)
	registry.MustRegister(metrics.New(s.Feed, s.Overview))
	families, err := registry.Gather()
	if err != nil || len(families) == 0 {
		t.Fatalf("%d families: %v", len(families), err)
	}
	for _, family := range families {
		if name := family.GetName(); !strings.HasPrefix(name, "specwatch_feed_") && name != "specwatch_build_info" || name == "specwatch_feed_seen_timestamp_seconds" {
			t.Errorf("%s is made up", name)
		}
	}
}

// Ten thousand sessions, each with all that a session can have.
func TestSeriesAreBounded(t *testing.T) {
	t.Parallel()
	d := migrated(t)
	d.exec(`INSERT INTO events (kind, at, session, spec)
		SELECT kind, now() - interval '1 hour' + n * interval '100 milliseconds', 'session ' || n, 'spec'
		FROM generate_series(1, 10000) n, unnest(array['spec_failed', 'spec_started', 'timeout_triggered', 'session_heartbeat', 'intervention_request']) kind`)
	p := d.start()
	p.settle()
	begin := time.Now()
	got := p.scrape()
	t.Logf("%d series in %s", len(got), time.Since(begin))
	// 23 without a session, 10 of each of the 100 sessions heard last, and the
	// oldest requests of these and of the 100 sessions that wait longest.
	if len(got) != 23+10*100+200 {
		t.Errorf("%d series", len(got))
	}
	if got[`interventions_open`] != 10_000 || got[`events_total{kind="timeout_triggered"}`] != 10_000 {
		t.Errorf("%f open, %f timeouts", got[`interventions_open`], got[`events_total{kind="timeout_triggered"}`])
	}
}

// Names, types and help are as Prometheus wants them, and docs/metrics.md
// lists just what a scrape tells.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	d := migrated(t)
	d.night()
	p := d.start()
	p.settle()
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed, told []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `specwatch_") {
			listed = append(listed, strings.TrimSpace(line))
		}
	}
	for _, family := range families {
		var labels []string
		for _, l := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		told = append(told, fmt.Sprintf("| `%s` | %s | %s | %s |", family.GetName(), strings.ToLower(family.GetType().String()), strings.Join(labels, ", "), family.GetHelp()))
	}
	slices.Sort(listed)
	slices.Sort(told)
	if !slices.Equal(listed, told) {
		t.Errorf("docs/metrics.md has to list:\n%s", strings.Join(told, "\n"))
	}
}
