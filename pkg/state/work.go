package state

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	// Idle is how long a spec may show no sign of work, while its heartbeats
	// continue, before a person should look at it.
	Idle = 10 * time.Minute
	// BusyCPU is the CPU time in a heartbeat, in seconds, from which on it is a
	// sign of work: 2 % of the 15 s between two heartbeats.
	BusyCPU = 0.3
	// MaxSilence bounds `silentSeconds` and `resetsInSeconds` of a heartbeat.
	MaxSilence = 1e9
	// LimitGrace is how long after the report of a usage limit work still
	// belongs to it: the agent prints a message and ends its turn.
	LimitGrace = 2 * time.Minute
)

// work is when a spec last worked, according to the heartbeats that report it.
type work struct {
	told    time.Time // time of the last of them; zero: there is none
	done    time.Time // the last sign of work; of a usage limit, LimitGrace after its report
	limited time.Time // when a usage limit was last reported; zero: never
	lifted  time.Time // when that limit is lifted; zero: not known
}

// workIn returns the work that a heartbeat reports. `silentSeconds` in its data
// says for how long nothing was printed, `cpuSeconds` how much CPU time was
// used since the heartbeat before. `doing`, the agent's own report of what it
// does, is always a sign of work. `limited` says that the agent has reached a
// usage limit, which is lifted after `resetsInSeconds`.
func workIn(at time.Time, data json.RawMessage) (w work) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return w
	}
	silent, tells := number(fields["silentSeconds"])
	cpu, _ := number(fields["cpuSeconds"])
	doing := strings.HasPrefix(string(fields["doing"]), `"`)
	if string(fields["limited"]) == "true" {
		w = work{told: at, done: at.Add(LimitGrace), limited: at}
		if after, known := number(fields["resetsInSeconds"]); known {
			w.lifted = at.Add(bounded(after))
		}
		return w
	}
	if !tells && !doing {
		return w
	}
	done := at
	if !doing && cpu < BusyCPU {
		done = at.Add(-bounded(silent))
	}
	return work{told: at, done: done}
}

func bounded(seconds float64) time.Duration {
	return time.Duration(min(max(seconds, 0), MaxSilence) * float64(time.Second))
}

// number parses a JSON number; one that is too large is infinite.
func number(text json.RawMessage) (n float64, is bool) {
	n, err := strconv.ParseFloat(string(text), 64)
	return n, err == nil || math.IsInf(n, 0)
}

// add takes the later times of both. Of two limits that were reported at the
// same time it takes the one that is lifted later.
func (w *work) add(o work) {
	if o.told.After(w.told) {
		w.told = o.told
	}
	if o.done.After(w.done) {
		w.done = o.done
	}
	newer := o.limited.Compare(w.limited)
	if newer > 0 || newer == 0 && !w.lifted.IsZero() && (o.lifted.IsZero() || o.lifted.After(w.lifted)) {
		w.limited, w.lifted = o.limited, o.lifted
	}
}

// silent reports whether an open spec is silent although its session may run:
// heartbeats that name the spec have come since it started, and the last of
// them is more than Awake old. Only heartbeats that report work count.
func (s *session) silent(name string, started, now time.Time) bool {
	told := s.specs[name].work.told
	if told.IsZero() || s.happened(started).After(s.heard(told)) {
		return false
	}
	return now.Sub(s.heard(told)) > Awake
}

// limitOf returns the usage limit that stops an open spec, with "" one that
// stops the session: the last that a heartbeat reports, unless another one
// reports work after it, or the spec started again. It is nil if there is none.
func (s *session) limitOf(name string, started time.Time) *limit {
	var all work // a heartbeat that names no spec counts for all specs
	for _, sp := range []*spec{s.specs[name], s.specs[""]} {
		if sp != nil {
			all.add(sp.work)
		}
	}
	if all.limited.IsZero() || all.done.After(all.limited.Add(LimitGrace)) || s.happened(started).After(s.heard(all.limited)) {
		return nil
	}
	found := &limit{}
	if !all.lifted.IsZero() {
		found.until = s.heard(all.lifted)
	}
	return found
}

// lastWork returns when an open spec last showed a sign of work: output, CPU
// time, or an event of its own, or when the usage limit that stopped it was
// lifted. It is nil if no heartbeat of the last minute reports work, and while
// a request that names no spec waits for a person. The caller checks the
// requests of the spec itself, and that the limit is lifted.
func (s *session) lastWork(name string, lifted *limit, now time.Time) *time.Time {
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
	// A heartbeat that names no spec counts for all specs of the session.
	for _, w := range []*spec{sp, s.specs[""]} {
		if w != nil && !w.work.told.IsZero() {
			told = told || now.Sub(s.heard(w.work.told)) <= Awake
			later(s.heard(w.work.done))
		}
	}
	if !told {
		return nil
	}
	if asking := s.specs[""]; asking != nil && len(asking.waiting(time.Time{})) > 0 {
		return nil
	}
	if lifted != nil {
		later(lifted.until)
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
	if !sp.answered.IsZero() {
		later(sp.answered.UTC()) // not corrected: by the clock of the person who answered
	}
	return &last
}
