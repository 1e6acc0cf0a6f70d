//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/embedded"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// executable is specwatch as it is built for people; the tests run it.
var executable string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "specwatch-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		executable = filepath.Join(dir, "specwatch")
		// Under nohup it is ignored, and so it would be by what the tests
		// start. What is caught here is at its default there.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
		args := []string{"build", "-o", executable}
		if race {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, ".")...)
		build.Stdout, build.Stderr = os.Stdout, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "cannot build specwatch:", err)
			return 1
		}
		return m.Run()
	}())
}

// output collects what a process says while it runs.
type process struct {
	*exec.Cmd
	out, err programtest.Output
	done     chan struct{}
}

// at is where a process runs: its database and a home of its own.
type at struct {
	url   string
	state string
	env   []string
}

func place(t *testing.T, url string) at {
	t.Helper()
	// Not t.TempDir: a process that a hook left behind may still create a file in it
	// while it is removed.
	state, err := os.MkdirTemp("", "specwatch-state-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		programtest.Until(t, "the state is removed", func() bool { return os.RemoveAll(state) == nil })
	})
	return at{url: url, state: state}
}

func (a at) start(t *testing.T, stdin io.Reader, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(executable, args...), done: make(chan struct{})}
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "SPECWATCH_") && !strings.HasPrefix(variable, "PG") {
			p.Env = append(p.Env, variable)
		}
	}
	p.Env = append(p.Env, "XDG_STATE_HOME="+a.state, "GORACE=exitcode=66 atexit_sleep_ms=0")
	if a.url != "" {
		p.Env = append(p.Env, envDatabaseURL+"="+a.url)
	}
	p.Env = append(p.Env, a.env...)
	p.Stdin, p.Stdout, p.Stderr = stdin, &p.out, &p.err
	p.WaitDelay = 5 * time.Second // a command that outlives its runner holds the pipes open
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.Wait() // ProcessState tells
		close(p.done)
	}()
	t.Cleanup(func() {
		// A failed test leaves no command behind: the runner ends its own.
		_ = p.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
			_ = p.Process.Kill()
			<-p.done
		}
	})
	return p
}

// code waits for the end and returns the exit code.
func (p *process) code(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(3 * time.Minute):
		t.Fatalf("%v does not end; it says\n%s%s", p.Args[1:], &p.out, &p.err)
	}
	return p.ProcessState.ExitCode()
}

func (a at) run(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	p := a.start(t, nil, args...)
	code = p.code(t)
	return code, p.out.String(), p.err.String()
}

// onBusyMachine is what a run says when the database takes two seconds.
const onBusyMachine = "specwatch: the command has ended; waiting for the database; interrupt to leave its events for later\n"

// quiet is what a run says, without that.
func quiet(errs string) string { return strings.ReplaceAll(errs, onBusyMachine, "") }

// mustRun runs a command that must succeed and print nothing on standard error.
func (a at) mustRun(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := a.run(t, args...)
	if code != 0 || quiet(errs) != "" {
		t.Fatalf("%v: exit code %d: %s", args, code, errs)
	}
	return out
}

// migrated is an empty database with its schema.
func migrated(t *testing.T) at {
	t.Helper()
	// A database of its own: migrations of one database wait for each other.
	a := place(t, postgrestest.Database(t))
	a.mustRun(t, "migrate")
	return a
}

type row struct {
	Kind, Session, Spec string
	At                  time.Time
	Data                map[string]any
	Key                 *string
}

