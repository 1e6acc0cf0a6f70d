//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// catchEach does it for one client after the other, until one fails.
func catchEach(ctx context.Context, clients ...*client) error {
	for _, c := range clients {
		if err := catch(ctx, c); err != nil {
			return err
		}
	}
	return nil
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
	if err := e.copyDatabase(ctx, g, other); err != nil {
		return err
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
	if err := catchEach(ctx, all...); err != nil {
		return err
	}
	if err := errors.Join(e.write(ctx, other, "copy", 3), e.write(ctx, e.name, "original", 2)); err != nil {
		return err
	}
	if err := catchEach(ctx, all...); err != nil {
		return err
	}
	stuck, err := e.watch(ctx, other, socket)
	if err != nil {
		return err
	}
	// The last event of the socket is new to the pollers.
	if err := catchEach(ctx, before, page, after); err != nil {
		return err
	}
	return errors.Join(
		e.judge(ctx, other, stuck, before, page, after, socket),
		e.judge(ctx, e.name, nil, reader, ofCopy))
}

// copyDatabase makes the other database, by copying this one or by restoring a
// dump of it.
func (e *episode) copyDatabase(ctx context.Context, g *program, other string) error {
	if e.kind == copied {
		g.kill() // a template may have no other connection
		if err := e.again(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", other, e.name)); err != nil {
			return err
		}
		return g.start()
	}
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
	return e.commandLine(ctx, e.url(other), "migrate")
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

	restore, err := e.save(ctx)
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

	if err := restore(ctx); err != nil {
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

// save keeps the present state of the database, and returns what replaces later
// ones by it.
func (e *episode) save(ctx context.Context) (restore func(context.Context) error, err error) {
	if e.kind == exchanged {
		earlier := e.name + "_earlier"
		err := e.again(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", earlier, e.name))
		return func(ctx context.Context) error { return e.exchange(ctx, earlier) }, err
	}
	saved, err := readDump(ctx, e.url(e.name))
	return func(ctx context.Context) error { return e.restoreOver(ctx, saved) }, err
}

// exchange puts the earlier database in the place of this one.
func (e *episode) exchange(ctx context.Context, earlier string) error {
	if err := e.again(ctx, "DROP DATABASE "+e.name+" WITH (FORCE)"); err != nil {
		return err
	}
	return e.again(ctx, fmt.Sprintf("ALTER DATABASE %s RENAME TO %s", earlier, e.name))
}

// restoreOver restores an earlier dump into the same database.
func (e *episode) restoreOver(ctx context.Context, saved *dump) error {
	here := e.url(e.name)
	for _, step := range []func() error{
		func() error {
			return execute(ctx, here, "DROP SCHEMA IF EXISTS public CASCADE", "DROP SCHEMA IF EXISTS chaos CASCADE", "CREATE SCHEMA public")
		},
		func() error { return e.prepare(ctx, here) },
		func() error { return saved.restore(ctx, here) },
		func() error { return e.commandLine(ctx, here, "migrate") },
	} {
		if err := repeated(ctx, step); err != nil {
			return err
		}
	}
	return nil
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
