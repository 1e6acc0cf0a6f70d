// Package runner runs a real command as a spec: it tells the database when
// the command started, that it is alive, and how it ended.
//
// The command comes first. Whatever the database does, the command is neither
// delayed nor ended by it; its events wait, with the time at which each
// happened, until they can be written.
package runner

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

// Exit codes that are the runner's own; they are those of timeout(1) and of
// the shell.
const (
	ExitTimeout       = 124
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// Environment variables that tell a command which spec it is, and a nested
// `specwatch emit` what to fill in.
const (
	EnvSession = "SPECWATCH_SESSION"
	EnvSpec    = "SPECWATCH_SPEC"
)

// Appender is where events go; *store.Store is one.
type Appender interface {
	Append(ctx context.Context, events []event.Event) ([]int64, error)
}

// Defaults of Config.
const (
	DefaultGrace        = 10 * time.Second
	DefaultHeartbeat    = 15 * time.Second
	DefaultFlushTimeout = 30 * time.Second
)

// promptly is how long a database that is well may take for the last events,
// before they are kept in a file and the person is told.
const promptly = 2 * time.Second

// Config says what to run and as what.
type Config struct {
	Session, Spec string
	Command       []string

	Timeout      time.Duration // the command is ended after it; 0: never
	Grace        time.Duration // between asking a command to end and ending it; 0: DefaultGrace
	Heartbeat    time.Duration // 0: DefaultHeartbeat
	FlushTimeout time.Duration // how long to wait for the database once the command has ended; 0: not at all

	Env            []string // of the command
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	Signals <-chan os.Signal // passed on to the command; the third ends it
	Spool   Spool            // where events are kept that could not be written
	Say     func(string)     // tells the person one line; called from several goroutines
}

// Validate reports what in the configuration no event could carry. Every
// error is an *event.FieldError.
func (c Config) Validate() error {
	probe := event.Event{Kind: event.SpecStarted, Session: c.Session, Spec: c.Spec}
	switch err := probe.Validate(time.Now()); {
	case err != nil:
		return err
	case c.Spec == "":
		return &event.FieldError{Field: "spec", Detail: "must not be empty"}
	case len(c.Command) == 0:
		return &event.FieldError{Field: "command", Detail: "is missing"}
	}
	return nil
}

// Run runs the command and returns the exit code to pass on. It returns when
// the command has ended and its events are written or, where they cannot be,
// kept in a file.
func Run(cfg Config, to Appender) (int, error) {
	if err := cfg.Validate(); err != nil {
		return 0, err
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	id := rand.Text()
	r := &run{Config: cfg, key: "run-" + id + "-", file: cfg.Spool.newFile(id), queue: newQueue(to, cfg.Say)}
	// Earlier events first. Half of the bound is left for this run; whatever
	// is beyond waits for the next.
	earlier, sent := cfg.Spool.load(queueBound/2, cfg.Say)
	r.earlier = sent
	r.queue.add(earlier...)

	writing, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	go r.queue.run(writing)
	code := r.command()
	r.queue.close()
	r.settle(giveUp)
	return code, nil
}

// run is one call of Run.
type run struct {
	Config
	queue   *queue
	key     string // what the keys of its own events begin with
	count   int
	start   time.Time
	file    string   // for its own unwritten events
	earlier []string // files of earlier runs, whose events are in the queue
}

func (r *run) emit(kind event.Kind, data map[string]any) {
	r.count++
	r.queue.add(event.Event{
		Kind: kind, At: time.Now(), Session: r.Session, Spec: r.Spec,
		Data: encode(data), Key: r.key + strconv.Itoa(r.count),
	})
}

// end emits how the command ended, with what every end tells.
func (r *run) end(kind event.Kind, data map[string]any) {
	data["duration_seconds"] = math.Round(time.Since(r.start).Seconds()*1000) / 1000
	r.emit(kind, data)
}

// command runs the command from start to end.
func (r *run) command() int {
	r.start = time.Now()
	// The name and no arguments: those may carry secrets.
	started := map[string]any{"command": filepath.Base(r.Command[0])}
	if r.Timeout > 0 {
		started["timeout_seconds"] = r.Timeout.Seconds()
	}
	r.emit(event.SpecStarted, started)

	cmd := exec.Command(r.Command[0], r.Command[1:]...)
	cmd.Env = append(slices.Clone(r.Env), EnvSession+"="+r.Session, EnvSpec+"="+r.Spec)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r.Stdin, r.Stdout, r.Stderr
	cmd.WaitDelay = r.Grace // for a grandchild that keeps a pipe open
	detach(cmd)
	if err := cmd.Start(); err != nil {
		code := ExitNotExecutable
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			code = ExitNotFound
		}
		r.Say(fmt.Sprintf("the command could not be started: %s", err))
		r.end(event.SpecFailed, map[string]any{"reason": "not started", "error": strings.ToValidUTF8(err.Error(), "?"), "exit_code": code})
		return code
	}
	return r.watch(cmd)
}

// watch follows the started command to its end.
func (r *run) watch(cmd *exec.Cmd) int {
	all := group{cmd.Process.Pid}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()

	// The first says at once that the session is alive: a loop whose specs are
	// shorter than the interval would otherwise never say so.
	r.emit(event.SessionHeartbeat, map[string]any{})
	heartbeat := time.NewTicker(r.Heartbeat)
	defer heartbeat.Stop()
	var timeout, lastCall <-chan time.Time
	if r.Timeout > 0 {
		timeout = time.After(r.Timeout - time.Since(r.start))
	}
	var interrupted os.Signal
	var signals int
	var timedOut bool
	var deadline time.Time // of the processes that are left after a timeout

	for {
		select {
		case <-heartbeat.C:
			r.emit(event.SessionHeartbeat, map[string]any{})
		case <-timeout:
			// An interrupted command that does not end is still ended, but a
			// spec has one outcome.
			if interrupted == nil {
				timedOut = true
				r.end(event.TimeoutTriggered, map[string]any{"timeout_seconds": r.Timeout.Seconds()})
			}
			deadline = time.Now().Add(r.Grace)
			lastCall = time.After(r.Grace)
			all.terminate()
		case <-lastCall:
			all.kill()
		case s := <-r.Signals:
			interrupted = s
			if signals++; signals < 3 {
				all.signal(s)
			} else {
				all.kill()
			}
		case err := <-done:
			if !deadline.IsZero() {
				r.sweep(all, deadline)
			}
			if timedOut {
				return ExitTimeout
			}
			return r.ended(cmd, err, interrupted)
		}
	}
}

// sweep ends what a command that ran out of time leaves behind: nothing of it
// may go on working beside the next spec.
func (r *run) sweep(all group, deadline time.Time) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for all.alive() {
		if time.Now().After(deadline) {
			all.kill()
			return
		}
		select {
		case <-look.C:
		case <-r.Signals:
			deadline = time.Time{}
		}
	}
}

