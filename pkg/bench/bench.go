//go:build linux

// Package bench measures what Specwatch promises of its speed, each figure
// against a reference in the same run: the real executable over a real
// PostgreSQL, beside a bare program (see Floor), the
// SQL that Grafana's PostgreSQL data source would send, and, where there is
// one, Centrifugo's consumer of an outbox table.
package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/embedded"
)

// Options of a run.
type Options struct {
	Specwatch  string   // the executable that is measured
	Floor      []string // the command that runs the bare program: see Floor
	Centrifugo string   // an executable of Centrifugo; empty: its lines are left out
	Rows       int      // of the large table
	Clients    int      // that are idle
	Rounds     int      // of each comparison; the median counts
	Span       time.Duration
	Only       []string // parts of the names of the measurements to make; none: all
	Version    string   // of PostgreSQL; empty: the one at hand
	Profiles   string   // folder for CPU profiles of the gateway; empty: none
	Log        io.Writer
}

// Line is one line of the table.
type Line struct {
	Work, Figure, Reference, Ratio, Goal string
	Verdict                              Verdict
}

// Verdict says whether a line reaches its goal.
type Verdict string

const (
	Met      Verdict = "met"
	NotMet   Verdict = "not met"
	Told     Verdict = ""             // it has no goal of its own
	Skipped  Verdict = "not measured" // its reference is not there
	TheError Verdict = "failed"
)

func reaches(yes bool) Verdict {
	if yes {
		return Met
	}
	return NotMet
}

// Report is what a run found.
type Report struct {
	Machine string
	Lines   []Line
	Lasted  time.Duration
}

// measurement is what makes some lines of the table.
type measurement struct {
	name string
	run  func(*world, context.Context) ([]Line, error)
}

var measurements = []measurement{
	{"latency", (*world).latency},
	{"writers", (*world).writers},
	{"burst", (*world).burst},
	{"backlog", (*world).backlog},
	{"clients", (*world).clients},
	{"polls", (*world).polls},
	{"large", (*world).large},
}

// Run measures, and returns the table.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	began := time.Now()
	folder, err := os.MkdirTemp("", "specwatch-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	if err := os.Chmod(folder, 0o755); err != nil { // PostgreSQL may run as another user
		return nil, err
	}
	w := &world{Options: o, began: began, folder: folder}
	defer w.close()
	w.say("PostgreSQL starts")
	w.postgres, err = embedded.Start(ctx, embedded.Config{Dir: filepath.Join(folder, "postgres"), Version: o.Version, Settings: map[string]string{
		"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "200", "random_page_cost": "1.1", "effective_cache_size": "4GB",
		"checkpoint_timeout": "15min",
	}})
	if err != nil {
		return nil, err
	}
	report = &Report{}
	if report.Machine, err = w.machine(ctx); err != nil {
		return nil, err
	}
	for _, m := range measurements {
		if len(o.Only) > 0 && !slices.ContainsFunc(o.Only, func(part string) bool { return strings.Contains(m.name, part) }) {
			continue
		}
		lines, err := m.run(w, ctx)
		w.endAll()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		report.Lines = append(report.Lines, lines...)
		if err != nil {
			report.Lines = append(report.Lines, Line{Work: m.name, Figure: strings.ReplaceAll(err.Error(), "\n", " "), Verdict: TheError})
			w.say("%s failed: %v", m.name, err)
		}
		for _, l := range lines {
			w.say("%s: %s; reference %s; ratio %s; goal %s; %s", l.Work, l.Figure, l.Reference, l.Ratio, l.Goal, l.Verdict)
		}
	}
	report.Lasted = time.Since(began)
	return report, nil
}

// Failed reports whether something could not be measured.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.Lines, func(l Line) bool { return l.Verdict == TheError })
}

// Markdown is the table.
func (r *Report) Markdown() string {
	var text strings.Builder
	fmt.Fprintf(&text, "\n%s; the run took %s.\n\n", r.Machine, r.Lasted.Round(time.Second))
	fmt.Fprintln(&text, "| work | figure | reference | ratio | goal | |\n|---|---|---|---|---|---|")
	for _, l := range r.Lines {
		fmt.Fprintf(&text, "| %s | %s | %s | %s | %s | %s |\n", l.Work, l.Figure, l.Reference, l.Ratio, l.Goal, l.Verdict)
	}
	return text.String() + "\n"
}

// Marks of the place of the table in a document.
const (
	begin = "<!-- written by go tool mage bench -->"
	end   = "<!-- end of what go tool mage bench wrote -->"
)

// Write puts the table into a document, between the two marks.
func (r *Report) Write(document string) error {
	old, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(old), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return fmt.Errorf("%s needs the lines %q and %q, between which the table goes", document, begin, end)
	}
	return os.WriteFile(document, []byte(before+begin+"\n"+r.Markdown()+end+after), 0o644) // #nosec G703 -- the document that the caller named
}

func (w *world) machine(ctx context.Context) (string, error) {
	conn, err := connect(ctx, w.postgres.URL())
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var version string
	if err := conn.QueryRow(ctx, `SHOW server_version`).Scan(&version); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d cores that PostgreSQL %s, Specwatch, the references and what drives them share", runtime.NumCPU(), version), nil
}

// median is of a list that is not empty.
func median[T int | int64 | float64 | time.Duration](values []T) T {
	return percentile(values, 0.5)
}

func percentile[T int | int64 | float64 | time.Duration](values []T, p float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}
