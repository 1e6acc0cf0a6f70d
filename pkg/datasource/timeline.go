package datasource

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/grafana/grafana-plugin-sdk-go/data"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/state"
)

// waiting is the value of a timeline from a request to its answer. For the rest of
// an attempt the value is its outcome, as in the Specwatch panel.
const waiting = "waiting"

// labelRunes is the length to which names on a timeline are shortened.
const labelRunes = 60

// step is a moment at which the value of a spec's line changes. The value "" means
// that no attempt is open.
type step struct {
	line  int // of the spec
	at    time.Time
	value string
}

// spec is a line of a timeline.
type spec struct{ session, name string }

// later returns the ends of attempts that were open at the end of a past range.
func (d *Datasource) later(ctx context.Context, f questions.Filter, changes []questions.Change, st state.State) (map[spec]questions.Attempt, error) {
	open := map[spec]time.Time{}
	for _, c := range changes {
		key := spec{c.Session, c.Spec}
		if c.Kind == event.SpecStarted {
			open[key] = c.At
		} else if questions.OutcomeOf(c.Kind) != "" {
			delete(open, key)
		}
	}
	if len(open) == 0 || !f.To.Before(st.At) {
		return nil, nil
	}
	f.From, f.Sessions, f.Specs, f.Limit = f.To, nil, nil, event.MaxPage
	for key, started := range open {
		if f.Sessions, f.Specs = append(f.Sessions, key.session), append(f.Specs, key.name); started.Before(f.From) {
			f.From = started
		}
	}
	attempts, err := d.questions.Durations(ctx, f)
	found := map[spec]questions.Attempt{}
	for _, a := range attempts {
		if key := (spec{a.Session, a.Spec}); a.Started.Equal(open[key]) {
			found[key] = a
		}
	}
	return found, err
}

// stepsOf turns the changes of one spec, oldest first, into steps. An attempt lasts
// from its start to the event that ended it, and has its outcome as value for all
// of this time. open is the outcome of the last attempt, if no change ends it.
func stepsOf(line int, changes []questions.Change, open questions.Outcome, st state.State) []step {
	var steps []step
	var outcome string        // of the attempt; "": none is open
	asked := map[int64]bool{} // requests without an answer
	show := func(at time.Time) {
		value := outcome
		if len(asked) > 0 {
			value = waiting
		}
		// Grafana's times are milliseconds: an attempt within one would not be
		// drawn.
		if n := len(steps); n > 0 && steps[n-1].value != "" && at.Sub(steps[n-1].at) < time.Millisecond {
			at = steps[n-1].at.Add(time.Millisecond)
		}
		steps = append(steps, step{line, at, value})
	}
	for i, c := range changes {
		switch c.Kind {
		case event.InterventionRequest:
			asked[c.ID] = true
		case event.InterventionAnswered:
			if c.Request == 0 {
				clear(asked)
			}
			delete(asked, c.Request)
		case event.SpecStarted:
			clear(asked)
			outcome = string(outcomeNow(st, open, c.Session, c.Spec, c.At))
			for _, next := range changes[i+1:] {
				if o := questions.OutcomeOf(next.Kind); o != "" {
					outcome = string(o)
					break
				}
			}
		default:
			clear(asked)
			outcome = ""
		}
		show(c.At)
	}
	return steps
}

// timelineFrame has a field time and one text field for each spec, with its value
// from that moment on. The value is repeated in every row, because the State
// timeline panel takes a missing value for a gap.
func timelineFrame(changes []questions.Change, specs int64, from time.Time, st state.State, later map[spec]questions.Attempt) *data.Frame {
	var lines []spec
	bySpec := map[spec][]questions.Change{}
	sessions := map[string]bool{}
	for _, c := range changes {
		key := spec{c.Session, c.Spec}
		if bySpec[key] == nil {
			lines = append(lines, key)
			sessions[c.Session] = true
		}
		bySpec[key] = append(bySpec[key], c)
	}
	var steps []step
	for line, key := range lines {
		steps = append(steps, stepsOf(line, bySpec[key], cmp.Or(later[key].Outcome, questions.Running), st)...)
	}
	for i := range steps {
		if steps[i].at.Before(from) {
			steps[i].at = from
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return a.at.Compare(b.at) })

	times := []time.Time{}
	values := make([][]*string, len(lines))
	current := make([]*string, len(lines))
	for i, s := range steps {
		if current[s.line] = nil; s.value != "" {
			current[s.line] = &s.value
		}
		if i+1 < len(steps) && steps[i+1].at.Equal(s.at) {
			continue // one row for all steps of a moment
		}
		times = append(times, s.at)
		for line := range lines {
			values[line] = append(values[line], current[line])
		}
	}
	skip := max(0, len(times)-maxTimelineRows)
	frame := typed(data.NewFrame("timeline", data.NewField("time", nil, times[skip:])), data.FrameTypeTable, 0, "")
	for line, key := range lines {
		name := cmp.Or(key.name, "(no spec)")
		if len(sessions) > 1 {
			name = label(key.session) + " / " + label(name)
		}
		field := data.NewField(key.name, data.Labels{"session": key.session}, values[line][skip:])
		field.Config = &data.FieldConfig{DisplayNameFromDS: label(name)}
		frame.Fields = append(frame.Fields, field)
	}
	noteCut(frame, len(lines), specs, "last changed", "specs")
	if skip > 0 {
		frame.AppendNotices(data.Notice{
			Severity: data.NoticeSeverityWarning,
			Text:     fmt.Sprintf("The latest %s of %s changes are drawn; choose a shorter range.", grouped(maxTimelineRows), grouped(int64(len(times)))),
		})
	}
	return frame
}

// label returns a name on one line. It leaves out the middle of a name that is too
// long, because names often differ at their end.
func label(name string) string {
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, name)
	runes := []rune(name)
	if len(runes) <= labelRunes {
		return name
	}
	half := labelRunes/2 - 1
	return string(runes[:half]) + "…" + string(runes[len(runes)-half:])
}
