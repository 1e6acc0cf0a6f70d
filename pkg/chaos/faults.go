//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// fault is one kind of fault. strike injects and removes it.
type fault struct {
	name    string
	touches func(rng *rand.Rand) string // a target that only one fault at a time may use; "" is none
	strike  func(ctx context.Context, rng *rand.Rand, target string) error
}

func always(name string) func(*rand.Rand) string { return func(*rand.Rand) string { return name } }

func lasting(ctx context.Context, rng *rand.Rand, from, to time.Duration) {
	wait(ctx, from+time.Duration(rng.Int64N(int64(to-from)+1)))
}

const (
	brief = 100 * time.Millisecond
	long  = 1500 * time.Millisecond
)

// kinds lists the faults of the main scenario. The order in which a seed injects
// them depends on their order here.
func (a *cluster) kinds() []fault {
	return slices.Concat(a.serverFaults(), a.gatewayFaults(), a.pluginFaults(), a.networkFaults(), a.writerFaults(), a.readerFaults(), a.maintenanceFaults(), a.optionalFaults())
}

// serverFaults are those of PostgreSQL, of the primary and its standby.
func (a *cluster) serverFaults() []fault {
	return []fault{
		{"PostgreSQL killed (-9) and restarted", always(thePrimary), func(ctx context.Context, rng *rand.Rand, _ string) error {
			if err := a.primary.Kill(); err != nil {
				return err
			}
			lasting(ctx, rng, 0, 300*time.Millisecond)
			err := a.up(ctx)
			lasting(ctx, rng, 200*time.Millisecond, 800*time.Millisecond) // time to work
			return err
		}},
		{"PostgreSQL stopped and restarted", always(thePrimary), func(ctx context.Context, rng *rand.Rand, _ string) error {
			stopping, cancel := context.WithTimeout(ctx, stopPatience)
			defer cancel()
			if err := a.primary.Stop(stopping); err != nil {
				return err
			}
			lasting(ctx, rng, 0, 300*time.Millisecond)
			err := a.up(ctx)
			lasting(ctx, rng, 200*time.Millisecond, 800*time.Millisecond)
			return err
		}},
		{"PostgreSQL frozen", always(thePrimary), func(ctx context.Context, rng *rand.Rand, _ string) error {
			processes, err := a.serverProcesses()
			if err != nil {
				return err
			}
			for _, pid := range processes {
				syscall.Kill(pid, syscall.SIGSTOP) //nolint:errcheck // it may have ended
			}
			lasting(ctx, rng, brief, long)
			for _, pid := range processes {
				syscall.Kill(pid, syscall.SIGCONT) //nolint:errcheck // as above
			}
			return nil
		}},
		{"connections terminated", nil, func(ctx context.Context, _ *rand.Rand, _ string) error {
			return a.admin(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`)
		}},
		{"standby killed and restarted", always(theStandby), func(ctx context.Context, rng *rand.Rand, _ string) error {
			if err := a.standby.Kill(); err != nil {
				return err
			}
			lasting(ctx, rng, 0, 300*time.Millisecond)
			return a.standby.Restart(ctx)
		}},
		{"standby behind (replay paused)", always(theStandby), func(ctx context.Context, rng *rand.Rand, _ string) error {
			if err := execute(ctx, a.standby.URL(), "SELECT pg_wal_replay_pause()"); err != nil {
				return err
			}
			lasting(ctx, rng, 500*time.Millisecond, 3*time.Second)
			return execute(ctx, a.standby.URL(), "SELECT pg_wal_replay_resume()")
		}},
	}
}

func (a *cluster) gatewayFaults() []fault {
	gateway := func(rng *rand.Rand) string { return a.gateways[rng.IntN(len(a.gateways))].name }
	return []fault{
		{"gateway killed and restarted", gateway, func(ctx context.Context, rng *rand.Rand, target string) error {
			p := a.gatewayNamed(target)
			p.kill()
			lasting(ctx, rng, 0, 500*time.Millisecond)
			return p.start()
		}},
		{"gateway stopped and restarted", gateway, func(ctx context.Context, rng *rand.Rand, target string) error {
			p := a.gatewayNamed(target)
			p.stop()
			lasting(ctx, rng, 0, 500*time.Millisecond)
			return p.start()
		}},
		{"gateway frozen", gateway, func(ctx context.Context, rng *rand.Rand, target string) error {
			p := a.gatewayNamed(target)
			p.signal(syscall.SIGSTOP)
			lasting(ctx, rng, brief, 3*time.Second)
			p.signal(syscall.SIGCONT)
			return nil
		}},
	}
}

func (a *cluster) gatewayNamed(name string) *program {
	for _, p := range a.gateways {
		if p.name == name {
			return p
		}
	}
	panic("no gateway " + name)
}

func (a *cluster) pluginFaults() []fault {
	return []fault{
		{"plugin killed and restarted", always(thePlugin), func(ctx context.Context, rng *rand.Rand, _ string) error {
			a.grafana.kill()
			lasting(ctx, rng, 0, 300*time.Millisecond)
			err := a.grafana.start()
			lasting(ctx, rng, 300*time.Millisecond, 900*time.Millisecond)
			return err
		}},
		{"plugin stopped and restarted", always(thePlugin), func(ctx context.Context, rng *rand.Rand, _ string) error {
			a.grafana.stop()
			lasting(ctx, rng, 0, 300*time.Millisecond)
			err := a.grafana.start()
			lasting(ctx, rng, 300*time.Millisecond, 900*time.Millisecond)
			return err
		}},
	}
}

func (a *cluster) networkFaults() []fault {
	ofServer := func(rng *rand.Rand) string { return a.toServer[rng.IntN(len(a.toServer))].name }
	ofGateway := func(rng *rand.Rand) string { return a.toGateway[rng.IntN(len(a.toGateway))].name }
	both := func(rng *rand.Rand) string {
		if rng.IntN(2) == 0 {
			return ofServer(rng)
		}
		return ofGateway(rng)
	}
	return []fault{
		{"network cut", both, a.cut},
		{"network delayed", both, a.toxic("latency", "", func(rng *rand.Rand) attributes {
			return attributes{"latency": 20 + rng.IntN(400), "jitter": rng.IntN(100)}
		})},
		{"network throttled", both, a.toxic("bandwidth", "", func(rng *rand.Rand) attributes {
			return attributes{"rate": 5 + rng.IntN(60)}
		})},
		{"half-open to PostgreSQL", ofServer, a.toxic("timeout", "upstream", nothing)},
		{"half-open from PostgreSQL", ofServer, a.toxic("timeout", "downstream", nothing)},
		{"half-open to the gateway", ofGateway, a.toxic("timeout", "upstream", nothing)},
		{"half-open from the gateway", ofGateway, a.toxic("timeout", "downstream", nothing)},
	}
}

// writerFaults are those of programs that write events.
func (a *cluster) writerFaults() []fault {
	return []fault{
		{"producer cut off inside a transaction", nil, a.abandon},
		{"producer (emit) killed inside a transaction", nil, a.killEmit},
		{"late commits, around others", nil, func(ctx context.Context, rng *rand.Rand, _ string) error {
			p := a.writing.producer("fault")
			return a.withConnection(ctx, func(conn *pgx.Conn) error {
				return p.open(ctx, conn, time.Second+time.Duration(rng.Int64N(int64(3*time.Second))))
			})
		}},
		{"rollbacks, savepoints, duplicate keys", nil, func(ctx context.Context, rng *rand.Rand, _ string) error {
			p := a.writing.producer("fault")
			return a.withConnection(ctx, func(conn *pgx.Conn) error {
				for range 5 {
					if err := errors.Join(p.undone(ctx, conn), p.several(ctx, conn), p.undone(ctx, conn)); err != nil {
						return err
					}
				}
				return nil
			})
		}},
		{"two-phase commits", nil, func(ctx context.Context, rng *rand.Rand, _ string) error {
			p := a.writing.producer("fault")
			return a.withConnection(ctx, func(conn *pgx.Conn) error {
				return errors.Join(p.twoPhase(ctx, conn), p.twoPhase(ctx, conn))
			})
		}},
		{"synchronous_commit off, log written late", always(thePrimary), a.lateLog},
		{"events an hour off (clocks)", nil, func(ctx context.Context, _ *rand.Rand, _ string) error {
			p := a.writing.producer("fault")
			return a.withConnection(ctx, func(conn *pgx.Conn) error {
				for range 5 {
					if err := p.elsewhen(ctx, conn); err != nil {
						return err
					}
				}
				return nil
			})
		}},
		{"events that are hard to read (deep, large)", nil, a.hardToRead},
		{"writers that wait for one key", nil, a.sameKey},
	}
}

// readerFaults are those of clients, and of `specwatch tail`.
func (a *cluster) readerFaults() []fault {
	return []fault{
		{"mode switched", nil, func(ctx context.Context, rng *rand.Rand, _ string) error {
			for _, c := range a.clients {
				select {
				case c.toggle <- struct{}{}:
				default:
				}
			}
			return nil
		}},
		{"client frozen", nil, func(ctx context.Context, rng *rand.Rand, _ string) error {
			c := a.clients[rng.IntN(len(a.clients))]
			c.gate.Lock()
			defer c.gate.Unlock()
			lasting(ctx, rng, brief, 4*time.Second)
			return nil
		}},
		{"tail frozen", nil, func(ctx context.Context, rng *rand.Rand, _ string) error {
			t := a.tails[rng.IntN(len(a.tails))]
			if !t.signal(syscall.SIGSTOP) {
				return errors.New("it does not run")
			}
			lasting(ctx, rng, brief, 2*time.Second)
			t.signal(syscall.SIGCONT)
			return nil
		}},
		{"tail stopped and resumed by cursor", nil, func(ctx context.Context, rng *rand.Rand, _ string) error {
			if !a.tails[1].signal(syscall.SIGTERM) {
				return errors.New("it does not run")
			}
			return nil
		}},
	}
}

// maintenanceFaults are what an operator does with the table.
func (a *cluster) maintenanceFaults() []fault {
	return []fault{
		// Both wait for the long transactions: together they wait once.
		{"VACUUM FULL, then REINDEX", always(theTable), a.maintenance("VACUUM FULL events", "REINDEX TABLE events")},
		{"prune", always(thePrune), func(ctx context.Context, _ *rand.Rand, _ string) error {
			return a.commandLine(ctx, a.primary.URL(), "prune", "--older-than", "30m")
		}},
		{"migrate", always(theMigration), func(ctx context.Context, _ *rand.Rand, _ string) error {
			return a.commandLine(ctx, a.primary.URL(), "migrate")
		}},
	}
}

// optionalFaults are those that need a part which not every machine can have.
func (a *cluster) optionalFaults() (faults []fault) {
	if a.disk != nil {
		faults = append(faults, fault{"disk full", always(thePrimary), func(ctx context.Context, rng *rand.Rand, _ string) error {
			err := a.disk.fill()
			if err == nil { // writes fail once the space that the log has in reserve is used up
				err = a.writeUntilFull(ctx)
			}
			err = errors.Join(err, a.disk.empty(), a.up(ctx))
			lasting(ctx, rng, 200*time.Millisecond, 500*time.Millisecond)
			return err
		}})
	}
	if a.clock != nil {
		faults = append(faults, fault{"clock of PostgreSQL jumps", always(theClock), a.jumps})
	}
	if a.pooler != nil {
		faults = append(faults, fault{"pooler killed and restarted", always(thePooler), func(ctx context.Context, rng *rand.Rand, _ string) error {
			a.pooler.kill()
			lasting(ctx, rng, 0, 300*time.Millisecond)
			return a.pooler.start()
		}})
	}
	return faults
}

func (a *cluster) admin(ctx context.Context, statements ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	return execute(ctx, a.primary.URL(), statements...)
}

func (a *cluster) withConnection(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := connect(ctx, a.primary.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

// serverProcesses are the postmaster and its children.
func (a *cluster) serverProcesses() ([]int, error) {
	text, err := os.ReadFile(a.primary.DataDir() + "/postmaster.pid")
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	postmaster, err := strconv.Atoi(line)
	if err != nil {
		return nil, err
	}
	processes := []int{postmaster}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 1 && fields[1] == line {
			processes = append(processes, pid)
		}
	}
	return processes, nil
}

func (a *cluster) linkOf(name string) *link {
	for _, l := range append(a.toServer, a.toGateway...) {
		if l.name == name {
			return l
		}
	}
	panic("no link " + name)
}

func (a *cluster) cut(ctx context.Context, rng *rand.Rand, target string) error {
	l := a.linkOf(target)
	if err := l.enable(false); err != nil {
		return err
	}
	lasting(ctx, rng, brief, long)
	return l.enable(true)
}

func nothing(*rand.Rand) attributes { return attributes{"timeout": 0} }

// toxic changes the traffic of a link, in one direction or, without a
// direction, in both.
func (a *cluster) toxic(kind, direction string, choose func(*rand.Rand) attributes) func(context.Context, *rand.Rand, string) error {
	return func(ctx context.Context, rng *rand.Rand, target string) error {
		l, stream := a.linkOf(target), direction
		if stream == "" {
			stream = []string{"upstream", "downstream"}[rng.IntN(2)]
		}
		if err := l.addToxic(kind, stream, choose(rng)); err != nil {
			return err
		}
		lasting(ctx, rng, 300*time.Millisecond, 2*time.Second)
		return l.removeToxic(kind)
	}
}

// abandon cuts a connection inside a transaction.
func (a *cluster) abandon(ctx context.Context, rng *rand.Rand, _ string) error {
	p := a.writing.producer("fault")
	return a.withConnection(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
			return err
		}
		for range 1 + rng.IntN(5) {
			if _, err := p.insert(ctx, conn); err != nil {
				return err
			}
		}
		lasting(ctx, rng, 0, 300*time.Millisecond)
		return conn.PgConn().Conn().Close()
	})
}

// killEmit kills `specwatch emit --from -` while it writes.
func (a *cluster) killEmit(ctx context.Context, rng *rand.Rand, _ string) error {
	p := a.writing.producer("fault")
	cmd := command(a.specwatch, []string{"emit", "--from", "-"}, []string{"SPECWATCH_DATABASE_URL=" + a.primary.URL(), "XDG_STATE_HOME=" + a.folder})
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for range 5_200 { // more than one INSERT carries
		m := p.next()
		if _, err := fmt.Fprintf(input, `{"kind":"session_heartbeat","session":"killed","data":{"s":%q,"n":%d}}`+"\n", m.Stream, m.N); err != nil {
			break
		}
	}
	lasting(ctx, rng, 0, 500*time.Millisecond)
	err = cmd.Process.Kill()
	input.Close()
	cmd.Wait() //nolint:errcheck // it was killed
	return err
}

// lateLog commits without waiting for the log, which is written late.
func (a *cluster) lateLog(ctx context.Context, rng *rand.Rand, _ string) error {
	p := a.writing.producer("fault")
	err := a.withConnection(ctx, func(conn *pgx.Conn) error {
		for _, sql := range []string{"ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()"} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		for range 10 {
			if err := errors.Join(p.async(ctx, conn), p.undone(ctx, conn)); err != nil {
				return err
			}
		}
		return nil
	})
	if rng.IntN(2) == 0 { // the crash that loses them
		err = errors.Join(err, a.primary.Kill(), a.up(ctx))
	}
	return errors.Join(err, a.admin(ctx, "ALTER SYSTEM RESET wal_writer_delay", "SELECT pg_reload_conf()"))
}

// hardToRead writes data that PostgreSQL accepts and readers may not. It has no
// mark: its data is not compared.
func (a *cluster) hardToRead(ctx context.Context, rng *rand.Rand, _ string) error {
	data := []string{
		fmt.Sprintf("repeat('[', %d) || repeat(']', %[1]d)", []int{200, 4_900, 9_999, 10_000, 20_000}[rng.IntN(5)]),
		fmt.Sprintf("to_jsonb(repeat('é', %d))::text", 1+rng.IntN(400_000)),
		`'{"__proto__": {"a": 1e400, "b": -0.0, "c": "\\u2028 \\ud83d\\ude00 \\u0007"}}'`,
	}[rng.IntN(3)]
	err := a.admin(ctx, "INSERT INTO events (kind, session, data) VALUES ('session_heartbeat', 'hard to read', ("+data+")::jsonb)")
	var refused *pgconn.PgError
	if errors.As(err, &refused) && (strings.HasPrefix(refused.Code, "23") || refused.Code == "54001") {
		return nil // the table has rules against it
	}
	return err
}

// sameKey makes many posts wait for a transaction that has their key. Readers
// continue meanwhile.
func (a *cluster) sameKey(ctx context.Context, rng *rand.Rand, _ string) error {
	a.writing.undisturbed.RLock()
	defer a.writing.undisturbed.RUnlock()
	p := a.writing.producer("fault")
	key := fmt.Sprint("same ", p.stream)
	return a.withConnection(ctx, func(conn *pgx.Conn) error {
		for _, sql := range []string{"BEGIN", fmt.Sprintf("INSERT INTO events (kind, session, key) VALUES ('session_heartbeat', 'same key', '%s')", key)} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		body := fmt.Sprintf(`{"kind":"session_heartbeat","session":"same key","key":%q}`, key)
		client := &http.Client{Timeout: callPatience}
		address := a.toGateway[rng.IntN(len(a.toGateway))].at
		var posting sync.WaitGroup
		defer posting.Wait()
		for range 12 {
			posting.Go(func() { post(client, address, []byte(body)) })
		}
		lasting(ctx, rng, time.Second, 3*time.Second)
		_, err := conn.Exec(ctx, []string{"COMMIT", "ROLLBACK"}[rng.IntN(2)])
		return err
	})
}

// maintenance runs statements that lock the whole table, when no long
// transaction is open.
func (a *cluster) maintenance(statements ...string) func(context.Context, *rand.Rand, string) error {
	return func(ctx context.Context, _ *rand.Rand, _ string) error {
		a.writing.undisturbed.Lock()
		defer a.writing.undisturbed.Unlock()
		// Transactions that are still prepared were left by a crash.
		if err := finishPrepared(ctx, a.primary.URL()); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 3*callPatience)
		defer cancel()
		return execute(ctx, a.primary.URL(), append([]string{"SET lock_timeout = '3s'"}, statements...)...)
	}
}

// writeUntilFull writes until the server refuses.
func (a *cluster) writeUntilFull(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := connect(ctx, a.primary.URL())
	if err != nil {
		return nil // it went down already
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for ctx.Err() == nil {
		if _, err := conn.Exec(ctx, "CREATE TEMPORARY TABLE filling AS SELECT repeat(n::text, 100) FROM generate_series(1, 20000) n"); err != nil {
			return nil
		}
		if _, err := conn.Exec(ctx, "DROP TABLE filling; SELECT pg_switch_wal()"); err != nil {
			return nil
		}
	}
	return nil
}
