package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/runner"
	"github.com/specwatch/specwatch/pkg/state"
)

// errNotListed says that a state does not tell of a spec.
var errNotListed = errors.New("the state does not list the spec")

// lookTimeout bounds a question about a spec.
const lookTimeout = 5 * time.Second

// waits reports whether a request of a spec to a person is open, by the rules of the
// state. Requests that are kept on disk count; with an error they are all that is
// known.
func (d *destination) waits(ctx context.Context, session, spec string, since time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	kept, _ := waitsIn(fold(d.box.Kept(), session, spec), session, spec)
	st, err := d.stateOf(ctx, session, spec, since)
	if err != nil {
		return kept, err
	}
	open, err := waitsIn(st, session, spec)
	return open || kept, err
}

// stateOf returns a state that tells of the spec. From a database it reads the few
// events that matter, since a run asks often.
func (d *destination) stateOf(ctx context.Context, session, spec string, since time.Time) (state.State, error) {
	if d.gateway != nil {
		return d.gateway.State(ctx)
	}
	// Of all specs: an answer may name another one. The writer of an event may have
	// a clock that is ahead.
	events, err := questions.To(d.store).Range(ctx, questions.Filter{
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

// waitsIn reads a state, which lists only the first of many requests. One that names
// no spec is one of all specs of its session.
func waitsIn(st state.State, session, spec string) (bool, error) {
	at := slices.IndexFunc(st.Sessions, func(s state.Session) bool { return s.Session == session })
	if at < 0 {
		return false, errNotListed
	}
	waiting := st.Sessions[at].Waiting
	for _, w := range st.Waiting {
		if w.Session != session {
			continue
		}
		if w.Spec == spec || w.Spec == "" {
			return true, nil
		}
		waiting--
	}
	if waiting > 0 {
		return false, errNotListed
	}
	return false, nil
}

// Append leaves the end of a run out if its command has written one without specwatch.
// It asks when all that is before the end is written.
func (d *destination) Append(ctx context.Context, events []event.Event) (all event.Receipt, err error) {
	for {
		var start time.Time
		at := slices.IndexFunc(events, func(e event.Event) (is bool) {
			start, is = runner.EndOfRun(e)
			return is
		})
		part, rest := events, []event.Event(nil)
		if at >= 0 {
			part, rest = events[:at], events[at:]
		}
		if len(part) > 0 || at < 0 {
			receipt, err := d.Destination.Append(ctx, part)
			if at < 0 && all.IDs == nil {
				return receipt, err
			}
			all.IDs, all.Known = append(all.IDs, receipt.IDs...), all.Known+receipt.Known
			if err != nil || at < 0 {
				return all, err
			}
		}
		end := rest[0]
		if d.ended(ctx, end.Session, end.Spec, start, end.At) {
			all.IDs, all.Known = append(all.IDs, 0), all.Known+1
		} else {
			receipt, err := d.Destination.Append(ctx, rest[:1])
			all.IDs, all.Known = append(all.IDs, receipt.IDs...), all.Known+receipt.Known
			if err != nil {
				return all, err
			}
		}
		if events = rest[1:]; len(events) == 0 {
			return all, nil
		}
	}
}

// ended reports whether a spec has an end that is one of a run from start to about
// stop. A later run of the same spec is another one. Without an answer it has none.
func (d *destination) ended(ctx context.Context, session, spec string, start, stop time.Time) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	events, err := d.between(ctx, session, start)
	if err != nil {
		return false
	}
	events = slices.DeleteFunc(events, func(e event.Event) bool {
		return e.Session != session || e.Spec != spec || e.Kind != event.SpecStarted && !e.Kind.EndsSpec()
	})
	slices.SortStableFunc(events, func(a, b event.Event) int { return a.At.Compare(b.At) })
	is := false
	for _, e := range events {
		if e.Kind == event.SpecStarted && e.At.After(stop) {
			break
		}
		is = e.Kind.EndsSpec()
	}
	return is
}

// between returns the events of a session since a time that matter for a spec's end.
func (d *destination) between(ctx context.Context, session string, start time.Time) (all []event.Event, err error) {
	if d.gateway == nil {
		events, err := questions.To(d.store).Range(ctx, questions.Filter{
			From: start, To: time.Now().Add(state.Horizon), Sessions: []string{session}, Limit: event.MaxPage,
			Kinds: []event.Kind{event.SpecStarted, event.SpecCompleted, event.SpecFailed, event.TimeoutTriggered},
		})
		if err == nil && len(events) == event.MaxPage {
			err = errNotListed
		}
		return events, err
	}
	token := start.UTC().Format(time.RFC3339Nano)
	for {
		page, err := d.gateway.Since(ctx, token, event.MaxPage)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Events {
			if e.Kind == event.SpecStarted || e.Kind.EndsSpec() {
				all = append(all, e)
			}
		}
		if token = page.Cursor; !page.More {
			return all, nil
		}
	}
}
