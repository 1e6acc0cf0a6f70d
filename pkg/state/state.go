// Package state sums a stream of events up into what a person asks first: is
// it alive, what runs, what ended how, who waits for me. It is a pure fold:
// the summary depends on the set of events alone and not on their order, so
// live and polled views cannot differ.
package state

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

const (
	// Awake is how long after its last sign of life a session counts as
	// running. Heartbeats come every 15 s by default, so three may be lost.
	Awake = time.Minute
	// Horizon is how far back a summary looks for sessions and specs.
	Horizon = 7 * 24 * time.Hour
	// listed bounds each list of a State.
	listed = 100
	// maxSessions and maxSpecs bound what a Summary holds; the sessions that
	// were silent longest go first.
	maxSessions = 10_000
	maxSpecs    = 100_000
	// MaxStreak is where FailureStreak stops counting, and so how many
	// failures of a session a Summary holds.
	MaxStreak = 100
)

// Status of a session.
type Status string

const (
	Running  Status = "running"  // heard from within Awake
	Sleeping Status = "sleeping" // not heard from, though specs are open or a person is waited for
	Done     Status = "done"     // not heard from, and nothing is open
)

// Specs counts specs by their latest outcome.
type Specs struct {
	Open      int `json:"open"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
	TimedOut  int `json:"timedOut"`
}

func (s *Specs) add(o Specs) {
	s.Open += o.Open
	s.Completed += o.Completed
	s.Failed += o.Failed
	s.TimedOut += o.TimedOut
}

// Session is one run of the loop.
type Session struct {
	Session       string     `json:"session"`
	Status        Status     `json:"status"`
	LastSeen      time.Time  `json:"lastSeen"`
	LastHeartbeat *time.Time `json:"lastHeartbeat"` // nil: none yet
	Specs         Specs      `json:"specs"`
	Waiting       int        `json:"waiting"` // interventions that nobody answered
	// FailureStreak counts the specs that failed or timed out since the last
	// one that completed, each time that they did; at most MaxStreak.
	FailureStreak int `json:"failureStreak"`
	// LastTimeout is when a spec last timed out; zero: never. Metrics tell it,
	// and no person asks for it beside the events.
	LastTimeout time.Time `json:"-"`
}

// Open is a spec that has started and not ended.
type Open struct {
	Session string    `json:"session"`
	Spec    string    `json:"spec"`
	Since   time.Time `json:"since"`
}

// Waiting is an intervention request that no later event of its spec answered.
type Waiting struct {
	ID      int64           `json:"id"`
	Session string          `json:"session"`
	Spec    string          `json:"spec"`
	At      time.Time       `json:"at"`
	Data    json.RawMessage `json:"data"`
}

// State is the summary at one moment.
type State struct {
	At       time.Time            `json:"at"`     // the database's clock
	Totals   map[event.Kind]int64 `json:"totals"` // events ever, by kind
	Specs    Specs                `json:"specs"`
	Sessions []Session            `json:"sessions"` // last heard first, at most 100
	Running  []Open               `json:"running"`  // oldest first, at most 100
	Waiting  []Waiting            `json:"waiting"`  // oldest first, at most 100

	// WaitingTotal counts them all, where Waiting lists the first of them.
	WaitingTotal int `json:"waitingTotal"`
}

// moment orders events by time, then by id: writers' clocks may agree.
type moment struct {
	at time.Time
	id int64
}

func (m moment) isZero() bool { return m.at.IsZero() }

func (m moment) compare(o moment) int {
	return cmp.Or(m.at.Compare(o.at), cmp.Compare(m.id, o.id))
}

// mark is the latest event of one kind in one spec.
type mark struct {
	moment
	data json.RawMessage // kept for interventions only
}

func (m mark) before(o mark) bool { return m.compare(o.moment) < 0 }

type spec map[event.Kind]mark

// outcome returns the counts of one spec: its latest start against its latest
// end. A spec with neither (only a question, say) counts nowhere.
func (s spec) outcome() (counts Specs, since time.Time) {
	var end mark
	var kind event.Kind
	for _, k := range []event.Kind{event.SpecCompleted, event.SpecFailed, event.TimeoutTriggered} {
		if m := s[k]; !m.isZero() && (end.isZero() || end.before(m)) {
			end, kind = m, k
		}
	}
	start := s[event.SpecStarted]
	switch {
	case start.isZero() && end.isZero():
	case end.isZero() || !start.isZero() && end.before(start):
		return Specs{Open: 1}, start.at
	case kind == event.SpecCompleted:
		counts.Completed = 1
	case kind == event.SpecFailed:
		counts.Failed = 1
	default:
		counts.TimedOut = 1
	}
	return counts, time.Time{}
}

func (s spec) waiting() (mark, bool) {
	asked := s[event.InterventionRequest]
	if asked.isZero() {
		return asked, false
	}
	for _, k := range []event.Kind{event.SpecStarted, event.SpecCompleted, event.SpecFailed, event.TimeoutTriggered} {
		if m := s[k]; !m.isZero() && asked.before(m) {
			return asked, false
		}
	}
	return asked, true
}

// streak holds the failures of a session since its last completion, oldest
// first: the latest MaxStreak of them. What it lets go of could never count
// again, so that the order in which it hears of ends does not matter.
type streak struct {
	completed moment
	failures  []moment
}

func (s *streak) note(kind event.Kind, m moment) {
	switch kind {
	case event.SpecCompleted:
		if s.completed.compare(m) < 0 {
			s.completed = m
			older, _ := slices.BinarySearchFunc(s.failures, m, moment.compare)
			s.failures = slices.Delete(s.failures, 0, older)
		}
	case event.SpecFailed, event.TimeoutTriggered:
		if m.compare(s.completed) < 0 {
			return
		}
		i, held := slices.BinarySearchFunc(s.failures, m, moment.compare)
		if held {
			return
		}
		s.failures = slices.Insert(s.failures, i, m)
		if len(s.failures) > MaxStreak {
			s.failures = slices.Delete(s.failures, 0, 1)
		}
	}
}

type session struct {
	lastSeen, lastHeartbeat time.Time
	specs                   map[string]spec
	streak                  streak
}

// Summary folds events. It is not safe for concurrent use.
type Summary struct {
	totals   map[event.Kind]int64
	sessions map[string]*session
	specs    int
}

// NewSummary starts from what was counted before the events to come; totals
// may be nil.
func NewSummary(totals map[event.Kind]int64) *Summary {
	s := &Summary{totals: map[event.Kind]int64{}, sessions: map[string]*session{}}
	for _, k := range event.Kinds {
		s.totals[k] = totals[k]
	}
	return s
}

// Add counts the event and takes note of it.
func (s *Summary) Add(e event.Event) {
	s.totals[e.Kind]++
	s.Note(e)
}

// Note takes note of an event that the totals already hold; of the same event
// as often as one likes.
func (s *Summary) Note(e event.Event) {
	held := s.sessions[e.Session]
	if held == nil {
		held = &session{specs: map[string]spec{}}
		s.sessions[e.Session] = held
	}
	if e.At.After(held.lastSeen) {
		held.lastSeen = e.At
	}
	if e.Kind == event.SessionHeartbeat {
		// A heartbeat speaks for the session, whatever spec it names.
		if e.At.After(held.lastHeartbeat) {
			held.lastHeartbeat = e.At
		}
	} else {
		marks := held.specs[e.Spec]
		if marks == nil {
			marks = spec{}
			held.specs[e.Spec] = marks
			s.specs++
		}
		m := mark{moment: moment{e.At, e.ID}}
		held.streak.note(e.Kind, m.moment)
		if e.Kind == event.InterventionRequest {
			m.data = e.Data
		}
		if old := marks[e.Kind]; old.isZero() || old.before(m) {
			marks[e.Kind] = m
		}
	}
	if len(s.sessions) > maxSessions || s.specs > maxSpecs {
		s.shed()
	}
}

// shed drops the tenth of the sessions that was silent longest, so that the
// sorting is paid for once in a thousand sessions.
func (s *Summary) shed() {
	names := make([]string, 0, len(s.sessions))
	for name := range s.sessions {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return s.sessions[a].lastSeen.Compare(s.sessions[b].lastSeen)
	})
	for _, name := range names[:len(names)/10+1] {
		s.specs -= len(s.sessions[name].specs)
		delete(s.sessions, name)
	}
}

// State answers what holds at now, by the database's clock.
func (s *Summary) State(now time.Time) State {
	st := State{
		At:       now.UTC(),
		Totals:   make(map[event.Kind]int64, len(s.totals)),
		Sessions: make([]Session, 0, len(s.sessions)),
		Running:  []Open{},
		Waiting:  []Waiting{},
	}
	for k, n := range s.totals {
		st.Totals[k] = n
	}
	for name, held := range s.sessions {
		row := Session{Session: name, LastSeen: held.lastSeen.UTC(), FailureStreak: len(held.streak.failures)}
		if !held.lastHeartbeat.IsZero() {
			at := held.lastHeartbeat.UTC()
			row.LastHeartbeat = &at
		}
		for specName, marks := range held.specs {
			counts, since := marks.outcome()
			row.Specs.add(counts)
			if timeout := marks[event.TimeoutTriggered]; row.LastTimeout.Before(timeout.at) {
				row.LastTimeout = timeout.at.UTC()
			}
			if counts.Open > 0 {
				st.Running = append(st.Running, Open{name, specName, since.UTC()})
			}
			if asked, ok := marks.waiting(); ok {
				row.Waiting++
				st.Waiting = append(st.Waiting, Waiting{asked.id, name, specName, asked.at.UTC(), asked.data})
			}
		}
		switch {
		case now.Sub(held.lastSeen) <= Awake:
			row.Status = Running
		case row.Specs.Open > 0 || row.Waiting > 0:
			row.Status = Sleeping
		default:
			row.Status = Done
		}
		st.Specs.add(row.Specs)
		st.Sessions = append(st.Sessions, row)
	}
	slices.SortFunc(st.Sessions, func(a, b Session) int {
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), cmp.Compare(a.Session, b.Session))
	})
	slices.SortFunc(st.Running, func(a, b Open) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Session, b.Session), cmp.Compare(a.Spec, b.Spec))
	})
	slices.SortFunc(st.Waiting, func(a, b Waiting) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID))
	})
	st.WaitingTotal = len(st.Waiting)
	st.Sessions = st.Sessions[:min(len(st.Sessions), listed)]
	st.Running = st.Running[:min(len(st.Running), listed)]
	st.Waiting = st.Waiting[:min(len(st.Waiting), listed)]
	return st
}
