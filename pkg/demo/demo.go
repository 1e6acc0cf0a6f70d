// Package demo runs `specwatch demo`: PostgreSQL, the gateway, and a small loop of
// real commands.
package demo

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/specwatch/specwatch/pkg/embedded"
	"github.com/specwatch/specwatch/pkg/runner"
	"github.com/specwatch/specwatch/pkg/state"
)

// Config has the directory of the demo and the functions of the command line that it
// uses.
type Config struct {
	Dir         string // of its data; kept from one start to the next
	Listen      string // address of the page
	DatabaseURL string // empty: a PostgreSQL of its own
	Executable  string // specwatch itself

	Environment func(databaseURL string) []string // of the commands
	Migrate     func(ctx context.Context, databaseURL string) error
	Serve       func(ctx context.Context, databaseURL string, at net.Listener) error // until ctx ends

	Out io.Writer
}

const (
	startTimeout = 2 * time.Minute  // of PostgreSQL, the first time on a slow disk
	stopTimeout  = 30 * time.Second // of whatever is asked to end
)

// Run runs the demo until ctx ends; then it returns nil.
func Run(ctx context.Context, config Config) error {
	err := run(ctx, config)
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // interrupted while something was starting
	}
	return err
}

func run(ctx context.Context, config Config) (err error) {
	d := &demo{Config: config, session: "demo-" + time.Now().Format("2006-01-02T15:04:05")}
	log, err := d.openFolder()
	if err != nil {
		return err
	}
	defer log.Close()
	d.log = log

	// If one part ends, the demo ends.
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	url, stop, err := d.database(ctx, end)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := d.Migrate(ctx, url); err != nil {
		return err
	}
	listener, err := d.listen()
	if err != nil {
		return err
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := d.Serve(ctx, url, listener); err != nil {
			end(err)
		}
	}()
	if err := d.writeAgents(); err != nil {
		end(err)
	}
	d.page = pageAt(listener.Addr())
	d.env = append(d.Environment(url), "SPECWATCH_DEMO_EXECUTABLE="+d.Executable, "SPECWATCH_DEMO_DIR="+d.Dir,
		// What cannot be written is the demo's, too.
		"XDG_STATE_HOME="+d.Dir, "LocalAppData="+d.Dir)
	if err := d.explain(url); err != nil {
		end(err)
	}
	d.loop(ctx)
	<-served
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	d.tell("stopped; the data stays in " + d.Dir)
	return nil
}

type demo struct {
	Config
	session string
	page    string // its URL
	env     []string
	log     io.Writer

	mu sync.Mutex // of Out
}

func (d *demo) tell(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintln(d.Out, text)
}

