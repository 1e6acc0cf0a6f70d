// Package state sums a stream of events up into what a person asks first: is
// it alive, what runs, what ended how, who waits for me. It is a pure fold:
// the summary depends on the set of events alone and not on their order, so
// live and polled views cannot differ.
package state

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

const (
	// Awake is how long after its last sign of life a session counts as
	// running. Heartbeats come every 15 s by default, so three may be lost.
	Awake = time.Minute
	// ClockOff is from when on a writer's clock counts as wrong, and ClockMost
	// up to when: events that are stored later than that were kept somewhere.
	ClockOff  = time.Minute
	ClockMost = 6 * time.Hour
	// ClockSpan is over how long heartbeats must have been stored, each late,
	// before a clock counts as behind: what was kept, or written for a test, is
	// stored at once.
	ClockSpan = 30 * time.Second
	// Horizon is how far back a summary looks for sessions and specs.
	Horizon = 7 * 24 * time.Hour
	// listed bounds each list of a State.
	listed = 100
	// maxSessions and maxSpecs bound what a Summary holds; the sessions that
	// were silent longest go first.
	maxSessions = 10_000
	maxSpecs    = 100_000
	// MaxRequests is how many requests for a person a Summary holds of each
	// spec, and how many answers of each session: the latest.
	MaxRequests = 20
	// maxData bounds what a State repeats of a request's data, in bytes. The
	// event itself has it whole.
	maxData = 2_000
	// MaxStreak is where FailureStreak stops counting, and so how many
	// failures of a session a Summary holds.
	MaxStreak = 100
)

// Status of a session.
type Status string

const (
	Running  Status = "running"  // heard from within Awake
	Sleeping Status = "sleeping" // not heard from, though specs have not ended or a person is waited for
	Done     Status = "done"     // not heard from, and nothing is open
)

// Specs counts specs by their latest outcome.
type Specs struct {
	Open      int `json:"open"`   // started and not ended, in a session that runs
	Silent    int `json:"silent"` // started and not ended, in a session that is not heard from
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
	TimedOut  int `json:"timedOut"`
	Limited   int `json:"limited"` // ended by a limit of usage; not among the failed
}

func (s *Specs) add(o Specs) {
	s.Open += o.Open
	s.Silent += o.Silent
	s.Completed += o.Completed
	s.Failed += o.Failed
	s.TimedOut += o.TimedOut
	s.Limited += o.Limited
}

// Session is one run of the loop.
type Session struct {
	Session       string     `json:"session"`
	Status        Status     `json:"status"`
	LastSeen      time.Time  `json:"lastSeen"`
	LastHeartbeat *time.Time `json:"lastHeartbeat"` // nil: none yet
	Specs         Specs      `json:"specs"`
	Waiting       int        `json:"waiting"` // interventions that nobody answered
	// Limited: a limit of usage ended a spec and is not known to be lifted, by
	// the time that it names or, where it names none, by anything that started or
	// ended since. LimitedUntil is that time; nil: none is known.
	Limited      bool       `json:"limited"`
	LimitedUntil *time.Time `json:"limitedUntil"`
	// ClockAhead is how many seconds the writer's clock is ahead of the
	// database's; negative: behind; 0: it is right, or not known. Times of the
	// session are corrected by it.
	ClockAhead float64 `json:"clockAheadSeconds"`
	// FailureStreak counts the specs that failed or timed out since the last
	// one that completed, each time that they did; at most MaxStreak.
	FailureStreak int `json:"failureStreak"`
	// LastWork is the earliest LastWork of the specs that run.
	LastWork *time.Time `json:"lastWork"`
	Usage    *Usage     `json:"usage,omitempty"` // nil: no event tells of any
	// LastTimeout is when a spec last timed out; zero: never. Metrics tell it,
	// and no person asks for it beside the events.
	LastTimeout time.Time `json:"-"`
}

// Open is a spec that has started and not ended.
type Open struct {
	Session string    `json:"session"`
	Spec    string    `json:"spec"`
	Since   time.Time `json:"since"`
	// LastWork is when a spec that runs last showed a sign of work; nil: nothing
	// tells of it, or it waits for a person.
	LastWork *time.Time `json:"lastWork,omitempty"`
	Usage    *Usage     `json:"usage,omitempty"` // nil: no event tells of any
}

