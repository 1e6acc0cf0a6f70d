// Package state sums up events: which sessions are alive, which specs run, how
// specs ended, and which requests wait for a person. It is a pure fold: the
// summary depends on the set of events alone and not on their order, so live
// and polled views cannot differ.
package state

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

const (
	// Awake is how long after its last event, answers excepted, a session
	// counts as running. Heartbeats come every 15 s by default, so three may be
	// lost.
	Awake = time.Minute
	// ClockOff and ClockMost are the least and the greatest difference from the
	// database's clock with which a writer's clock counts as wrong. A greater
	// difference means that the events were kept elsewhere before they were
	// stored.
	ClockOff  = time.Minute
	ClockMost = 6 * time.Hour
	// ClockSpan is the least time between the first and the last stored
	// heartbeat of a session before its clock counts as behind: events that
	// were kept elsewhere, or written for a test, are stored all at once.
	ClockSpan = 30 * time.Second
	// Horizon is how far back a summary looks for sessions and specs.
	Horizon = 7 * 24 * time.Hour
	// listed bounds each list of a State.
	listed = 100
	// MaxSessions and maxSpecs bound what a Summary holds. The sessions that
	// have been silent longest are dropped first.
	MaxSessions = 10_000
	maxSpecs    = 100_000
	// MaxRequests is how many requests of each spec a Summary holds: the latest.
	MaxRequests = 20
	// maxEarly is how many answers of each session a Summary holds whose request
	// it does not have: the latest. An answer is written after its request, so
	// few come before it.
	maxEarly = 20
	// maxData bounds the data of a request in a State, in bytes. The event
	// itself has all of it.
	maxData = 2_000
	// MaxStreak is where FailureStreak stops counting, and so how many
	// failures of a session a Summary holds.
	MaxStreak = 100
)

// Status of a session.
type Status string

const (
	Running  Status = "running"  // its last event is at most Awake old
	Sleeping Status = "sleeping" // no event within Awake, but a spec is open or a request waits
	Done     Status = "done"     // no event within Awake, and nothing is open
)

// Statuses are all of them.
var Statuses = []Status{Running, Sleeping, Done}

// Specs counts specs by their latest outcome.
type Specs struct {
	Open      int `json:"open"`   // started and not ended, and heard of
	Silent    int `json:"silent"` // started and not ended, and not heard of: see session.silent
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
	TimedOut  int `json:"timedOut"`
	Limited   int `json:"limited"` // ended by a usage limit; not counted as failed
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
	// Limited reports whether a usage limit stops the session: all of its open
	// specs or, if none is open, one that the limit ended. Such a limit applies
	// until the time that the event names or, if it names none, until another
	// spec of the session starts or ends. LimitedUntil is that time; nil if
	// none is known.
	Limited      bool       `json:"limited"`
	LimitedUntil *time.Time `json:"limitedUntil"`
	// ClockAhead is how many seconds the writer's clock is ahead of the
	// database's; negative: behind; 0: it is right, or not known. Times of the
	// session are corrected by it.
	ClockAhead float64 `json:"clockAheadSeconds"`
	// FailureStreak counts failures and timeouts of specs since a spec last
	// completed; at most MaxStreak.
	FailureStreak int `json:"failureStreak"`
	// LastWork is the earliest LastWork of the specs that run.
	LastWork *time.Time `json:"lastWork"`
	Usage    *Usage     `json:"usage,omitempty"` // nil: no event reports any
	// LastTimeout is when a spec last timed out; zero: never. Only metrics use
	// it.
	LastTimeout time.Time `json:"-"`
}

// Open is a spec that has started and not ended.
type Open struct {
	Session string    `json:"session"`
	Spec    string    `json:"spec"`
	Since   time.Time `json:"since"`
	// LastWork is when a running spec last showed a sign of work; nil: no
	// heartbeat reports it, or the spec waits for a person or a usage limit.
	LastWork *time.Time `json:"lastWork,omitempty"`
	// Limited reports whether a usage limit stops the spec. LimitedUntil is
	// when it is lifted; nil if that is not known.
	Limited      bool       `json:"limited,omitempty"`
	LimitedUntil *time.Time `json:"limitedUntil,omitempty"`
	Usage        *Usage     `json:"usage,omitempty"` // nil: no event reports any
}

// Waiting is an intervention request that nothing has answered: neither an
// answer that names it nor a later start or end of its spec.
type Waiting struct {
	ID      int64           `json:"id"`
	Session string          `json:"session"`
	Spec    string          `json:"spec"`
	At      time.Time       `json:"at"`
	Data    json.RawMessage `json:"data"` // of the event; cut to 2,000 bytes, see clip
}