// ended emits the outcome and returns the exit code to pass on.
func (r *run) ended(cmd *exec.Cmd, err error, interrupted os.Signal) int {
	code, killedBy := ended(cmd.ProcessState)
	data := map[string]any{"exit_code": code}
	if killedBy != "" {
		data["signal"] = killedBy
	}
	var exit *exec.ExitError
	switch {
	case code != 0 && interrupted != nil:
		data["reason"], data["signal"] = "interrupted", signalName(interrupted)
	case killedBy != "":
		data["reason"] = "signal"
	case code != 0:
		data["reason"] = "exit code"
	case err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay):
		// The command itself is content, but its input or output broke.
		code = 1
		data["exit_code"], data["reason"], data["error"] = code, "input or output", err.Error()
	default:
		// Told to end, a command that finishes its work and exits with 0 is
		// done: it is the one to know.
		r.end(event.SpecCompleted, data)
		return code
	}
	r.end(event.SpecFailed, data)
	return code
}

// settle waits until all events are written. What outlives Config.FlushTimeout
// or the patience of the person is kept in the file. The file is written before
// the waiting, so that even a runner that is killed loses nothing.
func (r *run) settle(giveUp context.CancelFunc) {
	if r.written(min(promptly, r.FlushTimeout)) {
		return
	}
	r.keep()
	if patience := r.FlushTimeout - promptly; patience > 0 {
		_, why := r.queue.rest()
		r.Say(fmt.Sprintf("the command has ended; waiting for the database%s; interrupt to leave its events for later", because(why)))
		if r.written(patience) {
			return
		}
	}
	giveUp()
	<-r.queue.ended
	if r.written(0) {
		return
	}
	own, why := r.keep()
	if own > 0 {
		r.Say(fmt.Sprintf("%d events are not written yet%s; the next specwatch run or emit for this database writes them from %s", own, because(why), r.file))
	}
}

// written waits for the queue to end and reports whether it ended empty;
// then no file is needed any more.
func (r *run) written(patience time.Duration) bool {
	select {
	case <-r.queue.ended:
	case <-time.After(patience):
		return false
	case <-r.Signals:
		return false
	}
	if rest, _ := r.queue.rest(); len(rest) > 0 {
		return false
	}
	for _, file := range append(r.earlier, r.file) {
		// One that stays is sent again, and stored once.
		_ = os.Remove(file)
	}
	return true
}

// keep saves this run's own unwritten events and says so when that fails;
// those of earlier runs are still in their files.
func (r *run) keep() (own int, why error) {
	rest, why := r.queue.rest()
	rest = slices.DeleteFunc(rest, func(e event.Event) bool { return !strings.HasPrefix(e.Key, r.key) })
	if len(rest) == 0 {
		return 0, why
	}
	err := errors.New("no directory to keep them in")
	if r.Spool.Dir != "" {
		err = save(r.file, rest)
	}
	if err != nil {
		r.Say(fmt.Sprintf("%d unwritten events cannot be kept in a file: %s", len(rest), err))
		return 0, why
	}
	return len(rest), why
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}
