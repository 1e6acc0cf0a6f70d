package state

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

func told(seconds int, id int64, kind event.Kind, spec, data string) event.Event {
	e := at(seconds, id, kind, "s", spec)
	e.Data = json.RawMessage(data)
	return e
}

func TestLastWork(t *testing.T) {
	const now = 3_600
	begun := at(0, 1, event.SpecStarted, "s", "p")
	beat := func(seconds int, data string) event.Event { return told(seconds, 0, event.SessionHeartbeat, "p", data) }
	for name, c := range map[string]struct {
		events []event.Event
		want   int // seconds after the start; -1: not known
	}{
		"nothing tells":                 {[]event.Event{begun, beat(now, `{}`)}, -1},
		"no output since the start":     {[]event.Event{begun, beat(now, `{"silentSeconds":3600,"cpuSeconds":0}`)}, 0},
		"output a while ago":            {[]event.Event{begun, beat(now, `{"silentSeconds":720,"cpuSeconds":0.01}`)}, now - 720},
		"it calculates":                 {[]event.Event{begun, beat(now, `{"silentSeconds":720,"cpuSeconds":5}`)}, now},
		"it calculated":                 {[]event.Event{begun, beat(now-15, `{"silentSeconds":705,"cpuSeconds":5}`), beat(now, `{"silentSeconds":720,"cpuSeconds":0}`)}, now - 15},
		"an agent says what it does":    {[]event.Event{begun, beat(now-300, `{"doing":"Bash: make"}`), beat(now, `{"silentSeconds":720}`)}, now - 300},
		"a custom event":                {[]event.Event{begun, beat(now, `{"silentSeconds":720}`), told(now-60, 3, "claude.usage", "p", `{}`)}, now - 60},
		"a custom event of another":     {[]event.Event{begun, beat(now, `{"silentSeconds":720}`), told(now-60, 3, "claude.usage", "q", `{}`)}, now - 720},
		"a heartbeat without a spec":    {[]event.Event{begun, told(now, 3, event.SessionHeartbeat, "", `{"silentSeconds":720}`)}, now - 720},
		"it waits":                      {[]event.Event{begun, beat(now, `{"silentSeconds":720}`), told(now-700, 3, event.InterventionRequest, "p", `{}`)}, -1},
		"the session waits":             {[]event.Event{begun, beat(now, `{"silentSeconds":720}`), told(now-700, 3, event.InterventionRequest, "", `{}`)}, -1},
		"it was answered":               {[]event.Event{begun, beat(now, `{"silentSeconds":720}`), told(now-700, 3, event.InterventionRequest, "p", `{}`), told(now-50, 4, event.InterventionAnswered, "p", `{"request":3}`)}, now - 50},
		"the first attempt was silent":  {[]event.Event{begun, beat(900, `{"silentSeconds":900}`), at(now-5, 9, event.SpecStarted, "s", "p"), beat(now, `{"silentSeconds":5}`)}, now - 5},
		"odd values":                    {[]event.Event{begun, beat(now, `{"silentSeconds":-7,"cpuSeconds":"x"}`)}, now},
		"as long as a number can be":    {[]event.Event{begun, beat(now, `{"silentSeconds":1e400}`)}, 0},
		"a text in place of the number": {[]event.Event{begun, beat(now, `{"silentSeconds":"720"}`)}, -1},
		"data that is a list":           {[]event.Event{begun, beat(now, `[720]`)}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 6))
			for range 10 {
				s := NewSummary(nil)
				for _, e := range c.events {
					s.Add(e)
				}
				st := s.State(start.Add(now * time.Second))
				if len(st.Running) == 0 || st.Running[0].Spec != "p" || !reflect.DeepEqual(st.Running[0].LastWork, st.Sessions[0].LastWork) {
					t.Fatalf("%+v", st)
				}
				got := -1
				if last := st.Running[0].LastWork; last != nil {
					got = int(last.Sub(start).Seconds())
				}
				if got != c.want {
					t.Fatalf("last work after %d s, want %d", got, c.want)
				}
				r.Shuffle(len(c.events), func(i, j int) { c.events[i], c.events[j] = c.events[j], c.events[i] })
			}
		})
	}
}

