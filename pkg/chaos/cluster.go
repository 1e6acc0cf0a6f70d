//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/embedded"
)

// cluster is the scenario for faults that end no history: a primary with a
// standby, gateways on both, one behind a pooler, the plugin, producers and
// clients of each kind.
type cluster struct {
	*run
	rng     *rand.Rand
	disk    *disk
	clock   *clock // of the primary
	primary *embedded.Server
	standby *embedded.Server
	pooler  *program
	writing *writing
	grafana *grafana

	gateways  []*program
	toServer  []*link // between gateways and plugin, and PostgreSQL
	toGateway []*link // between clients and gateways

	clients []*client
	tails   []*tailing
	missing []string // parts that are not in the run, and why

	busy map[string]*sync.Mutex // targets that only one fault at a time may use
}

// mainScenario is its name in reports.
const mainScenario = ""

// Targets of faults.
const (
	thePrimary   = "primary"
	theStandby   = "standby"
	thePlugin    = "plugin"
	thePooler    = "pooler"
	theTable     = "table"
	thePrune     = "prune"
	theMigration = "migration"
	theClock     = "clock"
)

// newCluster starts all of it but the producers. What has been started is to be
// closed even if it returns an error.
func (r *run) newCluster(ctx context.Context) (a *cluster, err error) {
	a = &cluster{run: r, rng: r.random("cluster"), busy: map[string]*sync.Mutex{}}
	for _, name := range []string{thePrimary, theStandby, thePlugin, thePooler, theTable, thePrune, theMigration, theClock} {
		a.busy[name] = &sync.Mutex{}
	}
	pooled, err := a.startServers(ctx)
	if err != nil {
		return a, err
	}
	at, err := a.startGateways(pooled)
	if err != nil {
		return a, err
	}
	if a.grafana, err = r.newGrafana(at.plugin); err != nil {
		return a, err
	}
	if err := a.grafana.start(); err != nil {
		return a, err
	}
	err = a.startClients(ctx, at)
	return a, err
}

// startServers starts primary, standby and pooler. It returns the address of the
// database behind the pooler; empty: there is no pooler.
func (a *cluster) startServers(ctx context.Context) (pooled string, err error) {
	dir := filepath.Join(a.folder, "primary")
	if a.disk = a.newDisk(); a.disk != nil {
		dir = filepath.Join(a.disk.path, "primary")
	} else {
		a.missing = append(a.missing, "disk full: mounting a small file system needs root")
	}
	if a.clock, err = a.newClock("primary"); err != nil {
		return "", err
	}
	if a.clock == nil {
		a.missing = append(a.missing, "a clock that jumps: libfaketime is not installed")
	}
	if a.primary, err = a.server(ctx, "primary", dir, map[string]string{"max_wal_size": "128MB", "min_wal_size": "32MB"}, a.clock.env()...); err != nil {
		return "", err
	}
	database := a.primary.URL()
	if err := a.prepare(ctx, database); err != nil {
		return "", err
	}
	port, err := a.ports.next()
	if err != nil {
		return "", err
	}
	log, err := a.logs.open("standby")
	if err != nil {
		return "", err
	}
	if a.standby, err = a.primary.Standby(ctx, embedded.Config{Dir: filepath.Join(a.folder, "standby"), Port: port, Log: log}); err != nil {
		return "", err
	}
	if a.pooler, pooled, err = a.run.pooler(database); err != nil {
		return "", err
	}
	if a.pooler == nil {
		a.missing = append(a.missing, "a pooler: pgbouncer is not installed")
	}
	return pooled, nil
}

// addresses are those that clients and plugin are given.
type addresses struct {
	gatewayA, gatewayB, onStandby string
	behindPooler                  string // empty: there is no pooler
	plugin, tail                  string // of the database
}

