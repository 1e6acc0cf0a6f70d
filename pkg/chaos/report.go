//go:build linux

package chaos

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// Report is what a run found.
type Report struct {
	Options Options
	Version string // of PostgreSQL
	Lasted  time.Duration
	Written int64
	Missing []string // parts that are not in the run

	mu        sync.Mutex
	journal   *journal
	Clients   []Verdict
	problems  []problem
	slowStops int
	worstStop time.Duration
	kinds     map[string]int // what producers did
	Rows      int
}

// Verdict compares one client with the table.
type Verdict struct {
	Scenario, Client      string
	Delivered             int64
	Notices, Fresh, Gaps  int
	Lost, Repeated, Wrong int
	Disordered, Invented  int
	Needless              int // notices although all events of the client are in the table
	NoticeExpected        bool
	Stuck                 bool
	Answers               map[string]int
}

func (v Verdict) sound() bool {
	return v.Lost+v.Repeated+v.Wrong+v.Disordered+v.Invented+v.unclear() == 0 && !v.Stuck && (v.NoticeExpected || v.Needless == 0)
}

func (v Verdict) name() string {
	if v.Scenario == mainScenario {
		return v.Client
	}
	return v.Scenario + ": " + v.Client
}

// unclear counts errors without a reason.
func (v Verdict) unclear() (n int) {
	for what, times := range v.Answers {
		if strings.Contains(what, " 500 ") || strings.Contains(what, "unreadable") {
			n += times
		}
	}
	return n
}

// problem is one wrong delivery, with the faults at that time.
type problem struct {
	scenario, client, what string
	id                     int64
	mark                   mark
	at                     time.Time
	around                 []string
}

// Sound reports whether there was no error.
func (r *Report) Sound() bool {
	if r == nil {
		return false
	}
	for _, v := range r.Clients {
		if !v.sound() {
			return false
		}
	}
	return len(r.problems) == 0 && len(r.journal.failed) == 0
}

// compare judges the clients of a scenario. ended says that its faults end
// histories, so that notices are due.
func (r *Report) compare(scenario string, t *truth, chains, stuck []*chain, w *writing, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Rows += len(t.rows)
	for _, c := range chains {
		r.judge(scenario, t, c, slices.Contains(stuck, c), ended)
	}
	if w != nil {
		r.compareAcks(scenario, t, w, ended)
	}
}

// judge compares one client with the table.
func (r *Report) judge(scenario string, t *truth, c *chain, stuck, ended bool) {
	c.mu.Lock()
	j := judgement{report: r, truth: t, chain: c, Verdict: Verdict{
		Scenario: scenario, Client: c.name, Delivered: c.taken, Notices: c.notices, Fresh: c.fresh, Gaps: c.gaps,
		Stuck: stuck, NoticeExpected: ended, Answers: maps.Clone(c.answers),
	}}
	j.compareRows()
	j.compareOthers()
	j.compareNotices()
	c.mu.Unlock()
	r.add(j.Verdict)
}

// judgement is a verdict that is being made. Its chain is locked.
type judgement struct {
	Verdict
	report *Report
	truth  *truth
	chain  *chain
}

func (j *judgement) wrong(what string, id int64, f fact) {
	around := []string{j.Scenario} // an episode is its own fault
	if j.Scenario == mainScenario || j.Scenario == theFailOver {
		around = j.report.journal.around(j.Scenario, f.at)
	}
	if j.Stuck { // faults at the time of writing are not the reason
		around = nil
	}
	j.report.problems = append(j.report.problems, problem{j.Scenario, j.Client, what, id, f.mark, f.at, around})
}

// compareRows looks for each event of the table among those that the client
// holds, and at the order in which these came.
func (j *judgement) compareRows() {
	type placed struct {
		id    int64
		n     int64
		place int32
	}
	streams := map[string][]placed{}
	for id, f := range j.truth.rows {
		g, got := j.chain.held[id]
		switch {
		case !got && !f.pruned:
			j.Lost++
			j.wrong("lost", id, f)
		case got && g.print != f.print:
			j.Wrong++
			j.wrong("differs", id, f)
		case j.chain.twoWays && f.pruned:
			// A poll that fills a gap no longer has it; a frame from
			// before the poll, which was waiting, brings it late.
		case got && g.place > 0 && f.mark.N > 0:
			streams[f.mark.Stream] = append(streams[f.mark.Stream], placed{id, f.mark.N, g.place})
		}
	}
	for _, events := range streams {
		slices.SortFunc(events, func(a, b placed) int { return int(a.n - b.n) })
		for i := 1; i < len(events); i++ {
			if events[i].place < events[i-1].place {
				j.Disordered++
				j.wrong("out of order", events[i].id, j.truth.rows[events[i].id])
			}
		}
	}
}

