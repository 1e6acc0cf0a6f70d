package datasource_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/contract"
)

// panel is a panel in the file of a dashboard.
type panel struct {
	Title   string
	Type    string
	Panels  []panel
	Options struct {
		ReduceOptions struct{ Fields string }
	}
	Datasource  struct{ Type string }
	Targets     []map[string]any
	FieldConfig struct {
		Overrides []struct {
			Matcher struct {
				ID      string
				Options string
			}
			Properties []struct {
				ID    string
				Value any
			}
		}
	}
	Transformations []struct {
		Options struct{ RenameByName map[string]string }
	}
}

// shown returns the name that the panel shows a field with.
func (p panel) shown(field string) string {
	for _, o := range p.FieldConfig.Overrides {
		for _, property := range o.Properties {
			if name, is := property.Value.(string); is && property.ID == "displayName" && o.Matcher.Options == field {
				return name
			}
		}
	}
	return field
}

// misnamed returns what is wrong with the names in the panel's settings: overrides
// of fields that it does not have, and a stat without a field, or with two of the
// same name.
func (p panel) misnamed(frame *data.Frame) (faults []string) {
	names, stats := map[string]bool{}, map[string]int{}
	fields := regexp.MustCompile(strings.Trim(p.Options.ReduceOptions.Fields, "/"))
	for _, field := range frame.Fields {
		name := p.shown(field.Name)
		names[field.Name], names[name] = true, true
		if fields.MatchString(name) {
			stats[name]++
		}
	}
	for _, t := range p.Transformations {
		for _, name := range t.Options.RenameByName {
			names[name] = true
		}
	}
	for _, o := range p.FieldConfig.Overrides {
		if o.Matcher.ID == "byName" && !names[o.Matcher.Options] {
			faults = append(faults, "overrides "+o.Matcher.Options)
		}
	}
	if p.Type == "stat" && len(stats) == 0 {
		faults = append(faults, "shows no field")
	}
	for name, n := range stats {
		if p.Type == "stat" && n > 1 {
			faults = append(faults, "shows twice "+name)
		}
	}
	return faults
}

func dashboards(t testing.TB) map[string][]panel {
	t.Helper()
	files, err := filepath.Glob("../../src/dashboards/*.json")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	found := map[string][]panel{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d struct{ Panels []panel }
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %s", file, err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		for _, p := range d.Panels {
			found[name] = append(found[name], p)
			found[name] = append(found[name], p.Panels...)
		}
	}
	return found
}

