package state

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

var start = time.Date(2026, 11, 24, 1, 0, 0, 0, time.UTC)

func at(seconds int, id int64, kind event.Kind, session, spec string) event.Event {
	return event.Event{ID: id, Kind: kind, At: start.Add(time.Duration(seconds) * time.Second), Session: session, Spec: spec}
}

func TestStateOfANight(t *testing.T) {
	s := NewSummary(map[event.Kind]int64{event.SpecStarted: 10})
	for _, e := range []event.Event{
		at(0, 1, event.SpecStarted, "night", "login"),
		at(5, 2, event.SpecFailed, "night", "login"),
		at(6, 3, event.SpecStarted, "night", "login"), // a second try
		at(7, 4, event.SpecCompleted, "night", "login"),
		at(8, 5, event.SpecStarted, "night", "search"),
		at(9, 6, event.InterventionRequest, "night", "search"),
		at(10, 7, event.SessionHeartbeat, "night", ""),
		at(1, 8, event.SpecStarted, "old", "cart"),
		at(2, 9, event.TimeoutTriggered, "old", "cart"),
	} {
		s.Add(e)
	}
	got := s.State(start.Add(65 * time.Second))
	if got.Totals[event.SpecStarted] != 14 {
		t.Errorf("totals: %v", got.Totals)
	}
	if want := (Specs{Open: 1, Completed: 1, TimedOut: 1}); got.Specs != want {
		t.Errorf("specs %+v, want %+v", got.Specs, want)
	}
	if len(got.Sessions) != 2 || got.Sessions[0].Session != "night" || got.Sessions[0].Status != Running || got.Sessions[1].Status != Done ||
		!got.Sessions[0].LastTimeout.IsZero() || !got.Sessions[1].LastTimeout.Equal(start.Add(2*time.Second)) {
		t.Errorf("sessions %+v", got.Sessions)
	}
	if len(got.Running) != 1 || got.Running[0].Spec != "search" {
		t.Errorf("running %+v", got.Running)
	}
	if len(got.Waiting) != 1 || got.Waiting[0].ID != 6 {
		t.Errorf("waiting %+v", got.Waiting)
	}
	if later := s.State(start.Add(time.Hour)); later.Sessions[0].Status != Sleeping {
		t.Errorf("an hour later: %+v", later.Sessions[0])
	}
	s.Add(at(20, 10, event.SpecCompleted, "night", "search"))
	if done := s.State(start.Add(time.Hour)); len(done.Waiting) != 0 || done.Sessions[0].Status != Done {
		t.Errorf("after the end: %+v", done)
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var events []event.Event
	for i := range 500 {
		events = append(events, at(r.IntN(60), int64(i+1), event.Kinds[r.IntN(len(event.Kinds))], fmt.Sprint("s", r.IntN(5)), fmt.Sprint("p", r.IntN(9))))
	}
	now := start.Add(30 * time.Second)
	var want State
	for round := range 20 {
		s := NewSummary(nil)
		for _, e := range events {
			s.Add(e)
		}
		if got := s.State(now); round == 0 {
			want = got
		} else if !reflect.DeepEqual(got, want) {
			t.Fatalf("another order, another state:\n%+v\n%+v", got, want)
		}
		r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	}
}

func TestFailureStreak(t *testing.T) {
	failures := func(n int) (events []event.Event) {
		for i := range n {
			kind := event.SpecFailed
			if i%3 == 0 {
				kind = event.TimeoutTriggered
			}
			// Times repeat, so that ids have to decide.
			events = append(events, at(10+i/2, int64(100+2*i), kind, "s", fmt.Sprint("p", i%4)))
		}
		return events
	}
	ended := func(seconds int, id int64) event.Event { return at(seconds, id, event.SpecCompleted, "s", "p0") }
	for name, c := range map[string]struct {
		events []event.Event
		want   int
	}{
		"nothing ended":              {[]event.Event{at(1, 1, event.SpecStarted, "s", "p0")}, 0},
		"one spec fails again":       {[]event.Event{at(1, 1, event.SpecFailed, "s", "p0"), at(2, 2, event.SpecFailed, "s", "p0")}, 2},
		"completed before":           {append(failures(7), ended(5, 1)), 7},
		"completed in between":       {append(failures(7), ended(11, 105)), 4}, // by id after one of the two at 11 s
		"completed after":            {append(failures(7), ended(60, 1)), 0},
		"the latest completion":      {append(failures(7), ended(11, 105), ended(5, 1), ended(12, 500)), 1},
		"starts and heartbeats":      {append(failures(3), at(99, 1, event.SpecStarted, "s", "p0"), at(99, 2, event.SessionHeartbeat, "s", ""), at(99, 3, event.InterventionRequest, "s", "p0")), 3},
		"at the cap":                 {failures(MaxStreak), MaxStreak},
		"beyond the cap":             {failures(3 * MaxStreak), MaxStreak},
		"completed beyond the cap":   {append(failures(3*MaxStreak), ended(10, 103)), MaxStreak},
		"completed below the cap":    {append(failures(3*MaxStreak), ended(10+3*MaxStreak/2-2, 1)), 4},
		"another session completes":  {append(failures(3), at(99, 1, event.SpecCompleted, "another", "p0")), 3},
		"the same events more often": {append(failures(5), failures(5)...), 5},
	} {
		r := rand.New(rand.NewPCG(3, 4))
		for range 50 {
			s := NewSummary(nil)
			for _, e := range c.events {
				s.Add(e)
			}
			for _, session := range s.State(start.Add(time.Minute)).Sessions {
				if want := c.want; session.Session == "s" && session.FailureStreak != want {
					t.Fatalf("%s: a streak of %d, want %d", name, session.FailureStreak, want)
				}
			}
			if held := cap(s.sessions["s"].streak.failures); held > 4*MaxStreak {
				t.Fatalf("%s: room for %d failures is held", name, held)
			}
			r.Shuffle(len(c.events), func(i, j int) { c.events[i], c.events[j] = c.events[j], c.events[i] })
		}
	}
}

func TestSummaryIsBounded(t *testing.T) {
	s := NewSummary(nil)
	for i := range 3 * maxSessions {
		s.Add(at(i, int64(i), event.SpecStarted, fmt.Sprint("s", i), "p"))
	}
	if len(s.sessions) > maxSessions {
		t.Errorf("%d sessions are held", len(s.sessions))
	}
	last := fmt.Sprint("s", 3*maxSessions-1)
	if got := s.State(start).Sessions; len(got) != listed || got[0].Session != last {
		t.Errorf("%d sessions listed, first %+v", len(got), got[0])
	}
}
