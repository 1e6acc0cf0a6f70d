package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/state"
)

// The overview is the same from the database and through a gateway, as text
// and as JSON.
func TestStatus(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	if out := a.mustRun(t, "status"); !strings.Contains(out, "No session wrote an event") {
		t.Errorf("of an empty table: %s", out)
	}
	a.mustRun(t, "emit", "spec_started", "--session", "night", "--spec", "cart")
	a.mustRun(t, "emit", "intervention_request", "--session", "night", "--spec", "cart", "--data", `{"question":"Which port?"}`)
	a.mustRun(t, "emit", "spec_failed", "--session", "night", "--spec", "login")
	for name, from := range map[string]at{"database": a, "gateway": a.throughAGateway(t)} {
		out := from.mustRun(t, "status")
		for _, part := range []string{`"night"`, "1 running, 0 completed, 1 failed", `"cart" of "night"`, `"Which port?"`} {
			if !strings.Contains(out, part) {
				t.Errorf("%s: no %s in\n%s", name, part, out)
			}
		}
		var st state.State
		if err := json.Unmarshal([]byte(from.mustRun(t, "status", "--output", "json")), &st); err != nil {
			t.Fatal(err)
		}
		if st.At.IsZero() || st.Specs.Open != 1 || st.Specs.Failed != 1 || st.WaitingTotal != 1 || len(st.Sessions) != 1 {
			t.Errorf("%s: %+v", name, st)
		}
	}
	if code, _, errs := a.run(t, "status", "--output", "xml"); code != exitWrongUse || !strings.Contains(errs, "text or json") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

// It tells which spec hangs and which is at its usage limit.
func TestStatusOfAlive(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	begun := time.Now().Add(-20 * time.Minute).Format(time.RFC3339Nano)
	for spec, data := range map[string]string{
		"works": `{"silentSeconds":3}`, "hangs": `{"silentSeconds":730}`,
		"limited": `{"limited":true,"resetsInSeconds":7200}`, "long": `{"limited":true,"resetsInSeconds":90000}`, "unknown": `{"limited":true}`,
	} {
		a.mustRun(t, "emit", "spec_started", "--session", "night", "--spec", spec, "--at", begun)
		a.mustRun(t, "emit", "session_heartbeat", "--session", "night", "--spec", spec, "--data", data)
	}
	for name, from := range map[string]at{"database": a, "gateway": a.throughAGateway(t)} {
		out := from.mustRun(t, "status")
		for spec, want := range map[string]string{
			"works": `ago$`, "hangs": `ago +nothing has come for 12 minutes$`,
			"limited": `ago +usage limit, resets at \d\d:\d\d$`, "long": `ago +usage limit, resets at \d+ \w+, \d\d:\d\d$`, "unknown": `ago +usage limit, reset time not known$`,
		} {
			if !regexp.MustCompile(`(?m)^spec runs +"` + spec + `" of "night" +started 20m.*` + want).MatchString(out) {
				t.Errorf("%s: nothing of %s in\n%s", name, spec, out)
			}
		}
		if strings.Count(out, "usage limit") != 3 {
			t.Errorf("%s: the session works, and it says\n%s", name, out)
		}
	}
}

// It tells a session that is silent from a spec whose own heartbeats ended.
func TestStatusOfSilence(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	before := func(d time.Duration) string { return time.Now().Add(-d).Format(time.RFC3339Nano) }
	for _, session := range []string{"night", "gone"} {
		a.mustRun(t, "emit", "spec_started", "--session", session, "--spec", "killed", "--at", before(20*time.Minute))
		a.mustRun(t, "emit", "session_heartbeat", "--session", session, "--spec", "killed", "--at", before(10*time.Minute), "--data", `{"silentSeconds":0}`)
	}
	a.mustRun(t, "emit", "session_heartbeat", "--session", "night", "--spec", "other", "--data", `{"silentSeconds":0}`)
	for name, from := range map[string]at{"database": a, "gateway": a.throughAGateway(t)} {
		out := from.mustRun(t, "status")
		for _, line := range []string{`spec is silent +"killed" of "night" `, `session is silent +"killed" of "gone" `} {
			if !regexp.MustCompile(`(?m)^` + line).MatchString(out) {
				t.Errorf("%s: no %s in\n%s", name, line, out)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if out := (at{state: t.TempDir()}).mustRun(t, "version"); !strings.HasPrefix(out, "specwatch ") || strings.Count(out, "\n") != 1 {
		t.Errorf("%q", out)
	}
}
