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
	manySpan    = 10 * time.Second
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
	idle, err := w.idleClients(ctx, gateway)
	if err != nil {
		return nil, err
	}
	lines = append(lines, idle)
	// One client, and then many: the same reads of the database.
	one, err := w.deliver(ctx, gateway, database, 1)
	if err != nil {
		return lines, err
	}
	many, err := w.deliver(ctx, gateway, database, manyClients)
	if err != nil {
		return lines, err
	}
	work := "1,000 WebSocket clients × 100 events/s"
	return append(lines,
		Line{work + ": loss", fmt.Sprintf("%.0f of %d deliveries", many.lost, manyClients*manyRate*int(manySpan.Seconds())), "", "", "0", reaches(many.lost == 0)},
		Line{work + ": reads of the database", fmt.Sprintf("%.0f/s", many.reads), fmt.Sprintf("1 client: %.0f/s", one.reads), fmt.Sprintf("%.2f", many.reads/one.reads), "≤ 1.1", reaches(many.reads <= 1.1*one.reads)},
		Line{work + ": p99", ms(many.p99), "1 client: " + ms(one.p99), fmt.Sprintf("%.1f", float64(many.p99)/float64(one.p99)), "", Told},
	), nil
}

// idleClients is how much memory a gateway needs for clients that get nothing.
func (w *world) idleClients(ctx context.Context, gateway *process) (Line, error) {
	before, usedBefore, err := gateway.memory("")
	if err != nil {
		return Line{}, err
	}
	w.say("clients: opening %d idle ones", w.Clients)
	idlers, err := dialMany(ctx, gateway.base+"/ws", w.Clients)
	if err != nil {
		return Line{}, err
	}
	profile := ""
	if w.Profiles != "" {
		profile = filepath.Join(w.Profiles, "idle-clients-heap.pprof")
	}
	after, usedAfter, err := gateway.memory(profile)
	goroutines, _ := gateway.metric("go_goroutines")
	closeAll(idlers)
	if err != nil {
		return Line{}, err
	}
	each := (after - before) / float64(w.Clients) / 1024
	return Line{fmt.Sprintf("memory for each of %d idle WebSocket clients", w.Clients), fmt.Sprintf("%.1f KB of the process", each),
		fmt.Sprintf("heap and stacks: %.1f KB; goroutines: %.1f", (usedAfter-usedBefore)/float64(w.Clients)/1024, goroutines/float64(w.Clients)), "", fmt.Sprintf("≤ %d KB", mostPerIdle), reaches(each <= mostPerIdle)}, nil
}

// delivery is what some clients get, and what it costs.
type delivery struct {
	reads, lost float64 // reads of the database a second, events that did not arrive
	p99         time.Duration
}

// deliver writes at a steady pace while n clients follow.
func (w *world) deliver(ctx context.Context, gateway *process, database string, n int) (o delivery, err error) {
	here, err := gateway.here(ctx)
	if err != nil {
		return o, err
	}
	others, err := dialMany(ctx, gateway.base+"/ws?since="+here, n-1)
	if err != nil {
		return o, err
	}
	defer closeAll(others)
	l := newLatencies(manyRate * int(manySpan.Seconds()+1))
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
	if err := l.write(ctx, database, "events", pace{"", manyRate, 1}, manySpan); err != nil {
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
	o.reads = (now - reads) / manySpan.Seconds()
	times, _ := l.list()
	o.p99 = percentile(times, 0.99)
	w.say("%d clients at %d events/s: %.0f lost, %.0f reads/s, p99 %s", n, manyRate, o.lost, o.reads, ms(o.p99))
	return o, err
}
