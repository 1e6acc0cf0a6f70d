package state

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	// Idle is from when on a spec that shows no sign of work, though its
	// heartbeats go on, is worth a person's look.
	Idle = 10 * time.Minute
	// BusyCPU is how much CPU time of its processes a heartbeat has to tell of
	// to be a sign of work, in seconds: 2 % of the 15 s between two of them.
	BusyCPU = 0.3
	// MaxSilence bounds how long a heartbeat may say that nothing was printed,
	// in seconds.
	MaxSilence = 1e9
)

// work says when something was last done, by the heartbeats that tell of it.
type work struct {
	told time.Time // by the last of them; zero: none tells
	done time.Time // the last sign of work
}

// workIn is what a heartbeat tells. `silentSeconds` in its data says how long
// nothing was printed, `cpuSeconds` what CPU time was used since the heartbeat
// before; `doing` is what an agent says of itself.
func workIn(at time.Time, data json.RawMessage) (w work) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return w
	}
	silent, tells := number(fields["silentSeconds"])
	cpu, _ := number(fields["cpuSeconds"])
	doing := strings.HasPrefix(string(fields["doing"]), `"`)
	if !tells && !doing {
		return w
	}
	done := at
	if !doing && cpu < BusyCPU {
		done = at.Add(-time.Duration(min(max(silent, 0), MaxSilence) * float64(time.Second)))
	}
	return work{at, done}
}

// number reads a number of JSON; one that is too large is infinite.
func number(text json.RawMessage) (n float64, is bool) {
	n, err := strconv.ParseFloat(string(text), 64)
	return n, err == nil || math.IsInf(n, 0)
}

// add takes the later times of both.
func (w *work) add(o work) {
	if o.told.After(w.told) {
		w.told = o.told
	}
	if o.done.After(w.done) {
		w.done = o.done
	}
}

// lastWork is when an open spec last showed a sign of work: output, CPU time,
// or an event of its own. It is nil where nothing tells, and while the spec
// waits for a person.
func (s *session) lastWork(name string, now time.Time) *time.Time {
	sp := s.specs[name]
	last := time.Time{}
	told := false
	later := func(at time.Time) {
		if at.After(now) {
			at = now
		}
		if at.After(last) {
			last = at
		}
	}
	// A heartbeat without a spec speaks for all of them.
	for _, w := range []*spec{sp, s.specs[""]} {
		if w != nil && !w.work.told.IsZero() {
			told = told || now.Sub(s.heard(w.work.told)) <= Awake
			later(s.heard(w.work.done))
		}
	}
	if !told {
		return nil
	}
	if asking := s.specs[""]; asking != nil && len(asking.waiting("", s.answers, time.Time{})) > 0 {
		return nil
	}
	for _, m := range sp.marks {
		later(s.happened(m.at))
	}
	for _, r := range sp.requests {
		later(s.happened(r.at))
	}
	if !sp.other.IsZero() {
		later(s.heard(sp.other))
	}
	for _, a := range s.answers {
		if a.spec == name {
			later(a.at.UTC()) // by the clock of who answered
		}
	}
	return &last
}
