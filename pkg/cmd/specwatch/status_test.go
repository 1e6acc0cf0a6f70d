//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
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

// A gateway stores its overview once a minute. What was written since is in the
// answer too.
func TestStatusIsOfNow(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.mustRun(t, "emit", "spec_started", "--session", "night", "--spec", "cart")
	s, err := store.Open(t.Context(), store.Config{URL: a.url})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	summary, page, err := questions.To(s).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := summary.MarshalBinary()
	if err == nil {
		err = questions.To(s).Keep(t.Context(), text, page.Cursor, page.Pruned)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.mustRun(t, "emit", "spec_failed", "--session", "night", "--spec", "cart")
	if out := a.mustRun(t, "status"); !strings.Contains(out, "0 running, 0 completed, 1 failed") {
		t.Error(out)
	}
}

// It tells which spec hangs and which is at its usage limit.
func TestStatusOfIdleAndLimitedSpecs(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	gateway := a.throughAGateway(t)
	// All at once and with the gateway ready: what is shown changes with the minute.
	var events strings.Builder
	begun := time.Now().Add(-20 * time.Minute).Format(time.RFC3339Nano)
	for spec, data := range map[string]string{
		"works": `{"silentSeconds":3}`, "hangs": `{"silentSeconds":730}`,
		"limited": `{"limited":true,"resetsInSeconds":7200}`, "long": `{"limited":true,"resetsInSeconds":90000}`, "unknown": `{"limited":true}`,
	} {
		fmt.Fprintf(&events, `{"kind":"spec_started","session":"night","spec":%q,"at":%q}`+"\n", spec, begun)
		fmt.Fprintf(&events, `{"kind":"session_heartbeat","session":"night","spec":%q,"data":%s}`+"\n", spec, data)
	}
	p := a.start(t, strings.NewReader(events.String()), "emit", "--from", "-")
	if code := p.code(t); code != 0 {
		t.Fatalf("exit code %d: %s", code, &p.err)
	}
	for name, from := range map[string]at{"database": a, "gateway": gateway} {
		out := from.mustRun(t, "status")
		for spec, want := range map[string]string{
			"works": `ago$`, "hangs": `ago +no output, CPU time or event for 12 minutes$`,
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
	gateway := a.throughAGateway(t)
	before := func(d time.Duration) string { return time.Now().Add(-d).Format(time.RFC3339Nano) }
	for _, session := range []string{"night", "gone"} {
		a.mustRun(t, "emit", "spec_started", "--session", session, "--spec", "killed", "--at", before(20*time.Minute))
		a.mustRun(t, "emit", "session_heartbeat", "--session", session, "--spec", "killed", "--at", before(10*time.Minute), "--data", `{"silentSeconds":0}`)
	}
	a.mustRun(t, "emit", "session_heartbeat", "--session", "night", "--spec", "other", "--data", `{"silentSeconds":0}`)
	for name, from := range map[string]at{"database": a, "gateway": gateway} {
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

// A user without rights is told which role to be granted, by its name and in the
// user's; the roles of the schema are those that migrate was told of.
func TestStatusWithoutRights(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	a := place(t, server.URL())
	a.env = []string{envSchema + "=watch", envRoles + "=other"}
	a.mustRun(t, "migrate", "--roles", "team")
	if _, err := postgrestest.Connect(t, server.URL()).Exec(t.Context(), `CREATE ROLE someone LOGIN PASSWORD 'p'`); err != nil {
		t.Fatal(err)
	}
	as, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	as.User = url.UserPassword("someone", "p")
	user := place(t, as.String())
	user.env = []string{envSchema + "=watch"}
	told := func(role string) {
		t.Helper()
		if code, _, errs := user.run(t, "status"); code == 0 || !strings.Contains(errs, `the database user someone lacks a right`) || !strings.Contains(errs, "GRANT "+role+` TO "someone"`) {
			t.Errorf("exit code %d: %s", code, errs)
		}
	}
	told("team_reader")
	a.mustRun(t, "migrate") // by the variable
	told("other_reader")
	for says, args := range map[string][]string{
		"names no roles": {"migrate", "--roles", ""},
		"begin with pg_": {"migrate", "--roles", "pg_x"},
		"56 are allowed": {"migrate", "--roles", strings.Repeat("x", 57)},
	} {
		if code, _, errs := a.run(t, args...); code == 0 || !strings.Contains(errs, says) {
			t.Errorf("%v: exit code %d: %s", args, code, errs)
		}
	}
	told("other_reader")
}
