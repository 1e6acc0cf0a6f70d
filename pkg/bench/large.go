//go:build linux

package bench

import (
	"context"
	"fmt"
	"time"
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

	more, err := w.starts(ctx, database, rows)
	lines = append(lines, more...)
	if err != nil {
		return lines, err
	}
	more, err = w.samePoll(ctx, small, database, rows)
	lines = append(lines, more...)
	if err != nil {
		return lines, err
	}
	w.endAll()
	more, err = w.questions(ctx, database, rows)
	return append(lines, more...), err
}

// starts is how long a gateway takes until it answers: one that finds neither
// rollups nor a summary, and one that starts after it has kept both.
func (w *world) starts(ctx context.Context, database, rows string) ([]Line, error) {
	w.say("first start on %s", rows)
	first, err := w.serve(ctx, database)
	if err != nil {
		return nil, err
	}
	firstReady, err := first.answers(ctx)
	if err != nil {
		return nil, err
	}
	w.say("the first gateway answers after %s; it makes the rollups", ms(firstReady))
	kept, err := w.keeps(ctx, database, first.started)
	if err != nil {
		return nil, err
	}
	w.end(first)
	if err := exec1(ctx, database, `VACUUM ANALYZE`); err != nil {
		return nil, err
	}
	var ready []time.Duration
	for round := range w.Rounds {
		p, err := w.serve(ctx, database)
		if err != nil {
			return nil, err
		}
		took, err := p.answers(ctx)
		if err != nil {
			return nil, err
		}
		w.say("start %d: answers after %s", round+1, ms(took))
		ready = append(ready, took)
		w.end(p)
	}
	return []Line{
		{"gateway ready on " + rows, ms(median(ready)), "", "", "≤ 1 s", reaches(median(ready) <= time.Second)},
		{"its first start, without rollups and summary", ms(firstReady), "rollups and summary were kept after " + kept.Round(time.Second).String(), "", "", Told},
	}, nil
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

func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
