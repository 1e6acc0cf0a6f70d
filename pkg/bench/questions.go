//go:build linux

package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/store"
)

// question is asked of the store, as the data source asks it, and in the SQL
// that a person would give to Grafana's PostgreSQL data source.
type question struct {
	name   string
	filter questions.Filter
	ask    asking
	sql    string // gives the same number of rows and the same sum; empty: none does
	args   []any  // after the range
}

// asking returns the number of rows and a sum over them.
type asking func(ctx context.Context, q questions.Questions, f questions.Filter) (rows int, sum int64, err error)

func countsBy(step time.Duration) asking {
	return func(ctx context.Context, q questions.Questions, f questions.Filter) (int, int64, error) {
		counts, err := q.Counts(ctx, f, step)
		var n int64
		for _, c := range counts {
			n += c.N
		}
		return len(counts), n, err
	}
}

func outcomes(ctx context.Context, q questions.Questions, f questions.Filter) (int, int64, error) {
	o, err := q.Outcomes(ctx, f)
	return 1, o.Started + 1_000*o.Completed + 1_000_000*o.Failed + 1_000_000_000*o.TimedOut, err
}

func durations(ctx context.Context, q questions.Questions, f questions.Filter) (int, int64, error) {
	attempts, err := q.Durations(ctx, f)
	var took int64
	for _, a := range attempts {
		if a.Ended != nil {
			took += a.Ended.Sub(a.Started).Microseconds()
		}
	}
	return len(attempts), took, err
}

func menuOf(names func(questions.Questions, context.Context, questions.Filter, string) ([]string, int64, error), text string) asking {
	return func(ctx context.Context, q questions.Questions, f questions.Filter) (int, int64, error) {
		found, total, err := names(q, ctx, f, text)
		return len(found), total, err
	}
}

func eventsOf(ctx context.Context, q questions.Questions, f questions.Filter) (int, int64, error) {
	events, err := q.Range(ctx, f)
	return len(events), int64(len(events)), err
}

func timeline(ctx context.Context, q questions.Questions, f questions.Filter) (int, int64, error) {
	_, specs, err := q.Timeline(ctx, f)
	return 1, specs, err
}

// questionsAbout are those about a history that ends with an event of that time
// and session.
func questionsAbout(latest time.Time, session string) []question {
	// The ends are no whole hours, so that the edges count, too.
	all := questions.Filter{From: latest.Add(-2 * fixtureDays * 24 * time.Hour), To: latest, Limit: 1_000}
	month := all
	month.From = latest.Add(-30*24*time.Hour - 17*time.Minute)
	named := all
	named.Sessions = []string{session}
	night := month
	night.From = latest.Add(-24 * time.Hour)
	night.Limit = 100
	return []question{
		{"counts by day and kind", all, countsBy(24 * time.Hour),
			`SELECT count(*), sum(n)::bigint FROM (SELECT date_trunc('day', at), kind, count(*) AS n FROM events WHERE at BETWEEN $1 AND $2 GROUP BY 1, 2) e`, nil},
		{"counts by hour over 30 days", month, countsBy(time.Hour),
			`SELECT count(*), sum(n)::bigint FROM (SELECT date_trunc('hour', at), kind, count(*) AS n FROM events WHERE at BETWEEN $1 AND $2 GROUP BY 1, 2) e`, nil},
		{"outcomes", all, outcomes,
			`SELECT 1, (count(*) FILTER (WHERE kind = 'spec_started') + 1000 * count(*) FILTER (WHERE kind = 'spec_completed') + 1000000 * count(*) FILTER (WHERE kind = 'spec_failed') + 1000000000 * count(*) FILTER (WHERE kind = 'timeout_triggered'))::bigint FROM events WHERE at BETWEEN $1 AND $2`, nil},
		{"durations, the last 1,000 attempts", all, durations,
			`SELECT count(*), sum((extract(epoch FROM ended - at) * 1000000)::bigint)::bigint FROM (
				SELECT at, CASE WHEN next <> 'spec_started' THEN ended END AS ended FROM (
				    SELECT id, kind, at, lead(at) OVER w AS ended, lead(kind) OVER w AS next FROM events WHERE at BETWEEN $1 AND $2
				    AND kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered') WINDOW w AS (PARTITION BY session, spec ORDER BY at, id)
				) e WHERE kind = 'spec_started' ORDER BY at DESC, id DESC LIMIT 1000) a`, nil},
		{"menu of sessions", all, menuOf(questions.Questions.Sessions, ""),
			`SELECT least(count(*), 1000), count(*) FROM (SELECT DISTINCT session FROM events WHERE at BETWEEN $1 AND $2) e`, nil},
		{"menu of sessions, searched", all, menuOf(questions.Questions.Sessions, "-17"),
			`SELECT least(count(*), 1000), count(*) FROM (SELECT DISTINCT session FROM events WHERE at BETWEEN $1 AND $2 AND position('-17' IN session) > 0) e`, nil},
		{"menu of a session's specs", named, menuOf(questions.Questions.Specs, ""),
			`SELECT count(*), count(*) FROM (SELECT DISTINCT spec FROM events WHERE at BETWEEN $1 AND $2 AND session = $3) e`, []any{session}},
		{"one session's events", named, eventsOf,
			`SELECT count(*), count(*) FROM (SELECT * FROM events WHERE at BETWEEN $1 AND $2 AND session = $3 ORDER BY at DESC, id DESC LIMIT 1000) e`, []any{session}},
		{"timeline of a day, 100 specs", night, timeline, "", nil},
	}
}

