package runner

import (
	"context"
	"encoding/json"
	"regexp"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

// keyOfEnd is that of the end of a run, which the run or its guard wrote.
var keyOfEnd = regexp.MustCompile(`^run-[A-Z2-7]{26}-(end|killed)$`)

// EndOfRun reports whether the event is the end of a run, and when that began. Whoever
// sends it asks first whether the command has written one without specwatch, by SQL or
// HTTP. This may be long after the run, which waits for nobody.
func EndOfRun(e event.Event) (start time.Time, ok bool) {
	var data struct {
		DurationSeconds float64 `json:"durationSeconds"`
	}
	if !e.Kind.EndsSpec() || !keyOfEnd.MatchString(e.Key) || e.At.IsZero() || json.Unmarshal(e.Data, &data) != nil {
		return start, false
	}
	// The duration is rounded to milliseconds.
	return e.At.Add(-time.Duration(data.DurationSeconds*float64(time.Second)) - time.Millisecond), true
}

// waits reports whether the command waits for a person. While the destination
// does not answer, what was last known counts.
func (r *run) waits(ctx context.Context) bool {
	if r.Waits == nil {
		return false
	}
	open, err := r.Waits(ctx, r.start)
	// With an error, open is about requests on disk, which may be sent before the
	// destination answers here.
	if err == nil || open {
		r.waited = open
	}
	return r.waited
}
