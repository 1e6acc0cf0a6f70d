package state

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

// Format is the version of the encoding of MarshalBinary. Increase it with
// every change of what a Summary holds or of how it folds an event: summaries
// with another Format are not used.
const Format = 3

// The types that MarshalBinary encodes. gob matches fields by name, so names
// are part of the format.
type (
	savedSummary struct {
		Totals   map[event.Kind]int64
		Sessions map[string]savedSession
	}
	savedSession struct {
		LastSeen, LastHeartbeat, FirstStored, LastStored time.Time
		ClockKnown                                       bool // whether Ahead says anything
		Ahead                                            time.Duration
		Specs                                            map[string]savedSpec
		Early                                            []savedEarly
		Completed                                        savedMoment
		Failures                                         []savedMoment
	}
	savedMoment struct {
		At time.Time
		ID int64
	}
	savedEarly struct {
		Moment  savedMoment
		Request int64
	}
	savedRequest struct {
		Moment   savedMoment
		Data     json.RawMessage
		Answered bool
	}
	savedSpec struct {
		Marks    map[event.Kind]savedMoment
		Requests []savedRequest
		Closed   savedMoment
		Answered time.Time
		Work     savedWork
		Other    time.Time
		Limited  bool
		Until    time.Time // that the limit is lifted
		Usage    []savedUsage
	}
	savedWork  struct{ Told, Done, Limited, Lifted time.Time }
	savedUsage struct {
		Day int64
		Usage
	}
)

// MarshalBinary encodes the whole summary, for UnmarshalBinary.
func (s *Summary) MarshalBinary() ([]byte, error) {
	saved := savedSummary{s.totals, make(map[string]savedSession, len(s.sessions))}
	for name, held := range s.sessions {
		session := savedSession{
			LastSeen: held.lastSeen, LastHeartbeat: held.lastHeartbeat, FirstStored: held.firstStored, LastStored: held.lastStored,
			Specs: make(map[string]savedSpec, len(held.specs)), Completed: exported(held.streak.completed),
		}
		if held.ahead != nil {
			session.ClockKnown, session.Ahead = true, *held.ahead
		}
		for _, a := range held.early {
			session.Early = append(session.Early, savedEarly{exported(a.moment), a.request})
		}
		for _, m := range held.streak.failures {
			session.Failures = append(session.Failures, exported(m))
		}
		for specName, sp := range held.specs {
			spec := savedSpec{Marks: make(map[event.Kind]savedMoment, len(sp.marks)), Work: savedWork{sp.work.told, sp.work.done, sp.work.limited, sp.work.lifted}, Other: sp.other, Closed: exported(sp.closed), Answered: sp.answered}
			for kind, m := range sp.marks {
				spec.Marks[kind] = exported(m)
			}
			for _, r := range sp.requests {
				spec.Requests = append(spec.Requests, savedRequest{exported(r.moment), r.data, r.answered})
			}
			if sp.limit != nil {
				spec.Limited, spec.Until = true, sp.limit.until
			}
			for _, d := range sp.usage {
				spec.Usage = append(spec.Usage, savedUsage{d.day, d.Usage})
			}
			session.Specs[specName] = spec
		}
		saved.Sessions[name] = session
	}
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(saved)
	return b.Bytes(), err
}

func exported(m moment) savedMoment { return savedMoment{m.at, m.id} }

func (m savedMoment) moment() moment { return moment{m.At, m.ID} }

// UnmarshalBinary replaces the summary with one that MarshalBinary encoded.
func (s *Summary) UnmarshalBinary(text []byte) error {
	var saved savedSummary
	if err := gob.NewDecoder(bytes.NewReader(text)).Decode(&saved); err != nil {
		return err
	}
	*s = *NewSummary(saved.Totals)
	for name, kept := range saved.Sessions {
		held := &session{
			lastSeen: kept.LastSeen, lastHeartbeat: kept.LastHeartbeat, firstStored: kept.FirstStored, lastStored: kept.LastStored,
			specs: make(map[string]*spec, len(kept.Specs)), streak: streak{completed: kept.Completed.moment()},
		}
		if kept.ClockKnown {
			held.ahead = &kept.Ahead
		}
		for _, a := range kept.Early {
			held.early = append(held.early, early{a.Moment.moment(), a.Request})
		}
		for _, m := range kept.Failures {
			held.streak.failures = append(held.streak.failures, m.moment())
		}
		s.sessions[name] = held
		for specName, stored := range kept.Specs {
			sp := s.spec(held, specName)
			sp.work, sp.other = work{stored.Work.Told, stored.Work.Done, stored.Work.Limited, stored.Work.Lifted}, stored.Other
			sp.closed, sp.answered = stored.Closed.moment(), stored.Answered
			for kind, m := range stored.Marks {
				sp.marks[kind] = m.moment()
			}
			for _, r := range stored.Requests {
				sp.requests = append(sp.requests, request{r.Moment.moment(), r.Data, r.Answered})
			}
			if stored.Limited {
				sp.limit = &limit{stored.Until}
			}
			for _, d := range stored.Usage {
				sp.usage = append(sp.usage, dayUsage{d.Day, d.Usage})
			}
		}
	}
	return nil
}
