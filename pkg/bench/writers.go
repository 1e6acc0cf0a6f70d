//go:build linux

package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// hammer lets so many writers insert single events as fast as they can, and
// returns their rate.
func hammer(ctx context.Context, address, table string, writers int, span time.Duration) (float64, error) {
	conns := make([]*pgx.Conn, writers)
	for i := range conns {
		conn, err := connect(ctx, address)
		if err != nil {
			return 0, err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		// Else the disk is measured.
		if _, err := conn.Exec(ctx, `SET synchronous_commit = off`); err != nil {
			return 0, err
		}
		conns[i] = conn
	}
	var done atomic.Int64
	var failure atomic.Pointer[error]
	var writing sync.WaitGroup
	began := time.Now()
	for _, conn := range conns {
		writing.Go(func() {
			for time.Since(began) < span && ctx.Err() == nil {
				if _, err := conn.Exec(ctx, `INSERT INTO `+table+` (kind, session, spec) VALUES ('session_heartbeat', 'bench', 'spec')`); err != nil {
					failure.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	writing.Wait()
	if err := failure.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / time.Since(began).Seconds(), nil
}

func (w *world) writers(ctx context.Context) (lines []Line, err error) {
	database, err := w.database(ctx, "writers")
	if err != nil {
		return nil, err
	}
	defer w.drop("writers")
	if err := exec1(ctx, database, `CREATE TABLE bare_events (LIKE events INCLUDING ALL)`); err != nil {
		return nil, err
	}
	gateway, err := w.gateway(ctx, database)
	if err != nil {
		return nil, err
	}
	ws, err := gateway.dial(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer ws.close()
	const shortest = 2 * time.Second
	for _, writers := range []int{1, 16, 64} {
		var ratios, own, bare []float64
		rounds := 2 * w.Rounds // ratios near 1 need more of them
		err := w.profile(gateway, fmt.Sprintf("writers-%d", writers), time.Duration(2*rounds)*shortest, func() error {
			for round := range rounds {
				rates := map[string]float64{}
				for i := range 2 {
					table := []string{"events", "bare_events"}[(i+round)%2]
					before := ws.count()
					rate, err := hammer(ctx, database, table, writers, max(shortest, w.Span/2))
					if err != nil {
						return err
					}
					rates[table] = rate
					if table == "events" {
						// The client, too, has to get there before the other turn.
						if err := ws.settle(ctx, before+1); err != nil {
							return err
						}
					}
				}
				own, bare = append(own, rates["events"]), append(bare, rates["bare_events"])
				ratios = append(ratios, rates["events"]/rates["bare_events"])
				w.say("%d writers, round %d: %.0f/s watched, %.0f/s without trigger, %.2f", writers, round+1, rates["events"], rates["bare_events"], rates["events"]/rates["bare_events"])
			}
			return nil
		})
		if err != nil {
			return lines, err
		}
		lines = append(lines, Line{fmt.Sprintf("%d writers while watched", writers), fmt.Sprintf("%.0f/s", median(own)), fmt.Sprintf("without trigger: %.0f/s", median(bare)),
			fmt.Sprintf("%.2f", median(ratios)), "≥ 0.95", reaches(median(ratios) >= 0.945)})
	}
	return lines, nil
}

// settle waits until the client has so many events, and then until no more
// arrive.
func (c *client) settle(ctx context.Context, n int) error {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := c.got(waiting, n)
	for seen := -1; err == nil && seen != c.count(); {
		seen = c.count()
		time.Sleep(200 * time.Millisecond)
	}
	return err
}

const burstEvents = 200_000

// pour writes so many events by four writers in transactions of 100.
func pour(ctx context.Context, address, insert string) error {
	const writers, each = 4, 100
	var writing sync.WaitGroup
	failed := make(chan error, writers)
	for range writers {
		writing.Go(func() {
			conn, err := connect(ctx, address)
			if err != nil {
				failed <- err
				return
			}
			defer conn.Close(context.WithoutCancel(ctx))
			for range burstEvents / writers / each {
				if _, err := conn.Exec(ctx, insert, each); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	writing.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

const pourInto = ` (kind, session, spec, data) SELECT 'session_heartbeat', 'bench', n::text, '{"silentSeconds":1}' FROM generate_series(1, $1::int) n`

// burst is how long it takes until one client has what four writers write.
func (w *world) burst(ctx context.Context) ([]Line, error) {
	database, err := w.database(ctx, "burst")
	if err != nil {
		return nil, err
	}
	defer w.drop("burst")
	gateway, err := w.gateway(ctx, database)
	if err != nil {
		return nil, err
	}
	contenders := []*contender{{name: "specwatch", gateway: gateway}}
	inserts := map[string]string{"specwatch": `INSERT INTO events` + pourInto}
	if w.Centrifugo != "" {
		outbox, err := w.outbox(ctx, database)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders, outbox)
		inserts[outbox.name] = outboxPour
	}
	rates := map[string][]float64{}
	err = w.profile(gateway, "burst", 10*time.Second, func() error {
		for round := range w.Rounds {
			for _, c := range contenders {
				ws, err := c.dial(ctx, nil)
				if err != nil {
					return err
				}
				before := ws.count()
				began := time.Now()
				waiting, cancel := context.WithTimeout(ctx, 3*patience)
				err = pour(waiting, database, inserts[c.name])
				written := time.Since(began)
				if err == nil {
					err = ws.got(waiting, before+burstEvents)
				}
				cancel()
				ws.close()
				if err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
				rate := burstEvents / time.Since(began).Seconds()
				rates[c.name] = append(rates[c.name], rate)
				w.say("burst, round %d, %s: %.0f/s; written after %s, delivered %s later", round+1, c.name, rate, ms(written), ms(time.Since(began)-written))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	line := Line{"200,000 events by 4 writers to one client", fmt.Sprintf("%.0f/s", median(rates["specwatch"])), "Centrifugo's outbox consumer: SPECWATCH_BENCH_CENTRIFUGO names none", "", "≥ 2", Skipped}
	if w.Centrifugo != "" {
		other := median(rates[contenders[1].name])
		ratio := median(rates["specwatch"]) / other
		line.Reference, line.Ratio, line.Verdict = fmt.Sprintf("%s: %.0f/s", contenders[1].name, other), fmt.Sprintf("%.1f", ratio), reaches(ratio >= 2)
	}
	return []Line{line}, nil
}