// Delivery says how new events reach the process that answers.
type Delivery struct {
	Push  bool    `json:"push"`         // PostgreSQL notifies; else the process polls
	Delay float64 `json:"delaySeconds"` // the longest time until an event is noticed
}

// State is the summary at one moment.
type State struct {
	At       time.Time            `json:"at"`     // the database's clock
	Totals   map[event.Kind]int64 `json:"totals"` // events ever, by kind
	Specs    Specs                `json:"specs"`
	Sessions []Session            `json:"sessions"` // latest event first, at most 100
	Running  []Open               `json:"running"`  // oldest first, at most 100
	Silent   []Open               `json:"silent"`   // started and not ended, and not heard of; oldest first, at most 100
	Waiting  []Waiting            `json:"waiting"`  // oldest first, at most 100

	// WaitingTotal counts all of them; Waiting lists only the first.
	WaitingTotal int `json:"waitingTotal"`

	// These are about all sessions, while Sessions lists only the first: how
	// many there are, how many run or sleep, and the longest FailureStreak.
	SessionsTotal    int `json:"sessionsTotal"`
	SessionsRunning  int `json:"sessionsRunning"`
	SessionsSleeping int `json:"sessionsSleeping"`
	FailureStreak    int `json:"-"`

	heard  map[string]bool    // sessions that run, all of them
	silent map[[2]string]bool // session and spec: the silent specs of these sessions

	Delivery Delivery `json:"delivery"`
}

// moment orders events by time, then by id, because two events may have the
// same time.
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
	data     json.RawMessage
	answered bool // by an answer that names it
}

// early is an answer that names a request which the summary does not have.
type early struct {
	moment
	request int64
}

// latest inserts an item into a sorted list and keeps the greatest most items.
// A dropped item is less than all that are kept, so the result does not depend
// on the order of the insertions.
func latest[T interface{ compare(o moment) int }](list []T, item T, m moment, most int) []T {
	i, held := slices.BinarySearchFunc(list, m, T.compare)
	if held {
		return list
	}
	list = slices.Insert(list, i, item)
	if len(list) > most {
		list = slices.Delete(list, 0, 1)
	}
	return list
}

// spec holds the latest event of each kind that starts or ends it, its
// requests, and when they were answered.
type spec struct {
	marks    map[event.Kind]moment
	requests []request // oldest first
	closed   moment    // the latest answer that names no request: it answers all earlier ones
	answered time.Time // of the latest answer
	work     work
	other    time.Time  // of the last custom event, as lastSeen
	limit    *limit     // that caused the last failure; nil: none
	usage    []dayUsage // earliest first
}

// outcome compares the latest start of a spec since the cutoff with its latest
// end. It returns 1 in the count that applies and, for an open spec, when that
// started. A spec with neither, such as one with only a request, is not
// counted.
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

// mark returns the latest event of a kind, unless it lies before the cutoff.
func (s *spec) mark(kind event.Kind, cutoff time.Time) moment {
	if m := s.marks[kind]; !m.at.Before(cutoff) {
		return m
	}
	return moment{}
}

// answer notes that the request with that id is answered, and reports whether
// the spec has it.
func (s *spec) answer(id int64) bool {
	i := slices.IndexFunc(s.requests, func(r request) bool { return r.id == id })
	if i >= 0 {
		s.requests[i].answered = true
	}
	return i >= 0
}

// waiting returns the requests since the cutoff that nothing has answered.
func (s *spec) waiting(cutoff time.Time) (open []request) {
	for _, r := range s.requests {
		answered := r.answered || r.at.Before(cutoff) || r.compare(s.closed) < 0
		for _, k := range []event.Kind{event.SpecStarted, event.SpecCompleted, event.SpecFailed, event.TimeoutTriggered} {
			answered = answered || r.compare(s.marks[k]) < 0
		}
		if !answered {
			open = append(open, r)
		}
	}
	return open
}

// clip cuts a request's data to maxData bytes. It keeps the question and the
// options for the answer, if they fit.
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
// first: the latest MaxStreak of them. A failure that is dropped could never
// count again, so the result does not depend on the order of the events.
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
	// The latest time of an event and of a heartbeat: its own, or when it was
	// stored, whichever is earlier. An event happened before it was stored.
	lastSeen, lastHeartbeat time.Time
	ahead                   *time.Duration // the smallest difference between an event's time and when it was stored
	firstStored, lastStored time.Time      // of the heartbeats
	specs                   map[string]*spec
	early                   []early // oldest first
	streak                  streak
}