// A spec whose own heartbeats have ended is silent, although its session goes on.
func TestOneSpecOfASessionIsSilent(t *testing.T) {
	const now = 3_600
	begun := at(0, 1, event.SpecStarted, "s", "p")
	beat := func(seconds int, spec, data string) event.Event {
		return told(seconds, 0, event.SessionHeartbeat, spec, data)
	}
	next := []event.Event{at(now-200, 2, event.SpecStarted, "s", "q"), beat(now-1, "q", `{"silentSeconds":0}`)}
	for name, c := range map[string]struct {
		events []event.Event
		silent bool
	}{
		"they ended":                     {[]event.Event{begun, beat(0, "p", `{"silentSeconds":0}`), beat(now-61, "p", `{"silentSeconds":9}`)}, true},
		"they go on":                     {[]event.Event{begun, beat(now-60, "p", `{"silentSeconds":0}`)}, false},
		"its agent's heartbeats":         {[]event.Event{begun, beat(now-61, "p", `{"doing":"Bash: make"}`)}, true},
		"at its limit":                   {[]event.Event{begun, beat(now-61, "p", `{"limited":true}`)}, true},
		"it has none":                    {[]event.Event{begun}, false},
		"only of the session":            {[]event.Event{begun, beat(now-200, "", `{"silentSeconds":0}`)}, false},
		"the session's go on":            {[]event.Event{begun, beat(now-61, "p", `{"silentSeconds":0}`), beat(now, "", `{"silentSeconds":0}`)}, true},
		"they do not report work":        {[]event.Event{begun, beat(now-61, "p", `{}`)}, false},
		"it waits":                       {[]event.Event{begun, beat(now-61, "p", `{"silentSeconds":0}`), at(now-61, 3, event.InterventionRequest, "s", "p")}, true},
		"those of an earlier attempt":    {[]event.Event{begun, beat(100, "p", `{"silentSeconds":0}`), at(200, 3, event.SpecStarted, "s", "p")}, false},
		"those of the attempt ended":     {[]event.Event{begun, beat(100, "p", `{"silentSeconds":0}`), at(200, 3, event.SpecStarted, "s", "p"), beat(200, "p", `{"silentSeconds":0}`)}, true},
		"those of the attempt go on":     {[]event.Event{begun, beat(100, "p", `{"silentSeconds":0}`), at(200, 3, event.SpecStarted, "s", "p"), beat(now, "p", `{"silentSeconds":0}`)}, false},
		"after heartbeats of an attempt": {[]event.Event{at(200, 3, event.SpecStarted, "s", "p"), beat(199, "p", `{"silentSeconds":0}`)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(9, 10))
			events := append(c.events, next...)
			for range 10 {
				s := NewSummary(nil)
				for _, e := range events {
					s.Add(e)
				}
				st := s.State(start.Add(now * time.Second))
				want, running, silent := Specs{Open: 2}, []string{"p", "q"}, []string(nil)
				if c.silent {
					want, running, silent = Specs{Open: 1, Silent: 1}, []string{"q"}, []string{"p"}
				}
				if !slices.Equal(names(st.Running), running) || !slices.Equal(names(st.Silent), silent) || st.Specs != want || st.Sessions[0].Specs != want {
					t.Fatalf("running %v, silent %v, %+v; want %v, %v", names(st.Running), names(st.Silent), st.Specs, running, silent)
				}
				if st.Sessions[0].Status != Running || !st.Heard("s") || st.HeardOf("s", "p") == c.silent || !st.HeardOf("s", "q") {
					t.Fatalf("%+v", st.Sessions[0])
				}
				r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
			}
		})
	}
}

func names(list []Open) (found []string) {
	for _, o := range list {
		found = append(found, o.Spec)
	}
	return found
}

