//go:build linux

package chaos

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/specwatch/specwatch/pkg/embedded"
)

const (
	theFailOver = "fail-over"

	failOver = "fail-over: primary killed, standby promoted"
	followed = "standby follows its promoted upstream"
)

// failOverScenario has a primary, its standby and, during a fail-over, a standby
// of that one, and gateways and clients that know the addresses of all servers.
type failOverScenario struct {
	*run
	serverPorts [3]int // which the servers have in turn
	user        *url.Userinfo
	log         io.Writer

	primary, standby, next *embedded.Server

	gateways []*program
	chains   []*chain
	writing  *writing

	mu      sync.Mutex
	current string // URL of the primary, for the producers
}

// failOvers kills one primary after the other and promotes its standby, while
// the next standby already follows that one.
func (r *run) failOvers(ctx context.Context, report *Report) error {
	s := &failOverScenario{run: r}
	defer s.endServers()
	if err := s.startServers(ctx); err != nil {
		return err
	}
	living, end := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer end()
	defer s.killGateways()
	if err := s.startClients(living, &parts); err != nil {
		return err
	}
	producing, stop := context.WithCancel(living)
	defer stop()
	produced := s.produce(producing)

	rng := r.random("fail-over")
	for n := 0; n < r.options.Rounds && ctx.Err() == nil; n++ {
		if err := s.failOver(ctx, rng, n); err != nil {
			return err
		}
	}
	stop()
	produced()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	stuck, err := r.settle(ctx, s.primary.URL(), s.chains)
	if err != nil {
		return err
	}
	facts, err := readTruth(ctx, s.primary.URL())
	if err != nil {
		return err
	}
	report.compare(theFailOver, facts, s.chains, stuck, s.writing, true)
	return nil
}

// dir is where the n-th server has its data.
func (s *failOverScenario) dir(n int) string {
	return filepath.Join(s.folder, fmt.Sprint("fail-over ", n%3))
}

func (s *failOverScenario) startServers(ctx context.Context) (err error) {
	for i := range s.serverPorts {
		if s.serverPorts[i], err = s.ports.next(); err != nil {
			return err
		}
	}
	log, err := s.logs.open("fail-over")
	if err != nil {
		return err
	}
	s.log = log
	s.primary, err = embedded.Start(ctx, embedded.Config{Dir: s.dir(0), Version: s.options.Version, Port: s.serverPorts[0], Log: log, Settings: map[string]string{
		"fsync": "off", "max_connections": "100", "max_prepared_transactions": "10", "wal_retrieve_retry_interval": "100ms", "shared_buffers": "16MB", "max_wal_size": "128MB", "min_wal_size": "32MB",
	}})
	if err != nil {
		return err
	}
	if err := s.prepare(ctx, s.primary.URL()); err != nil {
		return err
	}
	if s.standby, err = s.follow(ctx, s.primary, 1); err != nil {
		return err
	}
	s.current = s.primary.URL()
	u, err := url.Parse(s.current)
	if err != nil {
		return err
	}
	s.user = u.User
	return nil
}

// follow makes the n-th server a standby of another one.
func (s *failOverScenario) follow(ctx context.Context, upstream *embedded.Server, n int) (*embedded.Server, error) {
	if err := os.RemoveAll(s.dir(n)); err != nil {
		return nil, err
	}
	return upstream.Standby(ctx, embedded.Config{Dir: s.dir(n), Port: s.serverPorts[n%3], Log: s.log})
}

func (s *failOverScenario) endServers() {
	for _, server := range []*embedded.Server{s.next, s.standby, s.primary} {
		endServer(server)
	}
}

// hosts is an address of all servers, of which a client takes one with these
// attributes.
func (s *failOverScenario) hosts(attributes string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d,127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable&target_session_attrs=%s", s.user, s.serverPorts[0], s.serverPorts[1], s.serverPorts[2], attributes)
}

func (s *failOverScenario) startGateway(name, attributes string) (address string, err error) {
	g, address, err := s.gateway(name, s.hosts(attributes))
	if err != nil {
		return "", err
	}
	s.gateways = append(s.gateways, g)
	return address, nil
}