// questions asks all of them.
func (w *world) questions(ctx context.Context, database, rows string) (lines []Line, err error) {
	s, err := store.Open(ctx, store.Config{URL: database})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	conn, err := connect(ctx, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `SET timezone = 'UTC'`); err != nil {
		return nil, err
	}
	var latest time.Time
	var session string
	if err := conn.QueryRow(ctx, `SELECT max(at), (array_agg(session))[1] FROM (SELECT at, session FROM events ORDER BY at DESC, id DESC LIMIT 1) e`).Scan(&latest, &session); err != nil {
		return nil, err
	}
	for _, q := range questionsAbout(latest, session) {
		line, err := w.answer(ctx, s, conn, q, rows)
		if err != nil {
			return lines, fmt.Errorf("%s: %w", q.name, err)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// answer asks one question of the store and of the table.
func (w *world) answer(ctx context.Context, s *store.Store, conn *pgx.Conn, q question, rows string) (Line, error) {
	var own, raw []time.Duration
	exact := true
	var found, said [2]int64
	for range w.Rounds {
		began := time.Now()
		n, sum, err := q.ask(ctx, questions.To(s), q.filter)
		own = append(own, time.Since(began))
		if err != nil {
			return Line{}, err
		}
		if q.sql == "" {
			continue
		}
		found = [2]int64{int64(n), sum}
		began = time.Now()
		if err := conn.QueryRow(ctx, q.sql, append([]any{q.filter.From, q.filter.To}, q.args...)...).Scan(&said[0], &said[1]); err != nil {
			return Line{}, err
		}
		raw = append(raw, time.Since(began))
		exact = exact && found == said
	}
	line := Line{q.name + " over " + rows, ms(median(own)), "plain SQL: " + ms(median(raw)), fmt.Sprintf("%.3f", float64(median(own))/float64(median(raw))), "≤ 200 ms, exact", reaches(exact && median(own) <= 200*time.Millisecond)}
	if q.sql == "" {
		line.Reference, line.Ratio, line.Goal = "", "", "≤ 200 ms"
	}
	if !exact {
		line.Figure += fmt.Sprintf(", but %v where the table has %v", found, said)
	}
	w.say("%s: %s, plain SQL %s, exact %t", q.name, ms(median(own)), ms(median(raw)), exact)
	return line, nil
}
