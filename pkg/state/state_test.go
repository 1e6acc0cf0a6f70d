package state

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
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

// What a summary answers does not depend on how long it has run.
func TestTheHorizonMovesOn(t *testing.T) {
	s := NewSummary(nil)
	for i, kind := range event.Kinds {
		s.Add(at(0, int64(i+1), kind, "old", "p"))
		s.Add(at(0, int64(i+20), kind, "both", fmt.Sprint("p", i)))
	}
	s.Add(at(86_400, 100, event.SessionHeartbeat, "both", ""))
	fresh := NewSummary(nil)
	fresh.Add(at(86_400, 100, event.SessionHeartbeat, "both", ""))
	now := start.Add(Horizon + time.Second)
	got, want := s.State(now), fresh.State(now)
	got.Totals, want.Totals = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("running for long:\n%+v\nstarted now:\n%+v", got, want)
	}
}

// A request is bounded in what a State repeats of it.
func TestLargeRequestsAreClipped(t *testing.T) {
	s := NewSummary(nil)
	for i := range 200 {
		e := at(i, int64(i+1), event.InterventionRequest, "s", fmt.Sprint("p", i))
		e.Data = json.RawMessage(`{"question":"` + strings.Repeat("é", 500_000) + `","options":["8080","9090"]}`)
		s.Add(e)
	}
	st := s.State(start)
	text, err := json.Marshal(st)
	if err != nil || len(text) > 300_000 {
		t.Fatalf("%d bytes: %v", len(text), err)
	}
	var asked struct {
		Question string
		Options  []string
		Clipped  bool
	}
	if err := json.Unmarshal(st.Waiting[0].Data, &asked); err != nil || !asked.Clipped || len(asked.Options) != 2 || !strings.HasSuffix(asked.Question, "é…") {
		t.Errorf("%+v: %v", asked, err)
	}
}

func TestAnswers(t *testing.T) {
	asks := func(seconds int, id int64, spec string) event.Event {
		return at(seconds, id, event.InterventionRequest, "s", spec)
	}
	answers := func(seconds int, id int64, spec, data string) event.Event {
		e := at(seconds, id, event.InterventionAnswered, "s", spec)
		e.Data = json.RawMessage(data)
		return e
	}
	// Request 1 is answered first, by id, and then 60 others are.
	many := []event.Event{asks(1, 1, "p"), answers(2, 2, "p", `{"request":1}`)}
	for i := range 60 {
		id := int64(3 + 2*i)
		many = append(many, asks(3+i, id, fmt.Sprint("q", i%2)), answers(3+i, id+1, "", fmt.Sprintf(`{"request":%d}`, id)))
	}
	for name, c := range map[string]struct {
		events []event.Event
		want   string
	}{
		"many answers after it":     {many, "[]"},
		"the same twice":            {append(slices.Clone(many), many...), "[]"},
		"two of one spec":           {[]event.Event{asks(1, 1, "p"), asks(2, 2, "p")}, "[1 2]"},
		"by id":                     {[]event.Event{asks(1, 1, "p"), asks(2, 2, "p"), answers(3, 3, "p", `{"request":1}`)}, "[2]"},
		"by id as text":             {[]event.Event{asks(1, 1, "p"), answers(3, 3, "p", `{"request":"1"}`)}, "[]"},
		"by id without the spec":    {[]event.Event{asks(1, 1, "p"), answers(3, 3, "", `{"request":1}`)}, "[]"},
		"without a spec":            {[]event.Event{asks(1, 1, ""), asks(2, 2, ""), answers(3, 3, "", `{"request":2}`)}, "[1]"},
		"an answer that comes late": {[]event.Event{answers(0, 3, "p", `{"request":1}`), asks(1, 1, "p")}, "[]"},
		"all before it":             {[]event.Event{asks(1, 1, "p"), asks(2, 2, "p"), answers(3, 3, "p", `{}`), asks(4, 4, "p")}, "[4]"},
		"of another spec":           {[]event.Event{asks(1, 1, "p"), answers(3, 3, "q", `{}`)}, "[1]"},
		"to what is no id":          {[]event.Event{asks(1, 1, "p"), answers(3, 3, "p", `{"request":"first"}`), answers(4, 4, "p", `{"request":1.5}`), answers(5, 5, "p", `{"request":"01"}`)}, "[1]"},
		"to nothing":                {[]event.Event{asks(1, 1, "p"), answers(3, 3, "p", `{"request":null,"Request":7}`)}, "[]"},
		"no JSON that it knows":     {[]event.Event{asks(1, 1, "p"), answers(3, 3, "p", `[1]`)}, "[]"},
		"the spec goes on":          {[]event.Event{asks(1, 1, "p"), at(2, 2, event.SpecStarted, "s", "p")}, "[]"},
		"the spec had gone on":      {[]event.Event{asks(3, 1, "p"), at(2, 2, event.SpecStarted, "s", "p")}, "[1]"},
	} {
		s := NewSummary(nil)
		for _, e := range c.events {
			s.Add(e)
		}
		ids := []int64{}
		for _, w := range s.State(start).Waiting {
			ids = append(ids, w.ID)
		}
		if got := fmt.Sprint(ids); got != c.want {
			t.Errorf("%s: %s wait, want %s", name, got, c.want)
		}
	}
}

