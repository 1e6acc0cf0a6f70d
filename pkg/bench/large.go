//go:build linux

package bench

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/specwatch/specwatch/pkg/store"
)

// large is what depends on how long the history is.
func (w *world) large(ctx context.Context) (lines []Line, err error) {
	small, err := w.database(ctx, "small")
	if err != nil {
		return nil, err
	}
	defer w.drop("small")
	if err := w.fill(ctx, small, smallRows); err != nil {
		return nil, err
	}
	database, err := w.database(ctx, "large")
	if err != nil {
		return nil, err
	}
	defer w.drop("large")
	began := time.Now()
	if err := w.fill(ctx, database, w.Rows); err != nil {
		return nil, err
	}
	rows := fmt.Sprintf("%s rows", thousands(w.Rows))
	fixture := time.Since(began)
	lines = append(lines, Line{"fixture of " + rows, fixture.Round(time.Second).String(), "", "", "≤ 180 s for 10 million", reaches(fixture.Seconds() <= 180*max(1, float64(w.Rows)/1e7))})

	// A gateway that finds neither rollups nor a summary, and a start after it
	// has kept both.
	w.say("first start on %s", rows)
	first, err := w.serve(ctx, database)
	if err != nil {
		return lines, err
	}
	firstReady, err := first.answers(ctx)
	if err != nil {
		return lines, err
	}
	w.say("the first gateway answers after %s; it makes the rollups", ms(firstReady))
	kept, err := w.keeps(ctx, database, first.started)
	if err != nil {
		return lines, err
	}
	w.end(first)
	if err := exec1(ctx, database, `VACUUM ANALYZE`); err != nil {
		return lines, err
	}
	var ready []time.Duration
	for round := range w.Rounds {
		p, err := w.serve(ctx, database)
		if err != nil {
			return lines, err
		}
		took, err := p.answers(ctx)
		if err != nil {
			return lines, err
		}
		w.say("start %d: answers after %s", round+1, ms(took))
		ready = append(ready, took)
		w.end(p)
	}
	lines = append(lines,
		Line{"gateway ready on " + rows, ms(median(ready)), "", "", "≤ 1 s", reaches(median(ready) <= time.Second)},
		Line{"its first start, without rollups and summary", ms(firstReady), "rollups and summary were kept after " + kept.Round(time.Second).String(), "", "", Told},
	)
	more, err := w.samePoll(ctx, small, database, rows)
	lines = append(lines, more...)
	if err != nil {
		return lines, err
	}
	w.endAll()
	more, err = w.questions(ctx, database, rows)
	return append(lines, more...), err
}