// A spec that is open at a usage limit is neither at work nor idle: until the
// limit is lifted, until it works again, and until it starts again.
func TestOpenSpecAtItsLimit(t *testing.T) {
	const now = 3_600
	minute := func(n int) int { return now - 60*n }
	limit := func(ago int, spec, data string) event.Event {
		return told(minute(ago), 0, event.SessionHeartbeat, spec, data)
	}
	beat := told(now, 0, event.SessionHeartbeat, "p", `{"silentSeconds":1740,"cpuSeconds":0}`) // printed one minute after the limit
	for name, c := range map[string]struct {
		events []event.Event
		want   string
	}{
		"lifted in half an hour":      {[]event.Event{limit(30, "p", `{"limited":true,"resetsInSeconds":3600}`)}, "limited for 30 min"},
		"not known when it is lifted": {[]event.Event{limit(30, "p", `{"limited":true}`)}, "limited"},
		"as long as a number can be":  {[]event.Event{limit(30, "p", `{"limited":true,"resetsInSeconds":1e400}`)}, "limited for 16666637 min"},
		"odd values":                  {[]event.Event{limit(30, "p", `{"limited":true,"resetsInSeconds":"soon"}`)}, "limited"},
		"the session has it":          {[]event.Event{limit(30, "", `{"limited":true,"resetsInSeconds":3600}`)}, "limited for 30 min"},
		"another spec has it":         {[]event.Event{limit(30, "q", `{"limited":true,"resetsInSeconds":3600}`)}, "worked 29 min ago"},
		"it was lifted":               {[]event.Event{limit(30, "p", `{"limited":true,"resetsInSeconds":1080}`)}, "worked 12 min ago"},
		"the agent ends its turn":     {[]event.Event{limit(30, "p", `{"limited":true}`), limit(29, "p", `{"doing":"has ended its turn"}`)}, "limited"},
		"the agent uses something":    {[]event.Event{limit(30, "p", `{"limited":true}`), told(minute(5), 3, "claude.usage", "p", `{}`)}, "limited"},
		"it works again":              {[]event.Event{limit(30, "p", `{"limited":true,"resetsInSeconds":3600}`), limit(5, "p", `{"doing":"Bash: make"}`)}, "worked 5 min ago"},
		"it prints again":             {[]event.Event{limit(30, "p", `{"limited":true}`), limit(3, "p", `{"silentSeconds":60}`)}, "worked 4 min ago"},
		"a later limit":               {[]event.Event{limit(30, "p", `{"limited":true,"resetsInSeconds":60}`), limit(5, "p", `{"doing":"x"}`), limit(4, "p", `{"limited":true}`)}, "limited"},
		"two at once":                 {[]event.Event{limit(30, "p", `{"limited":true,"resetsInSeconds":3600}`), limit(30, "", `{"limited":true,"resetsInSeconds":2400}`)}, "limited for 30 min"},
		"it started again":            {[]event.Event{limit(30, "p", `{"limited":true}`), at(minute(20), 9, event.SpecStarted, "s", "p")}, "worked 20 min ago"},
		"it started again at once":    {[]event.Event{limit(30, "p", `{"limited":true}`), at(minute(29), 9, event.SpecStarted, "s", "p")}, "worked 28 min ago"},
		"not at its limit":            {[]event.Event{limit(30, "p", `{"limited":false}`), limit(30, "p", `{"limited":"true"}`)}, "worked 29 min ago"},
		"it waits for a person, too":  {[]event.Event{limit(30, "p", `{"limited":true}`), told(minute(29), 3, event.InterventionRequest, "p", `{}`)}, "limited"},
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 8))
			events := append([]event.Event{at(0, 1, event.SpecStarted, "s", "p"), beat}, c.events...)
			for range 10 {
				s := NewSummary(nil)
				for _, e := range events {
					s.Add(e)
				}
				st := s.State(start.Add(now * time.Second))
				open, session := st.Running[0], st.Sessions[0]
				got := ""
				if open.Limited {
					got += "limited"
				}
				if open.LimitedUntil != nil {
					got += fmt.Sprintf(" for %.0f min", open.LimitedUntil.Sub(st.At).Minutes())
				}
				if open.LastWork != nil {
					got += fmt.Sprintf("worked %.0f min ago", st.At.Sub(*open.LastWork).Minutes())
				}
				if got != c.want {
					t.Fatalf("%s, want %s", got, c.want)
				}
				if session.Limited != open.Limited || !reflect.DeepEqual(session.LimitedUntil, open.LimitedUntil) || !reflect.DeepEqual(session.LastWork, open.LastWork) {
					t.Fatalf("of the session: %+v", session)
				}
				r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
			}
		})
	}
}

