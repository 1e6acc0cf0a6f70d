package state

import (
	"encoding/json"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

// limit is that of a spec that it ended.
type limit struct{ until time.Time } // zero: it is not known when it is lifted

// limitIn is the limit that a spec_failed tells of; nil: it tells of none.
func limitIn(e event.Event) *limit {
	if e.Kind != event.SpecFailed || len(e.Data) == 0 {
		return nil
	}
	var told map[string]json.RawMessage // its keys are exact, as in SQL
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
