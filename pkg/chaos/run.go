//go:build linux

package chaos

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/embedded"
)

// run is what all scenarios share.
type run struct {
	options Options
	folder  string // of servers and executables, removed at the end
	logs    *logs
	ports   *ports
	network *network
	faults  *journal
	told    atomic.Int64 // events confirmed to their producers
	streams atomic.Int64
	planned atomic.Int64 // faults
	parts   sync.WaitGroup

	specwatch string // executables
	plugin    string
}

func (r *run) random(name string) *rand.Rand {
	return rand.New(rand.NewPCG(r.options.Seed, hashOf(name))) // #nosec G404 -- the seed repeats it
}

// build makes the executables that are tested.
func (r *run) build(ctx context.Context) error {
	r.specwatch, r.plugin = filepath.Join(r.folder, "specwatch"), filepath.Join(r.folder, "gpx_specwatch")
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("cannot find the folder of this module: %w", err)
	}
	module := strings.TrimSpace(string(root))
	for _, program := range []struct{ out, folder, from string }{
		{r.specwatch, module, "./pkg/cmd/specwatch"},
		{r.plugin, module, "./pkg"},
		{filepath.Join(r.folder, "toxiproxy"), filepath.Join(module, "tools"), "github.com/Shopify/toxiproxy/v2/cmd/server"},
	} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", program.out, program.from)
		cmd.Dir = program.folder
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w\n%s", program.from, err, said)
		}
	}
	return nil
}

// command line runs `specwatch` once.
func (r *run) commandLine(ctx context.Context, database string, args ...string) error {
	cmd := command(r.specwatch, args, []string{"SPECWATCH_DATABASE_URL=" + database, "XDG_STATE_HOME=" + r.folder})
	said := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ctx.Done():
			cmd.Process.Kill() //nolint:errcheck // it may have ended
		case <-done:
		}
	}()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("specwatch %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return nil
}

// gateway is `specwatch serve` over a database.
func (r *run) gateway(name, database string) (*program, string, error) {
	port, err := r.ports.next()
	if err != nil {
		return nil, "", err
	}
	log, err := r.logs.open(name)
	if err != nil {
		return nil, "", err
	}
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	p := &program{
		name: name, path: r.specwatch, args: []string{"serve", "--listen", at},
		env: []string{"SPECWATCH_DATABASE_URL=" + database}, log: log, at: at, died: r.faults.died(name),
	}
	return p, at, p.start()
}

// through replaces the host of a database URL.
func through(database, host string) string {
	u, err := url.Parse(database)
	if err != nil {
		panic(err) // embedded's
	}
	u.Host = host
	return u.String()
}

func hostOf(database string) string {
	u, err := url.Parse(database)
	if err != nil {
		panic(err) // embedded's
	}
	return u.Host
}

func inDatabase(database, name string) string {
	u, err := url.Parse(database)
	if err != nil {
		panic(err) // embedded's
	}
	u.Path = "/" + name
	return u.String()
}

// server starts a PostgreSQL of the run.
func (r *run) server(ctx context.Context, name, dir string, settings map[string]string, env ...string) (*embedded.Server, error) {
	port, err := r.ports.next()
	if err != nil {
		return nil, err
	}
	log, err := r.logs.open(name)
	if err != nil {
		return nil, err
	}
	all := map[string]string{
		// A process that is killed loses nothing that it gave to the operating system.
		"fsync": "off", "max_connections": "200", "max_prepared_transactions": "50", "max_wal_size": "256MB",
		"wal_retrieve_retry_interval": "200ms", "max_standby_streaming_delay": "3s", "shared_buffers": "64MB",
	}
	for k, v := range settings {
		all[k] = v
	}
	return embedded.Start(ctx, embedded.Config{Dir: dir, Version: r.options.Version, Port: port, Settings: all, Env: env, Log: log})
}

// execute runs statements on a connection of their own.
func execute(ctx context.Context, database string, statements ...string) error {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func number(ctx context.Context, database, sql string, args ...any) (n int64, err error) {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, sql, args...).Scan(&n)
	return n, err
}

// prepare makes the schema, and keeps what prune removes.
func (r *run) prepare(ctx context.Context, database string) error {
	if err := r.commandLine(ctx, database, "migrate"); err != nil {
		return err
	}
	return execute(ctx, database, `
		CREATE SCHEMA chaos;
		CREATE TABLE chaos.pruned (id bigint, kind text, at timestamptz, session text, spec text, data jsonb, xid text);
		CREATE FUNCTION chaos.keep() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO chaos.pruned SELECT id, kind, at, session, spec, data, xid::text FROM gone;
			RETURN NULL;
		END $$;
		CREATE TRIGGER chaos_keep AFTER DELETE ON events REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION chaos.keep();`)
}

// truth is what the table has, or had, at the end.
type truth struct {
	rows   map[int64]fact
	pruned int
}

type fact struct {
	print  uint64
	mark   mark
	at     time.Time
	pruned bool
}

