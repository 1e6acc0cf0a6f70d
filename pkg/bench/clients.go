//go:build linux

package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	manyClients = 1_000
	manyRate    = 100
	mostPerIdle = 20 // KB
)

// dialMany opens so many WebSockets, some at a time.
func dialMany(ctx context.Context, address string, n int) ([]*client, error) {
	clients := make([]*client, n)
	turns := make(chan int, n)
	for i := range n {
		turns <- i
	}
	close(turns)
	var dialing sync.WaitGroup
	failed := make(chan error, 1)
	for range 32 {
		dialing.Go(func() {
			for i := range turns {
				c, err := dial(ctx, address, nil)
				if err != nil {
					select {
					case failed <- err:
					default:
					}
					return
				}
				clients[i] = c
			}
		})
	}
	dialing.Wait()
	select {
	case err := <-failed:
		closeAll(clients)
		return nil, err
	default:
		return clients, nil
	}
}

func closeAll(clients []*client) {
	for _, c := range clients {
		if c != nil {
			c.ws.Close()
		}
	}
	for _, c := range clients {
		if c != nil {
			<-c.done
		}
	}
}

// memory is what a gateway holds once its garbage has been collected.
func (p *process) memory(profile string) (resident, inUse float64, err error) {
	// Twice: what a finalizer holds goes with the second collection.
	for range 2 {
		resp, err := http.Get(p.pprof + "/debug/pprof/heap?gc=1")
		if err != nil {
			return 0, 0, err
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if profile != "" {
			if err := os.WriteFile(profile, text, 0o644); err != nil {
				return 0, 0, err
			}
		}
	}
	if resident, err = p.metric("process_resident_memory_bytes"); err != nil {
		return 0, 0, err
	}
	for _, name := range []string{"go_memstats_heap_alloc_bytes", "go_memstats_stack_inuse_bytes"} {
		v, err := p.metric(name)
		if err != nil {
			return 0, 0, err
		}
		inUse += v
	}
	return resident, inUse, nil
}

func (w *world) clients(ctx context.Context) (lines []Line, err error) {
	database, err := w.database(ctx, "clients")
	if err != nil {
		return nil, err
	}
	defer w.drop("clients")
	gateway, err := w.gateway(ctx, database)
	if err != nil {
		return nil, err
	}
	before, usedBefore, err := gateway.memory("")
	if err != nil {
		return nil, err
	}
	w.say("clients: opening %d idle ones", w.Clients)
	idlers, err := dialMany(ctx, gateway.base+"/ws", w.Clients)
	if err != nil {
		return nil, err
	}
	profile := ""
	if w.Profiles != "" {
		profile = filepath.Join(w.Profiles, "idle-clients-heap.pprof")
	}
	after, usedAfter, err := gateway.memory(profile)
	goroutines, _ := gateway.metric("go_goroutines")
	closeAll(idlers)
	if err != nil {
		return nil, err
	}
	each := (after - before) / float64(w.Clients) / 1024
	lines = append(lines, Line{fmt.Sprintf("memory for each of %d idle WebSocket clients", w.Clients), fmt.Sprintf("%.1f KB of the process", each),
		fmt.Sprintf("heap and stacks: %.1f KB; goroutines: %.1f", (usedAfter-usedBefore)/float64(w.Clients)/1024, goroutines/float64(w.Clients)), "", fmt.Sprintf("≤ %d KB", mostPerIdle), reaches(each <= mostPerIdle)})

	// One client, and then many: the same reads of the database.
	const span = 10 * time.Second
	type outcome struct {
		reads, lost float64
		p99         time.Duration
	}
	run := func(n int) (o outcome, err error) {
		here, err := gateway.here(ctx)
		if err != nil {
			return o, err
		}
		others, err := dialMany(ctx, gateway.base+"/ws?since="+here, n-1)
		if err != nil {
			return o, err
		}
		defer closeAll(others)
		l := newLatencies(manyRate * int(span.Seconds()+1))
		watched, err := gateway.dial(ctx, l.took)
		if err != nil {
			return o, err
		}
		defer watched.close()
		all := append(others, watched)
		seen := make([]int, n)
		for i, c := range all {
			seen[i] = c.count()
		}
		reads, err := gateway.metric("specwatch_feed_reads_total")
		if err != nil {
			return o, err
		}
		if err := l.write(ctx, database, "events", pace{"", manyRate, 1}, span); err != nil {
			return o, err
		}
		written := 0
		for i := range l.committed {
			if l.committed[i].Load() > 0 {
				written++
			}
		}
		waiting, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		for i, c := range all {
			c.got(waiting, seen[i]+written) //nolint:errcheck // the difference tells
			o.lost += float64(written - (c.count() - seen[i]))
		}
		now, err := gateway.metric("specwatch_feed_reads_total")
		o.reads = (now - reads) / span.Seconds()
		times, _ := l.list()
		o.p99 = percentile(times, 0.99)
		w.say("%d clients at %d events/s: %.0f lost, %.0f reads/s, p99 %s", n, manyRate, o.lost, o.reads, ms(o.p99))
		return o, err
	}
	one, err := run(1)
	if err != nil {
		return lines, err
	}
	many, err := run(manyClients)
	if err != nil {
		return lines, err
	}
	work := "1,000 WebSocket clients × 100 events/s"
	return append(lines,
		Line{work + ": loss", fmt.Sprintf("%.0f of %d deliveries", many.lost, manyClients*manyRate*int(span.Seconds())), "", "", "0", reaches(many.lost == 0)},
		Line{work + ": reads of the database", fmt.Sprintf("%.0f/s", many.reads), fmt.Sprintf("1 client: %.0f/s", one.reads), fmt.Sprintf("%.2f", many.reads/one.reads), "≤ 1.1", reaches(many.reads <= 1.1*one.reads)},
		Line{work + ": p99", ms(many.p99), "1 client: " + ms(one.p99), fmt.Sprintf("%.1f", float64(many.p99)/float64(one.p99)), "", Told},
	), nil
}
