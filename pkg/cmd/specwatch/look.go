package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/runner"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// errNotListed says that a state does not tell of a spec.
var errNotListed = errors.New("the state does not list the spec")

// look returns what is known of a spec since a time, by the rules of the state.
// Requests that are kept on disk count; with an error they are all that is known.
func (d *destination) look(ctx context.Context, session, spec string, since time.Time) (runner.Known, error) {
	kept, _ := knownOf(fold(d.box.Kept(), session, spec), session, spec)
	st, err := d.stateOf(ctx, session, spec, since)
	if err != nil {
		return runner.Known{Waits: kept.Waits}, err
	}
	known, err := knownOf(st, session, spec)
	known.Waits = known.Waits || kept.Waits
	return known, err
}

// stateOf returns a state that tells of the spec. From a database it reads the few
// events that matter, since a run asks often.
func (d *destination) stateOf(ctx context.Context, session, spec string, since time.Time) (state.State, error) {
	if d.gateway != nil {
		return d.gateway.State(ctx)
	}
	// Of all specs: an answer may name another one. The writer of an event may have
	// a clock that is ahead.
	events, err := d.store.Range(ctx, store.Filter{
		From: since, To: time.Now().Add(state.Horizon), Sessions: []string{session}, Limit: event.MaxPage,
		Kinds: []event.Kind{event.SpecStarted, event.SpecCompleted, event.SpecFailed, event.TimeoutTriggered, event.InterventionRequest, event.InterventionAnswered},
	})
	if err == nil && len(events) == event.MaxPage {
		err = errNotListed
	}
	return fold(events, session, spec), err
}

// fold returns the state of one spec.
func fold(events []event.Event, session, spec string) state.State {
	summary := state.NewSummary(nil)
	for _, e := range events {
		if e.Session == session && (e.Spec == spec || e.Spec == "" || e.Kind == event.InterventionAnswered) {
			summary.Note(e)
		}
	}
	return summary.Since(time.Time{}, time.Now())
}

// knownOf reads a state, which lists only the first of many. A request that names no
// spec is one of all specs of its session.
func knownOf(st state.State, session, spec string) (k runner.Known, err error) {
	at := slices.IndexFunc(st.Sessions, func(s state.Session) bool { return s.Session == session })
	if at < 0 {
		return k, errNotListed
	}
	row := st.Sessions[at]
	open, waiting := row.Specs.Open+row.Specs.Silent, row.Waiting
	k.Ended = true
	for _, o := range slices.Concat(st.Running, st.Silent) {
		if o.Session == session {
			open--
			k.Ended = k.Ended && o.Spec != spec
		}
	}
	for _, w := range st.Waiting {
		if w.Session == session {
			waiting--
			k.Waits = k.Waits || w.Spec == spec || w.Spec == ""
		}
	}
	if k.Ended && open > 0 || !k.Waits && waiting > 0 {
		return runner.Known{Waits: k.Waits}, errNotListed
	}
	return k, nil
}
