package state

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
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
		"its own heartbeats ended":      {[]event.Event{begun, beat(now-90, `{"silentSeconds":720}`), told(now, 3, event.SessionHeartbeat, "q", `{"silentSeconds":0}`)}, -1},
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
func TestAnswersAreNoSignOfLife(t *testing.T) {
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
	f.Fuzz(func(t *testing.T, data string) {
		u := UsageIn(json.RawMessage(data))
		for _, n := range []int64{u.InputTokens, u.CachedInputTokens, u.OutputTokens, int64(u.Cost)} {
			if n < 0 || n > MaxUsage {
				t.Fatalf("%s: %+v", data, u)
			}
		}
		if w := workIn(start, json.RawMessage(data)); w.done.After(w.told) || w.told.Sub(w.done) > MaxSilence*time.Second {
			t.Fatalf("%s: %+v", data, w)
		}
	})
}
