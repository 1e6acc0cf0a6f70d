//go:build unix

package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// ledger is a database reduced to what the runner can see of one: it stores a
// key once, and is there or not. The end-to-end tests use the real one.
type ledger struct {
	mu     sync.Mutex
	down   error
	refuse func(event.Event) error
	stored []event.Event
	calls  int
}

func (l *ledger) Append(_ context.Context, events []event.Event) (event.Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if l.down != nil {
		return event.Receipt{}, l.down
	}
	for _, e := range events {
		if l.refuse != nil {
			if err := l.refuse(e); err != nil {
				return event.Receipt{}, err
			}
		}
	}
	ids := make([]int64, len(events))
	for i, e := range events {
		if !slices.ContainsFunc(l.stored, func(s event.Event) bool { return s.Key == e.Key }) {
			l.stored = append(l.stored, e)
		}
		ids[i] = int64(i)
	}
	return event.Receipt{IDs: ids}, nil
}

func (l *ledger) set(down error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
}

func (l *ledger) kinds() (kinds []event.Kind) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.stored {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func (l *ledger) last() (event.Event, map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.stored[len(l.stored)-1]
	var data map[string]any
	if err := json.Unmarshal(e.Data, &data); err != nil {
		panic(err)
	}
	return e, data
}

// said collects what the person is told.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) say(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// The guard is this program, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "guard" {
		os.Exit(Guard(nil))
	}
	os.Exit(m.Run())
}

func shell(t *testing.T, script string) (Config, *said) {
	t.Helper()
	told := &said{}
	return Config{
		Session: "night", Spec: "login", Command: []string{"sh", "-c", script},
		Env: os.Environ(), FlushTimeout: 2 * time.Minute, OutputLines: DefaultOutputLines,
		Guard: []string{os.Args[0], "guard"}, Runs: filepath.Join(t.TempDir(), "runs"),
		Box: outbox.Open(t.TempDir(), "ledger"), Stdout: io.Discard, Stderr: io.Discard, Say: told.say,
	}, told
}

func start(t *testing.T, cfg Config, to outbox.Destination) <-chan int {
	t.Helper()
	code := make(chan int, 1)
	go func() {
		got, err := Run(cfg, to)
		if err != nil {
			t.Error(err)
		}
		code <- got.Code
	}()
	return code
}

func kept(b outbox.Box) []string {
	files, _ := filepath.Glob(filepath.Join(b.Dir, "*"))
	return files
}

// execute is Run with the exit code alone.
func execute(cfg Config, to outbox.Destination) (int, error) {
	result, err := Run(cfg, to)
	return result.Code, err
}

// onBusyMachine is what a run says when writing takes two seconds.
const onBusyMachine = "the command has ended; waiting for the database; interrupt to leave its events for later"

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		name, script string
		timeout      time.Duration
		code         int
		end          event.Kind
		data         map[string]any
	}{
		{name: "good", script: "exit 0", code: 0, end: event.SpecCompleted, data: map[string]any{"exitCode": 0.0}},
		{name: "bad", script: "exit 7", code: 7, end: event.SpecFailed, data: map[string]any{"exitCode": 7.0, "reason": "exit code"}},
		{name: "killed", script: "kill -KILL $$", code: 137, end: event.SpecFailed, data: map[string]any{"signal": "SIGKILL", "reason": "signal"}},
		{name: "late", script: "exec sleep 600", timeout: 50 * time.Millisecond, code: 124, end: event.TimeoutTriggered, data: map[string]any{"timeoutSeconds": 0.05, "reason": "time"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, told := shell(t, c.script)
			cfg.Timeout = c.timeout
			var db ledger
			code, err := execute(cfg, &db)
			if err != nil || code != c.code {
				t.Fatalf("exit code %d, %v; expected %d", code, err, c.code)
			}
			if got := db.kinds(); !slices.Equal(got, []event.Kind{event.SpecStarted, event.SessionHeartbeat, c.end}) {
				t.Fatalf("events: %v", got)
			}
			e, data := db.last()
			for name, want := range c.data {
				if data[name] != want {
					t.Errorf("%s is %v, expected %v", name, data[name], want)
				}
			}
			if d, ok := data["durationSeconds"].(float64); !ok || d < 0 || d > 60 {
				t.Errorf("durationSeconds is %v", data["durationSeconds"])
			}
			if e.Session != "night" || e.Spec != "login" || e.At.IsZero() || e.Key == "" {
				t.Errorf("event: %+v", e)
			}
			if strings.ReplaceAll(told.String(), onBusyMachine, "") != "" || len(kept(cfg.Box)) != 0 {
				t.Errorf("told %q, kept %v", told, kept(cfg.Box))
			}
		})
	}
}