// startGateways starts the gateways and the links to and from them.
func (a *cluster) startGateways(pooled string) (at addresses, err error) {
	toA, errA := a.linkToServer("gateway A to PostgreSQL")
	toB, errB := a.linkToServer("gateway B to PostgreSQL")
	toPlugin, errP := a.linkToServer("plugin to PostgreSQL")
	toTail, errT := a.linkToServer("tail to PostgreSQL")
	if err := errors.Join(errA, errB, errP, errT); err != nil {
		return at, err
	}
	at.plugin, at.tail = toPlugin, toTail
	at.gatewayA, errA = a.startFarGateway("gateway A", toA)
	at.gatewayB, errB = a.startFarGateway("gateway B", toB)
	onStandby, errS := a.startGateway("gateway on the standby", a.standby.URL())
	if err := errors.Join(errA, errB, errS); err != nil {
		return at, err
	}
	at.onStandby = onStandby
	if a.pooler != nil {
		at.behindPooler, err = a.startGateway("gateway behind the pooler", pooled)
	}
	return at, err
}

// linkToServer returns the address of the primary's database over a link.
func (a *cluster) linkToServer(name string) (string, error) {
	database := a.primary.URL()
	l, err := a.network.link(name, hostOf(database))
	if err != nil {
		return "", err
	}
	a.toServer = append(a.toServer, l)
	a.busy[l.name] = &sync.Mutex{}
	return through(database, l.at), nil
}

func (a *cluster) startGateway(name, database string) (string, error) {
	p, at, err := a.gateway(name, database)
	if err != nil {
		return "", err
	}
	a.gateways = append(a.gateways, p)
	a.busy[name] = &sync.Mutex{}
	return at, nil
}

// startFarGateway starts a gateway that its clients reach over a link.
func (a *cluster) startFarGateway(name, database string) (string, error) {
	at, err := a.startGateway(name, database)
	if err != nil {
		return "", err
	}
	l, err := a.network.link("clients of "+name, at)
	if err != nil {
		return "", err
	}
	a.toGateway = append(a.toGateway, l)
	a.busy[l.name] = &sync.Mutex{}
	return l.at, nil
}

// startClients starts the clients of the gateways and of the plugin, and
// `specwatch tail`.
func (a *cluster) startClients(ctx context.Context, at addresses) (err error) {
	a.writing = newWriting(a.run, "cluster", a.primary.URL)
	add := func(name string, addresses ...string) *client {
		c := newClient(name, a.options.Seed, addresses...)
		a.clients = append(a.clients, c)
		return c
	}
	defer func() {
		for _, c := range a.chains() {
			log, opened := a.logs.open("client " + c.name)
			if opened != nil {
				err = errors.Join(err, opened)
			}
			c.mu.Lock()
			c.trace = log
			c.mu.Unlock()
		}
	}()
	all := []string{at.gatewayA, at.gatewayB, at.onStandby}
	a.start(ctx, add("WebSocket", at.gatewayA).runSocket)
	a.start(ctx, add("WebSocket, other gateway", at.gatewayB).runSocket)
	a.start(ctx, add("WebSocket, slow", at.gatewayA).runSlow)
	a.start(ctx, add("poller", at.gatewayB).runPoller)
	a.start(ctx, add("poller, small pages", at.gatewayA).runSmallPages)
	a.start(ctx, add("toggling", at.gatewayA).runToggling)
	a.start(ctx, add("moving between gateways", at.gatewayA, at.gatewayB).runToggling)
	a.start(ctx, add("WebSocket on the standby", at.onStandby).runSocket)
	a.start(ctx, add("poller on the standby", at.onStandby).runSmallPages)
	a.start(ctx, add("polling primary and standby in turn", at.gatewayA, at.onStandby).runSmallPages)
	a.start(ctx, add("toggling between primary and standby", at.gatewayB, at.onStandby).runToggling)
	if at.behindPooler != "" {
		a.start(ctx, add("WebSocket behind the pooler", at.behindPooler).runSocket)
		a.start(ctx, add("poller behind the pooler", at.behindPooler).runPoller)
		all = append(all, at.behindPooler)
	}
	a.start(ctx, add("moving between all gateways", all...).runToggling)
	view := func(name string) *viewer {
		v := a.grafana.viewer(name, a.options.Seed)
		a.clients = append(a.clients, v.client)
		return v
	}
	stream, poll, toggle := view("Grafana, stream"), view("Grafana, polling"), view("Grafana, toggling")
	a.start(ctx, a.grafana.runStream, stream.runStream, poll.runPolling, toggle.runToggling)
	for _, one := range []struct {
		name  string
		flags []string
	}{{"tail", nil}, {"tail, stopped and resumed", nil}, {"tail at an interval", []string{"--interval", "50ms"}}} {
		t, err := a.newTail(one.name, at.tail, one.flags...)
		if err != nil {
			return err
		}
		a.tails = append(a.tails, t)
		a.start(ctx, t.follow)
	}
	return nil
}

