//go:build unix

package docs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/postgrestest"
)

// The agents that the page names, reduced to what they print and do with their
// input.
const (
	claudeStub = `#!/bin/sh
cat >/dev/null
case "$*" in *stream-json*)
echo '{"type":"system","subtype":"init","session_id":"x"}'
echo '{"type":"result","subtype":"success","is_error":false,"total_cost_usd":0.5,"usage":{"input_tokens":10,"output_tokens":5},"uuid":"u","session_id":"x"}'
esac
`
	codexStub = `#!/bin/sh
echo '{"type":"thread.started","thread_id":"x"}'
echo '{"type":"turn.completed","usage":{"input_tokens":10,"cached_input_tokens":4,"output_tokens":5}}'
`
)

// patience is how long the commands of a page may take.
const patience = 5 * time.Minute

// place is a folder with specs and the programs that the pages name, a database
// and a gateway.
type place struct {
	dir, bin, database, gateway string
}

func newPlace(t *testing.T) place {
	t.Helper()
	p := place{dir: t.TempDir(), bin: specwatch(t)}
	for path, text := range map[string]string{"bin/claude": claudeStub, "bin/codex": codexStub, "specs/login.md": "", "specs/search.md": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(p.dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.dir, path), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.database, _ = postgrestest.Schema(t)
	if migrate, errs := p.command(t.Context(), []string{"SPECWATCH_DATABASE_URL=" + p.database}, filepath.Join(p.bin, "specwatch"), "migrate"); migrate.Run() != nil {
		t.Fatal(errs)
	}
	gateway, errs := p.command(context.Background(), []string{"SPECWATCH_DATABASE_URL=" + p.database, "SPECWATCH_READ_TOKEN=secret", "SPECWATCH_WRITE_TOKEN=secret"},
		filepath.Join(p.bin, "specwatch"), "serve", "--listen", "127.0.0.1:0")
	said, err := gateway.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = gateway.Process.Signal(syscall.SIGTERM)
		_ = gateway.Wait()
	})
	if _, err := fmt.Fscanln(said, &p.gateway); err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	p.gateway = strings.TrimSuffix(p.gateway, "/")
	return p
}

func (p place) command(ctx context.Context, env []string, name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, name, args...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "SPECWATCH_") && !strings.HasPrefix(variable, "PG") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "PATH="+filepath.Join(p.dir, "bin")+":"+p.bin+":"+os.Getenv("PATH"), "XDG_STATE_HOME="+filepath.Join(p.dir, "state"))
	cmd.Env = append(cmd.Env, env...)
	cmd.Dir = p.dir
	cmd.WaitDelay = 10 * time.Second
	// What it is given is for nobody: the loops say so themselves.
	cmd.Stdin = strings.NewReader("")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	return cmd, &errs
}

// run runs the commands of a page, one after the other, and answers its
// question. It returns what they print.
func (p place) run(t *testing.T, page string, env []string, more ...string) string {
	t.Helper()
	script := "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + commandsOf(t, page) + "\n" + strings.Join(more, "\n")
	script = strings.NewReplacer("postgres://me:secret@localhost:5432/loops", p.database, "http://127.0.0.1:8001", p.gateway, "'…'", "'secret'",
		"specwatch serve &", "specwatch serve --listen 127.0.0.1:0 &").Replace(script)
	ctx, answered := context.WithTimeout(t.Context(), patience)
	defer answered()
	go answer(ctx, p.gateway, "Which port?", "9090")
	bash, errs := p.command(ctx, env, "bash", "-c", script)
	out, err := bash.Output()
	if err != nil || strings.Contains(errs.String(), "error") {
		t.Fatalf("%s: %v: %s%s", page, err, out, errs)
	}
	return string(out)
}

// kinds counts the events by kind, without heartbeats.
func (p place) kinds(t *testing.T) string {
	got := map[string]int{}
	for _, e := range status(t.Context(), p.gateway) {
		if e.Kind != "session_heartbeat" {
			got[e.Kind]++
		}
	}
	return fmt.Sprint(got)
}

func TestRunningPage(t *testing.T) {
	p := newPlace(t)
	if out := p.run(t, "running.md", nil, `echo "port $port"`); !strings.HasSuffix(out, "port 9090\n") {
		t.Errorf("prints %s", out)
	}
	for _, e := range status(t.Context(), p.gateway) {
		if e.Spec == "quiet" && strings.Contains(string(e.Data), "stored") {
			t.Errorf("stored: %s", e.Data)
		}
		if e.Spec == "review" && e.Kind == "spec_failed" && !strings.Contains(string(e.Data), "two tests are red") {
			t.Errorf("review: %s", e.Data)
		}
	}
	if got, want := p.kinds(t), "map[claude.usage:1 codex.usage:1 intervention_answered:2 intervention_request:2 my-agent.usage:1 spec_completed:8 spec_failed:1 spec_started:9]"; got != want {
		t.Errorf("events %v, expected %s", got, want)
	}
}

