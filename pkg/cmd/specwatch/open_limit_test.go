//go:build unix

package main

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/specwatch/specwatch/pkg/programtest"
	"github.com/specwatch/specwatch/pkg/state"
)

func (a at) status(t *testing.T) (st state.State) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.mustRun(t, "status", "--output", "json")), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// limitHook is the input of a hook of an agent that has reached its limit.
func limitHook(t *testing.T) string {
	t.Helper()
	for _, line := range agentFixture(t, "claude-hooks.jsonl") {
		if strings.Contains(line, "rate_limit") {
			return line
		}
	}
	t.Fatal("no hook tells of a limit")
	return ""
}

// An agent that stays open at its usage limit is at its limit, not hung.
func TestAgentStaysOpenAtItsLimit(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.env = []string{"SW=" + executable, "LINE=" + limitHook(t)}
	p := a.start(t, nil, "run", "--spec", "login", "--session", "night", "--heartbeat", "100ms", "--", "sh", "-c", `printf %s "$LINE" | "$SW" hook claude-code; exec sleep 600`)
	var st state.State
	programtest.Until(t, "the limit is known", func() bool {
		st = a.status(t)
		return len(st.Running) == 1 && st.Running[0].Limited
	})
	if o, s := st.Running[0], st.Sessions[0]; o.LimitedUntil == nil || o.LastWork != nil || !s.Limited || s.LimitedUntil == nil || s.LastWork != nil || s.Specs.Open != 1 {
		t.Errorf("%+v of %+v", o, s)
	}
	for name, from := range map[string]at{"database": a, "gateway": a.throughAGateway(t)} {
		if out := from.mustRun(t, "status"); strings.Count(out, "usage limit, resets at ") != 2 {
			t.Errorf("%s says %s", name, out)
		}
	}
	p.signal(t, syscall.SIGTERM)
	if last := a.ended(t, "login"); last.Data["reason"] != "interrupted" {
		t.Errorf("last: %+v", last)
	}
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	p.code(t)
}

// Ended while it is open at its limit, a spec has not failed: it is no timeout,
// and none of the failures in a row.
func TestTimeIsUpAtALimit(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.env = []string{"SW=" + executable, "LINE=" + limitHook(t)}
	const screen = `printf 'working\nYou have hit your limit · resets 5pm\n\n+-----+\n| >   |\n+-----+\n  ? for shortcuts\n'; exec sleep 600`
	// The time begins with the runner: the hook must have ended before it is up.
	for spec, c := range map[string]struct{ flag, after, script string }{
		"shown, idle": {"--idle-timeout", "3s", screen},
		"told, idle":  {"--idle-timeout", "4s", `printf %s "$LINE" | "$SW" hook claude-code; exec sleep 600`},
		"told, time":  {"--timeout", "15s", `printf %s "$LINE" | "$SW" hook claude-code; exec sleep 600`},
		"shown, time": {"--timeout", "8s", `while :; do echo "usage limit reached, trying again in 2 hours"; sleep 0.1; done`},
	} {
		code, _, _ := a.run(t, "run", "--spec", spec, "--session", "s", c.flag, c.after, "--", "sh", "-c", c.script)
		programtest.Until(t, "everything is written", func() bool { return len(a.kept()) == 0 })
		last := a.ended(t, spec)
		if _, known := last.Data["resetsAt"].(string); code != 124 || last.Kind != "spec_failed" || last.Data["reason"] != "usage limit" || !known || last.Data["silentSeconds"] == nil {
			t.Errorf("%s: exit code %d, last: %+v", spec, code, last)
		}
		limits := 0
		for _, r := range a.rows(t) {
			if r.Spec == spec && r.Kind == "agent.limit" {
				limits++
			}
		}
		if limits != 1 {
			t.Errorf("%s: %d events of the limit", spec, limits)
		}
	}
	if s := a.status(t).Sessions[0]; s.FailureStreak != 0 || s.Specs.Limited != 4 || !s.Limited {
		t.Errorf("%+v", s)
	}
}