func (s *failOverScenario) killGateways() {
	for _, g := range s.gateways {
		g.kill()
	}
}

// startClients starts the gateways and their clients, which run until ctx ends.
func (s *failOverScenario) startClients(ctx context.Context, parts *sync.WaitGroup) error {
	writer, err := s.startGateway("gateway on whichever is primary", "read-write")
	if err != nil {
		return err
	}
	anywhere, err := s.startGateway("gateway on any server", "any")
	if err != nil {
		return err
	}
	reader, err := s.startGateway("gateway on a standby", "prefer-standby")
	if err != nil {
		return err
	}
	add := func(name string, live func(*client, context.Context), addresses ...string) {
		c := newClient(name, s.options.Seed, addresses...)
		s.chains = append(s.chains, c.chain)
		parts.Go(func() { live(c, ctx) })
	}
	add("WebSocket", (*client).runSocket, writer)
	add("poller", (*client).runSmallPages, writer)
	add("toggling", (*client).runToggling, writer)
	add("WebSocket, any server", (*client).runSocket, anywhere)
	add("poller, any server", (*client).runSmallPages, anywhere)
	add("WebSocket on a standby", (*client).runSocket, reader)
	add("moving between all", (*client).runToggling, writer, anywhere, reader)
	t, err := s.newTail("tail over a fail-over", s.hosts("read-write"))
	if err != nil {
		return err
	}
	s.chains = append(s.chains, t.chain)
	parts.Go(func() { t.follow(ctx) })
	return nil
}

// produce starts the producers; they end with ctx, and wait returns when they have.
func (s *failOverScenario) produce(ctx context.Context) (wait func()) {
	s.writing = newWriting(s.run, "fail-over", func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.current
	})
	var producers sync.WaitGroup
	for name, work := range map[string]job{"single": (*producer).single, "undone": (*producer).undone, "late": (*producer).late} {
		p := s.writing.producer(name)
		producers.Go(func() { p.sql(ctx, 2*s.options.Pause, work) })
	}
	return producers.Wait
}

// failOver kills the primary, promotes its standby and waits until the next
// standby has what is written then.
func (s *failOverScenario) failOver(ctx context.Context, rng *rand.Rand, n int) (err error) {
	if s.next, err = s.follow(ctx, s.standby, n+2); err != nil {
		return fmt.Errorf("making a standby of a standby: %w", err)
	}
	lasting(ctx, rng, 100*time.Millisecond, 500*time.Millisecond)
	from := time.Now()
	if err := s.primary.Kill(); err != nil {
		return err
	}
	var promoted bool
	conn, err := connect(ctx, s.standby.URL())
	if err != nil {
		return err
	}
	err = conn.QueryRow(ctx, "SELECT pg_promote()").Scan(&promoted)
	conn.Close(ctx)
	if err != nil || !promoted {
		return fmt.Errorf("cannot promote: %v, %w", promoted, err)
	}
	s.primary, s.standby, s.next = s.standby, s.next, nil
	s.mu.Lock()
	s.current = s.primary.URL()
	s.mu.Unlock()
	s.faults.note(theFailOver, failOver, from, time.Now(), nil)
	if err := s.arrives(ctx); err != nil {
		return err
	}
	s.faults.note(theFailOver, followed, from, time.Now(), nil)
	lasting(ctx, rng, 100*time.Millisecond, 500*time.Millisecond)
	return nil
}

// arrives writes an event and waits until the standby has it.
func (s *failOverScenario) arrives(ctx context.Context) error {
	id, err := number(ctx, s.primary.URL(), `INSERT INTO events (kind, session) VALUES ('session_heartbeat', 'taken over') RETURNING id`)
	if err != nil {
		return err
	}
	arrived := false
	for late := time.Now().Add(time.Minute); !arrived && ctx.Err() == nil; wait(ctx, 50*time.Millisecond) {
		if found, err := number(ctx, s.standby.URL(), `SELECT count(*) FROM events WHERE id = $1 AND session = 'taken over'`, id); err == nil && found == 1 {
			arrived = true
		} else if time.Now().After(late) {
			return fmt.Errorf("the standby does not follow its promoted upstream: %w", err)
		}
	}
	return nil
}
