package state

import (
	"encoding/json"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

// limit is the usage limit that ended a spec, or that stops an open one.
type limit struct{ until time.Time } // zero: it is not known when it is lifted

// holds reports whether there is a limit that is not known to be lifted.
func (l *limit) holds(now time.Time) bool {
	return l != nil && (l.until.IsZero() || l.until.After(now))
}

// end is when the limit is lifted; nil: not known.
func (l *limit) end() *time.Time {
	if l.until.IsZero() {
		return nil
	}
	return &l.until
}

// laterOf returns the later of two times; nil is the earliest.
func laterOf(a, b *time.Time) *time.Time {
	if a == nil || b != nil && b.After(*a) {
		return b
	}
	return a
}

// limitIn returns the usage limit that a spec_failed event reports; nil if it
// reports none.
func limitIn(e event.Event) *limit {
	if e.Kind != event.SpecFailed || len(e.Data) == 0 {
		return nil
	}
	var told map[string]json.RawMessage // a map, because struct fields would match without regard to case
	var reason, text string
	if json.Unmarshal(e.Data, &told) != nil || json.Unmarshal(told["reason"], &reason) != nil || reason != event.LimitReason {
		return nil
	}
	found := &limit{}
	if json.Unmarshal(told["resetsAt"], &text) == nil {
		if at, err := time.Parse(time.RFC3339, text); err == nil {
			found.until = at.UTC()
		}
	}
	return found
}