// A command that fails after its hook told of a limit did not fail by itself.
func TestFailsAtALimit(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.env = []string{"SW=" + executable, "LINE=" + limitHook(t)}
	hook := `printf %s "$LINE" | "$SW" hook claude-code; `
	for spec, c := range map[string]struct{ script, kind, reason string }{
		"fails":         {hook + `exit 1`, "spec_failed", "usage limit"},
		"says why":      {hook + `echo '{"type":"result","is_error":true,"result":"no credit"}'; exit 1`, "spec_failed", "no credit"},
		"completes":     {hook + `exit 0`, "spec_completed", ""},
		"another spec":  {`printf %s "$LINE" | SPECWATCH_SPEC=x "$SW" hook claude-code; exit 1`, "spec_failed", "exit code"},
		"another start": {hook + `"$SW" emit spec_started; exit 1`, "spec_failed", "exit code"},
	} {
		a.run(t, "run", "--spec", spec, "--session", "s", "--", "sh", "-c", c.script)
		programtest.Until(t, "everything is written", func() bool { return len(a.kept()) == 0 })
		last := a.ended(t, spec)
		if reason, _ := last.Data["reason"].(string); last.Kind != c.kind || reason != c.reason {
			t.Errorf("%s: %+v", spec, last)
		}
	}
}

// ended is the last end of a spec.
func (a at) ended(t *testing.T, spec string) (last row) {
	t.Helper()
	for _, r := range a.rows(t) {
		if r.Spec == spec && (r.Kind == "spec_failed" || r.Kind == "spec_completed" || r.Kind == "timeout_triggered") {
			last = r
		}
	}
	return last
}

// A name from a file or a secret often ends with a newline, which is not part
// of it.
func TestNamesAreTrimmed(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.env = []string{"SPECWATCH_SESSION=night\n", "SPECWATCH_SPEC= login\r\n", "SW=" + executable}
	a.mustRun(t, "emit", "spec_started")
	a.hooked(t, `{"hook_event_name":"Stop","session_id":"x"}`, "claude-code")
	a.hooked(t, "", "codex", `{"type":"agent-turn-complete"}`)
	a.mustRun(t, "run", "--spec", "login", "--", "sh", "-c", `"$SW" emit spec_failed >"$0"`, os.DevNull)
	programtest.Until(t, "everything is written", func() bool { return len(a.kept()) == 0 && len(a.rows(t)) == 6 })
	for _, r := range a.rows(t) {
		if r.Session != "night" || r.Spec != "login" {
			t.Errorf("%+v", r)
		}
	}
}

// Whatever names no session belongs to that of the loop, which no other machine
// and no other loop has.
func TestWithoutASession(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.hooked(t, `{"hook_event_name":"Stop"}`, "claude-code")
	a.hooked(t, "", "codex", `{"type":"agent-turn-complete"}`)
	code, out, errs := a.run(t, "emit", "spec_started", "--spec", "p")
	if code != 0 || !strings.Contains(out, "\n") {
		t.Fatalf("exit code %d, prints %q, says %s", code, out, errs)
	}
	_, ran, _ := strings.Cut(errs, "specwatch: session ")
	name, _, _ := strings.Cut(ran, " (")
	if code, _, errs := a.run(t, "run", "--spec", "p", "--", "true"); code != 0 || !strings.Contains(errs, "session "+name+" ") {
		t.Errorf("exit code %d, says %s", code, errs)
	}
	programtest.Until(t, "everything is written", func() bool { return len(a.kept()) == 0 && len(a.rows(t)) == 6 })
	host, err := os.Hostname()
	for _, r := range a.rows(t) {
		if err != nil || r.Session != name || !strings.Contains(name, host) {
			t.Errorf("session %q, want %q", r.Session, name)
		}
	}
	// A file says it on each line.
	p := a.start(t, strings.NewReader(`{"kind":"spec_started"}`), "emit", "--from", "-")
	if code := p.code(t); code != 1 || !strings.Contains(p.err.String(), "session") {
		t.Errorf("exit code %d: %s", code, &p.err)
	}
}
