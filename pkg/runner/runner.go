// Package runner runs a command as a spec: it writes events when the command
// starts, while it works, and when it ends, with the reason.
//
// The command runs as if it were run directly, on a terminal or without one. The
// database never delays or ends it: events are kept on disk, with their times,
// until they are written.
package runner

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/specwatch/specwatch/pkg/agent"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/redact"
	"github.com/specwatch/specwatch/pkg/state"
)

// Exit codes of the runner itself, the same as those of timeout(1) and of shells.
const (
	ExitTimeout       = 124
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// Environment variables with the session and spec of a command, which a nested
// `specwatch emit` uses.
const (
	EnvSession = "SPECWATCH_SESSION"
	EnvSpec    = "SPECWATCH_SPEC"
)

// Defaults of Config.
const (
	DefaultGrace        = 10 * time.Second
	DefaultHeartbeat    = 15 * time.Second
	DefaultFlushTimeout = 30 * time.Second
	DefaultOutputLines  = 20
)

// promptly is how long the last events may take before the user is told.
const promptly = 2 * time.Second

// Config describes the command and its spec.
type Config struct {
	Session, Spec string
	Command       []string

	Timeout      time.Duration // the command is ended after it; 0: never
	IdleTimeout  time.Duration // the command is ended after this long without a sign of work; 0: never
	Grace        time.Duration // between SIGTERM and SIGKILL; 0: DefaultGrace
	Heartbeat    time.Duration // 0: DefaultHeartbeat
	FlushTimeout time.Duration // how long to wait for the database once the command has ended; 0: not at all
	OutputLines  int           // last lines of output that are stored with the end of the spec

	Guard          []string // a command line that calls Guard; not used on Windows
	Env            []string // of the command
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	NoStdin        bool // the command's standard input is empty

	Signals <-chan os.Signal // passed on to the command; the third ends it
	Box     outbox.Box       // where events are kept until they are written
	Runs    string           // directory for EnvRun files; empty: none
	Say     func(string)     // prints one line for the user; called from several goroutines

	// Waits asks the destination whether a request of the spec to a person is open that
	// was written since a time. With an error it returns what is known without the
	// destination. nil: it is not asked.
	Waits func(ctx context.Context, since time.Time) (bool, error)
}

// Validate checks session, spec and command. Every error is an *event.FieldError.
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

// Result is how a command ended.
type Result struct {
	Code        int  // to pass on
	Interrupted bool // it died of the interrupt that its terminal sent
}

// Run runs the command. It returns when the command has ended and its events
// are written or, where they cannot be, are left on disk.
func Run(cfg Config, to outbox.Destination) (Result, error) {
	if err := cfg.Validate(); err != nil {
		return Result{}, err
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	id := rand.Text()
	r := &run{Config: cfg, key: "run-" + id + "-", file: cfg.Box.File(), start: time.Now()}
	r.queue = outbox.NewQueue(to, cfg.Box, r.file, r.tell)
	var err error
	if r.notes, err = makeNotes(cfg.Runs, id); err != nil {
		cfg.Say(fmt.Sprintf("specwatch emit inside the command cannot end the spec: %s", err))
	}
	defer os.Remove(r.notes)

	writing, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	go r.queue.Run(writing)
	result := r.command()
	r.queue.Close()
	r.settle(giveUp)
	return result, nil
}

// run is one call of Run.
type run struct {
	Config
	queue   *outbox.Queue
	file    *outbox.File
	notes   string // see EnvRun
	key     string // prefix of the keys of its events
	count   int
	start   time.Time
	work    *work
	waited  bool                    // what was last known: see waits
	current atomic.Pointer[command] // while it runs
}

// tell prints one line for the user, but not over the screen of the command.
func (r *run) tell(text string) {
	if c := r.current.Load(); c != nil {
		c.tell(r.Say, text)
		return
	}
	r.Say(text)
}

func (r *run) emit(kind event.Kind, data map[string]any) {
	r.count++
	r.add(kind, time.Now(), data, strconv.Itoa(r.count))
}

func (r *run) add(kind event.Kind, at time.Time, data map[string]any, key string) {
	r.queue.Add(event.Event{
		Kind: kind, At: at, Session: r.Session, Spec: r.Spec,
		Data: outbox.Data(data), Key: r.key + key,
	})
}

// end emits the end of the spec, unless the command has written one with specwatch.
// Others are found when the end is sent: see EndOfRun.
func (r *run) end(kind event.Kind, data map[string]any) {
	if endTold(r.notes, r.Session, r.Spec) {
		return
	}
	now := time.Now()
	data["durationSeconds"] = seconds(now.Sub(r.start))
	if lines := r.work.lines(); lines != "" {
		data["output"] = lines
	}
	r.add(kind, now, data, "end")
}

func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// command runs the command from start to end.
func (r *run) command() Result {
	r.work = newWork(r.start, r.OutputLines, r.notes)
	// Only the name: arguments may contain secrets.
	started := map[string]any{"command": filepath.Base(r.Command[0])}
	if r.Timeout > 0 {
		started["timeoutSeconds"] = r.Timeout.Seconds()
	}
	if r.IdleTimeout > 0 {
		started["idleTimeoutSeconds"] = r.IdleTimeout.Seconds()
	}
	r.emit(event.SpecStarted, started)

	r.Env = append(slices.Clone(r.Env), EnvSession+"="+r.Session, EnvSpec+"="+r.Spec, EnvRun+"="+r.notes)
	c, err := begin(&r.Config, r.work, &lastWords{
		Session: r.Session, Spec: r.Spec, Key: r.key + "killed", Start: r.start, File: r.file.Path(), Notes: r.notes,
	}, r.current.Store)
	defer r.current.Store(nil)
	if err != nil {
		code := ExitNotExecutable
		var own *startError
		if errors.As(err, &own) && own.notFound {
			code = ExitNotFound
		}
		r.Say(fmt.Sprintf("the command could not be started: %s", err))
		r.end(event.SpecFailed, map[string]any{"reason": "not started", "error": strings.ToValidUTF8(err.Error(), "?"), "exitCode": code})
		return Result{Code: code}
	}
	return r.watch(c)
}

// ended emits the outcome and returns the exit code to pass on.
func (r *run) ended(end change, err error, interrupted os.Signal) int {
	code := end.code
	data := map[string]any{"exitCode": code}
	if end.signal != "" {
		data["signal"] = end.signal
	}
	reason, failed := r.work.failure()
	limit := r.limit(r.work.limit(code != 0, time.Now()))
	if limit != nil && !limit.shown && (failed || code == 0) {
		limit = nil // the command itself says how it ended
	}
	switch {
	case code != 0 && interrupted != nil:
		data["reason"], data["signal"] = "interrupted", signalName(interrupted)
	case end.signal != "":
		data["reason"] = "signal"
	case limit != nil:
		r.endByLimit(limit, data)
		return code
	case failed:
		// Some agents report an error with exit code 0.
		data["reason"] = clip(redact.Text(reason), lineBytes)
	case code != 0:
		data["reason"] = "exit code"
	case err != nil:
		// The command succeeded, but its input or output broke.
		code = 1
		data["exitCode"], data["reason"], data["error"] = code, "input or output", err.Error()
	default:
		// A command that exits with 0 has completed, even if it was asked to
		// end.
		r.end(event.SpecCompleted, data)
		return code
	}
	r.end(event.SpecFailed, data)
	return code
}

// limit is a usage limit that stopped the command.
type limit struct {
	data  map[string]any
	shown bool // the output shows it
	told  bool // its event is written already
}

// limit returns the usage limit that the output shows or, if it shows none, the
// one that an agent's hook reported and after which nothing came; nil: none.
func (r *run) limit(found agent.Signal, shown bool) *limit {
	n, told := limitTold(r.notes, r.Session, r.Spec)
	switch {
	case shown:
		return &limit{found.Data, true, told}
	case told && !r.work.lastSign().After(n.At.Add(state.LimitGrace)):
		return &limit{n.data(), false, true}
	}
	return nil
}

// endByLimit ends the spec by a usage limit, which is no failure of it.
func (r *run) endByLimit(l *limit, data map[string]any) {
	if !l.told {
		r.emit(agent.AgentLimit, l.data)
	}
	maps.Copy(data, l.data)
	data["reason"] = event.LimitReason
	r.end(event.SpecFailed, data)
}

// settle waits until all events are written, for Config.FlushTimeout or until the
// user interrupts. The rest stays on disk.
func (r *run) settle(giveUp context.CancelFunc) {
	if r.written(min(promptly, r.FlushTimeout)) {
		return
	}
	if patience := r.FlushTimeout - promptly; patience > 0 {
		_, why := r.queue.Rest()
		r.Say(fmt.Sprintf("the command has ended; waiting for the database%s; interrupt to leave its events for later", because(why)))
		if r.written(patience) {
			return
		}
	}
	giveUp()
	<-r.queue.Ended()
	rest, why := r.queue.Rest()
	switch {
	case len(rest) == 0:
	case r.file.Path() == "":
		r.Say(fmt.Sprintf("%d events are lost%s: they could be neither written nor kept", len(rest), because(why)))
	default:
		r.file.Close()
		r.Say(fmt.Sprintf("%d events are not written yet%s; the next specwatch run, emit or flush for this database writes them from %s", len(rest), because(why), r.file.Path()))
	}
}

// written waits for the queue to end and reports whether it ended empty.
func (r *run) written(patience time.Duration) bool {
	select {
	case <-r.queue.Ended():
	case <-time.After(patience):
		return false
	case <-r.Signals:
		return false
	}
	rest, _ := r.queue.Rest()
	return len(rest) == 0
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}