// Liveness follows the database's clock.
func TestWrongClocks(t *testing.T) {
	heartbeat := func(session string, at, stored time.Duration) event.Event {
		return event.Event{ID: int64(at + stored), Kind: event.SessionHeartbeat, At: start.Add(at), Session: session, Stored: start.Add(stored)}
	}
	now := 3 * time.Hour
	s := NewSummary(nil)
	for i := range 10 {
		ago := now - time.Duration(i)*15*time.Second
		s.Add(heartbeat("right", ago, ago+time.Millisecond))
		s.Add(heartbeat("ahead and alive", ago+time.Hour, ago))
		s.Add(heartbeat("ahead and dead", ago-30*time.Minute+time.Hour, ago-30*time.Minute))
		s.Add(heartbeat("behind and alive", ago-time.Hour, ago))
		s.Add(heartbeat("behind and dead", ago-90*time.Minute, ago-30*time.Minute))
		s.Add(heartbeat("kept in an outage", ago-time.Hour, now))
		s.Add(heartbeat("imported", ago-48*time.Hour, now))
		s.Add(heartbeat("written for a test", ago-20*time.Minute, now))
	}
	s.Add(heartbeat("kept in an outage", now-2*time.Hour, now-2*time.Hour))
	s.Add(heartbeat("put right", now-time.Minute, now-2*time.Minute-time.Hour))
	s.Add(heartbeat("put right", now-time.Second, now-time.Second))
	want := map[string]string{
		"right": "running 0", "ahead and alive": "running 3600", "ahead and dead": "done 3600", "behind and alive": "running -3600",
		"behind and dead": "done -3600", "kept in an outage": "done 0", "imported": "done 0", "written for a test": "done 0", "put right": "running 0",
	}
	for _, row := range s.State(start.Add(now)).Sessions {
		if got := fmt.Sprintf("%s %g", row.Status, row.ClockAhead); got != want[row.Session] {
			t.Errorf("%s: %s, want %s (last seen %s)", row.Session, got, want[row.Session], row.LastSeen.Sub(start))
		}
		if row.LastSeen.After(start.Add(now)) {
			t.Errorf("%s was seen in the future", row.Session)
		}
	}
}

func TestSummaryIsBounded(t *testing.T) {
	s := NewSummary(nil)
	for i := range 3 * MaxSessions {
		s.Add(at(i, int64(i), event.SpecStarted, fmt.Sprint("s", i), "p"))
	}
	if len(s.sessions) > MaxSessions {
		t.Errorf("%d sessions are held", len(s.sessions))
	}
	last := fmt.Sprint("s", 3*MaxSessions-1)
	if got := s.State(start).Sessions; len(got) != listed || got[0].Session != last {
		t.Errorf("%d sessions listed, first %+v", len(got), got[0])
	}
}

// A state lists some sessions and counts all.
func TestAllSessionsAreCounted(t *testing.T) {
	s := NewSummary(nil)
	for i := range 150 {
		s.Note(at(0, int64(2*i+1), event.SpecStarted, fmt.Sprint("asleep", i), "p"))
	}
	for i := range 120 {
		s.Note(at(600, int64(1001+i), event.SpecStarted, fmt.Sprint("awake", i), "p"))
		s.Note(at(0, int64(2001+i), event.SpecCompleted, fmt.Sprint("done", i), "p"))
	}
	st := s.State(start.Add(610 * time.Second))
	if len(st.Sessions) != listed || st.SessionsTotal != 390 || st.SessionsRunning != 120 || st.SessionsSleeping != 150 {
		t.Errorf("%d listed of %d, %d running, %d asleep", len(st.Sessions), st.SessionsTotal, st.SessionsRunning, st.SessionsSleeping)
	}
}

// A limit of usage ends a spec and is no failure of it: until it is lifted, and
// until the spec is tried again.
func TestLimitIsNoFailure(t *testing.T) {
	at := func(m int) time.Time { return start.Add(time.Duration(m) * time.Minute) }
	s := NewSummary(nil)
	events := []event.Event{
		{ID: 1, Kind: event.SpecFailed, Session: "night", Spec: "a", At: at(0), Data: []byte(`{"reason":"exit code"}`)},
		{ID: 2, Kind: event.SpecFailed, Session: "night", Spec: "b", At: at(1), Data: []byte(`{"reason":"usage limit","resetsAt":"` + at(60).Format(time.RFC3339) + `"}`)},
		{ID: 3, Kind: event.SpecFailed, Session: "night", Spec: "c", At: at(2), Data: []byte(`{"reason":"usage limit"}`)},
	}
	for _, i := range []int{2, 0, 1, 2} { // in any order, and twice
		s.Note(events[i])
	}
	st := s.State(at(3))
	if st.Specs.Failed != 1 || st.Specs.Limited != 2 || st.Sessions[0].FailureStreak != 1 {
		t.Errorf("%+v, streak %d", st.Specs, st.Sessions[0].FailureStreak)
	}
	if !st.Sessions[0].Limited {
		t.Error("not limited")
	}
	if until := st.Sessions[0].LimitedUntil; until == nil || !until.Equal(at(60)) {
		t.Errorf("until %v", until)
	}
	if st := s.State(at(61)).Sessions[0]; st.LimitedUntil != nil || !st.Limited { // c's knows no end
		t.Errorf("limited: %t, until %v", st.Limited, st.LimitedUntil)
	}
	s.Note(event.Event{ID: 4, Kind: event.SpecStarted, Session: "night", Spec: "b", At: at(4)})
	if st := s.State(at(5)); st.Specs.Limited != 1 || st.Sessions[0].LimitedUntil != nil || st.Sessions[0].Limited {
		t.Errorf("%+v, until %v", st.Specs, st.Sessions[0].LimitedUntil)
	}
}
