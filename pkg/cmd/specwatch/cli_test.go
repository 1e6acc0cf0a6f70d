//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/programtest"
)

func TestCompletion(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.mustRun(t, "emit", "spec_started", "--session", "night one", "--spec", "login")
	a.mustRun(t, "emit", "intervention_request", "--session", "two\nlines", "--spec", "cart")
	if help := a.mustRun(t, "--help"); !strings.Contains(help, "completion ") {
		t.Errorf("the help hides completion: %s", help)
	}
	throughGateway := a.throughAGateway(t)
	for _, c := range []struct {
		from at
		args []string
		want string
	}{
		{a, []string{"emit", ""}, "spec_started\t" + event.SpecStarted.Meaning()},
		{a, []string{"emit", "spec_started", ""}, ":4"},
		{a, []string{"emit", "spec_started", "--session", ""}, "night one\n"},
		{throughGateway, []string{"run", "--session", ""}, "night one\n"},
		{a, []string{"ask", "--spec", ""}, "login\n"},
		{a, []string{"emit", "--spec", ""}, "cart\n"},
		{a, []string{"hook", ""}, "claude-code\ncodex\n"},
		{a, []string{"status", "--output", ""}, "text\njson\n"},
		{place(t, nowhere), []string{"emit", "spec_started", "--session", ""}, ":4"},
	} {
		// It does not wait long for the database, and then it offers no names.
		programtest.Until(t, fmt.Sprintf("%q offers %q", c.args, c.want), func() bool {
			code, out, _ := c.from.run(t, append([]string{"__complete"}, c.args...)...)
			if code != 0 || strings.Contains(out, "lines") {
				t.Fatalf("%q: exit code %d, offers %q", c.args, code, out)
			}
			return strings.Contains(out, c.want)
		})
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if script := a.mustRun(t, "completion", shell); !strings.Contains(script, "specwatch") {
			t.Errorf("%s: %q", shell, script)
		}
	}
}

// What was stored and what was known already is told apart, by the database and
// through a gateway.
func TestEmitCounts(t *testing.T) {
	t.Parallel()
	direct := migrated(t)
	for name, a := range map[string]at{"database": direct, "gateway": direct.throughAGateway(t)} {
		lines := func(n int) string {
			var text strings.Builder
			for i := range n {
				fmt.Fprintf(&text, `{"kind":"session_heartbeat","session":%q,"key":"%s-%d"}`+"\n", name, name, i)
			}
			return text.String()
		}
		for _, c := range []struct {
			input         string
			stored, known int
		}{{"", 0, 0}, {lines(3), 3, 0}, {lines(5), 2, 3}, {lines(2_000), 1_995, 5}, {lines(2_000), 0, 2_000}} {
			p := a.start(t, strings.NewReader(c.input), "emit", "--from", "-", "--output", "json")
			var got emitted
			if code := p.code(t); code != 0 || json.Unmarshal([]byte(p.out.String()), &got) != nil {
				t.Fatalf("%s: exit code %d: %s%s", name, code, &p.out, &p.err)
			}
			if got.Stored != int64(c.stored) || got.Known != int64(c.known) || got.Kept != 0 {
				t.Errorf("%s: %+v, expected %d stored and %d known", name, got, c.stored, c.known)
			}
		}
		var first, second emitted
		for _, into := range []*emitted{&first, &second} {
			out := a.mustRun(t, "emit", "spec_failed", "--session", "s", "--spec", "p", "--key", "one-"+name, "--output", "json")
			if err := json.Unmarshal([]byte(out), into); err != nil {
				t.Fatalf("%q: %v", out, err)
			}
		}
		if first.Stored != 1 || first.Known != 0 || second.Stored != 0 || second.Known != 1 || len(first.IDs) != 1 || second.IDs[0] != first.IDs[0] {
			t.Errorf("%s: %+v, then %+v", name, first, second)
		}
	}
}

func TestProgressLine(t *testing.T) {
	for want, got := range map[string]string{
		"25 %, 500 rows read, 50 a second, 30s left": progressLine(500, 0.25, "rows read", 10*time.Second),
		"100 %, 9 rows read, 3 a second, 0s left":    progressLine(9, 1.2, "rows read", 3*time.Second),
		"70 events removed, 7 a second":              progressLine(70, -1, "events removed", 10*time.Second),
		"0 %, 0 rows read, 0 a second":               progressLine(0, 0, "rows read", 0),
	} {
		if got != want {
			t.Errorf("%q, expected %q", got, want)
		}
	}
}
