//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/specwatch/specwatch/pkg/embedded"
)

// episodes are the scenarios whose faults end a history. They run at the same
// time as the main scenario.
func (r *run) episodes(report *Report) []func(ctx context.Context) error {
	var all []func(ctx context.Context) error
	if r.options.wants(failOver) {
		r.planned.Add(2 * int64(r.options.Rounds))
		all = append(all, func(ctx context.Context) error { return r.failOvers(ctx, report) })
	}
	if kinds := r.historyKinds(); len(kinds) > 0 {
		r.planned.Add(int64(len(kinds) * r.options.Rounds))
		all = append(all, func(ctx context.Context) error { return r.histories(ctx, report, kinds) })
	}
	return all
}

const (
	theFailOver = "fail-over"

	failOver = "fail-over: primary killed, standby promoted"
	followed = "standby follows its promoted upstream"
)

// failOvers kills one primary after the other and promotes its standby, while
// the next standby already follows that one.
func (r *run) failOvers(ctx context.Context, report *Report) (err error) {
	rng := r.random("fail-over")
	var at [3]int
	for i := range at {
		if at[i], err = r.ports.next(); err != nil {
			return err
		}
	}
	name := func(n int) string { return fmt.Sprint("fail-over ", n%3) }
	settings := map[string]string{"shared_buffers": "16MB"}
	log, err := r.logs.open("fail-over")
	if err != nil {
		return err
	}
	primary, err := embedded.Start(ctx, embedded.Config{Dir: filepath.Join(r.folder, name(0)), Version: r.options.Version, Port: at[0], Log: log, Settings: map[string]string{
		"fsync": "off", "max_connections": "100", "max_prepared_transactions": "10", "wal_retrieve_retry_interval": "100ms", "shared_buffers": settings["shared_buffers"], "max_wal_size": "128MB", "min_wal_size": "32MB",
	}})
	if err != nil {
		return err
	}
	var standby, next *embedded.Server
	defer func() {
		for _, s := range []*embedded.Server{next, standby, primary} {
			endServer(s)
		}
	}()
	if err := r.prepare(ctx, primary.URL()); err != nil {
		return err
	}
	follow := func(upstream *embedded.Server, n int) (*embedded.Server, error) {
		dir := filepath.Join(r.folder, name(n))
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
		return upstream.Standby(ctx, embedded.Config{Dir: dir, Port: at[n%3], Log: log})
	}
	if standby, err = follow(primary, 1); err != nil {
		return err
	}

	u, err := url.Parse(primary.URL())
	if err != nil {
		return err
	}
	hosts := func(attributes string) string {
		return fmt.Sprintf("postgres://%s@127.0.0.1:%d,127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable&target_session_attrs=%s", u.User, at[0], at[1], at[2], attributes)
	}
	living, end := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer end()
	var addresses []string
	for name, attributes := range map[string]string{"gateway on whichever is primary": "read-write", "gateway on any server": "any", "gateway on a standby": "prefer-standby"} {
		g, address, err := r.gateway(name, hosts(attributes))
		if err != nil {
			return err
		}
		defer g.kill()
		addresses = append(addresses, attributes, address)
	}
	address := func(attributes string) string {
		for i := 0; i < len(addresses); i += 2 {
			if addresses[i] == attributes {
				return addresses[i+1]
			}
		}
		panic(attributes)
	}
	writer, anywhere, reader := address("read-write"), address("any"), address("prefer-standby")
	var chains []*chain
	add := func(name string, live func(*client, context.Context), addresses ...string) {
		c := newClient(name, r.options.Seed, addresses...)
		chains = append(chains, c.chain)
		parts.Go(func() { live(c, living) })
	}
	add("WebSocket", (*client).runSocket, writer)
	add("poller", (*client).runSmallPages, writer)
	add("toggling", (*client).runToggling, writer)
	add("WebSocket, any server", (*client).runSocket, anywhere)
	add("poller, any server", (*client).runSmallPages, anywhere)
	add("WebSocket on a standby", (*client).runSocket, reader)
	add("moving between all", (*client).runToggling, writer, anywhere, reader)
	t, err := r.newTail("tail over a fail-over", hosts("read-write"))
	if err != nil {
		return err
	}
	chains = append(chains, t.chain)
	parts.Go(func() { t.follow(living) })

	var mu sync.Mutex
	current := primary.URL()
	w := newWriting(r, "fail-over", func() string {
		mu.Lock()
		defer mu.Unlock()
		return current
	})
	producing, stop := context.WithCancel(living)
	defer stop()
	var producers sync.WaitGroup
	for name, work := range map[string]job{"single": (*producer).single, "undone": (*producer).undone, "late": (*producer).late} {
		p := w.producer(name)
		producers.Go(func() { p.sql(producing, 2*r.options.Pause, work) })
	}

	for n := 0; n < r.options.Rounds && ctx.Err() == nil; n++ {
		if next, err = follow(standby, n+2); err != nil {
			return fmt.Errorf("making a standby of a standby: %w", err)
		}
		lasting(ctx, rng, 100*time.Millisecond, 500*time.Millisecond)
		from := time.Now()
		if err := primary.Kill(); err != nil {
			return err
		}
		var promoted bool
		conn, err := connect(ctx, standby.URL())
		if err != nil {
			return err
		}
		err = conn.QueryRow(ctx, "SELECT pg_promote()").Scan(&promoted)
		conn.Close(ctx)
		if err != nil || !promoted {
			return fmt.Errorf("cannot promote: %v, %w", promoted, err)
		}
		primary, standby, next = standby, next, nil
		mu.Lock()
		current = primary.URL()
		mu.Unlock()
		r.faults.note(theFailOver, failOver, from, time.Now(), nil)
		id, err := number(ctx, primary.URL(), `INSERT INTO events (kind, session) VALUES ('session_heartbeat', 'taken over') RETURNING id`)
		if err != nil {
			return err
		}
		arrived := false
		for late := time.Now().Add(time.Minute); !arrived && ctx.Err() == nil; wait(ctx, 50*time.Millisecond) {
			if found, err := number(ctx, standby.URL(), `SELECT count(*) FROM events WHERE id = $1 AND session = 'taken over'`, id); err == nil && found == 1 {
				arrived = true
			} else if time.Now().After(late) {
				return fmt.Errorf("the standby does not follow its promoted upstream: %w", err)
			}
		}
		r.faults.note(theFailOver, followed, from, time.Now(), nil)
		lasting(ctx, rng, 100*time.Millisecond, 500*time.Millisecond)
	}
	stop()
	producers.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	stuck, err := r.settle(ctx, primary.URL(), chains)
	if err != nil {
		return err
	}
	facts, err := readTruth(ctx, primary.URL())
	if err != nil {
		return err
	}
	report.compare(theFailOver, facts, chains, stuck, w, true)
	return nil
}