// A session is at its limit when all of its open specs are, or when none is open.
func TestSessionAtItsLimit(t *testing.T) {
	s := NewSummary(nil)
	expect := func(when string, limited bool, minutes float64) {
		t.Helper()
		st := s.State(start.Add(time.Minute))
		got := 0.0
		if until := st.Sessions[0].LimitedUntil; until != nil {
			got = until.Sub(start).Minutes()
		}
		if st.Sessions[0].Limited != limited || got != minutes {
			t.Errorf("%s: %+v", when, st.Sessions[0])
		}
	}
	s.Add(told(0, 0, event.SessionHeartbeat, "", `{"limited":true,"resetsInSeconds":1800}`))
	expect("nothing is open", true, 30)
	s.Add(at(1, 1, event.SpecStarted, "s", "p"))
	expect("it starts a spec", false, 0)
	s.Add(at(2, 2, event.SpecStarted, "s", "q"))
	s.Add(told(3, 0, event.SessionHeartbeat, "p", `{"limited":true,"resetsInSeconds":3600}`))
	expect("one of two", false, 0)
	s.Add(told(3, 0, event.SessionHeartbeat, "q", `{"limited":true,"resetsInSeconds":7197}`))
	expect("both", true, 120)
	s.Add(told(4, 3, event.SpecFailed, "q", `{"reason":"usage limit"}`))
	expect("one has ended", true, 60.05)
	s.Add(at(5, 4, event.SpecCompleted, "s", "p"))
	expect("the other completed", false, 0)
}

// Of several specs the session tells of the one that was idle longest; one
// that is silent is not at work, nor idle.
func TestLastWorkOfASession(t *testing.T) {
	s := NewSummary(nil)
	for i, silent := range []int{5, 720, 60} {
		s.Add(told(0, int64(i+1), event.SpecStarted, fmt.Sprint("p", i), `{}`))
		s.Add(told(3_600, 0, event.SessionHeartbeat, fmt.Sprint("p", i), fmt.Sprintf(`{"silentSeconds":%d}`, silent)))
	}
	st := s.State(start.Add(3_600 * time.Second))
	if last := st.Sessions[0].LastWork; last == nil || !last.Equal(start.Add((3_600-720)*time.Second)) {
		t.Errorf("%v", last)
	}
	if st = s.State(start.Add(2 * time.Hour)); st.Sessions[0].LastWork != nil || len(st.Silent) != 3 || st.Specs.Open != 0 {
		t.Errorf("%+v", st)
	}
}

// An answer comes from elsewhere: it keeps no session awake, and its clock is
// not the session's.
func TestAnswersAreNoActivity(t *testing.T) {
	s := NewSummary(nil)
	s.Add(at(0, 1, event.SpecStarted, "s", "p"))
	s.Add(told(1, 2, event.InterventionRequest, "p", `{}`))
	s.Add(told(3_600, 3, event.InterventionAnswered, "p", `{"request":2}`))
	st := s.State(start.Add(3_601 * time.Second))
	if got := st.Sessions[0]; got.Status != Sleeping || !got.LastSeen.Equal(start.Add(time.Second)) || got.Waiting != 0 {
		t.Errorf("%+v", got)
	}
	ahead := at(7_200, 1, event.SessionHeartbeat, "ahead", "")
	ahead.Stored = start.Add(time.Hour)
	answer := at(3_600, 2, event.InterventionAnswered, "ahead", "")
	answer.Stored = start.Add(time.Hour)
	s.Add(ahead)
	s.Add(answer)
	if got := s.State(start.Add(time.Hour)).Sessions[0]; got.Session != "ahead" || got.ClockAhead != 3_600 {
		t.Errorf("%+v", got)
	}
}