// Waiting is an intervention request that nothing has answered: neither an
// answer that names it nor a later start or end of its spec.
type Waiting struct {
	ID      int64           `json:"id"`
	Session string          `json:"session"`
	Spec    string          `json:"spec"`
	At      time.Time       `json:"at"`
	Data    json.RawMessage `json:"data"` // of the event; what has more than 2,000 bytes is cut, see clip
}

// Delivery says how events reach the reader that answers.
type Delivery struct {
	Push  bool    `json:"push"`         // they announce themselves; else they are looked for
	Delay float64 `json:"delaySeconds"` // up to which one may wait to be noticed
}

// State is the summary at one moment.
type State struct {
	At       time.Time            `json:"at"`     // the database's clock
	Totals   map[event.Kind]int64 `json:"totals"` // events ever, by kind
	Specs    Specs                `json:"specs"`
	Sessions []Session            `json:"sessions"` // last heard first, at most 100
	Running  []Open               `json:"running"`  // oldest first, at most 100
	Silent   []Open               `json:"silent"`   // open in sessions that are not heard from; oldest first, at most 100
	Waiting  []Waiting            `json:"waiting"`  // oldest first, at most 100

	// WaitingTotal counts them all, where Waiting lists the first of them.
	WaitingTotal int `json:"waitingTotal"`

	// All of the sessions, where Sessions lists the first of them: how many
	// there are, how many run, and the longest FailureStreak.
	SessionsTotal   int `json:"-"`
	SessionsRunning int `json:"-"`
	FailureStreak   int `json:"-"`

	heard map[string]bool // sessions that run, all of them

	Delivery Delivery `json:"delivery"`
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

// request is one intervention request.
type request struct {
	moment
	data json.RawMessage
}

// answer is one answer: to the request of that id, or, where it is 0, to all
// of the spec that came before it.
type answer struct {
	moment
	spec    string
	request int64
}

func (a answer) answers(spec string, r request) bool {
	if a.request != 0 {
		return a.request == r.id
	}
	return a.spec == spec && r.compare(a.moment) < 0
}

// latest keeps the greatest MaxRequests of a sorted list. What it lets go of
// could not come back, so that the order of the additions does not matter.
func latest[T any](list []T, item T, compare func(a, b T) int) []T {
	i, held := slices.BinarySearchFunc(list, item, compare)
	if held {
		return list
	}
	list = slices.Insert(list, i, item)
	if len(list) > MaxRequests {
		list = slices.Delete(list, 0, 1)
	}
	return list
}

// spec holds the latest event of each kind that starts or ends it, and its
// requests.
type spec struct {
	marks    map[event.Kind]moment
	requests []request // oldest first
	work     work
	other    time.Time  // of the last custom event, as lastSeen
	limit    *limit     // that the last failure is; nil: it is none
	usage    []dayUsage // earliest first
}

// outcome returns the counts of one spec since the cutoff: its latest start
// against its latest end. A spec with neither (only a question, say) counts
// nowhere.
func (s *spec) outcome(cutoff time.Time) (counts Specs, since time.Time) {
	var end moment
	var kind event.Kind
	for _, k := range []event.Kind{event.SpecCompleted, event.SpecFailed, event.TimeoutTriggered} {
		if m := s.mark(k, cutoff); !m.isZero() && (end.isZero() || end.compare(m) < 0) {
			end, kind = m, k
		}
	}
	start := s.mark(event.SpecStarted, cutoff)
	switch {
	case start.isZero() && end.isZero():
	case end.isZero() || !start.isZero() && end.compare(start) < 0:
		return Specs{Open: 1}, start.at
	case kind == event.SpecCompleted:
		counts.Completed = 1
	case kind == event.SpecFailed && s.limit != nil:
		counts.Limited = 1
	case kind == event.SpecFailed:
		counts.Failed = 1
	default:
		counts.TimedOut = 1
	}
	return counts, time.Time{}
}

// mark is the latest event of a kind, unless it lies before the cutoff.
func (s *spec) mark(kind event.Kind, cutoff time.Time) moment {
	if m := s.marks[kind]; !m.at.Before(cutoff) {
		return m
	}
	return moment{}
}

// waiting returns the requests since the cutoff that nothing has answered.
func (s *spec) waiting(name string, answers []answer, cutoff time.Time) (open []request) {
	for _, r := range s.requests {
		answered := r.at.Before(cutoff) || slices.ContainsFunc(answers, func(a answer) bool { return a.answers(name, r) })
		for _, k := range []event.Kind{event.SpecStarted, event.SpecCompleted, event.SpecFailed, event.TimeoutTriggered} {
			answered = answered || r.compare(s.marks[k]) < 0
		}
		if !answered {
			open = append(open, r)
		}
	}
	return open
}

// clip bounds what is repeated of a request's data: what a person is asked,
// and what they may answer.
func clip(data json.RawMessage) json.RawMessage {
	if len(data) <= maxData {
		return data
	}
	var asked struct {
		Question any   `json:"question,omitempty"`
		Options  []any `json:"options,omitempty"`
		Clipped  bool  `json:"clipped"`
	}
	if json.Unmarshal(data, &asked) != nil {
		asked.Question, asked.Options = nil, nil
	}
	asked.Clipped = true
	if text, is := asked.Question.(string); is && len(text) > maxData/2 {
		asked.Question = strings.ToValidUTF8(text[:maxData/2], "") + "…"
	}
	for _, whole := range []func(){func() {}, func() { asked.Options = nil }, func() { asked.Question = nil }} {
		whole()
		if text, err := json.Marshal(asked); err == nil && len(text) <= maxData {
			return text
		}
	}
	return json.RawMessage(`{"clipped":true}`)
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

func (s *streak) since(cutoff time.Time) int {
	before, _ := slices.BinarySearchFunc(s.failures, moment{at: cutoff}, moment.compare)
	return len(s.failures) - before
}

type session struct {
	// The latest times, each event's own or that of its storing, whichever is
	// earlier: what is stored was written.
	lastSeen, lastHeartbeat time.Time
	ahead                   *time.Duration // the smallest difference of an event's time and that of its storing
	firstStored, lastStored time.Time      // of the heartbeats
	specs                   map[string]*spec
	answers                 []answer // oldest first
	streak                  streak
}

func (s *session) compareClocks(ahead time.Duration) {
	if s.ahead == nil || ahead.Abs() < s.ahead.Abs() || ahead.Abs() == s.ahead.Abs() && ahead < *s.ahead {
		s.ahead = &ahead
	}
}

// clockAhead is by how much the writer's clock is wrong. If any of its events
// was stored when it says that it happened, the clock is right, and the others
// were kept somewhere in between.
func (s *session) clockAhead() time.Duration {
	if s.ahead == nil || s.ahead.Abs() < ClockOff || s.ahead.Abs() > ClockMost || *s.ahead < 0 && s.lastStored.Sub(s.firstStored) < ClockSpan {
		return 0
	}
	return *s.ahead
}

// heard corrects a time of lastSeen or lastHeartbeat: of a clock that is ahead
// the time of storing is held already.
func (s *session) heard(at time.Time) time.Time { return at.Add(-min(0, s.clockAhead())).UTC() }

// happened corrects the time of an event.
func (s *session) happened(at time.Time) time.Time { return at.Add(-s.clockAhead()).UTC() }

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
		s.totals[k] = 0
	}
	s.totals[event.Other] = 0
	for k, n := range totals {
		s.totals[k.Counted()] += n
	}
	return s
}