const (
	copied    = "database copied (TEMPLATE), old cursors about"
	beside    = "dump restored beside the original, old cursors about"
	over      = "earlier dump restored over the same database"
	exchanged = "earlier copy put in the place of the database"
)

func (r *run) historyKinds() (kinds []string) {
	for _, kind := range []string{copied, beside, over, exchanged} {
		if r.options.wants(kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// annex is the server of the episodes in which a database is copied, or an
// older state is restored.
type annex struct {
	*run
	server *embedded.Server
	report *Report
	n      int
}

func (r *run) histories(ctx context.Context, report *Report, kinds []string) error {
	server, err := r.server(ctx, "annex", filepath.Join(r.folder, "annex"), map[string]string{"shared_buffers": "16MB", "max_wal_size": "128MB", "min_wal_size": "32MB"})
	if err != nil {
		return err
	}
	defer endServer(server)
	a := &annex{run: r, server: server, report: report}
	rng := r.random("histories")
	var turns []string
	for _, kind := range kinds {
		for range r.options.Rounds {
			turns = append(turns, kind)
		}
	}
	rng.Shuffle(len(turns), func(i, k int) { turns[i], turns[k] = turns[k], turns[i] })
	var mu sync.Mutex
	var workers sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		workers.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				if len(turns) == 0 {
					mu.Unlock()
					return
				}
				kind := turns[0]
				turns = turns[1:]
				a.n++
				e := &episode{annex: a, name: fmt.Sprint("original_", a.n), kind: kind}
				mu.Unlock()
				from := time.Now()
				if err := e.play(ctx); err != nil {
					errs[i] = fmt.Errorf("%s: %w", kind, err)
					return
				}
				r.faults.note(kind, kind, from, time.Now(), nil)
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

// episode has one database of its own, a gateway and clients on it.
type episode struct {
	*annex
	name string // of the database
	kind string
}

func (e *episode) url(database string) string { return inDatabase(e.server.URL(), database) }

// write adds some events, one transaction each.
func (e *episode) write(ctx context.Context, database, who string, n int) error {
	w := newWriting(e.run, e.kind, nil)
	p := w.producer(who)
	conn, err := connect(ctx, e.url(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for range n {
		if err := p.single(ctx, conn); err != nil {
			return err
		}
	}
	return nil
}

// catch polls until there is no more.
func catch(ctx context.Context, c *client) error {
	late := time.Now().Add(stopPatience)
	for ctx.Err() == nil {
		more, ok := c.poll(ctx, c.pick(), 3)
		if ok && !more {
			return nil
		}
		if !ok && c.at() != "" {
			wait(ctx, 50*time.Millisecond)
		}
		if time.Now().After(late) {
			return fmt.Errorf("no answer for %s: %s", stopPatience, list(c.answers))
		}
	}
	return ctx.Err()
}

// taking returns a client of other gateways that continues with the cursor and
// events of this one.
func (c *client) taking(name string, seed uint64, addresses ...string) *client {
	other := newClient(name, seed, addresses...)
	other.held, other.cursor, other.place, other.reading = maps.Clone(c.held), c.cursor, c.place, c.reading
	return other
}

func (e *episode) play(ctx context.Context) error {
	if err := execute(ctx, e.server.URL(), "CREATE DATABASE "+e.name); err != nil {
		return err
	}
	defer e.drop(ctx, e.name)
	if err := e.prepare(ctx, e.url(e.name)); err != nil {
		return err
	}
	if err := e.write(ctx, e.name, "before", 8); err != nil {
		return err
	}
	g, address, err := e.gateway(e.name, e.url(e.name))
	if err != nil {
		return err
	}
	defer g.kill()
	seed := e.options.Seed
	reader := newClient("poller", seed, address)
	if err := catch(ctx, reader); err != nil {
		return err
	}
	if e.kind == over || e.kind == exchanged {
		return e.older(ctx, reader, address)
	}
	return e.copy(ctx, g, reader, address)
}

// copy makes another database of this one and takes cursors from each to the other.
func (e *episode) copy(ctx context.Context, g *program, reader *client, address string) error {
	seed, other := e.options.Seed, e.name+"_copy"
	inPage := reader.taking("", seed, address)
	if err := e.write(ctx, e.name, "page", 5); err != nil {
		return err
	}
	inPage.poll(ctx, address, 2) // its cursor is between two pages
	if e.kind == copied {
		g.kill() // a template may have no other connection
		if err := e.again(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", other, e.name)); err != nil {
			return err
		}
		if err := g.start(); err != nil {
			return err
		}
	} else {
		if err := execute(ctx, e.server.URL(), "CREATE DATABASE "+other); err != nil {
			return err
		}
		if err := e.prepare(ctx, e.url(other)); err != nil {
			return err
		}
		dump, err := readDump(ctx, e.url(e.name))
		if err != nil {
			return err
		}
		if err := dump.restore(ctx, e.url(other)); err != nil {
			return err
		}
		if err := e.commandLine(ctx, e.url(other), "migrate"); err != nil {
			return err
		}
	}
	defer e.drop(ctx, other)
	h, copyDoor, err := e.gateway(other, e.url(other))
	if err != nil {
		return err
	}
	defer h.kill()

	before := reader.taking("cursor from before the copy, at the copy", seed, copyDoor)
	socket := reader.taking("the same, by WebSocket", seed, copyDoor)
	page := inPage.taking("cursor inside a page, at the copy", seed, copyDoor)
	if err := errors.Join(e.write(ctx, other, "copy", 4), e.write(ctx, e.name, "original", 6)); err != nil {
		return err
	}
	if err := catch(ctx, reader); err != nil {
		return err
	}
	after := reader.taking("cursor from after the copy, at the copy", seed, copyDoor)
	ofCopy := newClient("cursor of the copy, at the original", seed, copyDoor)
	if err := catch(ctx, ofCopy); err != nil {
		return err
	}
	ofCopy.addresses = []string{address}
	all := []*client{before, page, after, ofCopy, reader}
	for _, c := range all {
		if err := catch(ctx, c); err != nil {
			return err
		}
	}
	if err := errors.Join(e.write(ctx, other, "copy", 3), e.write(ctx, e.name, "original", 2)); err != nil {
		return err
	}
	for _, c := range all {
		if err := catch(ctx, c); err != nil {
			return err
		}
	}
	stuck, err := e.watch(ctx, other, socket)
	if err != nil {
		return err
	}
	// The last event of the socket is new to the pollers.
	for _, c := range []*client{before, page, after} {
		if err := catch(ctx, c); err != nil {
			return err
		}
	}
	return errors.Join(
		e.judge(ctx, other, stuck, before, page, after, socket),
		e.judge(ctx, e.name, nil, reader, ofCopy))
}

// watch waits until the clients have the last event.
func (e *episode) watch(ctx context.Context, database string, clients ...*client) (stuck []*chain, err error) {
	following, stop := context.WithCancel(ctx)
	defer stop()
	var parts sync.WaitGroup
	var chains []*chain
	for _, c := range clients {
		chains = append(chains, c.chain)
		parts.Go(func() { c.runSocket(following) })
	}
	stuck, err = e.settle(ctx, e.url(database), chains)
	stop()
	parts.Wait()
	return stuck, err
}

func (e *episode) judge(ctx context.Context, database string, stuck []*chain, clients ...*client) error {
	facts, err := readTruth(ctx, e.url(database))
	if err != nil {
		return err
	}
	var chains []*chain
	for _, c := range clients {
		chains = append(chains, c.chain)
	}
	e.report.compare(e.kind, facts, chains, stuck, nil, true)
	return nil
}

// older replaces the database by an earlier state while clients are connected.
func (e *episode) older(ctx context.Context, reader *client, address string) error {
	seed := e.options.Seed
	following, stop := context.WithCancel(ctx)
	defer stop()
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	socket, toggling := newClient("WebSocket, connected", seed, address), newClient("toggling", seed, address)
	parts.Go(func() { socket.runSocket(following) })
	parts.Go(func() { toggling.runToggling(following) })

	earlier := e.name + "_earlier"
	var saved *dump
	var err error
	if e.kind == exchanged {
		err = e.again(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", earlier, e.name))
	} else {
		saved, err = readDump(ctx, e.url(e.name))
	}
	if err != nil {
		return err
	}
	if err := e.write(ctx, e.name, "undone", 6); err != nil {
		return err
	}
	late := newClient("poller, late", seed, address)
	if err := errors.Join(catch(ctx, reader), catch(ctx, late)); err != nil {
		return err
	}
	quiet := reader.taking("poller, away meanwhile", seed, address)

	if e.kind == exchanged {
		err = e.again(ctx, "DROP DATABASE "+e.name+" WITH (FORCE)")
		if err == nil {
			err = e.again(ctx, fmt.Sprintf("ALTER DATABASE %s RENAME TO %s", earlier, e.name))
		}
	} else {
		here := e.url(e.name)
		for _, step := range []func() error{
			func() error {
				return execute(ctx, here, "DROP SCHEMA IF EXISTS public CASCADE", "DROP SCHEMA IF EXISTS chaos CASCADE", "CREATE SCHEMA public")
			},
			func() error { return e.prepare(ctx, here) },
			func() error { return saved.restore(ctx, here) },
			func() error { return e.commandLine(ctx, here, "migrate") },
		} {
			if err = repeated(ctx, step); err != nil {
				break
			}
		}
	}
	if err != nil {
		return err
	}
	if err := e.write(ctx, e.name, "after", 5); err != nil {
		return err
	}
	if err := catch(ctx, reader); err != nil {
		return err
	}
	if err := e.write(ctx, e.name, "after", 6); err != nil {
		return err
	}
	stuck, err := e.settle(ctx, e.url(e.name), []*chain{socket.chain, toggling.chain})
	if err != nil {
		return err
	}
	stop()
	parts.Wait()
	if err := errors.Join(catch(ctx, reader), catch(ctx, late), catch(ctx, quiet)); err != nil {
		return err
	}
	return e.judge(ctx, e.name, stuck, reader, late, quiet, socket, toggling)
}

// repeated repeats a step that loses a deadlock to readers, as an operator would.
func repeated(ctx context.Context, step func() error) (err error) {
	for range 10 {
		if err = step(); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "deadlock") {
			return err
		}
	}
	return err
}

// again repeats a statement that other connections may block.
func (e *episode) again(ctx context.Context, sql string) error {
	var err error
	for range 100 {
		err = execute(ctx, e.server.URL(), fmt.Sprintf("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE '%s%%'", e.name), sql)
		if err == nil || ctx.Err() != nil {
			return err
		}
		wait(ctx, 20*time.Millisecond)
	}
	return err
}

func (e *episode) drop(ctx context.Context, database string) {
	execute(context.WithoutCancel(ctx), e.server.URL(), "DROP DATABASE IF EXISTS "+database+" WITH (FORCE)") //nolint:errcheck // the server ends soon
}