// see notes that an event of the session was written, and returns when that
// was: its own time, or when it was stored, whichever is earlier.
func (s *session) see(e event.Event) time.Time {
	seen := e.At
	if !e.Stored.IsZero() {
		if e.Stored.Before(seen) {
			seen = e.Stored
		}
		s.compareClocks(e.At.Sub(e.Stored))
	}
	if seen.After(s.lastSeen) {
		s.lastSeen = seen
	}
	return seen
}

// heartbeat notes a heartbeat; stored is zero if it is not known.
func (s *session) heartbeat(seen, stored time.Time) {
	if seen.After(s.lastHeartbeat) {
		s.lastHeartbeat = seen
	}
	if !stored.IsZero() && (s.firstStored.IsZero() || stored.Before(s.firstStored)) {
		s.firstStored = stored
	}
	if stored.After(s.lastStored) {
		s.lastStored = stored
	}
}

// answer notes an answer in a spec, to the request with that id or, if it is 0,
// to all earlier requests of the spec.
func (s *session) answer(in *spec, m moment, id int64) {
	if m.at.After(in.answered) {
		in.answered = m.at
	}
	if id == 0 {
		if in.closed.compare(m) < 0 {
			in.closed = m
		}
		return
	}
	if id == noRequest || in.answer(id) {
		return
	}
	for _, other := range s.specs { // the answer may name another spec than the request, or none
		if other.answer(id) {
			return
		}
	}
	s.early = latest(s.early, early{m, id}, m, maxEarly)
}

// isAnswered reports whether an answer to the request came before it, and
// forgets that answer.
func (s *session) isAnswered(id int64) bool {
	i := slices.IndexFunc(s.early, func(a early) bool { return a.request == id })
	if i < 0 {
		return false
	}
	s.early = slices.Delete(s.early, i, i+1)
	return true
}

func (s *session) compareClocks(ahead time.Duration) {
	if s.ahead == nil || ahead.Abs() < s.ahead.Abs() || ahead.Abs() == s.ahead.Abs() && ahead < *s.ahead {
		s.ahead = &ahead
	}
}

// clockAhead returns by how much the writer's clock is ahead; 0 if it is right
// or not known. If any event was stored at the time that it names, the clock is
// right, and the other events were kept elsewhere before they were stored.
func (s *session) clockAhead() time.Duration {
	if s.ahead == nil || s.ahead.Abs() < ClockOff || s.ahead.Abs() > ClockMost || *s.ahead < 0 && s.lastStored.Sub(s.firstStored) < ClockSpan {
		return 0
	}
	return *s.ahead
}

// heard corrects lastSeen or lastHeartbeat for a clock that is behind. For a
// clock that is ahead they hold when the event was stored, which needs no
// correction.
func (s *session) heard(at time.Time) time.Time { return at.Add(-min(0, s.clockAhead())).UTC() }

// happened corrects the time of an event.
func (s *session) happened(at time.Time) time.Time { return at.Add(-s.clockAhead()).UTC() }

// Summary folds events. It is not safe for concurrent use.
type Summary struct {
	totals   map[event.Kind]int64
	sessions map[string]*session
	specs    int
}

// NewSummary returns a summary without events, whose counts begin at totals,
// which may be nil.
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

// Totals are the sums of a summary. They need all events, while the rest of a
// summary can be loaded from the latest ones.
type Totals struct {
	Events map[event.Kind]int64 // ever
	Usage  []Used               // of the last UsageDays at least
}

// SetTotals replaces the sums. Usage of sessions that are not in the summary is
// left out.
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

// Add adds the event to the totals and notes it.
func (s *Summary) Add(e event.Event) {
	s.totals[e.Kind.Counted()]++
	s.Note(e)
	if u := UsageIn(e.Data); !u.isZero() {
		if held := s.sessions[e.Session]; held != nil {
			s.spec(held, e.Spec).use(e.At, u)
		}
	}
}