// Totals is what events add up to: a summary cannot tell it by their latest.
type Totals struct {
	Events map[event.Kind]int64 // ever
	Usage  []Used               // of the last UsageDays at least
}

// SetTotals replaces what was added up. Usage of sessions that the summary
// knows nothing else of is left out.
func (s *Summary) SetTotals(totals Totals) {
	for k := range s.totals {
		s.totals[k] = totals.Events[k]
	}
	for _, held := range s.sessions {
		for _, spec := range held.specs {
			spec.usage = nil
		}
	}
	for _, u := range totals.Usage {
		if held := s.sessions[u.Session]; held != nil {
			s.spec(held, u.Spec).use(u.At, u.Usage)
		}
	}
}

// Add counts the event and takes note of it.
func (s *Summary) Add(e event.Event) {
	s.totals[e.Kind.Counted()]++
	s.Note(e)
	if u := UsageIn(e.Data); !u.isZero() {
		if held := s.sessions[e.Session]; held != nil {
			s.spec(held, e.Spec).use(e.At, u)
		}
	}
}

// Note takes note of an event that the totals already hold; of the same event
// as often as one likes.
func (s *Summary) Note(e event.Event) {
	held := s.sessions[e.Session]
	if held == nil {
		held = &session{specs: map[string]*spec{}}
		s.sessions[e.Session] = held
	}
	m := moment{e.At, e.ID}
	if e.Kind == event.InterventionAnswered {
		// Whoever answers has another clock, and an answer is no sign of life.
		held.answers = latest(held.answers, answer{m, e.Spec, answered(e.Data)}, func(a, b answer) int { return a.compare(b.moment) })
		s.fit()
		return
	}
	seen := e.At
	if !e.Stored.IsZero() {
		if e.Stored.Before(seen) {
			seen = e.Stored
		}
		held.compareClocks(e.At.Sub(e.Stored))
	}
	if seen.After(held.lastSeen) {
		held.lastSeen = seen
	}
	switch e.Kind {
	case event.SessionHeartbeat:
		// A heartbeat speaks for the session, whatever spec it names; what it
		// tells of work is that of its spec.
		if told := workIn(seen, e.Data); told != (work{}) {
			s.spec(held, e.Spec).work.add(told)
		}
		if seen.After(held.lastHeartbeat) {
			held.lastHeartbeat = seen
		}
		if !e.Stored.IsZero() && (held.firstStored.IsZero() || e.Stored.Before(held.firstStored)) {
			held.firstStored = e.Stored
		}
		if e.Stored.After(held.lastStored) {
			held.lastStored = e.Stored
		}
	case event.SpecStarted, event.SpecCompleted, event.SpecFailed, event.TimeoutTriggered:
		limited := limitIn(e)
		if limited == nil { // nobody's failure
			held.streak.note(e.Kind, m)
		}
		spec := s.spec(held, e.Spec)
		if old := spec.marks[e.Kind]; old.isZero() || old.compare(m) < 0 {
			spec.marks[e.Kind] = m
			if e.Kind == event.SpecFailed {
				spec.limit = limited
			}
		}
	case event.InterventionRequest:
		spec := s.spec(held, e.Spec)
		spec.requests = latest(spec.requests, request{m, clip(e.Data)}, func(a, b request) int { return a.compare(b.moment) })
	default:
		if other := &s.spec(held, e.Spec).other; seen.After(*other) {
			*other = seen
		}
	}
	s.fit()
}

