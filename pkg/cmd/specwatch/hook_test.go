//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// hooked runs a hook as the agent does, which must not notice it.
func (a at) hooked(t *testing.T, input string, args ...string) {
	t.Helper()
	p := a.start(t, strings.NewReader(input), append([]string{"hook"}, args...)...)
	if code := p.code(t); code != 0 || p.out.String() != "" || p.err.String() != "" {
		t.Errorf("exit code %d, prints %q, says %q", code, &p.out, &p.err)
	}
}

func agentFixture(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "agent", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func (a at) count(t *testing.T, kind string) (n int) {
	t.Helper()
	for _, r := range a.rows(t) {
		if r.Kind == kind {
			n++
		}
	}
	return n
}

func TestHookOfClaudeCode(t *testing.T) {
	t.Parallel()
	direct := migrated(t)
	for name, a := range map[string]at{"database": direct, "gateway": direct.throughAGateway(t)} {
		a.env = append(a.env, "SPECWATCH_SESSION="+name, "SPECWATCH_SPEC=login")
		for _, line := range agentFixture(t, "claude-hooks.jsonl") {
			a.hooked(t, line, "claude-code")
		}
		// Laid out over lines, and without an end of the line.
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, []byte(agentFixture(t, "claude-hooks.jsonl")[2]), "", "  "); err != nil {
			t.Fatal(err)
		}
		a.hooked(t, pretty.String(), "claude-code")
		programtest.Until(t, "everything is written", func() bool { return len(a.kept()) == 0 })
		got := map[string]int{}
		for _, r := range direct.rows(t) {
			if r.Session == name && r.Spec == "login" {
				got[r.Kind]++
			}
		}
		// Of the three requests in a row one is a reminder; the third comes
		// after the agent has shown that it goes on. So is the notification
		// after the request for permission. With each limit comes a heartbeat.
		if want := "map[agent.limit:2 claude.error:1 intervention_answered:3 intervention_request:3 session_heartbeat:16]"; fmt.Sprint(got) != want {
			t.Errorf("%s: %v, expected %v", name, got, want)
		}
	}
}

// An agent that goes on clears its own request, and not a question that a command waits
// for in the same spec. The hook does not know the id of its request.
func TestHookClearsItsOwnRequest(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	direct := place(t, server.URL())
	direct.mustRun(t, "migrate")
	hook := func(name, text string) string {
		return string(outbox.Data(map[string]string{"session_id": "abc", "hook_event_name": name, "notification_type": "permission_prompt", "message": text, "tool_name": "Bash"}))
	}
	gateway := direct.throughAGateway(t)
	waiting := func(spec string) (questions []string) {
		for _, w := range direct.status(t).Waiting {
			if w.Spec == spec {
				var data struct{ Question string }
				if err := json.Unmarshal(w.Data, &data); err != nil {
					t.Fatal(err)
				}
				questions = append(questions, data.Question)
			}
		}
		slices.Sort(questions)
		return questions
	}
	places := map[string]at{"database": direct, "gateway": gateway}
	for spec, a := range places {
		a.env = append(slices.Clone(a.env), "SPECWATCH_SESSION=s", "SPECWATCH_SPEC="+spec)
		places[spec] = a
		a.start(t, nil, "ask", "Which port?", "--timeout", "1h")
		programtest.Until(t, "it asks", func() bool { return fmt.Sprint(waiting(spec)) == "[Which port?]" })
		a.hooked(t, hook("Notification", "May I?"), "claude-code")
		programtest.Until(t, "the agent asks, too", func() bool { return fmt.Sprint(waiting(spec)) == "[May I? Which port?]" })
		a.hooked(t, hook("PreToolUse", ""), "claude-code")
		programtest.Until(t, "it goes on", func() bool { return fmt.Sprint(waiting(spec)) == "[Which port?]" })
		a.hooked(t, hook("Notification", "And now?"), "claude-code")
		programtest.Until(t, "the agent asks again", func() bool { return fmt.Sprint(waiting(spec)) == "[And now? Which port?]" })
	}
	stop(t, server)
	for _, a := range places {
		a.hooked(t, hook("PreToolUse", ""), "claude-code")
		a.hooked(t, hook("Notification", "In the outage?"), "claude-code")
		a.hooked(t, hook("PreToolUse", ""), "claude-code")
	}
	restart(t, server)
	for spec, a := range places {
		programtest.Until(t, "what was kept is written", func() bool {
			if code, _, _ := a.run(t, "flush"); code != 0 {
				return false
			}
			return len(a.kept()) == 0
		})
		if got := fmt.Sprint(waiting(spec)); got != "[Which port?]" {
			t.Errorf("%s: waiting %s", spec, got)
		}
	}
	for _, r := range direct.rows(t) {
		if _, id := r.Data["request"].(float64); r.Kind == "intervention_answered" && (!id || r.Data[outbox.RequestKey] != nil) {
			t.Errorf("answer: %+v", r)
		}
	}
	if n := direct.count(t, "intervention_request"); n != 8 {
		t.Errorf("%d requests", n)
	}
}