// years fills a table with n sessions, evenly over five years until now, and with
// crowd more in the last hour. The events of a session depend on its number and on
// the seed. Every tenth of the crowd has heartbeats until the end of the test, and
// no other session has an event in the last two minutes. The returned function
// returns a time before which no more events are written.
func years(t testing.TB, g *grafana, n, crowd, seed int) (settled func() time.Time) {
	t.Helper()
	conn := g.connect()
	exec := func(sql string, args ...any) { t.Helper(); row(t, conn, sql, args...) }
	exec(`CREATE TEMP TABLE began AS
		SELECT i, 'session ' || i AS session, now() - interval '5 years' * (1 - i::float8 / $1::int) - interval '90 seconds' AS at FROM generate_series(1, $1::int) i
		UNION ALL SELECT $1::int + i, 'crowd ' || i, now() - interval '50 minutes' * (1 - i::float8 / $2::int) - interval '80 seconds' FROM generate_series(1, $2::int) i`, n, crowd)
	exec(`UPDATE began SET at = at + i * interval '7 microseconds'`) // no two sessions at the same moment
	exec(`INSERT INTO events (kind, session, spec, at, data)
		SELECT kind, session, 'spec ' || (i * 31 + j * 7) % 60, at, CASE
		    WHEN kind = 'intervention_request' THEN jsonb_build_object('question', 'which of ' || i)
		    WHEN kind = 'claude.cost' THEN jsonb_build_object('usage', jsonb_build_object('costUsd', h / 64.0, 'inputTokens', 1000 + h, 'cachedInputTokens', h, 'outputTokens', i % 50))
		    WHEN kind = 'spec_failed' AND h > 65 THEN '{"reason": "usage limit"}' ELSE '{}' END FROM (
		    SELECT i, j, h, session, kind, began.at + j * interval '10 minutes' + attempt * interval '3 minutes' + after * interval '1 second' AS at
		    FROM began, generate_series(0, 3) j, generate_series(0, 2) attempt, LATERAL (SELECT (i * 7919 + j * 104729 + attempt * 1299709 + $1) % 100 AS h) h, LATERAL (
		        VALUES ('spec_started', 0, true), ('intervention_request', 20, h % 7 = 0), ('claude.cost', 30, h % 11 = 0),
		               (CASE WHEN h < 50 THEN 'spec_completed' WHEN h < 70 THEN 'spec_failed' ELSE 'timeout_triggered' END, 40 + h, h < 90)
		    ) e (kind, after, happens)
		    WHERE happens AND attempt <= h % 3
		) e WHERE at < now() - interval '2 minutes'`, seed)
	exec(`INSERT INTO events (kind, session, at) SELECT 'session_heartbeat', session, at + k * interval '47 seconds' + interval '1 second' FROM began, generate_series(0, 12) k WHERE at + k * interval '47 seconds' < now() - interval '2 minutes'`)
	exec(`INSERT INTO events (kind, session, spec, at, data)
		SELECT 'intervention_answered', session, spec, at + (id % 19 + 1) * interval '1 second', CASE WHEN id % 3 = 0 THEN '{"dismissed": true}' ELSE '{"answer": "this"}' END::jsonb || CASE WHEN id % 2 = 0 THEN jsonb_build_object('request', id) ELSE '{}' END
		FROM events WHERE kind = 'intervention_request' AND id % 5 < 3 AND at < now() - interval '3 minutes'`)
	exec(`CREATE INDEX ON events (session, spec, at, id)`) // for the queries below
	exec(`ANALYZE events`)
	const beat = `INSERT INTO events (kind, session, at) SELECT 'session_heartbeat', session, now() FROM generate_series(0, $1::int, 10) i, concat('crowd ', i + 1) session`
	exec(beat, crowd-1)
	alive := g.connect()
	ctx, cancel := context.WithCancel(t.Context())
	var beating sync.WaitGroup
	var writes sync.Mutex // held while heartbeats are written, whose time is that of its beginning
	t.Cleanup(func() { cancel(); beating.Wait() })
	beating.Go(func() {
		for again := time.NewTicker(5 * time.Second); ; {
			select {
			case <-again.C:
				writes.Lock()
				_, err := alive.Exec(ctx, beat, crowd-1)
				writes.Unlock()
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() time.Time {
		writes.Lock()
		defer writes.Unlock()
		return time.Now().Truncate(time.Millisecond)
	}
}

// The SQL for the content of each panel: $1 and $2 are the range, $3 the sessions,
// none for all, and $4 is the begin of a summary without named sessions. The
// columns are those of the panel's frame, in order.
const (
	ofSessions = ` AND (cardinality($3::text[]) = 0 OR session = ANY($3)) `
	inRange    = ` at BETWEEN $1 AND $2` + ofSessions
	inSummary  = ` (at >= $4 OR cardinality($3::text[]) > 0)` + ofSessions
	isBound    = ` kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered') `
	// A spec that a limit of usage ended has not failed.
	isLimit = ` kind = 'spec_failed' AND coalesce(data ->> 'reason', '') = 'usage limit' `
	isAlive = ` (SELECT coalesce(max(at) > now() - interval '1 minute', false) FROM events h WHERE h.session = s.session AND h.kind <> 'intervention_answered') `

	// Of each spec, the last event that started or ended it.
	lastBounds = `SELECT DISTINCT ON (session, spec) session, spec, kind, data, at FROM events WHERE` + isBound + `AND` + inSummary + `ORDER BY session, spec, at DESC, id DESC`
	// Requests without an answer.
	unanswered = `SELECT session FROM events r WHERE kind = 'intervention_request' AND` + inSummary + `
		AND NOT EXISTS (SELECT FROM events b WHERE b.session = r.session AND b.spec = r.spec AND b.` + `kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered') AND (b.at, b.id) > (r.at, r.id))
		AND NOT EXISTS (SELECT FROM events a WHERE a.kind = 'intervention_answered' AND a.session = r.session AND (a.data ->> 'request' = r.id::text OR NOT a.data ? 'request' AND a.spec = r.spec AND (a.at, a.id) > (r.at, r.id)))`
	// Failures since the last completion, of each session.
	streaks = `SELECT e.session, count(*) AS n FROM events e LEFT JOIN (
		    SELECT DISTINCT ON (session) session, at, id FROM events WHERE kind = 'spec_completed'` + ofSessions + `ORDER BY session, at DESC, id DESC
		) done USING (session) WHERE kind IN ('spec_failed', 'timeout_triggered') AND NOT (` + isLimit + `) AND (done.at IS NULL OR (e.at, e.id) > (done.at, done.id))
		AND (e.at >= $4 OR cardinality($3::text[]) > 0) AND (cardinality($3::text[]) = 0 OR e.session = ANY($3)) GROUP BY 1`

	outcomesTruth = `SELECT count(*) FILTER (WHERE kind = 'spec_started') AS started, count(*) FILTER (WHERE kind = 'spec_completed') AS completed,
		count(*) FILTER (WHERE kind = 'spec_failed' AND NOT (` + isLimit + `)) AS failed, count(*) FILTER (WHERE kind = 'timeout_triggered') AS timeout,
		count(*) FILTER (WHERE ` + isLimit + `) AS "usage limit" FROM events WHERE` + inRange
	overviewTruth = `SELECT (SELECT count(*) FROM (` + lastBounds + `) s WHERE kind = 'spec_started' AND` + isAlive + `) AS open,
		(SELECT count(*) FROM (` + lastBounds + `) s WHERE kind = 'spec_started' AND NOT` + isAlive + `) AS silent, (SELECT count(*) FROM (` + unanswered + `) e) AS waiting,
		(SELECT coalesce(max(n), 0) FROM (` + streaks + `) e) AS "failures in a row"`
	sessionsTruth = `SELECT s.session, CASE WHEN seen > now() - interval '1 minute' THEN 'running' WHEN coalesce(b.open, 0) > 0 OR coalesce(w.n, 0) > 0 THEN 'sleeping' ELSE 'done' END AS status,
		extract(epoch FROM now() - beat)::float8 AS "heartbeat age",
		CASE WHEN seen > now() - interval '1 minute' THEN coalesce(b.open, 0) ELSE 0 END AS open, CASE WHEN seen > now() - interval '1 minute' THEN 0 ELSE coalesce(b.open, 0) END AS silent,
		coalesce(completed, 0) AS completed, coalesce(failed, 0) AS failed, coalesce(limited, 0) AS "usage limits", coalesce(timed_out, 0) AS "timed out", coalesce(w.n, 0) AS waiting, coalesce(k.n, 0) AS "failures in a row"
		FROM (SELECT session, max(at) FILTER (WHERE kind <> 'intervention_answered') AS seen, max(at) FILTER (WHERE kind = 'session_heartbeat') AS beat FROM events WHERE` + inSummary + `GROUP BY 1) s
		LEFT JOIN (SELECT session, count(*) FILTER (WHERE kind = 'spec_started') AS open, count(*) FILTER (WHERE kind = 'spec_completed') AS completed,
		    count(*) FILTER (WHERE kind = 'spec_failed' AND NOT (` + isLimit + `)) AS failed, count(*) FILTER (WHERE ` + isLimit + `) AS limited, count(*) FILTER (WHERE kind = 'timeout_triggered') AS timed_out FROM (` + lastBounds + `) e GROUP BY 1) b USING (session)
		LEFT JOIN (SELECT session, count(*) AS n FROM (` + unanswered + `) e GROUP BY 1) w USING (session)
		LEFT JOIN (` + streaks + `) k USING (session) ORDER BY seen DESC, s.session COLLATE "C"`
	silentTruth = `SELECT o.session, o.spec, extract(epoch FROM least($2::timestamptz, now()) - greatest(o.at, beat))::float8 AS age FROM (
		    SELECT DISTINCT ON (session) session, spec, at FROM (
		        SELECT DISTINCT ON (session, spec) session, spec, kind, at, id FROM events WHERE` + isBound + `AND` + inRange + `ORDER BY session, spec, at DESC, id DESC
		    ) e WHERE kind = 'spec_started' ORDER BY session, at DESC, id DESC
		) o LEFT JOIN (SELECT session, max(at) AS beat FROM events WHERE kind = 'session_heartbeat' AND` + inRange + `GROUP BY 1) h USING (session) ORDER BY greatest(o.at, beat) DESC, 1, 2`
	attemptsTruth = `SELECT s.at AS started, CASE WHEN e.kind <> 'spec_started' THEN e.at END AS ended, s.session, s.spec,
		CASE e.kind WHEN 'spec_completed' THEN 'completed' WHEN 'spec_failed' THEN CASE WHEN e.limited THEN 'usage limit' ELSE 'failed' END
		    WHEN 'timeout_triggered' THEN 'timed out' WHEN 'spec_started' THEN 'abandoned' ELSE CASE WHEN` + isAlive + `THEN 'running' ELSE 'silent' END END AS outcome,
		CASE WHEN e.kind <> 'spec_started' THEN extract(epoch FROM e.at - s.at)::float8 END AS duration
		FROM events s LEFT JOIN LATERAL (
		    SELECT at, kind, ` + isLimit + ` AS limited FROM events n WHERE n.session = s.session AND n.spec = s.spec AND` + isBound + `AND (n.at, n.id) > (s.at, s.id) AND n.at < s.at + interval '2 days' ORDER BY n.at, n.id LIMIT 1
		) e ON true WHERE s.kind = 'spec_started' AND s.at BETWEEN $1 AND $2 AND (cardinality($3::text[]) = 0 OR s.session = ANY($3)) ORDER BY s.at DESC, s.id DESC`
	specsTruth = `WITH a AS MATERIALIZED (` + attemptsTruth + `)
		SELECT spec, count(*) AS attempts, count(*) FILTER (WHERE outcome = 'completed') AS completed, count(*) FILTER (WHERE outcome = 'failed') AS failed,
		count(*) FILTER (WHERE outcome = 'timed out') AS "timed out", count(*) FILTER (WHERE outcome = 'usage limit') AS "usage limits", coalesce(sum(duration), 0)::float8 AS time, (array_agg(outcome ORDER BY started DESC))[1] AS "last outcome",
		(array_agg(session ORDER BY started DESC))[1] AS "last session", max(started) AS "last started",
		percentile_cont(0.5) WITHIN GROUP (ORDER BY duration) FILTER (WHERE outcome = 'completed') AS typical,
		(SELECT count(*) FROM (
		    SELECT outcome = 'completed' AS well, lag(outcome = 'completed') OVER (ORDER BY started) AS before FROM a WHERE a.spec = o.spec AND duration IS NOT NULL AND outcome <> 'usage limit'
		) e WHERE well <> before) AS changes,
		(SELECT CASE WHEN count(*) >= 4 THEN percentile_cont(0.5) WITHIN GROUP (ORDER BY duration) FILTER (WHERE place > n / 2.0 + 0.5)
		    / percentile_cont(0.5) WITHIN GROUP (ORDER BY duration) FILTER (WHERE place <= n / 2.0 + 0.5) END FROM (
		    SELECT duration, row_number() OVER (ORDER BY started) AS place, count(*) OVER () AS n FROM a WHERE a.spec = o.spec AND outcome = 'completed'
		) e) AS slower
		FROM a o GROUP BY 1 ORDER BY count(*) FILTER (WHERE outcome IN ('failed', 'timed out')) DESC, max(started) DESC, 1`
	requestsTruth = `SELECT r.at AS time, r.session, r.spec, r.data ->> 'question' AS question, coalesce(e.ending, 'waits') AS ending, coalesce(e.answer, '') AS answer,
		extract(epoch FROM e.at - r.at)::float8 AS waited, r.id FROM events r LEFT JOIN LATERAL (
		    SELECT at, CASE WHEN kind <> 'intervention_answered' THEN 'went on' WHEN data ? 'dismissed' THEN 'dismissed' ELSE 'answered' END AS ending, data ->> 'answer' AS answer FROM events e
		    WHERE e.session = r.session AND e.at BETWEEN r.at AND r.at + interval '1 day' AND (e.at, e.id) > (r.at, r.id) AND (` + isBound + `AND e.spec = r.spec
		       OR kind = 'intervention_answered' AND (data ->> 'request' = r.id::text OR NOT data ? 'request' AND e.spec = r.spec)) ORDER BY at, id LIMIT 1
		) e ON true WHERE r.kind = 'intervention_request' AND r.at BETWEEN $1 AND $2 AND (cardinality($3::text[]) = 0 OR r.session = ANY($3)) ORDER BY r.at DESC, r.id DESC`
	nightsTruth = `WITH asks AS MATERIALIZED (SELECT * FROM (` + requestsTruth + `) r WHERE ending IN ('answered', 'dismissed')),
		answers AS (SELECT date_bin('1 day', time, '2000-01-01 12:00:00+00') AS night, count(*) AS answered, percentile_cont(0.5) WITHIN GROUP (ORDER BY waited) AS median FROM asks GROUP BY 1)
		SELECT night, count(DISTINCT session) AS sessions, count(*) FILTER (WHERE kind = 'spec_started') AS started, count(*) FILTER (WHERE kind = 'spec_completed') AS completed,
		count(*) FILTER (WHERE kind = 'spec_failed' AND NOT (` + isLimit + `)) AS failed, count(*) FILTER (WHERE ` + isLimit + `) AS "usage limits",
		count(*) FILTER (WHERE kind = 'timeout_triggered') AS "timed out", count(*) FILTER (WHERE kind = 'intervention_request') AS asked,
		coalesce(max(answered), 0) AS answered, max(median) AS "answer time", max(gap) AS "longest silence",
		(array_agg(session ORDER BY gap DESC, at DESC, session) FILTER (WHERE gap IS NOT NULL))[1] AS "silent session",
		(array_agg(at ORDER BY gap DESC, at DESC, session) FILTER (WHERE gap IS NOT NULL))[1] AS "silent until", coalesce(sum(` + costOf + `), 0)::float8 AS cost, coalesce(sum(` + tokensOf + `), 0)::bigint AS tokens
		FROM (SELECT night, session, kind, data, at, extract(epoch FROM at - lag(at) OVER (PARTITION BY night, session ORDER BY at, id))::float8 AS gap
		    FROM (SELECT *, date_bin('1 day', at, '2000-01-01 12:00:00+00') AS night FROM events WHERE` + inRange + `) e) e LEFT JOIN answers USING (night) GROUP BY night ORDER BY night DESC`
	eventsTruth = `SELECT at AS time, kind, session, spec, id FROM events WHERE` + inRange + `AND kind = ANY($5) ORDER BY at DESC, id DESC`
	logsTruth   = `SELECT at AS timestamp, id::text AS id FROM events WHERE` + inRange + `AND (kind = ANY($5) OR 'other' = ANY($5) AND kind LIKE '%.%') ORDER BY at DESC, id DESC`
	costOf      = `(data -> 'usage' ->> 'costUsd')::numeric`
	tokensOf    = `(data -> 'usage' ->> 'inputTokens')::numeric + (data -> 'usage' ->> 'outputTokens')::numeric`
	usageTruth  = `SELECT session, spec, sum(` + costOf + `)::float8 AS cost, sum((data -> 'usage' ->> 'inputTokens')::bigint)::bigint AS "input tokens",
		sum((data -> 'usage' ->> 'cachedInputTokens')::bigint)::bigint AS "cached input tokens", sum((data -> 'usage' ->> 'outputTokens')::bigint)::bigint AS "output tokens", max(at) AS "last used"
		FROM events WHERE` + inRange + `AND data ? 'usage' GROUP BY 1, 2 ORDER BY cost DESC, sum(` + tokensOf + `) DESC, 1, 2`
	// Of a timeline: the specs that changed in the range, or were open when it began.
	timelineTruth = `SELECT session, spec FROM (
		    SELECT session, spec, max(at) AS at, max(id) AS id FROM events e WHERE kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered', 'intervention_request', 'intervention_answered')
		    AND at <= $2 AND at >= $1::timestamptz - interval '7 days'` + ofSessions + `GROUP BY 1, 2
		    HAVING max(at) >= $1 OR (array_agg(kind ORDER BY at DESC, id DESC) FILTER (WHERE kind <> 'intervention_answered'))[1] IN ('spec_started', 'intervention_request')
		) e ORDER BY at DESC, id DESC`
)

var truths = map[contract.QueryType]string{
	contract.QueryOutcomes: outcomesTruth, contract.QueryOverview: overviewTruth, contract.QuerySessions: sessionsTruth, contract.QueryHeartbeatAge: silentTruth,
	contract.QueryDurations: attemptsTruth, contract.QuerySpecs: specsTruth, contract.QueryRequests: requestsTruth, contract.QueryNights: nightsTruth,
	contract.QueryEvents: eventsTruth, contract.QueryLogs: logsTruth, contract.QueryTimeline: timelineTruth,
	contract.QueryUsage: usageTruth,
}

// Every stat, count and list of the dashboards agrees with the table: for each of
// two data sources, for all sessions, for one and for one of long ago, over an
// hour, a day and all five years. A list without all rows has their number.
func TestDashboardsSayWhatTheTableSays(t *testing.T) {
	g, other := launch(t, true), launch(t, true)
	settled := map[string]func() time.Time{"ten thousand sessions": years(t, g, 10_000, 400, 0), "the other source": years(t, other, 300, 3, 50)}
	// One process serves both, as in Grafana.
	second := *g
	second.context, second.database = other.context, other.database
	second.context.DataSourceInstanceSettings.Id = 2 //nolint:staticcheck // Grafana sends it
	second.context.DataSourceInstanceSettings.Uid = "other"
	compared := 0
	for name, source := range map[string]*grafana{"ten thousand sessions": g, "the other source": &second} {
		conn := source.connect()
		now := settled[name]()
		for dashboard, panels := range dashboards(t) {
			variants := [][]string{{}, {"session 299"}, {"session 7"}}
			if dashboard == "specwatch-session" {
				variants = variants[1:]
			}
			for i, sessions := range variants {
				for _, span := range []time.Duration{time.Hour, 24 * time.Hour, 5*366*24*time.Hour + time.Hour} {
					for _, p := range panels {
						if p.Type == "row" || p.Datasource.Type == "prometheus" || p.Type == "specwatch-events-panel" {
							continue
						}
						if i > 0 && p.Targets[0]["sessions"] == nil {
							continue // it does not depend on the choice
						}
						compared += source.compare(t, conn, fmt.Sprintf("%s, %s, %q, sessions %q, the last %s", name, dashboard, p.Title, sessions, span), p, sessions, now.Add(-span), now)
					}
				}
			}
		}
	}
	if compared < 10_000 {
		t.Errorf("only %d values were compared", compared)
	}
	t.Logf("%d values compared", compared)
}

// compare runs the query of the panel and compares the answer with the table.
func (g *grafana) compare(t *testing.T, conn *pgx.Conn, what string, p panel, sessions []string, from, to time.Time) (values int) {
	t.Helper()
	if len(p.Targets) != 1 {
		t.Fatalf("%s: %d queries", what, len(p.Targets))
	}
	if days, is := p.Targets[0]["days"].(float64); is {
		from = to.AddDate(0, 0, -int(days)) // as the front end does
	}
	query := map[string]any{}
	for key, value := range p.Targets[0] {
		query[key] = value
	}
	asksSessions := query["sessions"] != nil
	if asksSessions {
		query["sessions"] = sessions // as the front end fills $session in
	} else {
		sessions = []string{}
	}
	kinds := []string{}
	for _, kind := range asList(query["kinds"]) {
		kinds = append(kinds, kind.(string))
	}
	text, err := json.Marshal(query)
	if err != nil {
		t.Fatal(err)
	}
	kind := contract.QueryType(query["queryType"].(string))
	summary := time.Now().Add(-7 * 24 * time.Hour) // when one that is asked for now begins
	frame, answer := g.ask(from, to, string(text))
	if frame == nil {
		t.Errorf("%s: %s", what, answer.Error)
		return 0
	}
	if faults := p.misnamed(frame); len(faults) > 0 {
		t.Errorf("%s: %q", what, faults)
	}
	if kind == contract.QueryDelivery || kind == contract.QueryPromises {
		return 0 // of the reader, not of the table
	}
	switch kind {
	case contract.QueryCounts:
		return compareCounts(t, conn, what, frame, from, to, sessions, kinds)
	case contract.QueryUsageOver:
		return compareUsage(t, conn, what, frame, from, to, sessions)
	}
	sql := truths[kind]
	if sql == "" {
		t.Fatalf("%s: nobody knows what the table says of %s", what, kind)
	}
	limit := contract.DefaultRows
	if n, is := query["limit"].(float64); is {
		limit = int(n)
	}
	switch kind {
	case contract.QuerySessions:
		limit = 100
	case contract.QueryTimeline:
		limit = min(limit, contract.TimelineSpecs)
	}
	rows, err := conn.Query(t.Context(), fmt.Sprintf(`SELECT *, count(*) OVER () AS "total of all" FROM (%s) e
		WHERE ($1::timestamptz, $2::timestamptz, $3::text[], $4::timestamptz, $5::text[]) IS NOT NULL -- not every text names each of them
		LIMIT %d`, sql, limit), from, to, sessions, summary, kinds)
	if err != nil {
		t.Fatalf("%s: %s", what, err)
	}
	want, err := pgx.CollectRows(rows, pgx.RowToMap)
	if err != nil {
		t.Fatalf("%s: %s", what, err)
	}
	if kind == contract.QueryTimeline {
		var lines, expected []string
		for _, field := range frame.Fields[1:] {
			lines = append(lines, field.Labels["session"]+"/"+field.Name)
		}
		for _, row := range want {
			expected = append(expected, fmt.Sprint(row["session"], "/", row["spec"]))
		}
		slices.Sort(lines)
		slices.Sort(expected)
		if !slices.Equal(lines, expected) {
			t.Errorf("%s: %d lines %.300q, want %d %.300q", what, len(lines), lines, len(expected), expected)
		}
		values = len(lines)
	} else {
		n, err := frame.RowLen()
		if err != nil || n != len(want) {
			t.Errorf("%s: %d rows, want %d", what, n, len(want))
			return 0
		}
		for i, row := range want {
			for name, value := range row {
				field, _ := frame.FieldByName(name)
				if name == "total of all" {
					continue
				}
				if field == nil {
					t.Fatalf("%s: no field %s", what, name)
				}
				got, told := field.ConcreteAt(i)
				if !told {
					got = nil
				}
				if !same(name, got, value) {
					t.Errorf("%s: row %d, %s: %v, want %v", what, i, name, got, value)
					return values
				}
				values++
			}
		}
	}
	if len(want) > 0 {
		total := want[0]["total of all"].(int64)
		if cut := total > int64(len(want)); cut != (len(frame.Meta.Notices) == 1 && strings.Contains(frame.Meta.Notices[0].Text, " of "+thousands(total)+" ")) {
			t.Errorf("%s: %d of %d, and it says %v", what, len(want), total, frame.Meta.Notices)
		}
	}
	return values
}

func compareCounts(t *testing.T, conn *pgx.Conn, what string, frame *data.Frame, from, to time.Time, sessions, kinds []string) (values int) {
	t.Helper()
	times := column(t, frame, "time")
	step := 60.0
	if len(times) > 1 {
		step = times[1].(time.Time).Sub(times[0].(time.Time)).Seconds()
	}
	rows, err := conn.Query(t.Context(), `SELECT floor(extract(epoch FROM at) / $5::numeric)::bigint, CASE WHEN kind LIKE '%.%' THEN 'other' ELSE kind END AS k, count(*)
		FROM events WHERE`+inRange+`AND (cardinality($4::text[]) = 0 OR CASE WHEN kind LIKE '%.%' THEN 'other' ELSE kind END = ANY($4)) GROUP BY 1, 2`, from, to, sessions, kinds, step)
	if err != nil {
		t.Fatalf("%s: %s", what, err)
	}
	want := map[string]float64{}
	var bucket, n int64
	var kind string
	if _, err := pgx.ForEachRow(rows, []any{&bucket, &kind, &n}, func() error {
		want[fmt.Sprint(bucket, kind)] = float64(n)
		return nil
	}); err != nil {
		t.Fatalf("%s: %s", what, err)
	}
	for _, field := range frame.Fields[1:] {
		for i := range field.Len() {
			key := fmt.Sprint(int64(math.Round(float64(times[i].(time.Time).UnixMilli())/1000/step)), field.Labels["kind"])
			if got := field.At(i).(float64); got != want[key] {
				t.Errorf("%s: %s at %s: %v, want %v", what, field.Labels["kind"], times[i], got, want[key])
				return values
			}
			delete(want, key)
			values++
		}
	}
	if len(want) > 0 {
		t.Errorf("%s: lacks %v", what, want)
	}
	return values
}

func compareUsage(t *testing.T, conn *pgx.Conn, what string, frame *data.Frame, from, to time.Time, sessions []string) (values int) {
	t.Helper()
	times := column(t, frame, "time")
	step := 60.0
	if len(times) > 1 {
		step = times[1].(time.Time).Sub(times[0].(time.Time)).Seconds()
	}
	rows, err := conn.Query(t.Context(), `SELECT floor(extract(epoch FROM at) / $4::numeric)::bigint, sum(`+costOf+`)::float8, sum((data -> 'usage' ->> 'inputTokens')::float8), sum((data -> 'usage' ->> 'outputTokens')::float8)
		FROM events WHERE`+inRange+`AND data ? 'usage' GROUP BY 1`, from, to, sessions, step)
	if err != nil {
		t.Fatalf("%s: %s", what, err)
	}
	want := map[int64][3]float64{}
	var bucket int64
	var used [3]float64
	if _, err := pgx.ForEachRow(rows, []any{&bucket, &used[0], &used[1], &used[2]}, func() error {
		want[bucket] = used
		return nil
	}); err != nil {
		t.Fatalf("%s: %s", what, err)
	}
	for n, name := range []string{"cost", "input tokens", "output tokens"} {
		for i, got := range column(t, frame, name) {
			bucket := int64(math.Round(float64(times[i].(time.Time).UnixMilli()) / 1000 / step))
			if math.Abs(got.(float64)-want[bucket][n]) > 1e-6 {
				t.Errorf("%s: %s at %s: %v, want %v", what, name, times[i], got, want[bucket][n])
				return values
			}
			values++
		}
	}
	return values
}

func asList(value any) []any {
	list, _ := value.([]any)
	return list
}

// same compares a frame's value with the table's. Ages go on while they are
// compared.
func same(name string, got, want any) bool {
	if at, is := want.(time.Time); is {
		other, is := got.(time.Time)
		return is && other.UnixMilli() == at.UnixMilli()
	}
	number := func(v any) (float64, bool) {
		switch v := v.(type) {
		case int64:
			return float64(v), true
		case float64:
			return v, true
		}
		return 0, false
	}
	if a, is := number(want); is {
		b, is := number(got)
		slack := 1e-3
		if strings.HasSuffix(name, "age") {
			slack = 30 // an answer may be five seconds old, and a busy machine takes long for the next
		}
		return is && math.Abs(a-b) <= slack
	}
	return want == nil && got == nil || fmt.Sprint(want) == fmt.Sprint(got)
}

func thousands(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