// compareOthers looks for events that the client got and should not have got.
func (j *judgement) compareOthers() {
	for id := range j.chain.held {
		if _, there := j.truth.rows[id]; !there {
			j.Invented++
			j.wrong("invented", id, fact{})
		}
	}
	for _, id := range slices.Concat(j.chain.repeated, j.chain.reused) {
		j.Repeated++
		j.wrong("repeated", id, j.truth.rows[id])
	}
}

// compareNotices counts the notices for which there was no reason.
func (j *judgement) compareNotices() {
	for _, held := range j.chain.dropped {
		due := false
		for id, g := range held {
			if f, there := j.truth.rows[id]; !there || f.print != g.print {
				due = true
				break
			}
		}
		if !due && len(held) > 0 {
			j.Needless++
		}
	}
}

// compareAcks looks for what was confirmed to the producers, and counts what
// they did.
func (r *Report) compareAcks(scenario string, t *truth, w *writing, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stored := map[mark]int64{}
	for id, f := range t.rows {
		if f.mark.N > 0 {
			stored[f.mark] = id
		}
	}
	for _, a := range w.acks {
		if id, there := stored[a.mark]; !there || a.id != 0 && a.id != id {
			if !ended { // a fail-over may lose what its standby had not got
				r.problems = append(r.problems, problem{scenario: scenario, client: "producers", what: "acknowledged, but not stored", id: a.id, mark: a.mark})
			}
		}
	}
	if r.kinds == nil {
		r.kinds = map[string]int{}
	}
	for kind, n := range w.kinds {
		r.kinds[kind] += n
	}
}

// count compares what a gateway counts with what was ever stored.
func (r *Report) count(ctx context.Context, gateway *program, want int) error {
	client := &http.Client{Timeout: callPatience}
	var got int
	for late := time.Now().Add(stopPatience); ; wait(ctx, 100*time.Millisecond) {
		if got = eventsTotal(client, gateway.at); got == want || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(late) {
			r.problems = append(r.problems, problem{client: gateway.name, what: fmt.Sprintf("specwatch_events_total is %d in all, the table says %d", got, want)})
			return nil
		}
	}
}

// eventsTotal is -1 if there is no answer.
func eventsTotal(client *http.Client, address string) int {
	response, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return -1
	}
	defer response.Body.Close()
	total := 0.0
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), "} "); ok && strings.HasPrefix(name, "specwatch_events_total{") {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return -1
			}
			total += n
		}
	}
	return int(total)
}

// add counts together what the same client of the same scenario was given at
// different times.
func (r *Report) add(v Verdict) {
	for i := range r.Clients {
		o := &r.Clients[i]
		if o.Scenario != v.Scenario || o.Client != v.Client {
			continue
		}
		o.Delivered += v.Delivered
		o.Stuck = o.Stuck || v.Stuck
		for into, n := range map[*int]int{
			&o.Notices: v.Notices, &o.Fresh: v.Fresh, &o.Gaps: v.Gaps, &o.Lost: v.Lost, &o.Repeated: v.Repeated,
			&o.Wrong: v.Wrong, &o.Disordered: v.Disordered, &o.Invented: v.Invented, &o.Needless: v.Needless,
		} {
			*into += n
		}
		for what, n := range v.Answers {
			o.Answers[what] += n
		}
		return
	}
	r.Clients = append(r.Clients, v)
}