// Note updates all but the totals, with an event that those already include.
// Noting an event again has no effect.
func (s *Summary) Note(e event.Event) {
	held := s.sessions[e.Session]
	if held == nil {
		held = &session{specs: map[string]*spec{}}
		s.sessions[e.Session] = held
	}
	m := moment{e.At, e.ID}
	if e.Kind == event.InterventionAnswered {
		// An answer comes from another clock than the session's, and does not
		// show that the session is alive.
		held.answer(s.spec(held, e.Spec), m, answered(e.Data))
		s.fit()
		return
	}
	seen := held.see(e)
	switch e.Kind {
	case event.SessionHeartbeat:
		// A heartbeat counts for the session, whatever spec it names. The work
		// that it reports is that of its spec.
		if told := workIn(seen, e.Data); told != (work{}) {
			s.spec(held, e.Spec).work.add(told)
		}
		held.heartbeat(seen, e.Stored)
	case event.SpecStarted, event.SpecCompleted, event.SpecFailed, event.TimeoutTriggered:
		limited := limitIn(e)
		if limited == nil { // ends by a usage limit are no failures
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
		spec.requests = latest(spec.requests, request{m, clip(e.Data), held.isAnswered(e.ID)}, m, MaxRequests)
	default:
		if other := &s.spec(held, e.Spec).other; seen.After(*other) {
			*other = seen
		}
	}
	s.fit()
}

// fit keeps the summary within its bounds.
func (s *Summary) fit() {
	if len(s.sessions) > MaxSessions || s.specs > maxSpecs {
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

// noRequest is the id that an answer names if what it names is no id.
const noRequest = -1

// answered returns the id of the request that an answer names; 0: it names none.
// The query for conditions reads it in the same way.
func answered(data json.RawMessage) int64 {
	var d map[string]json.RawMessage
	if json.Unmarshal(data, &d) != nil {
		return 0
	}
	var text string
	switch named := d["request"]; {
	case len(named) > 0 && named[0] == '"':
		if json.Unmarshal(named, &text) != nil {
			return noRequest
		}
	case len(named) > 0 && (named[0] == '-' || '0' <= named[0] && named[0] <= '9'):
		text = string(named)
	default:
		return 0
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id <= 0 || strconv.FormatInt(id, 10) != text {
		return noRequest
	}
	return id
}

// shed drops the tenth of the sessions that has been silent longest. It drops
// many at once, because it has to sort all of them.
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

// State returns the state at now, a time of the database's clock. It looks back
// as far as Horizon.
func (s *Summary) State(now time.Time) State { return s.Since(now.Add(-Horizon), now) }

// Of returns the state of these sessions alone: their counts, without lists of
// specs and requests.
func Of(at time.Time, sessions []Session) State {
	st := State{At: at, Totals: map[event.Kind]int64{}, Sessions: []Session{}, Running: []Open{}, Silent: []Open{}, Waiting: []Waiting{}, heard: map[string]bool{}, silent: map[[2]string]bool{}}
	for _, row := range sessions {
		st.add(row)
	}
	return st
}

// Heard reports whether a session runs. If not, its open specs are silent.
func (st State) Heard(session string) bool { return st.heard[session] }

// HeardOf reports whether a spec runs if it is open. If not, it is silent.
func (st State) HeardOf(session, spec string) bool {
	return st.heard[session] && !st.silent[[2]string{session, spec}]
}

func (st *State) add(row Session) {
	st.Sessions = append(st.Sessions, row)
	st.Specs.add(row.Specs)
	st.WaitingTotal += row.Waiting
	st.SessionsTotal++
	st.FailureStreak = max(st.FailureStreak, row.FailureStreak)
	switch row.Status {
	case Running:
		st.SessionsRunning++
		st.heard[row.Session] = true
	case Sleeping:
		st.SessionsSleeping++
	}
}

// Since returns the state as State does, but looks back as far as cutoff.
func (s *Summary) Since(cutoff, now time.Time) State {
	st := State{
		At:       now.UTC(),
		Totals:   maps.Clone(s.totals),
		Sessions: make([]Session, 0, len(s.sessions)),
		Running:  []Open{},
		Silent:   []Open{},
		Waiting:  []Waiting{},
		heard:    map[string]bool{},
		silent:   map[[2]string]bool{},
	}
	for name, held := range s.sessions {
		if !held.lastSeen.Before(cutoff) {
			f := fold{st: &st, held: held, cutoff: cutoff, now: now}
			st.add(f.session(name))
		}
	}
	st.sort()
	st.Sessions = st.Sessions[:min(len(st.Sessions), listed)]
	st.Running = st.Running[:min(len(st.Running), listed)]
	st.Silent = st.Silent[:min(len(st.Silent), listed)]
	st.Waiting = st.Waiting[:min(len(st.Waiting), listed)]
	return st
}

// sort orders the lists.
func (st *State) sort() {
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
}

// fold sums one session up. Its specs and requests go into the lists of st.
type fold struct {
	st          *State
	held        *session
	cutoff, now time.Time

	row     Session
	heard   bool // the session runs
	used    Usage
	last    moment     // of what started or ended in the session
	limited int        // open specs that a usage limit stops
	until   *time.Time // the last time at which one of these is lifted
}

func (f *fold) session(name string) Session {
	held := f.held
	f.row = Session{Session: name, LastSeen: held.heard(held.lastSeen), FailureStreak: held.streak.since(f.cutoff), ClockAhead: held.clockAhead().Seconds()}
	if !held.lastHeartbeat.IsZero() && !held.lastHeartbeat.Before(f.cutoff) {
		at := held.heard(held.lastHeartbeat)
		f.row.LastHeartbeat = &at
	}
	f.heard = f.now.Sub(f.row.LastSeen) <= Awake
	for specName, spec := range held.specs {
		f.spec(specName, spec)
	}
	f.limit()
	if !f.used.isZero() {
		used := f.used
		f.row.Usage = &used
	}
	switch {
	case f.heard:
		f.row.Status = Running
	case f.row.Specs.Silent > 0 || f.row.Waiting > 0:
		f.row.Status = Sleeping
	default:
		f.row.Status = Done
	}
	return f.row
}

func (f *fold) spec(name string, spec *spec) {
	counts, since := spec.outcome(f.cutoff)
	asks := spec.waiting(f.cutoff)
	usage := spec.used(f.cutoff)
	if usage != nil {
		f.used.add(*usage)
	}
	if counts.Open > 0 {
		counts = f.open(Open{Session: f.row.Session, Spec: name, Since: f.held.happened(since), Usage: usage}, since, len(asks) > 0)
	}
	f.row.Specs.add(counts)
	f.marks(spec, counts.Limited > 0)
	for _, asked := range asks {
		f.row.Waiting++
		f.st.Waiting = append(f.st.Waiting, Waiting{asked.id, f.row.Session, name, f.held.happened(asked.at), asked.data})
	}
}

// open lists a spec that started at that time, by its writer's clock, and has
// not ended. It returns 1 in the count that applies: the spec runs, or it is
// silent.
func (f *fold) open(open Open, started time.Time, asks bool) Specs {
	if !f.heard || f.held.silent(open.Spec, started, f.now) {
		f.st.Silent = append(f.st.Silent, open)
		if f.heard {
			f.st.silent[[2]string{open.Session, open.Spec}] = true
		}
		return Specs{Silent: 1}
	}
	switch limit := f.held.limitOf(open.Spec, started); {
	case limit.holds(f.now):
		f.limited++
		open.Limited, open.LimitedUntil = true, limit.end()
		f.until = laterOf(f.until, open.LimitedUntil)
	case !asks:
		open.LastWork = f.held.lastWork(open.Spec, limit, f.now)
	}
	if open.LastWork != nil && (f.row.LastWork == nil || open.LastWork.Before(*f.row.LastWork)) {
		f.row.LastWork = open.LastWork
	}
	f.st.Running = append(f.st.Running, open)
	return Specs{Open: 1}
}

// marks takes from the latest starts and ends of a spec what the session's row
// says of limits and timeouts. limited says that a usage limit ended the spec.
func (f *fold) marks(spec *spec, limited bool) {
	if limited && spec.limit.until.After(f.now) {
		f.row.LimitedUntil = laterOf(f.row.LimitedUntil, spec.limit.end())
	}
	for kind := range spec.marks {
		if m := spec.mark(kind, f.cutoff); !m.isZero() && f.last.compare(m) < 0 {
			f.last = m
			f.row.Limited = limited && kind == event.SpecFailed && spec.limit.until.IsZero()
		}
	}
	if timeout := spec.mark(event.TimeoutTriggered, f.cutoff); !timeout.isZero() && f.row.LastTimeout.Before(f.held.happened(timeout.at)) {
		f.row.LastTimeout = f.held.happened(timeout.at)
	}
}

// limit says whether a usage limit stops the session, after all of its specs.
func (f *fold) limit() {
	row := &f.row
	row.Limited = row.Limited || row.LimitedUntil != nil
	if row.Specs.Open > 0 {
		// A session that works has found a way on.
		if row.Limited = f.limited == row.Specs.Open; !row.Limited {
			f.until = nil
		}
		row.LimitedUntil = f.until
	} else if limit := f.held.limitOf("", f.last.at); limit.holds(f.now) {
		row.Limited, row.LimitedUntil = true, laterOf(row.LimitedUntil, limit.end())
	}
}