func TestUsage(t *testing.T) {
	for data, want := range map[string]Usage{
		`{"usage":{"inputTokens":1200,"cachedInputTokens":1000,"outputTokens":34,"costUsd":0.25}}`: {1200, 1000, 34, 250_000_000},
		`{"usage":{"input_tokens":1,"cached_input_tokens":2,"output_tokens":3,"cost_usd":1e-9}}`:   {1, 2, 3, 1},
		`{"usage":{"inputTokens":-1,"outputTokens":"7","costUsd":null}}`:                           {},
		`{"usage":{"inputTokens":1e400,"costUsd":1e-400,"other":{}}}`:                              {InputTokens: MaxUsage},
		`{"usage":{"costUsd":1e300,"outputTokens":2.6}}`:                                           {OutputTokens: 3, Cost: MaxUsage},
		`{"usage":[1]}`: {}, `{"usage":null}`: {}, `["usage"]`: {}, `"usage"`: {}, `{`: {}, ``: {}, `{"x":{"usage":{"costUsd":1}}}`: {},
	} {
		if got := UsageIn(json.RawMessage(data)); got != want {
			t.Errorf("%s: %+v, want %+v", data, got, want)
		}
	}
	s := NewSummary(nil)
	s.Add(at(0, 1, event.SpecStarted, "s", "p"))
	for i := range 1_000 {
		s.Add(told(i%60, int64(i+2), event.Kind("claude.usage"), []string{"p", "q", ""}[i%3], `{"usage":{"costUsd":0.1,"outputTokens":10}}`))
	}
	s.Add(at(2, 5_000, event.SpecStarted, "none", "p"))
	st := s.State(start.Add(time.Minute))
	if text, err := json.Marshal(st.Sessions[0].Usage); err != nil || string(text) != `{"outputTokens":10000,"costUsd":100}` {
		t.Errorf("%s: %v", text, err)
	}
	if got := st.Running[0].Usage; got == nil || got.OutputTokens != 3340 || st.Sessions[1].Usage != nil {
		t.Errorf("%+v, %+v", got, st.Sessions[1].Usage)
	}
	var read Usage
	if err := json.Unmarshal([]byte(`{"costUsd":100.25}`), &read); err != nil || read.Cost.USD() != 100.25 {
		t.Errorf("%+v: %v", read, err)
	}
	// Of what was long ago nothing counts, and little is held.
	for i := range 100 {
		s.Add(told(i*86_400, int64(10_000+i), "claude.usage", "p", `{"usage":{"outputTokens":1}}`))
	}
	if got := s.State(start.Add(100 * day)).Sessions[0]; got.Usage.OutputTokens < 6 || got.Usage.OutputTokens > 8 || len(s.sessions["s"].specs["p"].usage) > UsageDays {
		t.Errorf("%+v", got.Usage)
	}
}

func FuzzUsageAndWork(f *testing.F) {
	f.Add(`{"usage":{"inputTokens":1e400,"cost_usd":-0},"silentSeconds":1e9,"cpuSeconds":"x","doing":"y"}`)
	f.Add(`{"limited":true,"resetsInSeconds":1e400}`)
	f.Fuzz(func(t *testing.T, data string) {
		u := UsageIn(json.RawMessage(data))
		for _, n := range []int64{u.InputTokens, u.CachedInputTokens, u.OutputTokens, int64(u.Cost)} {
			if n < 0 || n > MaxUsage {
				t.Fatalf("%s: %+v", data, u)
			}
		}
		if w := workIn(start, json.RawMessage(data)); w.done.Sub(w.told) > LimitGrace || w.told.Sub(w.done) > MaxSilence*time.Second || w.lifted.Sub(start) > MaxSilence*time.Second {
			t.Fatalf("%s: %+v", data, w)
		}
	})
}