// openFolder creates the folder of the demo, and in it the log of the commands.
func (d *demo) openFolder() (log *os.File, err error) {
	if d.Dir, err = filepath.Abs(d.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.Dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(d.Dir, "commands.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
}

// database returns the URL of the database: the one in the configuration or, if there
// is none, that of a PostgreSQL server, which stop ends. If that server ends by itself,
// end is called.
func (d *demo) database(ctx context.Context, end context.CancelCauseFunc) (url string, stop func() error, err error) {
	if d.DatabaseURL != "" {
		return d.DatabaseURL, func() error { return nil }, nil
	}
	server, err := d.startPostgreSQL(ctx)
	if err != nil {
		return "", nil, err
	}
	go func() {
		select {
		case <-server.Ended():
			end(errors.New("PostgreSQL has ended; " + filepath.Join(d.Dir, "postgres.log") + " says why"))
		case <-ctx.Done():
		}
	}()
	return server.URL(), func() error {
		stopping, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		d.tell("stopping PostgreSQL")
		return server.Stop(stopping)
	}, nil
}

func (d *demo) startPostgreSQL(ctx context.Context) (*embedded.Server, error) {
	d.tell("starting PostgreSQL in " + d.Dir)
	log, err := os.OpenFile(filepath.Join(d.Dir, "postgres.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// The log stays open for as long as the server may write to it, which is
	// until this process ends.
	return embedded.Start(ctx, embedded.Config{Dir: filepath.Join(d.Dir, "postgres"), Log: log})
}

// listen listens on the requested address or, if it is in use, on a free port.
func (d *demo) listen() (net.Listener, error) {
	listener, err := net.Listen("tcp", d.Listen)
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) && !strings.Contains(err.Error(), "Only one usage of each socket address") {
		return listener, err
	}
	host, _, splitErr := net.SplitHostPort(d.Listen)
	if splitErr != nil {
		return nil, err
	}
	if listener, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err == nil {
		d.tell(d.Listen + " is taken by another program; using a free port instead")
	}
	return listener, err
}

//go:embed agents
var agents embed.FS

// writeAgents writes what the agents of the demo print into its folder.
func (d *demo) writeAgents() error {
	for _, name := range []string{"codex.jsonl", "claude.jsonl"} {
		text, err := agents.ReadFile("agents/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d.Dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// pageAt returns the URL of a page that listens on all or on one address.
func pageAt(address net.Addr) string {
	host, port, _ := net.SplitHostPort(address.String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// explain prints the address and what to try. The database URL has a password, so it
// is written to a file that only this user can read.
func (d *demo) explain(url string) error {
	env := filepath.Join(d.Dir, "env")
	line := "export SPECWATCH_DATABASE_URL='" + strings.ReplaceAll(url, "'", `'\''`) + "'\n"
	if err := os.WriteFile(env, []byte(line), 0o600); err != nil {
		return err
	}
	d.tell(fmt.Sprintf(`
Specwatch is at  %[1]s/

Try, in another terminal:
  curl %[1]s/api/status                         what the page reads
  curl %[1]s/api/events -d '{"kind":"spec_started","session":"mine","spec":"first"}'
  . %[2]s && %[3]s run --spec mine -- make test   your own command
  . %[2]s && %[3]s run --spec shell -- bash       an interactive program
  . %[2]s && %[3]s status                         the same as text
On the page:
  "SQLite or PostgreSQL?" waits for you: choose, and choose-a-database continues.
  wait-for-a-lock prints nothing: after %[5]d minutes it is shown as hung.
  upload-results was started and is not heard of again: after a minute it is silent.
  resize-images has no more heartbeats, as after its runner was killed: after a
    minute it is silent, while its session goes on.
  look-around runs on a terminal.
  write-tests and review-changes show what an agent does, and what it used and cost.
  fix-login failed: its last lines of output say why, without the API key.
  check-links exits with 0 and has reported itself that it failed.
  migrate-data runs out of time, and compile-assets is ended because it hangs: these
    are failures in a row, which the session shows.
  refactor-store ended at a usage limit, which is not a failure.
  write-docs wrote its events through the gateway.
Output of the commands: %[4]s
Ctrl-C ends it; the data is kept.
`, d.page, quote(env), quote(d.Executable), quote(filepath.Join(d.Dir, "commands.log")), int(state.Idle.Minutes())))
	return nil
}

// loop runs one spec after the other until ctx ends. It does not wait for specs that
// wait for a person or hang.
func (d *demo) loop(ctx context.Context) {
	var beside sync.WaitGroup
	defer beside.Wait()
	var busy sync.Map // names of specs that run beside the loop
	for ctx.Err() == nil {
		for _, s := range specs {
			if !s.beside {
				d.spec(ctx, s)
			} else if _, runs := busy.LoadOrStore(s.name, true); !runs {
				beside.Go(func() {
					defer busy.Delete(s.name)
					d.spec(ctx, s)
				})
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(s.pause):
			}
		}
	}
}

// spec runs one spec with `specwatch run`.
func (d *demo) spec(ctx context.Context, s spec) {
	started := time.Now()
	args := []string{"run", "--spec", s.name, "--grace", "2s"}
	if !s.unnamed {
		args = append(args, "--session", d.session+s.session)
	}
	if s.timeout > 0 {
		args = append(args, "--timeout", s.timeout.String())
	}
	if s.idleTimeout > 0 {
		args = append(args, "--idle-timeout", s.idleTimeout.String())
	}
	cmd := exec.CommandContext(ctx, d.Executable, append(append(args, "--"), s.command()...)...)
	cmd.Env = d.env
	if s.gateway {
		cmd.Env = append(slices.Clone(d.env), "SPECWATCH_DATABASE_URL=", "SPECWATCH_GATEWAY="+d.page)
	}
	cmd.Cancel = func() error { return end(cmd.Process) }
	cmd.WaitDelay = stopTimeout
	run := onPipe
	if s.terminal {
		run = onTerminal
	}
	err := run(cmd, d.log)
	outcome := "completed"
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return
	case errors.As(err, &exit) && exit.ExitCode() == runner.ExitTimeout:
		outcome = "timed out"
	case errors.As(err, &exit):
		outcome = "failed with exit code " + strconv.Itoa(exit.ExitCode())
	case err != nil:
		outcome = "could not be run: " + err.Error()
	}
	d.tell(fmt.Sprintf("%s  %-18s %s after %.1f s", started.Format("15:04:05"), s.name, outcome, time.Since(started).Seconds()))
}

// onPipe runs a command without a terminal.
func onPipe(cmd *exec.Cmd, log io.Writer) error {
	cmd.Stdout, cmd.Stderr = log, log
	return cmd.Run()
}

// quote makes a path safe to paste into a shell.
func quote(path string) string {
	if strings.ContainsAny(path, " '\"$&();<>|*?`\\") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