// start runs parts of the scenario until ctx ends.
func (r *run) start(ctx context.Context, parts ...func(context.Context)) {
	for _, part := range parts {
		r.parts.Go(func() { part(ctx) })
	}
}

// produce starts the producers; they end with ctx, and wait returns when they have.
func (a *cluster) produce(ctx context.Context) (wait func()) {
	var all sync.WaitGroup
	pause := a.options.Pause
	by := func(name string, pause time.Duration, work job) {
		p := a.writing.producer(name)
		all.Go(func() { p.sql(ctx, pause, work) })
	}
	by("single 1", pause, (*producer).single)
	by("single 2", pause, (*producer).single)
	by("several", 3*pause, (*producer).several)
	by("undone", pause, (*producer).undone)
	by("async", pause, (*producer).async)
	by("late 1", pause, (*producer).late)
	by("late 2", pause, (*producer).late)
	by("two-phase", pause, (*producer).twoPhase)
	by("bulk", 100*pause, (*producer).bulk)
	by("elsewhen", 20*pause, (*producer).elsewhen)
	for i, l := range a.toGateway {
		p := a.writing.producer(fmt.Sprint("post ", i+1))
		all.Go(func() { p.posts(ctx, 2*pause, l.at) })
	}
	return all.Wait
}

// chains are all clients of the scenario.
func (a *cluster) chains() []*chain {
	var chains []*chain
	for _, c := range a.clients {
		chains = append(chains, c.chain)
	}
	for _, t := range a.tails {
		chains = append(chains, t.chain)
	}
	return chains
}

// settle waits until each client has the last event, after all faults are removed.
func (r *run) settle(ctx context.Context, database string, chains []*chain) (stuck []*chain, err error) {
	for range 3 { // the server may be starting
		if err = finishPrepared(ctx, database); err == nil {
			break
		}
		wait(ctx, time.Second)
	}
	if err != nil {
		return nil, err
	}
	last, err := number(ctx, database, `INSERT INTO events (kind, session, spec, data) VALUES ('spec_completed', 'end', 'end', '{"s":"end","n":1}') RETURNING id`)
	if err != nil {
		return nil, err
	}
	// A client that reads small pages over thousands of events takes longer;
	// one that makes no progress does not get more time.
	deadline := time.Now().Add(r.options.CatchUp)
	var taken int64
	for {
		stuck = nil
		var now int64
		for _, c := range chains {
			now += c.count()
			if !c.has(last) {
				stuck = append(stuck, c)
			}
		}
		if now > taken {
			taken, deadline = now, time.Now().Add(r.options.CatchUp)
		}
		if len(stuck) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			return stuck, ctx.Err()
		}
		wait(ctx, 100*time.Millisecond)
	}
}

// up starts the primary if a fault stopped it.
func (a *cluster) up(ctx context.Context) error {
	var err error
	for range 5 {
		select {
		case <-a.primary.Ended():
			err = a.primary.Restart(ctx)
		default:
			var conn *pgx.Conn
			if conn, err = connect(ctx, a.primary.URL()); err == nil {
				conn.Close(ctx)
			}
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		wait(ctx, 300*time.Millisecond)
	}
	return err
}

// close ends all that newCluster started and ctx does not end.
func (a *cluster) close() {
	for _, p := range a.gateways {
		p.signal(syscall.SIGCONT)
		p.kill()
	}
	if a.grafana != nil {
		a.grafana.kill()
	}
	if a.pooler != nil {
		a.pooler.kill()
	}
	if a.disk != nil {
		a.disk.empty() //nolint:errcheck // it is unmounted
	}
	for _, s := range []*embedded.Server{a.standby, a.primary} {
		endServer(s)
	}
	a.disk.unmount()
}

func endServer(s *embedded.Server) {
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s.Stop(ctx) //nolint:errcheck // it is killed then
}