func TestReadme(t *testing.T) {
	p := newPlace(t)
	if out := p.run(t, "../README.md", nil, `echo "port $port"`); !strings.HasSuffix(out, "port 9090\n") || !strings.Contains(out, "http://127.0.0.1:") {
		t.Errorf("prints %s", out)
	}
	conn, err := pgx.Connect(t.Context(), p.database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, b := range blocksOf(t, "../README.md") {
		if b.language == "sql" {
			if _, err := conn.Exec(t.Context(), b.text); err != nil {
				t.Errorf("%s: %v", b.text, err)
			}
		}
	}
	if got, want := p.kinds(t), "map[intervention_answered:1 intervention_request:1 spec_completed:2 spec_started:3]"; got != want {
		t.Errorf("events %v, expected %s", got, want)
	}
}

func TestAgentsPage(t *testing.T) {
	p := newPlace(t)
	p.run(t, "../AGENTS.md", []string{"SPECWATCH_DATABASE_URL=" + p.database, "SPECWATCH_SESSION=night", "SPECWATCH_SPEC=login"})
	if got, want := p.kinds(t), "map[intervention_answered:1 intervention_request:2 spec_failed:1]"; got != want {
		t.Errorf("events %v, expected %s", got, want)
	}
}

// A gateway without tokens, as the page has it, serves this machine alone.
func TestHTTPPage(t *testing.T) {
	p := newPlace(t)
	open, errs := p.command(context.Background(), []string{"SPECWATCH_DATABASE_URL=" + p.database}, filepath.Join(p.bin, "specwatch"), "serve", "--listen", "127.0.0.1:0")
	said, err := open.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := open.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = open.Process.Signal(syscall.SIGTERM)
		_ = open.Wait()
	}()
	var address string
	if _, err := fmt.Fscanln(said, &address); err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	out := p.run(t, "http.md", []string{"SPECWATCH_GATEWAY=" + strings.TrimSuffix(address, "/")}, `curl -s "$SPECWATCH_GATEWAY/api/status?since=$cursor"`)
	if !strings.Contains(out, `"ids":[`) || !strings.Contains(out, `"kind":"spec_started"`) || strings.Contains(out, `"detail"`) {
		t.Errorf("prints %s", out)
	}
}

type event struct {
	ID                  int64
	Kind, Session, Spec string
	Data                json.RawMessage
}

func call(ctx context.Context, method, address string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer secret")
	request.Header.Set("Content-Type", "application/json")
	return http.DefaultClient.Do(request)
}

func status(ctx context.Context, address string) []event {
	response, err := call(ctx, "GET", address+"/api/status?last=1000", nil)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	var page struct{ Events []event }
	_ = json.NewDecoder(response.Body).Decode(&page)
	return page.Events
}

// answer answers a question once it is there.
func answer(ctx context.Context, address, question, text string) {
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		for _, e := range status(ctx, address) {
			if e.Kind != "intervention_request" || !strings.Contains(string(e.Data), question) {
				continue
			}
			body := fmt.Sprintf(`{"kind":"intervention_answered","session":%q,"spec":%q,"data":{"request":%d,"answer":%q}}`, e.Session, e.Spec, e.ID, text)
			if response, err := call(ctx, "POST", address+"/api/events", strings.NewReader(body)); err == nil {
				response.Body.Close()
				return
			}
		}
	}
}

// The settings that one pastes name hooks whose signals are known, by a command
// that runs.
func TestHookSettings(t *testing.T) {
	var settings struct {
		Hooks map[string][]struct {
			Hooks []struct{ Type, Command string }
		}
	}
	if err := json.Unmarshal([]byte(first(t, "running.md", "json")), &settings); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Notification", "SubagentStop", "Stop", "SessionEnd"} {
		if hooks := settings.Hooks[name]; len(hooks) != 1 || len(hooks[0].Hooks) != 1 || hooks[0].Hooks[0].Type != "command" || hooks[0].Hooks[0].Command != "specwatch hook claude-code" {
			t.Errorf("%s: %+v", name, hooks)
		}
	}
	if len(settings.Hooks) != 8 {
		t.Errorf("%d hooks", len(settings.Hooks))
	}
}