func (a at) rows(t *testing.T) []row {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), a.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	result, err := conn.Query(context.Background(), "SELECT kind, session, spec, at, data, key FROM events ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := pgx.CollectRows(result, pgx.RowToStructByPos[row])
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func (a at) kinds(t *testing.T) string {
	t.Helper()
	var kinds []string
	for _, r := range a.rows(t) {
		kinds = append(kinds, r.Kind)
	}
	return strings.Join(kinds, " ")
}

func (a at) kept() []string {
	files, _ := filepath.Glob(filepath.Join(a.state, "specwatch", "unwritten", "*", "*"))
	return files
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// nowhere is a database that does not answer.
const nowhere = "postgres://somebody:hunter2@127.0.0.1:1/none"

func TestExitCodesAndErrors(t *testing.T) {
	known := migrated(t)
	bare, _ := postgrestest.Schema(t)
	for _, c := range []struct {
		name string
		url  string
		args string
		code int
		says string
	}{
		{"no command", known.url, "", 2, "--help"},
		{"unknown command", known.url, "sevre", 2, "did you mean serve?"},
		{"unlike any command", known.url, "frobnicate", 2, "specwatch --help lists the commands"},
		{"unknown flag", known.url, "emit spec_started --sesion s", 2, "did you mean --session?"},
		{"unlike any flag", known.url, "emit --frobnicate x", 2, "specwatch emit --help lists the flags"},
		{"kind with a letter too few", known.url, "emit spec_startd --session s", 2, "did you mean spec_started?"},
		{"output with a letter too few", known.url, "status --output jsn", 2, "did you mean json?"},
		{"no database", "", "emit spec_started --session s", 2, "SPECWATCH_DATABASE_URL"},
		{"no URL", "postgres://u:hunter2@[::1/x", "emit spec_started --session s", 2, "cannot be read"},
		{"password in the flag", "", "migrate --database-url postgres://u:hunter2@h/d", 2, "SPECWATCH_DATABASE_URL"},
		{"password in the query", "", "migrate --database-url postgres://u@h/d?password=hunter2", 2, "SPECWATCH_DATABASE_URL"},
		{"password as keyword", "", "migrate --database-url password=hunter2", 2, "SPECWATCH_DATABASE_URL"},
		{"URL as command", "", "postgres://u:hunter2@h/d", 2, "unknown command"},
		{"database away", nowhere, "emit spec_started --session s", 1, "cannot connect"},
		{"database away, migrate", nowhere, "migrate", 1, "cannot connect"},
		{"database away, tail", nowhere, "tail", 1, "cannot connect"},
		{"database away, prune", nowhere, "prune --older-than 1d", 1, "cannot connect"},
		{"not migrated", bare, "emit spec_started --session s", 1, "specwatch migrate"},
		{"not migrated, tail", bare, "tail", 1, "specwatch migrate"},
		{"no kind", known.url, "emit", 2, "spec_started"},
		{"unknown kind", known.url, "emit spec_began --session s", 2, `KIND "spec_began" is not known`},
		{"data is no JSON", known.url, "emit spec_started --session s --data {", 2, "--data is not JSON"},
		{"long spec", known.url, "emit spec_started --session s --spec " + strings.Repeat("x", 513), 2, "--spec has 513 bytes"},
		{"long session of a question", known.url, "ask Which? --session " + strings.Repeat("x", 513), 2, "--session has 513 bytes"},
		{"data that only PostgreSQL refuses", known.url, `emit spec_started --session s --data {"a":1e999999}`, 1, "data"},
		{"time without zone", known.url, "emit spec_started --session s --at 2026-01-01T00:00:00", 2, `--at "2026-01-01T00:00:00" is not`},
		{"time in the future", known.url, "emit spec_started --session s --at 2999-01-01T00:00:00Z", 2, "--at 2999-01-01T00:00:00Z lies"},
		{"two kinds", known.url, "emit spec_started spec_failed --session s", 2, "spec_failed"},
		{"kind and file", known.url, "emit spec_started --from x", 2, "--from"},
		{"session and file", known.url, "emit --session s --from x", 2, "--session"},
		{"no such file", known.url, "emit --from /no/such/file", 2, "/no/such/file"},
		{"run nothing", known.url, "run --spec s", 2, "COMMAND"},
		{"run without spec", known.url, "run -- true", 2, "run --spec login -- true"},
		{"spec behind the command", known.url, "run true --spec s", 2, "before the command"},
		{"negative timeout", known.url, "run --spec s --timeout -1s -- true", 2, "--timeout"},
		{"no heartbeat", known.url, "run --spec s --heartbeat 0s -- true", 2, "--heartbeat"},
		{"garbage cursor", known.url, "tail --since yesterday", 2, "--since"},
		{"no age", known.url, "prune", 2, "--older-than"},
		{"odd age", known.url, "prune --older-than 3w", 2, "30d"},
		{"negative age", known.url, "prune --older-than -1h", 2, "30d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			code, out, errs := place(t, c.url).run(t, strings.Fields(c.args)...)
			if code != c.code {
				t.Errorf("exit code %d, expected %d", code, c.code)
			}
			if !strings.HasPrefix(errs, "specwatch: ") || strings.Count(errs, "\n") != 1 || !strings.HasSuffix(errs, "\n") || !strings.Contains(errs, c.says) {
				t.Errorf("not one line that says %q: %q", c.says, errs)
			}
			if out != "" {
				t.Errorf("standard output: %q", out)
			}
			if strings.Contains(errs+out, "hunter2") {
				t.Errorf("the password is printed: %s", errs)
			}
		})
	}
	t.Cleanup(func() {
		if rows := known.rows(t); len(rows) != 0 {
			t.Errorf("stored: %v", rows)
		}
	})
}

func TestMigrateTwiceAndAtOnce(t *testing.T) {
	a := place(t, postgrestest.Database(t))
	var all []*process
	for range 3 {
		all = append(all, a.start(t, nil, "migrate"))
	}
	for _, p := range all {
		if code := p.code(t); code != 0 {
			t.Errorf("exit code %d: %s", code, &p.err)
		}
	}
	if out := a.mustRun(t, "migrate"); !strings.Contains(out, "0 migrations applied now") {
		t.Errorf("the last says %q", out)
	}
}

func TestSchemaFlag(t *testing.T) {
	url := postgrestest.Database(t)
	a := place(t, url)
	a.mustRun(t, "migrate", "--schema", "loop events")
	a.mustRun(t, "emit", "spec_started", "--session", "s", "--schema", "loop events")
	a.env = []string{envSchema + "=loop events"}
	a.mustRun(t, "run", "--spec", "p", "--session", "s", "--", executable, "emit", "intervention_request")
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var n int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM "loop events".events`).Scan(&n); err != nil || n != 5 {
		t.Errorf("%d events, %v", n, err)
	}
}

func TestEmit(t *testing.T) {
	a := migrated(t)
	first := a.mustRun(t, "emit", "spec_failed", "--session", "night", "--spec", "login", "--data", `{"n": 1}`, "--key", "k", "--at", "2026-01-02T03:04:05+01:00")
	if again := a.mustRun(t, "emit", "spec_failed", "--session", "night", "--key", "k"); again != first {
		t.Errorf("the same key got ids %q and %q", first, again)
	}
	rows := a.rows(t)
	if len(rows) != 1 {
		t.Fatalf("rows: %v", rows)
	}
	r := rows[0]
	if r.Kind != "spec_failed" || r.Session != "night" || r.Spec != "login" || r.Data["n"] != 1.0 || *r.Key != "k" ||
		!r.At.Equal(time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC)) {
		t.Errorf("row: %+v", r)
	}
}

func TestEmitFrom(t *testing.T) {
	a := migrated(t)
	var text strings.Builder
	for i := range 12_000 {
		fmt.Fprintf(&text, `{"kind":"session_heartbeat","session":"s","spec":"p%d","key":"k%d"}`+"\n", i, i)
		if i%1000 == 0 {
			text.WriteString("\r\n")
		}
	}
	file := filepath.Join(t.TempDir(), "events.jsonl")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"12000 events stored, 0 known already\n", "0 events stored, 12000 known already\n"} { // the keys make it safe to repeat
		if out := a.mustRun(t, "emit", "--from", file); out != says {
			t.Errorf("says %q, expected %q", out, says)
		}
	}
	rows := a.rows(t)
	if len(rows) != 12_000 || rows[11_999].Spec != "p11999" {
		t.Fatalf("%d rows", len(rows))
	}
	p := a.start(t, strings.NewReader(`{"kind":"spec_started","session":"no newline at the end"}`), "emit", "--from", "-")
	if code := p.code(t); code != 0 {
		t.Errorf("exit code %d: %s", code, &p.err)
	}
	if rows := a.rows(t); len(rows) != 12_001 {
		t.Errorf("%d rows", len(rows))
	}
}

func TestBadLineIsNamedAndNothingStored(t *testing.T) {
	a := migrated(t)
	good := `{"kind":"spec_started","session":"s","spec":"p"}` + "\n"
	for name, c := range map[string]struct {
		lines string
		line  int
		says  string
	}{
		"no JSON":               {good + good + "{oops\n" + good, 3, "JSON"},
		"unknown kind":          {good + `{"kind":"x","session":"s"}`, 2, "kind"},
		"unknown field":         {good + `{"knid":"spec_started","session":"s"}`, 2, "knid"},
		"blank lines count":     {"\n\n" + good + "\n" + `{"kind":"spec_started"}`, 5, "session"},
		"NUL":                   {good + `{"kind":"spec_started","session":"a\u0000"}`, 2, "session"},
		"invalid UTF-8":         {good + "{\"kind\":\"spec_started\",\"session\":\"\xff\"}", 2, "UTF-8"},
		"too long":              {good + `{"kind":"spec_started","session":"s","data":"` + strings.Repeat("x", 2<<20) + `"}`, 2, "longer"},
		"data too long":         {good + `{"kind":"spec_started","session":"s","data":"` + strings.Repeat("x", 1_000_000) + `"}`, 2, "data"},
		"in the second chunk":   {strings.Repeat(good, 7_000) + "{}\n", 7_001, "kind"},
		"refused by PostgreSQL": {good + "\n" + good + `{"kind":"spec_started","session":"s","data":{"n":1e999999}}` + "\n" + good, 4, "data"},
		"refused, second chunk": {strings.Repeat(good, 5_500) + "\n" + `{"kind":"spec_started","session":"s","data":1e999999}`, 5_502, "data"},
		"refused, all alone":    {"\n" + `{"kind":"spec_started","session":"s","data":1e999999}` + "\n\n", 2, "data"},
	} {
		t.Run(name, func(t *testing.T) {
			p := a.start(t, strings.NewReader(c.lines), "emit", "--from", "-")
			if code := p.code(t); code != 1 {
				t.Errorf("exit code %d", code)
			}
			says := p.err.String()
			if !strings.HasPrefix(says, fmt.Sprintf("specwatch: line %d: ", c.line)) || !strings.Contains(says, c.says) || strings.Count(says, "\n") != 1 {
				t.Errorf("says %.300q", says)
			}
			if rows := a.rows(t); len(rows) != 0 {
				t.Errorf("%d rows stored", len(rows))
			}
		})
	}
}

func TestRunPassesEverythingOn(t *testing.T) {
	a := migrated(t)
	p := a.start(t, strings.NewReader("input"), "run", "--spec", "login", "--session", "night", "--", "sh", "-c", `cat; echo problem >&2; exit 42`)
	if code := p.code(t); code != 42 || p.out.String() != "input" || quiet(p.err.String()) != "problem\n" {
		t.Errorf("exit code %d, out %q, err %q", code, &p.out, &p.err)
	}
	if got := a.kinds(t); got != "spec_started session_heartbeat spec_failed" {
		t.Errorf("events: %s", got)
	}
	last := a.rows(t)[2]
	if last.Session != "night" || last.Spec != "login" || last.Data["exitCode"] != 42.0 || last.Data["durationSeconds"] == nil {
		t.Errorf("last: %+v", last)
	}
}

func TestRunWithoutDashes(t *testing.T) {
	a := migrated(t)
	code, _, errs := a.run(t, "run", "--spec", "s", "sh", "-c", "exit 0", "--spec")
	rows := a.rows(t)
	if len(rows) != 3 || rows[2].Kind != "spec_completed" || rows[2].Spec != "s" {
		t.Fatalf("rows: %+v", rows)
	}
	host, _ := os.Hostname()
	if code != 0 || !strings.HasPrefix(rows[2].Session, host+"-20") || !strings.Contains(errs, rows[2].Session) || strings.Count(quiet(errs), "\n") != 1 {
		t.Errorf("exit code %d, session %s, says %q", code, rows[2].Session, errs)
	}
}

func TestRunTimeout(t *testing.T) {
	a := migrated(t)
	code, _, errs := a.run(t, "run", "--session", "night", "--spec", "s", "--timeout", "200ms", "--grace", "200ms", "--", "sh", "-c", `trap "" TERM; while :; do sleep 1; done`)
	if code != 124 || quiet(errs) != "" {
		t.Errorf("exit code %d: %s", code, errs)
	}
	if got := a.kinds(t); got != "spec_started session_heartbeat timeout_triggered" {
		t.Errorf("events: %s", got)
	}
}

func TestRunCannotStart(t *testing.T) {
	a := migrated(t)
	code, _, errs := a.run(t, "run", "--session", "night", "--spec", "s", "--", "/no/such/program")
	if code != 127 || !strings.HasPrefix(errs, "specwatch: the command could not be started") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	if got := a.kinds(t); got != "spec_started spec_failed" {
		t.Errorf("events: %s", got)
	}
}

// An emit inside the command knows where it belongs, also when flags named
// the database.
func TestNestedEmit(t *testing.T) {
	a := migrated(t)
	nested := a
	nested.url = ""
	u, err := pgx.ParseConfig(a.url)
	if err != nil {
		t.Fatal(err)
	}
	nested.env = []string{"PGPASSWORD=" + u.Password}
	flag := fmt.Sprintf("postgres://%s@%s:%d/%s?sslmode=disable", u.User, u.Host, u.Port, u.Database)
	out := nested.mustRun(t, "run", "--database-url", flag, "--schema", u.RuntimeParams["search_path"], "--session", "night", "--spec", "login", "--",
		executable, "emit", "intervention_request", "--data", `{"question":"which port?"}`)
	if strings.TrimSpace(out) == "" {
		t.Error("emit prints no id")
	}
	rows := a.rows(t)
	i := slices.IndexFunc(rows, func(r row) bool { return r.Kind == "intervention_request" })
	if i < 0 || rows[i].Session != "night" || rows[i].Spec != "login" {
		t.Errorf("rows: %+v", rows)
	}
}

func TestRunPassesSignalsOn(t *testing.T) {
	// tee creates the file when it runs: a shell that is about to start a program may
	// lose the signal.
	const tee = `exec tee "$0/up"`
	for _, c := range []struct {
		signal syscall.Signal
		script string
		code   int
		reason any
	}{
		{syscall.SIGTERM, tee, 143, "interrupted"},
		{syscall.SIGINT, tee, 130, "interrupted"},
		{syscall.SIGHUP, tee, 129, "interrupted"},
		{syscall.SIGINT, `sleep 600 & trap "kill $!; exit 0" INT; touch "$0/up"; wait`, 0, nil},
	} {
		t.Run(c.signal.String(), func(t *testing.T) {
			if c.signal == syscall.SIGHUP && signal.Ignored(syscall.SIGHUP) {
				t.Skip("these tests run under nohup, and so would the runner")
			}
			a := migrated(t)
			dir := t.TempDir()
			stdin, open, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			defer open.Close()
			p := a.start(t, stdin, "run", "--spec", "s", "--", "sh", "-c", c.script, dir)
			programtest.Until(t, "the command runs", func() bool { return exists(filepath.Join(dir, "up")) })
			if err := p.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			if code := p.code(t); code != c.code {
				t.Errorf("exit code %d, expected %d: %s", code, c.code, &p.err)
			}
			rows := a.rows(t)
			if last := rows[len(rows)-1]; last.Data["reason"] != c.reason {
				t.Errorf("last: %+v", last)
			}
		})
	}
}

// cluster is a PostgreSQL of its own, which may be stopped.
func stop(t *testing.T, server *embedded.Server) {
	t.Helper()
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func restart(t *testing.T, server *embedded.Server) {
	t.Helper()
	// Another program may have been given the port meanwhile.
	programtest.Until(t, "PostgreSQL has its port again", func() bool {
		err := server.Restart(t.Context())
		if err != nil && !strings.Contains(err.Error(), "cannot listen on") {
			t.Fatal(err)
		}
		return err == nil
	})
}

// The database goes away while commands run: the commands are not disturbed, and
// their events are stored afterwards, each once, with its own time and in order.
func TestOutages(t *testing.T) {
	server := postgrestest.Cluster(t, nil)
	a := place(t, server.URL())
	a.mustRun(t, "migrate")

	t.Run("during the run", func(t *testing.T) {
		dir := t.TempDir()
		p := a.start(t, nil, "run", "--spec", "during", "--session", "s", "--heartbeat", "50ms", "--flush-timeout", "5m", "--", "sh", "-c",
			`touch "$0/up"; until [ -e "$0/go" ]; do sleep 0.05; done; exit 3`, dir)
		programtest.Until(t, "heartbeats arrive", func() bool { return strings.Count(a.kinds(t), "heartbeat") > 2 })
		stop(t, server)
		programtest.Until(t, "the outage is noticed", func() bool { return strings.Contains(p.err.String(), "cannot be written now") })
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		programtest.Until(t, "the command has ended", func() bool { return strings.Contains(p.err.String(), "waiting for the database") })
		ended := time.Now()
		if files := a.kept(); len(files) != 1 {
			t.Errorf("kept while waiting: %v", files)
		}
		restart(t, server)
		if code := p.code(t); code != 3 {
			t.Errorf("exit code %d: %s", code, &p.err)
		}
		rows := a.rows(t)
		keys := map[string]bool{}
		for i, r := range rows {
			keys[*r.Key] = true
			if r.At.After(ended) || i > 0 && r.At.Before(rows[i-1].At) {
				t.Errorf("%s carries a wrong time", r.Kind)
			}
		}
		if len(keys) != len(rows) || rows[0].Kind != "spec_started" || rows[len(rows)-1].Kind != "spec_failed" {
			t.Errorf("rows: %+v", rows)
		}
		if files := a.kept(); len(files) != 0 {
			t.Errorf("still kept: %v", files)
		}
	})

	t.Run("of a hook", func(t *testing.T) {
		before := len(a.rows(t))
		input := agentFixture(t, "claude-hooks.jsonl")[2]
		stop(t, server)
		a.hooked(t, input, "claude-code")
		a.hooked(t, input, "claude-code")
		if files := a.kept(); len(files) != 2 {
			t.Errorf("kept: %v", files)
		}
		restart(t, server)
		a.hooked(t, input, "claude-code")
		programtest.Until(t, "the next hook writes what is kept", func() bool { return len(a.rows(t)) == before+3 && len(a.kept()) == 0 })
	})

	t.Run("from start to end", func(t *testing.T) {
		before := len(a.rows(t))
		stop(t, server)
		for spec, code := range map[string]int{"lost": 0, "lost too": 5} {
			got, out, errs := a.run(t, "run", "--spec", spec, "--session", "s", "--flush-timeout", "200ms", "--", "sh", "-c", fmt.Sprintf("echo done; exit %d", code))
			if got != code || out != "done\n" {
				t.Errorf("exit code %d, out %q", got, out)
			}
			if !strings.Contains(errs, "3 events are not written yet") {
				t.Errorf("says %s", errs)
			}
		}
		files := a.kept()
		if len(files) != 2 {
			t.Fatalf("kept: %v", files)
		}
		// Nothing that is left behind tells how to reach the database.
		url, err := pgx.ParseConfig(a.url)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text)+file, url.Password) || strings.Contains(string(text), "postgres://") {
				t.Errorf("%s carries the database's URL", file)
			}
		}
		// So is a single event: an outage is no failure, for it will be written.
		code, out, errs := a.run(t, "emit", "intervention_request", "--session", "s", "--data", `{"question":"which?"}`)
		if code != 0 || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "kept") || len(a.kept()) != 3 {
			t.Errorf("exit code %d: %s%s", code, out, errs)
		}
		restart(t, server)
		// Another database gets nothing of it.
		other := a
		other.url = strings.Replace(a.url, "/postgres?", "/template1?", 1)
		other.state = a.state
		if code, _, _ := other.run(t, "flush"); code != 0 || len(a.kept()) != 3 {
			t.Errorf("exit code %d, kept %v", code, a.kept())
		}
		a.mustRun(t, "emit", "session_heartbeat", "--session", "after")
		rows := a.rows(t)
		if len(rows) != before+8 || rows[len(rows)-1].Session != "after" {
			t.Errorf("rows: %+v", rows[before:])
		}
		if files := a.kept(); len(files) != 0 {
			t.Errorf("still kept: %v", files)
		}
	})

	t.Run("the next run sends it", func(t *testing.T) {
		before := len(a.rows(t))
		stop(t, server)
		a.run(t, "run", "--spec", "kept", "--session", "s", "--flush-timeout", "0", "--", "true")
		restart(t, server)
		a.mustRun(t, "run", "--spec", "next", "--session", "s", "--", "true")
		var specs []string
		for _, r := range a.rows(t)[before:] {
			specs = append(specs, r.Spec)
		}
		if got := strings.Join(specs, " "); got != "kept kept kept next next next" {
			t.Errorf("specs: %s", got)
		}
		if files := a.kept(); len(files) != 0 {
			t.Errorf("still kept: %v", files)
		}
	})

	t.Run("flush finds it again by any spelling", func(t *testing.T) {
		before := len(a.rows(t))
		url, err := pgx.ParseConfig(a.url)
		if err != nil {
			t.Fatal(err)
		}
		spellings := []string{
			fmt.Sprintf("postgresql://%s:%s@LOCALHOST:%d/%s?sslmode=disable&application_name=x", url.User, url.Password, url.Port, url.Database),
			fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=%s sslmode=prefer", url.Port, url.User, url.Password, url.Database),
			fmt.Sprintf("postgres://127.0.0.1:%d/%s?user=%s&password=%s", url.Port, url.Database, url.User, url.Password),
		}
		stop(t, server)
		b := a
		for _, b.url = range append(spellings, a.url) {
			if code, _, errs := b.run(t, "emit", "session_heartbeat", "--session", "spelt", "--key", "spelt"); code != 0 {
				t.Errorf("exit code %d: %s", code, errs)
			}
		}
		if code, _, errs := a.run(t, "flush"); code != 1 || !strings.Contains(errs, "cannot connect") {
			t.Errorf("exit code %d: %s", code, errs)
		}
		restart(t, server)
		b.url = spellings[1]
		if out := b.mustRun(t, "flush"); out != "1 event stored, 3 known already\n" || len(a.rows(t)) != before+1 || len(a.kept()) != 0 {
			t.Errorf("says %q, kept %v", out, a.kept())
		}
		if out := a.mustRun(t, "flush"); out != "0 events stored, 0 known already\n" {
			t.Errorf("says %q", out)
		}
	})

	t.Run("a file of events is kept", func(t *testing.T) {
		before := len(a.rows(t))
		stop(t, server)
		lines := `{"kind":"spec_started","session":"s","key":"bulk-1"}` + "\n" + `{"kind":"spec_failed","session":"s"}`
		if p := a.start(t, strings.NewReader(lines), "emit", "--from", "-"); p.code(t) != 0 || !strings.Contains(p.err.String(), "2 events are kept") {
			t.Errorf("says %s", &p.err)
		}
		restart(t, server)
		a.mustRun(t, "flush")
		if rows := a.rows(t)[before:]; len(rows) != 2 || *rows[0].Key != "bulk-1" || rows[1].Kind != "spec_failed" {
			t.Errorf("rows: %+v", rows)
		}
	})

	t.Run("tail resumes", func(t *testing.T) {
		p := a.start(t, nil, "tail", "--interval", "20ms", "--since", time.Now().UTC().Format(time.RFC3339Nano))
		a.mustRun(t, "emit", "spec_started", "--session", "s", "--spec", "one")
		programtest.Until(t, "the first arrives", func() bool { return strings.Count(p.out.String(), "\n") == 1 })
		stop(t, server)
		programtest.Until(t, "the outage is noticed", func() bool { return strings.Contains(p.err.String(), "cannot read now") })
		restart(t, server)
		a.mustRun(t, "emit", "spec_completed", "--session", "s", "--spec", "one")
		programtest.Until(t, "the second arrives", func() bool { return strings.Count(p.out.String(), "\n") == 2 })
		if strings.Count(p.err.String(), "\n") != 1 {
			t.Errorf("one outage, but it says %s", &p.err)
		}
	})
}

func TestTail(t *testing.T) {
	a := migrated(t)
	a.mustRun(t, "emit", "spec_started", "--session", "long ago", "--at", "2026-01-01T00:00:00Z")
	var text strings.Builder
	for i := range 1_300 {
		fmt.Fprintf(&text, `{"kind":"session_heartbeat","session":"s","spec":"%d"}`+"\n", i)
	}
	if code := a.start(t, strings.NewReader(text.String()), "emit", "--from", "-").code(t); code != 0 {
		t.Fatal(code)
	}
	p := a.start(t, nil, "tail", "--interval", "20ms")
	programtest.Until(t, "what is there is printed", func() bool { return strings.Count(p.out.String(), "\n") == 1_300 })
	a.mustRun(t, "emit", "spec_started", "--session", "new", "--data", `{"a":[1,2]}`)
	programtest.Until(t, "what is new is printed", func() bool { return strings.Count(p.out.String(), "\n") == 1_301 })
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.code(t); code != 0 {
		t.Errorf("exit code %d: %s", code, &p.err)
	}
	out := strings.Split(strings.TrimSpace(p.out.String()), "\n")
	for i, line := range out {
		var e struct{ Kind, Session, Spec string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if i < 1_300 && e.Spec != fmt.Sprint(i) {
			t.Fatalf("line %d is %s", i, line)
		}
	}
	if last := out[1_300]; !strings.Contains(last, `"session":"new"`) || !strings.Contains(last, `"data":{"a":[1,2]}`) {
		t.Errorf("last: %s", last)
	}

	// The next tail goes on where this one ended.
	_, cursor, ok := strings.Cut(strings.TrimSpace(p.err.String()), "--since ")
	if !ok {
		t.Fatalf("no cursor: %s", &p.err)
	}
	a.mustRun(t, "emit", "spec_completed", "--session", "new")
	p = a.start(t, nil, "tail", "--since", cursor)
	programtest.Until(t, "the next is printed", func() bool { return strings.Contains(p.out.String(), "\n") })
	if got := p.out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "spec_completed") {
		t.Errorf("printed %s", got)
	}

	other := migrated(t)
	if code, _, errs := other.run(t, "tail", "--since", cursor); code != 1 || !strings.Contains(errs, "cursor") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

func TestPrune(t *testing.T) {
	a := migrated(t)
	now := time.Now()
	for _, age := range []time.Duration{0, 25 * time.Hour, 29 * 24 * time.Hour, 31 * 24 * time.Hour} {
		a.mustRun(t, "emit", "spec_started", "--session", "s", "--at", now.Add(-age).Format(time.RFC3339Nano))
	}
	for _, c := range []struct {
		age, says string
		left      int
	}{{"30d", "1 event removed\n", 3}, {"30d", "0 events removed\n", 3}, {"1d2h", "1 event removed\n", 2}, {"60m", "1 event removed\n", 1}} {
		if out := a.mustRun(t, "prune", "--older-than", c.age); out != c.says {
			t.Errorf("%s: %q", c.age, out)
		}
		if n := len(a.rows(t)); n != c.left {
			t.Errorf("%s: %d left", c.age, n)
		}
	}
}

func TestParseAge(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "90m": 90 * time.Minute, "1h30m": 90 * time.Minute,
		"": 0, "d": 0, "0d": 0, "-1h": 0, "1d-1h": 0, "3w": 0, "1": 0, "99999999999999999999d": 0, "200000d": 0, "106751d23h59m": 0,
	} {
		got, err := parseAge(text)
		if (err == nil) != (want != 0) || got != want && err == nil {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"a\n\tb\r\nc\n":                         "a b c",
		"bad postgres://u:p@ss:w@h:1/d here":    "bad postgres://u:…@h:1/d here",
		"bad postgres://u@h:5432/d":             "bad postgres://u@h:5432/d",
		"host=h password=hunter2 user=u":        "host=h password=… user=u",
		"host=h PASSWORD = 'hun ter2' user=u":   "host=h PASSWORD =… user=u",
		"postgres://u@h/d?password=hunter2&a=1": "postgres://u@h/d?password=…&a=1",
	} {
		if got := oneLine(text); got != want {
			t.Errorf("%q: %q, expected %q", text, got, want)
		}
	}
}

// Files and secrets that fill variables end with a newline; a file that is
// missing is named as what it is.
func TestVariablesWithNewlinesAndMissingFiles(t *testing.T) {
	t.Parallel()
	url := postgrestest.Database(t)
	a := place(t, url+"\r\n")
	a.env = []string{envSchema + "=public\n"}
	a.mustRun(t, "migrate")
	a.mustRun(t, "emit", "spec_started", "--session", "s")
	if rows := (at{url: url}).rows(t); len(rows) != 1 {
		t.Errorf("%d events", len(rows))
	}
	for name, query := range map[string]string{"root": "sslmode=verify-full&sslrootcert=/no/such/ca.pem", "client": "sslmode=require&sslcert=/no/such/cert.pem&sslkey=/no/such/key.pem"} {
		code, _, errs := place(t, "postgres://me@127.0.0.1:1/d?"+query).run(t, "migrate")
		if code == 0 || !strings.Contains(errs, "/no/such/") || !strings.Contains(errs, "no such file") {
			t.Errorf("%s: %d, %s", name, code, errs)
		}
	}
}