// Text is the report for a terminal.
func (r *Report) Text() string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "client\tdelivered\tlost\trepeated\tout of order\tdiffers\tinvented\tnotices\tneedless\tgaps\tunclear answers\t")
	for _, v := range r.Clients {
		name := v.name()
		if v.Stuck {
			name += " (did not catch up)"
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", name, v.Delivered, v.Lost, v.Repeated, v.Disordered, v.Wrong, v.Invented, v.Notices, v.Needless, v.Gaps, v.unclear())
	}
	fmt.Fprintln(table)
	fmt.Fprintln(table, "fault\ttimes\tlost meanwhile\trepeated\tout of order\tinvented\tnot done\t")
	for _, f := range r.perFault() {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", f.name, f.times, f.what["lost"], f.what["repeated"], f.what["out of order"], f.what["invented"]+f.what["differs"], r.journal.failed[f.name])
	}
	table.Flush()
	for _, name := range slices.Sorted(maps.Keys(r.journal.counts)) {
		var total time.Duration
		for _, e := range r.journal.entries {
			if e.kind == name {
				total += e.to.Sub(e.from)
			}
		}
		fmt.Fprintf(&text, "%s: %s each\n", name, (total / time.Duration(r.journal.counts[name])).Round(time.Millisecond))
	}
	fmt.Fprintln(&text)
	for _, v := range r.Clients {
		fmt.Fprintf(&text, "%s: %s\n", v.name(), list(v.Answers))
	}
	fmt.Fprintf(&text, "producers: %s\n", list(r.kinds))
	fmt.Fprintf(&text, "slowest stop of a gateway: %s; %d had to be killed\n", r.worstStop.Round(time.Millisecond), r.slowStops)
	for _, m := range r.Missing {
		fmt.Fprintln(&text, "not part of this run:", m)
	}
	shown := map[string]int{}
	for _, p := range r.problems {
		who := strings.TrimSpace(p.scenario+" "+p.client) + ": " + p.what
		if shown[who]++; shown[who] <= 3 {
			fmt.Fprintf(&text, "%s event %d (%s/%d) written %s; faults then: %s\n", who, p.id, p.mark.Stream, p.mark.N, p.at.UTC().Format("15:04:05.000"), strings.Join(p.around, ", "))
		}
	}
	for _, who := range slices.Sorted(maps.Keys(shown)) {
		if shown[who] > 3 {
			fmt.Fprintf(&text, "%s %d events in all\n", who, shown[who])
		}
	}
	fmt.Fprintf(&text, "%d events in the tables, %d deliveries, %d faults in %s; seed %d, PostgreSQL %s\n", r.Rows, r.delivered(), r.journal.total(), r.Lasted.Round(time.Second), r.Options.Seed, r.Version)
	return text.String()
}

func list(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s ×%d", name, counts[name]))
	}
	return strings.Join(parts, "; ")
}

func (r *Report) delivered() (n int64) {
	for _, v := range r.Clients {
		n += v.Delivered
	}
	return n
}

type tally struct {
	name  string
	times int
	what  map[string]int
}

func (r *Report) perFault() []tally {
	around := map[string]map[string]int{}
	for _, p := range r.problems {
		for _, f := range p.around {
			if around[f] == nil {
				around[f] = map[string]int{}
			}
			around[f][p.what]++
		}
	}
	names := map[string]bool{}
	for name := range r.journal.counts {
		names[name] = true
	}
	for name := range r.journal.failed {
		names[name] = true
	}
	var all []tally
	for _, name := range slices.Sorted(maps.Keys(names)) {
		all = append(all, tally{name, r.journal.counts[name], around[name]})
	}
	return all
}

// Begin and End mark where a document has the tables of the last run on a
// version of PostgreSQL.
const (
	begin = "<!-- fault run on PostgreSQL %s: written by go tool mage chaos -->"
	end   = "<!-- end of the fault run on PostgreSQL %s -->"
)

// Write puts the tables into a document, between the two markers of the
// version; a version that is not there yet comes at the end.
func (r *Report) Write(document string) error {
	old, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	first, last := fmt.Sprintf(begin, r.Version), fmt.Sprintf(end, r.Version)
	before, rest, found := strings.Cut(string(old), first)
	after := ""
	if found {
		if _, after, found = strings.Cut(rest, last); !found {
			return fmt.Errorf("%s has a line %q but none %q after it", document, first, last)
		}
	} else {
		before = strings.TrimRight(before, "\n") + "\n\n"
		after = "\n"
	}
	return os.WriteFile(document, []byte(before+first+"\n"+r.Markdown()+last+after), 0o644) // #nosec G703 -- the document that the caller named
}

// Markdown is the report for a document.
func (r *Report) Markdown() string {
	var text strings.Builder
	fmt.Fprintf(&text, "\nPostgreSQL %s, seed %d: %d faults in %s, %d events in the tables at the end, %d deliveries to %d clients.\n\n",
		r.Version, r.Options.Seed, r.journal.total(), r.Lasted.Round(time.Second), r.Rows, r.delivered(), len(r.Clients))
	fmt.Fprintln(&text, "| fault | times | lost meanwhile | repeated | out of order | invented |\n|---|--:|--:|--:|--:|--:|")
	for _, f := range r.perFault() {
		fmt.Fprintf(&text, "| %s | %d | %d | %d | %d | %d |\n", f.name, f.times, f.what["lost"], f.what["repeated"], f.what["out of order"], f.what["invented"]+f.what["differs"])
	}
	fmt.Fprintln(&text, "\n| client | delivered | lost | repeated | out of order | invented | told to start afresh |\n|---|--:|--:|--:|--:|--:|--:|")
	for _, v := range r.Clients {
		fmt.Fprintf(&text, "| %s | %d | %d | %d | %d | %d | %d |\n", v.name(), v.Delivered, v.Lost, v.Repeated, v.Disordered, v.Invented+v.Wrong, v.Notices)
	}
	for _, m := range r.Missing {
		fmt.Fprintf(&text, "\nNot part of this run: %s.\n", m)
	}
	return text.String()
}