func readTruth(ctx context.Context, database string) (*truth, error) {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `
		SELECT id, kind, at, session, spec, data, false FROM events UNION ALL
		SELECT id, kind, at, session, spec, data, true FROM chaos.pruned`)
	if err != nil {
		return nil, err
	}
	t := &truth{rows: map[int64]fact{}}
	var e row
	var pruned bool
	_, err = pgx.ForEachRow(rows, []any{&e.ID, &e.Kind, &e.At, &e.Session, &e.Spec, &e.Data, &pruned}, func() error {
		t.rows[e.ID] = fact{print: e.print(), mark: e.mark(), at: e.At, pruned: pruned}
		if pruned {
			t.pruned++
		}
		e.Data = nil
		return nil
	})
	return t, err
}

// pooler is pgbouncer in transaction mode before a server; nil without error
// if it is not installed.
func (r *run) pooler(database string) (*program, string, error) {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		return nil, "", nil
	}
	port, err := r.ports.next()
	if err != nil {
		return nil, "", err
	}
	u, err := url.Parse(database)
	if err != nil {
		return nil, "", err
	}
	password, _ := u.User.Password()
	config := filepath.Join(r.folder, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
postgres = host=%s port=%s dbname=postgres user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 200
server_login_retry = 1
log_connections = 0
log_disconnections = 0
log_pooler_errors = 0
stats_period = 3600
`, u.Hostname(), u.Port(), u.User.Username(), password, port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, "", err
	}
	log, err := r.logs.open("pgbouncer")
	if err != nil {
		return nil, "", err
	}
	p := &program{name: "pgbouncer", path: path, args: []string{config}, log: log, died: r.faults.died("pgbouncer")}
	if os.Geteuid() == 0 { // pgbouncer refuses to run as root
		nobody, err := user.Lookup("nobody")
		if err != nil {
			return nil, "", err
		}
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		p.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} // #nosec G115 -- numbers of a user
		if err := os.Chown(config, uid, gid); err != nil {
			return nil, "", err
		}
	}
	if err := p.start(); err != nil {
		return nil, "", err
	}
	return p, fmt.Sprintf("postgres://%s@127.0.0.1:%d/postgres?sslmode=disable", u.User.Username(), port), nil
}

// disk is a small file system of the run's own, which can be filled.
type disk struct{ path string }

const diskSize uint64 = 2 << 30

// newDisk returns nil where file systems may not be mounted.
func (r *run) newDisk() *disk {
	path := filepath.Join(r.folder, "disk")
	if os.Mkdir(path, 0o755) != nil || syscall.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprint("mode=0755,size=", diskSize)) != nil {
		return nil
	}
	return &disk{path}
}

func (d *disk) unmount() {
	if d != nil {
		syscall.Unmount(d.path, syscall.MNT_DETACH) //nolint:errcheck // it ends with the machine
	}
}

// fill leaves almost no free space: the disk becomes as small as what it holds.
func (d *disk) fill() error {
	var err error
	for range 10 { // it may grow meanwhile
		var s syscall.Statfs_t
		if err = syscall.Statfs(d.path, &s); err != nil {
			return err
		}
		if err = d.resize((s.Blocks - s.Bfree + 16) * uint64(s.Bsize)); err == nil { // #nosec G115 -- a size is never negative
			return nil
		}
	}
	return err
}

func (d *disk) empty() error { return d.resize(diskSize) }

func (d *disk) resize(size uint64) error {
	return syscall.Mount("tmpfs", d.path, "tmpfs", syscall.MS_REMOUNT, fmt.Sprint("size=", size))
}

// journal records the faults and their times, to tell which were active when an
// event was lost.
type journal struct {
	mu      sync.Mutex
	entries []entry
	counts  map[string]int
	failed  map[string]int
	begun   time.Time
	log     io.Writer // receives why a fault could not be injected
}

type entry struct {
	scenario string
	kind     string
	from, to time.Time
}

// trouble records that a fault could not be injected.
func (j *journal) trouble(kind string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.log != nil {
		fmt.Fprintf(j.log, "%s %s: %v\n", time.Now().UTC().Format("15:04:05.000"), kind, err)
	}
}

func (j *journal) note(scenario, kind string, from, to time.Time, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.failed[kind]++
		return
	}
	j.counts[kind]++
	if j.log != nil {
		fmt.Fprintf(j.log, "%s to %s %s\n", from.UTC().Format("15:04:05.000"), to.UTC().Format("15:04:05.000"), kind)
	}
	j.entries = append(j.entries, entry{scenario, kind, from, to})
}

// died records that a program ended without a fault, which is an error.
func (j *journal) died(name string) func(error) {
	return func(err error) {
		j.trouble(name, err)
		j.note("", name+" runs until it is ended", time.Time{}, time.Time{}, err)
	}
}

// around lists the kinds of faults that were active in a scenario when an event
// was written.
func (j *journal) around(scenario string, at time.Time) []string {
	const near = 500 * time.Millisecond
	j.mu.Lock()
	defer j.mu.Unlock()
	found := map[string]bool{}
	var kinds []string
	for _, e := range j.entries {
		if e.scenario == scenario && at.After(e.from.Add(-near)) && at.Before(e.to.Add(near)) && !found[e.kind] {
			found[e.kind] = true
			kinds = append(kinds, e.kind)
		}
	}
	return kinds
}

func (j *journal) total() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries)
}
