//go:build linux

package chaos

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every kind of fault once: `go tool mage chaos` makes each a hundred times.
func TestNothingIsLostUnderFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	report, err := Run(t.Context(), Options{Seed: rand.Uint64() >> 11, AtOnce: 8, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if !report.Sound() {
		t.Errorf("something was lost, repeated, out of order or invented:\n%s", report.Text())
	}
}

func event(id int64, stream string, n int64, at time.Time) (row, fact) {
	r := row{ID: id, Kind: "spec_started", At: at, Data: []byte(`{"s":"` + stream + `","n":` + string(rune('0'+n)) + `}`)}
	return r, fact{print: r.print(), mark: r.mark(), at: at}
}

// The comparison sees each kind of wrong delivery.
func TestWrongDeliveriesAreSeen(t *testing.T) {
	now := time.Now()
	var rows []row
	all := &truth{rows: map[int64]fact{}}
	for i := range int64(5) {
		r, f := event(i+1, "a", i+1, now)
		rows = append(rows, r)
		all.rows[r.ID] = f
	}
	pruned, f := event(6, "b", 1, now)
	f.pruned = true
	all.rows[6] = f
	laterOf, f := event(8, "b", 2, now)
	f.pruned = true
	all.rows[8] = f
	stranger, _ := event(7, "c", 1, now)
	other := rows[2]
	other.Spec = "other"

	for name, test := range map[string]struct {
		give func(c *chain)
		want func(v Verdict) int
	}{
		"nothing wrong":  {func(c *chain) { c.take(rows, "1", nil) }, func(v Verdict) int { return 1 - v.Lost - v.Repeated - v.Disordered - v.Invented - v.Wrong }},
		"pruned in time": {func(c *chain) { c.take(append(rows, pruned), "1", nil) }, func(v Verdict) int { return 1 - v.Lost - v.Invented }},
		"pruned, by the stream after the poll": {func(c *chain) {
			c.twoWays = true
			c.take(append(rows, laterOf), "1", nil)
			c.take([]row{pruned}, "2", nil)
		},
			func(v Verdict) int { return 1 - v.Disordered }},
		"pruned, late":    {func(c *chain) { c.take(append(rows, laterOf), "1", nil); c.take([]row{pruned}, "2", nil) }, func(v Verdict) int { return v.Disordered }},
		"lost":            {func(c *chain) { c.take(rows[1:], "1", nil) }, func(v Verdict) int { return v.Lost }},
		"repeated":        {func(c *chain) { c.take(rows, "1", nil); c.take(rows[3:4], "2", nil) }, func(v Verdict) int { return v.Repeated }},
		"id given again":  {func(c *chain) { c.take(append(rows, other), "1", nil) }, func(v Verdict) int { return v.Repeated }},
		"differs":         {func(c *chain) { c.take([]row{rows[0], rows[1], other, rows[3], rows[4]}, "1", nil) }, func(v Verdict) int { return v.Wrong }},
		"out of order":    {func(c *chain) { c.take([]row{rows[1], rows[0], rows[2], rows[3], rows[4]}, "1", nil) }, func(v Verdict) int { return v.Disordered }},
		"invented":        {func(c *chain) { c.take(append(rows, stranger), "1", nil) }, func(v Verdict) int { return v.Invented }},
		"needless notice": {func(c *chain) { c.take(rows, "1", nil); c.expired(); c.take(rows, "2", nil) }, func(v Verdict) int { return v.Needless }},
		"due notice": {func(c *chain) { c.take(append(rows, stranger), "1", nil); c.expired(); c.take(rows, "2", nil) },
			func(v Verdict) int { return 1 - v.Needless - v.Invented }},
	} {
		c := newChain(name)
		test.give(c)
		r := &Report{journal: &journal{}}
		r.compare(mainScenario, all, []*chain{c}, nil, nil, false)
		if got := test.want(r.Clients[0]); got != 1 {
			t.Errorf("%s: %+v", name, r.Clients[0])
		}
		if sound := strings.HasPrefix(name, "nothing") || name == "pruned in time" || strings.HasPrefix(name, "pruned, by") || strings.HasPrefix(name, "due"); r.Sound() != sound {
			t.Errorf("%s: sound is %v", name, r.Sound())
		}
	}
	w := newWriting(&run{}, "w", nil)
	w.did("single inserts", acknowledged{mark{"a", 1}, 1}, acknowledged{mark{"a", 9}, 0}, acknowledged{mark{"a", 2}, 77})
	r := &Report{journal: &journal{}}
	r.compare(mainScenario, all, nil, nil, w, false)
	if len(r.problems) != 2 {
		t.Errorf("of two false acknowledgements %d are seen", len(r.problems))
	}
}

func TestTheTableIsWrittenBetweenItsMarkers(t *testing.T) {
	document := t.TempDir() + "/faults.md"
	if err := os.WriteFile(document, []byte("# Faults\n\nText.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	write := func(version string, times int) string {
		t.Helper()
		r := &Report{Version: version, journal: &journal{counts: map[string]int{"network cut": times}}}
		if err := r.Write(document); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	write("13", 1)
	write("18", 2)
	text := write("13", 3)
	for part, times := range map[string]int{"Text.": 1, "| network cut | 1 |": 0, "| network cut | 2 |": 1, "| network cut | 3 |": 1, "<!-- fault run": 2, "<!-- end": 2} {
		if got := strings.Count(text, part); got != times {
			t.Errorf("%q is there %d times, not %d:\n%s", part, got, times, text)
		}
	}
}

// stopper ends a run at its first line of progress.
type stopper struct {
	io.Writer
	stop func()
}

func (s stopper) Write(text []byte) (int, error) {
	if strings.Contains(string(text), " faults, ") {
		s.stop()
	}
	return s.Writer.Write(text)
}

// A run that is interrupted leaves no process and no mounted disk behind.
func TestAnInterruptedRunEnds(t *testing.T) {
	folder, err := os.MkdirTemp("", "specwatch-chaos-test-") // which PostgreSQL's user can enter
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", folder)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := Run(ctx, Options{Log: stopper{t.Output(), cancel}, Progress: 500 * time.Millisecond}); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted run says %v", err)
	}
	if mounts, err := os.ReadFile("/proc/mounts"); err != nil || strings.Contains(string(mounts), folder) {
		t.Errorf("its disk is still mounted (%v)", err)
	}
	// The kernel may still be ending one that was killed.
	left := func() (lines []string) {
		processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, process := range processes {
			if line, _ := os.ReadFile(process); strings.Contains(string(line), folder) {
				lines = append(lines, string(line))
			}
		}
		return lines
	}
	for deadline := time.Now().Add(30 * time.Second); len(left()) > 0; <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("processes are left: %q", left())
		}
	}
}
