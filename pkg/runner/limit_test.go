//go:build unix

package runner

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/agent"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
)

// A limit that a hook told of counts until something else comes.
func TestLimitThatAHookTold(t *testing.T) {
	now := time.Now()
	notes := func(sign time.Time, lines ...note) *run {
		path := filepath.Join(t.TempDir(), "notes")
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for _, n := range lines {
			if err := json.NewEncoder(file).Encode(n); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(path, sign, sign); err != nil {
			t.Fatal(err)
		}
		return &run{Config: Config{Session: "s", Spec: "p"}, notes: path, work: newWork(now.Add(-time.Hour), 20, path)}
	}
	at := now.Add(-30 * time.Minute)
	limit := note{Kind: agent.AgentLimit, Session: "s", Spec: "p", At: at, Message: "limit", ResetsAt: "later"}
	other := limit
	other.Spec = "q"
	again := note{Kind: event.SpecStarted, Session: "s", Spec: "p"}
	for name, c := range map[string]struct {
		run  *run
		want bool
	}{
		"nothing came":             {notes(at, limit), true},
		"the agent ended its turn": {notes(at.Add(time.Minute), limit), true},
		"something came":           {notes(at.Add(state.LimitGrace+time.Second), limit), false},
		"of another spec":          {notes(at, other), false},
		"it started again":         {notes(at, limit, again), false},
		"nothing is told":          {notes(at), false},
	} {
		l := c.run.limit(agent.Signal{}, false)
		if (l != nil) != c.want || l != nil && (!l.told || l.data["message"] != "limit" || l.data["resetsAt"] != "later") {
			t.Errorf("%s: %+v", name, l)
		}
	}
	r := notes(at, limit)
	r.work.wrote(stdout, []byte("works again"))
	if l := r.limit(agent.Signal{}, false); l != nil {
		t.Errorf("it prints: %+v", l)
	}
}

// While nothing comes, heartbeats tell of the limit that the last lines show.
func TestHeartbeatsTellOfALimit(t *testing.T) {
	w := newWork(time.Now(), 20, "")
	w.wrote(stdout, []byte("You've hit your limit. Try again in 2 hours.\n\n| > |\n"))
	began := w.last
	for after, want := range map[time.Duration]string{
		time.Minute:      `null null`, // it may be the message of another program that goes on
		10 * time.Minute: `true 6600`,
		3 * time.Hour:    `null null`,
	} {
		data := w.tell(began.Add(after), 0)
		limited, _ := json.Marshal(data["limited"])
		seconds, _ := json.Marshal(data["resetsInSeconds"])
		if got := string(limited) + " " + string(seconds); got != want {
			t.Errorf("after %s: %s, want %s", after, got, want)
		}
	}
}