func TestCannotStart(t *testing.T) {
	notExecutable := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(notExecutable, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	for command, code := range map[string]int{"specwatch-no-such-command": 127, "./no/such/file": 127, notExecutable: 126} {
		cfg, told := shell(t, "")
		cfg.Command = []string{command}
		var db ledger
		if got, err := execute(cfg, &db); err != nil || got != code {
			t.Errorf("%s: exit code %d, %v", command, got, err)
		}
		if got := db.kinds(); !slices.Equal(got, []event.Kind{event.SpecStarted, event.SpecFailed}) {
			t.Errorf("%s: events: %v", command, got)
		}
		if !strings.Contains(told.String(), "could not be started") {
			t.Errorf("%s: told %q", command, told)
		}
	}
}

func TestRefusesWhatNoEventCanCarry(t *testing.T) {
	for field, change := range map[string]func(*Config){
		"session": func(c *Config) { c.Session = "" },
		"spec":    func(c *Config) { c.Spec = "" },
		"command": func(c *Config) { c.Command = nil },
	} {
		cfg, _ := shell(t, "exit 0")
		change(&cfg)
		_, err := Run(cfg, &ledger{})
		var wrong *event.FieldError
		if !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestPassesInputOutputAndEnvironment(t *testing.T) {
	cfg, _ := shell(t, `cat; echo "$SPECWATCH_SESSION/$SPECWATCH_SPEC" >&2`)
	cfg.Env = append(cfg.Env, "SPECWATCH_SPEC=outer")
	var out, errs bytes.Buffer
	cfg.Stdin, cfg.Stdout, cfg.Stderr = strings.NewReader("through"), &out, &errs
	if code, err := execute(cfg, &ledger{}); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	if out.String() != "through" || errs.String() != "night/login\n" {
		t.Errorf("out %q, err %q", &out, &errs)
	}
}

func TestArgumentsStayPrivate(t *testing.T) {
	cfg, _ := shell(t, "exit 0")
	cfg.Command = append(cfg.Command, "hunter2")
	var db ledger
	if _, err := Run(cfg, &db); err != nil {
		t.Fatal(err)
	}
	for _, e := range db.stored {
		if bytes.Contains(e.Data, []byte("hunter2")) {
			t.Errorf("an argument is in %s: %s", e.Kind, e.Data)
		}
	}
}

func TestHeartbeats(t *testing.T) {
	dir := t.TempDir()
	cfg, _ := shell(t, `until [ -e "$0/stop" ]; do sleep 0.02; done`)
	cfg.Command = append(cfg.Command, dir)
	cfg.Heartbeat = 10 * time.Millisecond
	var db ledger
	code := start(t, cfg, &db)
	programtest.Until(t, "five events", func() bool { return len(db.kinds()) >= 5 })
	if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 0 {
		t.Fatal(got)
	}
	keys := map[string]bool{}
	for _, e := range db.stored {
		keys[e.Key] = true
	}
	if len(keys) != len(db.stored) {
		t.Error("keys repeat")
	}
}

// A command that ignores the request to end is killed with all that it
// started, grandchildren that outlive it included.
func TestTimeoutEndsTheWholeGroup(t *testing.T) {
	for name, script := range map[string]string{
		"stubborn":            `trap "" TERM; sleep 600 & echo $! > "$0/pid"; wait; wait; sleep 600`,
		"leaves a grandchild": `(trap "" TERM; sleep 600 & echo $! > "$0/pid"; wait; sleep 600) & trap "exit 0" TERM; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cfg, _ := shell(t, script)
			cfg.Command = append(cfg.Command, dir)
			// The time begins before the guard is started, and the command must have
			// written the file before it is up.
			cfg.Timeout, cfg.Grace = 10*time.Second, 200*time.Millisecond
			var db ledger
			if code, err := execute(cfg, &db); code != ExitTimeout || err != nil {
				t.Fatal(code, err)
			}
			text, err := os.ReadFile(filepath.Join(dir, "pid"))
			if err != nil {
				t.Fatal(err)
			}
			var pid int
			if _, err := fmt.Sscan(string(text), &pid); err != nil {
				t.Fatal(err)
			}
			programtest.Until(t, "the grandchild is gone", func() bool { return !runs(pid) })
		})
	}
}

// runs reports whether a process does anything any more; a zombie that nobody
// has collected does not.
func runs(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !bytes.Contains(stat, []byte(") Z "))
}

func TestSignals(t *testing.T) {
	// tee creates the file when it runs: a shell that is about to start a program may
	// lose the signal.
	const tee = `exec tee "$0/up"`
	for name, c := range map[string]struct {
		script string
		send   []os.Signal
		code   int
		end    event.Kind
		signal any
	}{
		"interrupt": {tee, []os.Signal{syscall.SIGINT}, 130, event.SpecFailed, "SIGINT"},
		"terminate": {tee, []os.Signal{syscall.SIGTERM}, 143, event.SpecFailed, "SIGTERM"},
		"own code":  {`trap "exit 9" TERM; touch "$0/up"; sleep 600 & wait`, []os.Signal{syscall.SIGTERM}, 9, event.SpecFailed, "SIGTERM"},
		"finishes":  {`trap "exit 0" TERM; touch "$0/up"; sleep 600 & wait`, []os.Signal{syscall.SIGTERM}, 0, event.SpecCompleted, nil},
		"stubborn":  {`trap "" INT; touch "$0/up"; sleep 600`, []os.Signal{syscall.SIGINT, syscall.SIGINT, syscall.SIGINT}, 137, event.SpecFailed, "SIGINT"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cfg, _ := shell(t, c.script)
			cfg.Command = append(cfg.Command, dir)
			stdin, open, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			defer open.Close()
			signals := make(chan os.Signal, 3)
			cfg.Signals, cfg.Stdin = signals, stdin
			var db ledger
			code := start(t, cfg, &db)
			programtest.Until(t, "the command runs", func() bool { _, err := os.Stat(filepath.Join(dir, "up")); return err == nil })
			for _, s := range c.send {
				signals <- s
			}
			if got := <-code; got != c.code {
				t.Errorf("exit code %d, expected %d", got, c.code)
			}
			if e, data := db.last(); e.Kind != c.end || data["signal"] != c.signal {
				t.Errorf("%s %v", e.Kind, data)
			}
		})
	}
}

var errDown = errors.New("nobody answers")

// The command ends on time although the database is away, and what happened
// is written, in order and with its own time, once it is back.
func TestOutageDuringTheRun(t *testing.T) {
	dir := t.TempDir()
	cfg, told := shell(t, `touch "$0/done"; exit 3`)
	cfg.Command = append(cfg.Command, dir)
	db := ledger{down: errDown}
	code := start(t, cfg, &db)
	programtest.Until(t, "the command ends", func() bool { _, err := os.Stat(filepath.Join(dir, "done")); return err == nil })
	programtest.Until(t, "the end is kept", func() bool {
		files := kept(cfg.Box)
		if len(files) != 1 {
			return false
		}
		text, err := os.ReadFile(files[0])
		return err == nil && bytes.Contains(text, []byte("spec_failed"))
	})
	back := time.Now()
	db.set(nil)
	if got := <-code; got != 3 {
		t.Fatal(got)
	}
	if got := db.kinds(); !slices.Equal(got, []event.Kind{event.SpecStarted, event.SessionHeartbeat, event.SpecFailed}) {
		t.Fatalf("events: %v", got)
	}
	for _, e := range db.stored {
		if !e.At.Before(back) {
			t.Errorf("%s carries the time of the writing", e.Kind)
		}
	}
	if files := kept(cfg.Box); len(files) != 0 {
		t.Errorf("still kept: %v", files)
	}
	if n := strings.Count(told.String(), "cannot be written now"); n != 1 {
		t.Errorf("told %d times of one outage:\n%s", n, told)
	}
}

// A request that was on disk, and has been sent since, keeps the command from being
// idle until the destination says that it is answered.
func TestIdleOnlyWhenKnown(t *testing.T) {
	cfg, _ := shell(t, `sleep 600`)
	cfg.IdleTimeout = 100 * time.Millisecond
	var asked atomic.Int64
	var answered atomic.Bool
	cfg.Waits = func(context.Context, time.Time) (bool, error) {
		switch {
		case asked.Add(1) == 1:
			return true, errDown
		case answered.Load():
			return false, nil
		}
		return false, errDown
	}
	code := start(t, cfg, &ledger{})
	programtest.Until(t, "it has asked for several idle timeouts", func() bool { return asked.Load() > 20 || len(code) > 0 })
	if len(code) > 0 {
		t.Fatalf("ended with %d after %d questions", <-code, asked.Load())
	}
	answered.Store(true)
	if got := <-code; got != ExitTimeout {
		t.Errorf("exit code %d", got)
	}
}

// A database that stays away leaves a file, which the next run sends first;
// when that fails too, both are kept, each once.
func TestSpool(t *testing.T) {
	cfg, told := shell(t, "exit 0")
	cfg.FlushTimeout = 0
	db := ledger{down: errDown}
	for i := range 2 {
		if code, err := execute(cfg, &db); code != 0 || err != nil {
			t.Fatal(code, err)
		}
		if files := kept(cfg.Box); len(files) != i+1 {
			t.Fatalf("kept: %v\n%s", files, told)
		}
	}
	if !strings.Contains(told.String(), "3 events are not written yet (nobody answers)") {
		t.Errorf("told: %s", told)
	}
	info, err := os.Stat(kept(cfg.Box)[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	db.set(nil)
	cfg.Spec, cfg.FlushTimeout = "next", 2*time.Minute
	if code, err := execute(cfg, &db); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	var specs []string
	for i, e := range db.stored {
		specs = append(specs, e.Spec)
		if i > 0 && e.At.Before(db.stored[i-1].At) {
			t.Error("an earlier event is stored later")
		}
	}
	if want := strings.Fields("login login login login login login next next next"); !slices.Equal(specs, want) {
		t.Errorf("stored: %v", specs)
	}
	if files := kept(cfg.Box); len(files) != 0 {
		t.Errorf("still kept: %v", files)
	}
}

func TestSend(t *testing.T) {
	cfg, told := shell(t, "exit 0")
	cfg.FlushTimeout = 0
	db := ledger{down: errDown}
	for range 3 {
		if _, err := Run(cfg, &db); err != nil {
			t.Fatal(err)
		}
	}
	damaged := filepath.Join(cfg.Box.Dir, "0-damaged.jsonl")
	if err := os.WriteFile(damaged, []byte("{\"kind\":\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.Box.Send(t.Context(), &db, told.say); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
	db.set(nil)
	if _, err := cfg.Box.Send(t.Context(), &db, told.say); err != nil {
		t.Fatal(err)
	}
	if len(db.stored) != 9 {
		t.Errorf("%d events stored", len(db.stored))
	}
	if files := kept(cfg.Box); !slices.Equal(files, []string{damaged + ".damaged"}) {
		t.Errorf("left: %v", files)
	}
	if !strings.Contains(told.String(), "are moved to") {
		t.Errorf("told: %s", told)
	}
}

func TestNoPlaceToKeepEvents(t *testing.T) {
	cfg, told := shell(t, "exit 5")
	cfg.FlushTimeout, cfg.Box = 0, outbox.Box{}
	if code, err := execute(cfg, &ledger{down: errDown}); code != 5 || err != nil {
		t.Fatal(code, err)
	}
	if !strings.Contains(told.String(), "cannot be kept") {
		t.Errorf("told: %s", told)
	}
}

// With a clock that is far off, events are stored with the database's time. An
// event that is refused for another reason does not prevent the others.
func TestRefusedEvents(t *testing.T) {
	cfg, told := shell(t, "exit 0")
	db := ledger{refuse: func(e event.Event) error {
		switch {
		case e.Kind == event.SessionHeartbeat:
			return &event.FieldError{Field: "spec", Detail: "is not welcome"}
		case !e.At.IsZero():
			return fmt.Errorf("append: %w", &event.FieldError{Field: "at", Detail: "lies in the future"})
		}
		return nil
	}}
	if code, err := execute(cfg, &db); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	if got := db.kinds(); !slices.Equal(got, []event.Kind{event.SpecStarted, event.SpecCompleted}) {
		t.Fatalf("events: %v", got)
	}
	if _, data := db.last(); data["writerClock"] == nil || data["exitCode"] != 0.0 {
		t.Errorf("data: %v", data)
	}
	if !strings.Contains(told.String(), "is not welcome") {
		t.Errorf("told: %s", told)
	}
}