// fit keeps the summary within its bounds.
func (s *Summary) fit() {
	if len(s.sessions) > maxSessions || s.specs > maxSpecs {
		s.shed()
	}
}

func (s *Summary) spec(held *session, name string) *spec {
	found := held.specs[name]
	if found == nil {
		found = &spec{marks: map[event.Kind]moment{}}
		held.specs[name] = found
		s.specs++
	}
	return found
}

// answered is the id of the request that an answer names; 0: none.
func answered(data json.RawMessage) int64 {
	var d struct {
		Request json.Number `json:"request"`
	}
	if json.Unmarshal(data, &d) != nil {
		return 0
	}
	id, err := d.Request.Int64()
	if err != nil {
		return 0
	}
	return id
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

// State answers what holds at now, by the database's clock. It looks back as
// far as Horizon, however long ago the summary began.
func (s *Summary) State(now time.Time) State { return s.Since(now.Add(-Horizon), now) }

// Of is the state of these sessions alone, without what it lists beside them.
func Of(at time.Time, sessions []Session) State {
	st := State{At: at, Totals: map[event.Kind]int64{}, Sessions: []Session{}, Running: []Open{}, Silent: []Open{}, Waiting: []Waiting{}, heard: map[string]bool{}}
	for _, row := range sessions {
		st.add(row)
	}
	return st
}

// Heard reports whether a session runs. What it has not ended runs with it, and
// is silent otherwise.
func (st State) Heard(session string) bool { return st.heard[session] }

func (st *State) add(row Session) {
	st.Sessions = append(st.Sessions, row)
	st.Specs.add(row.Specs)
	st.WaitingTotal += row.Waiting
	st.SessionsTotal++
	st.FailureStreak = max(st.FailureStreak, row.FailureStreak)
	if row.Status == Running {
		st.SessionsRunning++
		st.heard[row.Session] = true
	}
}

// Since is State that looks back as far as cutoff.
func (s *Summary) Since(cutoff, now time.Time) State {
	st := State{
		At:       now.UTC(),
		Totals:   maps.Clone(s.totals),
		Sessions: make([]Session, 0, len(s.sessions)),
		Running:  []Open{},
		Silent:   []Open{},
		Waiting:  []Waiting{},
		heard:    map[string]bool{},
	}
	for name, held := range s.sessions {
		if held.lastSeen.Before(cutoff) {
			continue
		}
		row := Session{Session: name, LastSeen: held.heard(held.lastSeen), FailureStreak: held.streak.since(cutoff), ClockAhead: held.clockAhead().Seconds()}
		if !held.lastHeartbeat.IsZero() && !held.lastHeartbeat.Before(cutoff) {
			at := held.heard(held.lastHeartbeat)
			row.LastHeartbeat = &at
		}
		heard := now.Sub(row.LastSeen) <= Awake
		var used Usage
		var last moment // of what started or ended in the session
		for specName, spec := range held.specs {
			counts, since := spec.outcome(cutoff)
			asks := spec.waiting(specName, held.answers, cutoff)
			open := Open{Session: name, Spec: specName, Since: held.happened(since), Usage: spec.used(cutoff)}
			if open.Usage != nil {
				used.add(*open.Usage)
			}
			switch {
			case counts.Open > 0 && heard:
				if len(asks) == 0 {
					open.LastWork = held.lastWork(specName, now)
				}
				if open.LastWork != nil && (row.LastWork == nil || open.LastWork.Before(*row.LastWork)) {
					row.LastWork = open.LastWork
				}
				st.Running = append(st.Running, open)
			case counts.Open > 0:
				counts = Specs{Silent: 1}
				st.Silent = append(st.Silent, open)
			}
			row.Specs.add(counts)
			if counts.Limited > 0 && spec.limit.until.After(now) && (row.LimitedUntil == nil || row.LimitedUntil.Before(spec.limit.until)) {
				row.LimitedUntil = &spec.limit.until
			}
			for kind := range spec.marks {
				if m := spec.mark(kind, cutoff); !m.isZero() && last.compare(m) < 0 {
					last = m
					row.Limited = counts.Limited > 0 && kind == event.SpecFailed && spec.limit.until.IsZero()
				}
			}
			if timeout := spec.mark(event.TimeoutTriggered, cutoff); !timeout.isZero() && row.LastTimeout.Before(held.happened(timeout.at)) {
				row.LastTimeout = held.happened(timeout.at)
			}
			for _, asked := range asks {
				row.Waiting++
				st.Waiting = append(st.Waiting, Waiting{asked.id, name, specName, held.happened(asked.at), asked.data})
			}
		}
		row.Limited = row.Limited || row.LimitedUntil != nil
		if !used.isZero() {
			row.Usage = &used
		}
		switch {
		case heard:
			row.Status = Running
		case row.Specs.Silent > 0 || row.Waiting > 0:
			row.Status = Sleeping
		default:
			row.Status = Done
		}
		st.add(row)
	}
	slices.SortFunc(st.Sessions, func(a, b Session) int {
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), cmp.Compare(a.Session, b.Session))
	})
	oldest := func(a, b Open) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Session, b.Session), cmp.Compare(a.Spec, b.Spec))
	}
	slices.SortFunc(st.Running, oldest)
	slices.SortFunc(st.Silent, oldest)
	slices.SortFunc(st.Waiting, func(a, b Waiting) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID))
	})
	st.Sessions = st.Sessions[:min(len(st.Sessions), listed)]
	st.Running = st.Running[:min(len(st.Running), listed)]
	st.Silent = st.Silent[:min(len(st.Silent), listed)]
	st.Waiting = st.Waiting[:min(len(st.Waiting), listed)]
	return st
}
