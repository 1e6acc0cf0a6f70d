//go:build linux

package bench

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

const latencyWriters = 8

// latencies are measured from when a writer knows that its commit is done to
// when the client holds the message.
type latencies struct {
	committed, arrived []atomic.Int64 // nanoseconds since began, by number
	began              time.Time
}

func newLatencies(n int) *latencies {
	return &latencies{committed: make([]atomic.Int64, n), arrived: make([]atomic.Int64, n), began: time.Now()}
}

func (l *latencies) took(text []byte, at time.Time) {
	specs(text, func(n int) {
		if n < len(l.arrived) {
			l.arrived[n].CompareAndSwap(0, int64(at.Sub(l.began)))
		}
	})
}

// list leaves the first second out, and what never arrived.
func (l *latencies) list() (all []time.Duration, lost int) {
	for n := range l.committed {
		committed, arrived := l.committed[n].Load(), l.arrived[n].Load()
		switch {
		case committed == 0:
		case arrived == 0:
			lost++
		case committed > int64(time.Second):
			all = append(all, time.Duration(arrived-committed))
		}
	}
	return all, lost
}

type pace struct {
	name        string
	rate, batch int // events a second, events in a transaction
}

var paces = []pace{{"100/s", 100, 1}, {"1,000/s", 1_000, 1}, {"5,000/s in tens", 5_000, 10}}

// write inserts at a steady pace, numbers as specs, and notes when the commits
// were done.
func (l *latencies) write(ctx context.Context, address, table string, p pace, span time.Duration) error {
	each := time.Duration(float64(time.Second) * float64(p.batch) / float64(p.rate))
	var next atomic.Int64
	var writing sync.WaitGroup
	failed := make(chan error, latencyWriters)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	insert := `INSERT INTO ` + table + ` (kind, session, spec) SELECT 'session_heartbeat', 'bench', n::text FROM generate_series($1::int, $2::int) n`
	if p.batch == 1 {
		insert = `INSERT INTO ` + table + ` (kind, session, spec) VALUES ('session_heartbeat', 'bench', $1)`
	}
	conns := make([]*pgx.Conn, latencyWriters)
	for i := range conns {
		conn, err := connect(ctx, address)
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		conns[i] = conn
	}
	l.began = time.Now()
	for _, conn := range conns {
		writing.Go(func() {
			for {
				turn := int(next.Add(1) - 1)
				due := l.began.Add(time.Duration(turn) * each)
				if due.Sub(l.began) > span || (turn+1)*p.batch > len(l.committed) {
					return
				}
				select {
				case <-time.After(time.Until(due)):
				case <-ctx.Done():
					return
				}
				first := turn * p.batch
				args := []any{strconv.Itoa(first)}
				if p.batch > 1 {
					args = []any{first, first + p.batch - 1}
				}
				if _, err := conn.Exec(ctx, insert, args...); err != nil {
					failed <- err
					cancel()
					return
				}
				at := int64(time.Since(l.began))
				for n := first; n < first+p.batch; n++ {
					l.committed[n].Store(at)
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

// contender is one way to bring events to a client.
type contender struct {
	name, table, address string
	say                  []string
	gateway              *process // of Specwatch; nil: another
	p50, p99             []time.Duration
}

// dial opens a client that gets what comes from now on.
func (c *contender) dial(ctx context.Context, took func([]byte, time.Time)) (*client, error) {
	if c.gateway != nil {
		return c.gateway.dial(ctx, took)
	}
	return dial(ctx, c.address, took, c.say...)
}

func (p *process) dial(ctx context.Context, took func([]byte, time.Time)) (*client, error) {
	here, err := p.here(ctx)
	if err != nil {
		return nil, err
	}
	return dial(ctx, p.base+"/ws?since="+here, took)
}

func (w *world) latency(ctx context.Context) (lines []Line, err error) {
	database, err := w.database(ctx, "latency")
	if err != nil {
		return nil, err
	}
	defer w.drop("latency")
	if err := exec1(ctx, database, floorTable); err != nil {
		return nil, err
	}
	gateway, err := w.gateway(ctx, database)
	if err != nil {
		return nil, err
	}
	floor, err := w.start(ctx, "", []string{"SPECWATCH_BENCH_DATABASE_URL=" + database}, w.Floor[0], w.Floor[1:]...)
	if err != nil {
		return nil, err
	}
	contenders := []*contender{{name: "specwatch", table: "events", gateway: gateway}, {name: "floor", table: "bare_events", address: floor.base}}
	if w.Centrifugo != "" {
		outbox, err := w.outbox(ctx, database)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders, outbox)
	}
	for _, p := range paces {
		for _, c := range contenders {
			c.p50, c.p99 = nil, nil
		}
		err := w.profile(gateway, fmt.Sprintf("latency-%d", p.rate), time.Duration(w.Rounds*len(contenders))*w.Span, func() error {
			for round := range w.Rounds {
				for i := range contenders {
					c := contenders[(i+round)%len(contenders)] // who is first changes
					if err := w.latencyOf(ctx, database, c, p, round); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return lines, err
		}
		lines = append(lines, latencyLines(contenders, p)...)
	}
	return lines, nil
}

// latencyOf measures one contender at one pace.
func (w *world) latencyOf(ctx context.Context, database string, c *contender, p pace, round int) error {
	l := newLatencies(int(float64(p.rate) * (w.Span.Seconds() + 1)))
	ws, err := c.dial(ctx, l.took)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	err = l.write(ctx, database, c.table, p, w.Span)
	time.Sleep(200 * time.Millisecond) // what has not come by then counts as lost
	ws.close()
	if err != nil {
		return err
	}
	all, lost := l.list()
	if len(all) == 0 {
		return fmt.Errorf("%s: nothing arrived", c.name)
	}
	c.p50, c.p99 = append(c.p50, median(all)), append(c.p99, percentile(all, 0.99))
	w.say("latency %s, round %d, %s: p50 %s, p99 %s, %d of %d not seen", p.name, round+1, c.name, ms(median(all)), ms(percentile(all, 0.99)), lost, lost+len(all))
	return nil
}

// latencyLines compares the first contender with the others.
func latencyLines(contenders []*contender, p pace) (lines []Line) {
	own := contenders[0]
	for _, q := range []struct {
		name  string
		goal  float64
		value func(*contender) time.Duration
	}{
		{"p50", 1.3, func(c *contender) time.Duration { return median(c.p50) }},
		{"p99", 2, func(c *contender) time.Duration { return median(c.p99) }},
	} {
		for _, c := range contenders[1:] {
			ratio := float64(q.value(own)) / float64(q.value(c))
			line := Line{"commit → WebSocket client, " + p.name + ", " + q.name, ms(q.value(own)), "bare program: " + ms(q.value(c)),
				fmt.Sprintf("%.1f", ratio), fmt.Sprintf("≤ %.1f", q.goal), reaches(ratio <= q.goal)}
			if c.name != "floor" {
				line.Reference, line.Goal, line.Verdict = c.name+": "+ms(q.value(c)), "", Told
			}
			lines = append(lines, line)
		}
	}
	return lines
}

func ms(d time.Duration) string {
	v := float64(d) / float64(time.Millisecond)
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f ms", v)
	case v < 100:
		return fmt.Sprintf("%.1f ms", v)
	}
	return fmt.Sprintf("%.0f ms", v)
}