// keeps waits until the gateway has brought the rollups to the end and has
// kept the summary.
func (w *world) keeps(ctx context.Context, database string, since time.Time) (time.Duration, error) {
	conn, err := connect(ctx, database)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	said := time.Now()
	for {
		var kept bool
		var counted int64
		err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM specwatch_overview), coalesce((SELECT sum(events) FROM specwatch_counts WHERE seconds = 86400), 0)::bigint`).Scan(&kept, &counted)
		if err != nil {
			return 0, err
		}
		if kept && counted >= int64(w.Rows) {
			return time.Since(since), nil
		}
		if time.Since(said) > sayEvery {
			said = time.Now()
			w.say("rollups hold %d of %d events", counted, w.Rows)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// samePoll compares the poll with nothing new on both tables.
func (w *world) samePoll(ctx context.Context, small, database, rows string) ([]Line, error) {
	few, err := w.gateway(ctx, small)
	if err != nil {
		return nil, err
	}
	many, err := w.gateway(ctx, database)
	if err != nil {
		return nil, err
	}
	var times [2][]time.Duration
	for round := range w.Rounds {
		for i, p := range []*process{few, many} {
			s, err := p.settled(ctx)
			if err != nil {
				return nil, err
			}
			_, p50, err := p.ask(ctx, s.path, "", 1, time.Second)
			if err != nil {
				return nil, err
			}
			times[i] = append(times[i], p50)
		}
		w.say("poll with nothing new, round %d: %s on %d rows, %s on %s", round+1, ms(times[0][round]), smallRows, ms(times[1][round]), rows)
	}
	ratio := float64(median(times[1])) / float64(median(times[0]))
	return []Line{{"a poll with nothing new on " + rows, ms(median(times[1])), "10,000 rows: " + ms(median(times[0])), fmt.Sprintf("%.1f", ratio), "≤ 2.0", reaches(ratio <= 2)}}, nil
}

// questions are asked of the store, as the data source asks them, and in the
// SQL that a person would give to Grafana's PostgreSQL data source.
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
	// The ends are no whole hours, so that the edges count, too.
	all := store.Filter{From: latest.Add(-2 * fixtureDays * 24 * time.Hour), To: latest, Limit: 1_000}
	month := all
	month.From = latest.Add(-30*24*time.Hour - 17*time.Minute)
	named := all
	named.Sessions = []string{session}
	night := month
	night.From = latest.Add(-24 * time.Hour)
	night.Limit = 100
	questions := []struct {
		name string
		f    store.Filter
		ask  func(store.Filter) (int, any, error)
		sql  string // gives the same rows, as text
		args []any
	}{
		{"counts by day and kind", all, func(f store.Filter) (int, any, error) {
			counts, err := s.Counts(ctx, f, 24*time.Hour)
			var n int64
			for _, c := range counts {
				n += c.N
			}
			return len(counts), n, err
		}, `SELECT count(*), sum(n)::bigint FROM (SELECT date_trunc('day', at), kind, count(*) AS n FROM events WHERE at BETWEEN $1 AND $2 GROUP BY 1, 2) e`, nil},
		{"counts by hour over 30 days", month, func(f store.Filter) (int, any, error) {
			counts, err := s.Counts(ctx, f, time.Hour)
			var n int64
			for _, c := range counts {
				n += c.N
			}
			return len(counts), n, err
		}, `SELECT count(*), sum(n)::bigint FROM (SELECT date_trunc('hour', at), kind, count(*) AS n FROM events WHERE at BETWEEN $1 AND $2 GROUP BY 1, 2) e`, nil},
		{"outcomes", all, func(f store.Filter) (int, any, error) {
			o, err := s.Outcomes(ctx, f)
			return 1, o.Started + 1_000*o.Completed + 1_000_000*o.Failed + 1_000_000_000*o.TimedOut, err
		}, `SELECT 1, (count(*) FILTER (WHERE kind = 'spec_started') + 1000 * count(*) FILTER (WHERE kind = 'spec_completed') + 1000000 * count(*) FILTER (WHERE kind = 'spec_failed') + 1000000000 * count(*) FILTER (WHERE kind = 'timeout_triggered'))::bigint FROM events WHERE at BETWEEN $1 AND $2`, nil},
		{"durations, the last 1,000 attempts", all, func(f store.Filter) (int, any, error) {
			attempts, err := s.Durations(ctx, f)
			var took int64
			for _, a := range attempts {
				if a.Ended != nil {
					took += a.Ended.Sub(a.Started).Microseconds()
				}
			}
			return len(attempts), took, err
		}, `SELECT count(*), sum((extract(epoch FROM ended - at) * 1000000)::bigint)::bigint FROM (
			SELECT at, CASE WHEN next <> 'spec_started' THEN ended END AS ended FROM (
			    SELECT id, kind, at, lead(at) OVER w AS ended, lead(kind) OVER w AS next FROM events WHERE at BETWEEN $1 AND $2
			    AND kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered') WINDOW w AS (PARTITION BY session, spec ORDER BY at, id)
			) e WHERE kind = 'spec_started' ORDER BY at DESC, id DESC LIMIT 1000) a`, nil},
		{"menu of sessions", all, func(f store.Filter) (int, any, error) {
			names, total, err := s.Sessions(ctx, f, "")
			return len(names), total, err
		}, `SELECT least(count(*), 1000), count(*) FROM (SELECT DISTINCT session FROM events WHERE at BETWEEN $1 AND $2) e`, nil},
		{"menu of sessions, searched", all, func(f store.Filter) (int, any, error) {
			names, total, err := s.Sessions(ctx, f, "-17")
			return len(names), total, err
		}, `SELECT least(count(*), 1000), count(*) FROM (SELECT DISTINCT session FROM events WHERE at BETWEEN $1 AND $2 AND position('-17' IN session) > 0) e`, nil},
		{"menu of a session's specs", named, func(f store.Filter) (int, any, error) {
			names, total, err := s.Specs(ctx, f, "")
			return len(names), total, err
		}, `SELECT count(*), count(*) FROM (SELECT DISTINCT spec FROM events WHERE at BETWEEN $1 AND $2 AND session = $3) e`, []any{session}},
		{"one session's events", named, func(f store.Filter) (int, any, error) {
			events, err := s.Range(ctx, f)
			return len(events), int64(len(events)), err
		}, `SELECT count(*), count(*) FROM (SELECT * FROM events WHERE at BETWEEN $1 AND $2 AND session = $3 ORDER BY at DESC, id DESC LIMIT 1000) e`, []any{session}},
		{"timeline of a day, 100 specs", night, func(f store.Filter) (int, any, error) {
			_, specs, err := s.Timeline(ctx, f)
			return 1, specs, err
		}, ``, nil},
	}
	for _, q := range questions {
		var own, raw []time.Duration
		exact := true
		var found, said [2]int64
		for range w.Rounds {
			began := time.Now()
			n, sum, err := q.ask(q.f)
			own = append(own, time.Since(began))
			if err != nil {
				return lines, fmt.Errorf("%s: %w", q.name, err)
			}
			if q.sql == "" {
				continue
			}
			found = [2]int64{int64(n), sum.(int64)}
			began = time.Now()
			if err := conn.QueryRow(ctx, q.sql, append([]any{q.f.From, q.f.To}, q.args...)...).Scan(&said[0], &said[1]); err != nil {
				return lines, fmt.Errorf("%s: %w", q.name, err)
			}
			raw = append(raw, time.Since(began))
			exact = exact && reflect.DeepEqual(found, said)
		}
		line := Line{q.name + " over " + rows, ms(median(own)), "plain SQL: " + ms(median(raw)), fmt.Sprintf("%.3f", float64(median(own))/float64(median(raw))), "≤ 200 ms, exact", reaches(exact && median(own) <= 200*time.Millisecond)}
		if q.sql == "" {
			line.Reference, line.Ratio, line.Goal = "", "", "≤ 200 ms"
		}
		if !exact {
			line.Figure += fmt.Sprintf(", but %v where the table has %v", found, said)
		}
		lines = append(lines, line)
		w.say("%s: %s, plain SQL %s, exact %t", q.name, ms(median(own)), ms(median(raw)), exact)
	}
	return lines, nil
}

func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
