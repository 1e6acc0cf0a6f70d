package questions_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/storetest"
)

func TestRangeQuestions(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	ask := questions.To(s)
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	add := func(minute int, kind event.Kind, spec string) {
		storetest.Exec(t, conn, `INSERT INTO events (kind, at, session, spec) VALUES ($1, $2, 'night', $3)`, string(kind), start.Add(time.Duration(minute)*time.Minute), spec)
	}
	add(-30, event.SpecStarted, "before")
	add(1, event.SpecStarted, "a")
	add(3, event.SpecCompleted, "a")
	add(4, event.SpecStarted, "b")
	add(5, event.SpecStarted, "b")
	add(6, event.InterventionRequest, "b")
	add(7, event.TimeoutTriggered, "b")
	add(8, event.SpecStarted, "c")
	add(70, event.SpecFailed, "c")
	f := questions.Filter{From: start, To: start.Add(time.Hour), Limit: 100}

	events, err := ask.Range(t.Context(), f)
	if err != nil || storetest.Specs(events) != "c b b b b a a" {
		t.Errorf("range: %q, %v", storetest.Specs(events), err)
	}
	narrow := f
	narrow.Specs, narrow.Kinds, narrow.Sessions, narrow.Limit = []string{"b", "c"}, []event.Kind{event.SpecStarted}, []string{"night"}, 2
	if events, err = ask.Range(t.Context(), narrow); err != nil || storetest.Specs(events) != "c b" {
		t.Errorf("narrow range: %q, %v", storetest.Specs(events), err)
	}
	counts, err := ask.Counts(t.Context(), f, 5*time.Minute)
	if want := fmt.Sprint([]questions.Count{
		{start, event.SpecCompleted, 1, 0}, {start, event.SpecStarted, 2, 0},
		{start.Add(5 * time.Minute), event.InterventionRequest, 1, 0}, {start.Add(5 * time.Minute), event.SpecStarted, 2, 0}, {start.Add(5 * time.Minute), event.TimeoutTriggered, 1, 0},
	}); err != nil || fmt.Sprint(counts) != want {
		t.Errorf("counts: %v, want %v: %v", counts, want, err)
	}
	outcomes, err := ask.Outcomes(t.Context(), f)
	if want := (questions.Outcomes{Started: 4, Completed: 1, TimedOut: 1}); err != nil || outcomes != want {
		t.Errorf("outcomes: %+v, %v", outcomes, err)
	}
	attempts, err := ask.Durations(t.Context(), f)
	var lines []string
	for _, a := range attempts {
		line := fmt.Sprintf("%s %s", a.Spec, a.Outcome)
		if a.Ended != nil {
			line += " " + a.Ended.Sub(a.Started).String()
		}
		lines = append(lines, line)
	}
	if got, want := strings.Join(lines, ", "), "c failed 1h2m0s, b timed out 2m0s, b abandoned, a completed 2m0s"; err != nil || got != want {
		t.Errorf("durations: %s, want %s: %v", got, want, err)
	}
	changes, lanes, err := ask.Timeline(t.Context(), f)
	lines = nil
	for _, c := range changes {
		lines = append(lines, fmt.Sprintf("%s %s %d", c.Spec, c.Kind, int(c.At.Sub(start).Minutes())))
	}
	if got, want := strings.Join(lines, ", "), "before spec_started -30, a spec_started 1, a spec_completed 3, b spec_started 4, b spec_started 5, b intervention_request 6, b timeout_triggered 7, c spec_started 8"; err != nil || got != want || lanes != 4 {
		t.Errorf("timeline: %s of %d, want %s: %v", got, lanes, want, err)
	}
	few := f
	few.Limit = 1
	if changes, lanes, err = ask.Timeline(t.Context(), few); err != nil || len(changes) != 1 || changes[0].Spec != "c" || lanes != 4 {
		t.Errorf("the timeline of one spec: %v of %d, %v", changes, lanes, err)
	}
	if n, err := ask.Total(t.Context(), f); err != nil || n != 7 {
		t.Errorf("total: %d, %v", n, err)
	}
	names, total, err := ask.Specs(t.Context(), f, "")
	if err != nil || strings.Join(names, " ") != "c b a" || total != 3 {
		t.Errorf("specs: %q of %d, %v", names, total, err)
	}
	for text, want := range map[string]string{"": "night", "IG": "night", "%": "", "nigt": ""} {
		if names, _, err = ask.Sessions(t.Context(), f, text); err != nil || strings.Join(names, " ") != want {
			t.Errorf("sessions like %q: %q, %v", text, names, err)
		}
	}
}
