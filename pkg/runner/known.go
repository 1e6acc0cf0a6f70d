package runner

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/outbox"
)

// Known is what the destination knows of a spec.
type Known struct {
	Ended bool // it has ended since it last started
	Waits bool // a request to a person is open
}

// lookTimeout bounds a question to the destination.
const lookTimeout = 5 * time.Second

// Look asks the destination what it knows of the spec since a time. With an error
// it returns what is known without the destination.
type Look func(ctx context.Context, since time.Time) (Known, error)

func (look Look) ask(ctx context.Context, since time.Time) (Known, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return look(ctx, since)
}

// ending is the destination of the events of a run. It leaves the end of the run
// out if the command has written one without specwatch, by SQL or HTTP. It asks
// when everything before the end is written, so an outage delays nothing.
type ending struct {
	outbox.Destination
	look  Look
	since time.Time
	key   string // of the end
}

func (d *ending) Append(ctx context.Context, events []event.Event) (all event.Receipt, err error) {
	at := slices.IndexFunc(events, func(e event.Event) bool { return e.Key == d.key })
	if at < 0 {
		return d.Destination.Append(ctx, events)
	}
	add := func(part []event.Event) error {
		if err != nil || len(part) == 0 {
			return err
		}
		var receipt event.Receipt
		receipt, err = d.Destination.Append(ctx, part)
		all.IDs, all.Known = append(all.IDs, receipt.IDs...), all.Known+receipt.Known
		return err
	}
	if add(events[:at]) != nil {
		return all, err
	}
	ctx = context.WithValue(ctx, asked{}, true)
	// Without an answer the end is written.
	if known, unknown := d.look.ask(ctx, d.since); unknown == nil && known.Ended {
		all.IDs, all.Known = append(all.IDs, 0), all.Known+1
		at++
	}
	return all, add(events[at:])
}

// asked is in the context of an end whose run has asked about it.
type asked struct{}

// keyOfEnd is that of the end of a run, which the run or its guard wrote.
var keyOfEnd = regexp.MustCompile(`^run-[A-Z2-7]{26}-(end|killed)$`)

// KeptEnd reports whether the event is the end of a run that could not ask whether
// its command had written one, since it was killed or did not wait for the database;
// and when the run began.
func KeptEnd(ctx context.Context, e event.Event) (start time.Time, ok bool) {
	var data struct {
		DurationSeconds float64 `json:"durationSeconds"`
	}
	if ctx.Value(asked{}) != nil || !e.Kind.EndsSpec() || !keyOfEnd.MatchString(e.Key) || json.Unmarshal(e.Data, &data) != nil {
		return start, false
	}
	return e.At.Add(-time.Duration(data.DurationSeconds * float64(time.Second))), true
}

// waits reports whether the command waits for a person. While the destination
// does not answer, its last answer counts.
func (r *run) waits(ctx context.Context) bool {
	if r.Look == nil {
		return false
	}
	known, err := r.Look.ask(ctx, r.start)
	if err == nil {
		r.waited = known.Waits
	}
	return known.Waits || r.waited
}