// Whatever is wrong, the hook exits with 0 and prints nothing for the agent.
func TestHookNeverFailsTheAgent(t *testing.T) {
	t.Parallel()
	input := agentFixture(t, "claude-hooks.jsonl")[2]
	away := place(t, nowhere)
	away.hooked(t, input, "claude-code")
	away.hooked(t, input, "claude-code")
	if n := len(away.kept()); n != 2 {
		t.Errorf("%d files are kept", n)
	}
	for _, input := range []string{"", "\n", "{}", "null", "[1]", "nonsense", `{"hook_event_name":7}`, `{"hook_event_name":"Stop","transcript_path":"/dev/null","session_id":"x"}`, "\xff\x00"} {
		p := away.start(t, strings.NewReader(input), "hook", "claude-code")
		// Text that is no object is passed on, as in a pipeline.
		passedOn := input != "" && input != "null" && input[0] != '{'
		if code := p.code(t); code != 0 || p.err.String() != "" || p.out.String() != map[bool]string{true: input}[passedOn] {
			t.Errorf("%q: exit code %d, prints %q, says %q", input, code, &p.out, &p.err)
		}
	}
	readOnly := place(t, nowhere)
	if err := os.WriteFile(filepath.Join(readOnly.state, "specwatch"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := readOnly.start(t, strings.NewReader(input), "hook", "claude-code")
	if code := p.code(t); code != 0 || p.out.String() != "" {
		t.Errorf("nowhere to keep events: exit code %d, prints %q", code, &p.out)
	}
	unset := at{state: t.TempDir()}
	p = unset.start(t, strings.NewReader(input), "hook", "claude-code")
	if code := p.code(t); code != 0 || p.out.String() != "" || !strings.Contains(p.err.String(), envDatabaseURL) {
		t.Errorf("no database is named: exit code %d, prints %q, says %q", code, &p.out, &p.err)
	}
	if code, _, errs := unset.run(t, "hook", "gemini"); code != 2 || !strings.Contains(errs, "claude-code or codex") {
		t.Errorf("another agent: exit code %d, says %s", code, errs)
	}
}

// Tools that run at once call their hooks at once; nothing is lost or counted
// twice.
func TestHooksAtOnce(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	transcript := filepath.Join(t.TempDir(), "transcript.jsonl")
	if err := os.WriteFile(transcript, []byte(strings.Join(agentFixture(t, "claude-transcript.jsonl"), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hook := func(event string) string {
		text, _ := json.Marshal(map[string]string{"session_id": "abc", "hook_event_name": event, "transcript_path": transcript, "tool_name": "Bash", "cwd": "/shop"})
		return string(text)
	}
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			a.hooked(t, hook([]string{"PreToolUse", "Stop"}[i%2]), "claude-code")
		})
	}
	all.Wait()
	programtest.Until(t, "everything is written", func() bool { return len(a.rows(t)) == 13 && len(a.kept()) == 0 })
	var used []any
	for _, r := range a.rows(t) {
		if r.Session != "claude-code-abc-shop" {
			t.Errorf("session %s", r.Session)
		}
		if r.Kind == "claude.usage" {
			used = append(used, r.Data["usage"])
		}
	}
	if fmt.Sprint(used) != "[map[cachedInputTokens:1000 inputTokens:1111 outputTokens:9]]" {
		t.Errorf("usage %v", used)
	}
	// A session that is resumed has used nothing yet.
	a.hooked(t, strings.Replace(hook("SessionStart"), "abc", "def", 1), "claude-code")
	a.hooked(t, strings.Replace(hook("Stop"), "abc", "def", 1), "claude-code")
	programtest.Until(t, "everything is written", func() bool { return len(a.kept()) == 0 })
	if n := a.count(t, "claude.usage"); n != 1 {
		t.Errorf("%d events of usage", n)
	}
}

// In a pipeline the lines are passed on as they come, and each is an event.
func TestHookInAPipeline(t *testing.T) {
	t.Parallel()
	direct := migrated(t)
	for name, a := range map[string]at{"database": direct, "gateway": direct.throughAGateway(t), "away": place(t, nowhere)} {
		a.env = append(a.env, "SPECWATCH_SESSION="+name)
		input, write := io.Pipe()
		p := a.start(t, input, "hook", "codex")
		text := ""
		for _, line := range append(agentFixture(t, "codex-exec.jsonl"), "no JSON", strings.Repeat("long ", 100_000)) {
			text += line + "\n"
			if _, err := io.WriteString(write, line+"\n"); err != nil {
				t.Fatal(err)
			}
			programtest.Until(t, "the line is passed on", func() bool { return p.out.String() == text })
		}
		// At the end it does not wait long for the last events, but leaves them on disk.
		programtest.Until(t, "the events are written", func() bool {
			n := 0
			for _, r := range direct.rows(t) {
				if r.Session == name {
					n++
				}
			}
			return n >= 11 || name == "away"
		})
		write.Close()
		if code := p.code(t); code != 0 || p.out.String() != text || name != "away" && p.err.String() != "" {
			t.Errorf("%s: exit code %d, %d of %d bytes, says %q", name, code, len(p.out.String()), len(text), &p.err)
		}
		got := map[string]int{}
		for _, r := range direct.rows(t) {
			if r.Session == name {
				got[r.Kind]++
			}
		}
		want := "map[agent.limit:1 codex.error:1 codex.usage:1 session_heartbeat:8]"
		if name == "away" {
			want = "map[]"
		}
		if fmt.Sprint(got) != want || (name == "away") != (len(a.kept()) == 1) {
			t.Errorf("%s: %v, kept %v", name, got, a.kept())
		}
	}
	// The first line of a pipeline may take its time.
	input, write := io.Pipe()
	p := direct.start(t, input, "hook", "claude-code")
	line := `{"type":"result","is_error":false,"total_cost_usd":0.5,"usage":{"input_tokens":1,"output_tokens":2},"uuid":"u","session_id":"s"}` + "\n"
	select {
	case <-p.done:
		t.Fatal("it does not wait")
	case <-time.After(6 * time.Second):
	}
	if _, err := io.WriteString(write, line); err != nil {
		t.Fatal(err)
	}
	programtest.Until(t, "its event is written", func() bool { return direct.count(t, "claude.usage") > 0 })
	write.Close()
	if code := p.code(t); code != 0 || p.out.String() != line || direct.count(t, "claude.usage") != 1 {
		t.Errorf("exit code %d, prints %q, says %q", code, &p.out, &p.err)
	}
}

// Codex calls its notify program with an argument.
func TestHookAsNotifyProgram(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.hooked(t, "", "codex", `{"type":"agent-turn-complete","turn-id":"1","last-assistant-message":"Done","new":{}}`)
	programtest.Until(t, "it is written", func() bool { return a.kinds(t) == "session_heartbeat" && len(a.kept()) == 0 })
}

// Inside a run a hook's events are of its spec, and count as work.
func TestHookInsideARun(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.env = []string{"SW=" + executable, "LINE=" + agentFixture(t, "claude-hooks.jsonl")[2]}
	code, out, errs := a.run(t, "run", "--spec", "p", "--session", "s", "--idle-timeout", "5s", "--",
		"sh", "-c", `for i in 1 2 3 4 5; do sleep 1.5; printf %s "$LINE" | "$SW" hook claude-code; done`)
	if code != 0 || out != "" || quiet(errs) != "" {
		t.Errorf("exit code %d, prints %q, says %s", code, out, errs)
	}
	programtest.Until(t, "everything is written", func() bool { return len(a.kept()) == 0 })
	n := 0
	for _, r := range a.rows(t) {
		if r.Data["doing"] != nil && r.Session == "s" && r.Spec == "p" {
			n++
		}
	}
	if n != 5 {
		t.Errorf("%d events of hooks", n)
	}
}
