package datasource

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"

	"github.com/specwatch/specwatch/pkg/contract"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

func typed(frame *data.Frame, kind data.FrameType, minor uint, look data.VisType) *data.Frame {
	frame.Meta = &data.FrameMeta{Type: kind, TypeVersion: data.FrameTypeVersion{0, minor}, PreferredVisualization: look}
	return frame
}

func dataOf(e event.Event) json.RawMessage {
	if len(e.Data) == 0 {
		return json.RawMessage("{}")
	}
	return e.Data
}

// eventFrame has the fields time, kind, session, spec, data (JSON) and id.
// Stream frames are the same, so one reader does for both.
func eventFrame(events []event.Event) *data.Frame {
	n := len(events)
	at, kind, session, spec := make([]time.Time, n), make([]string, n), make([]string, n), make([]string, n)
	texts, id := make([]json.RawMessage, n), make([]int64, n)
	for i, e := range events {
		at[i], kind[i], session[i], spec[i], texts[i], id[i] = e.At, string(e.Kind), e.Session, e.Spec, dataOf(e), e.ID
	}
	frame := typed(data.NewFrame("events",
		data.NewField("time", nil, at), data.NewField("kind", nil, kind), data.NewField("session", nil, session),
		data.NewField("spec", nil, spec), data.NewField("data", nil, texts), data.NewField("id", nil, id),
	), data.FrameTypeTable, 0, data.VisTypeTable)
	frame.Meta.UniqueRowIDFields = []int{5}
	return frame
}

// severities as the logs panel colours them.
var severities = map[event.Kind]string{
	event.SpecStarted: "info", event.SpecCompleted: "info", event.SpecFailed: "error",
	event.InterventionRequest: "warning", event.TimeoutTriggered: "error", event.SessionHeartbeat: "debug",
}

// logFrame has the fields of Grafana's log-lines contract: timestamp, body,
// severity, id, labels.
func logFrame(events []event.Event) *data.Frame {
	n := len(events)
	at, body, severity, id, labels := make([]time.Time, n), make([]string, n), make([]string, n), make([]string, n), make([]json.RawMessage, n)
	for i, e := range events {
		line := string(e.Kind)
		if e.Spec != "" {
			line += " " + e.Spec
		}
		if text := dataOf(e); string(text) != "{}" {
			line += " " + string(text)
		}
		at[i], body[i], severity[i], id[i] = e.At, line, severities[e.Kind], strconv.FormatInt(e.ID, 10)
		labels[i], _ = json.Marshal(map[string]string{"kind": string(e.Kind), "session": e.Session, "spec": e.Spec}) // texts
	}
	return typed(data.NewFrame("logs",
		data.NewField("timestamp", nil, at), data.NewField("body", nil, body), data.NewField("severity", nil, severity),
		data.NewField("id", nil, id), data.NewField("labels", nil, labels),
	), data.FrameTypeLogLines, 0, data.VisTypeLogs)
}

// countFrame has a field time and one number field for each kind that was
// asked for. Every bucket of the range has its row: no event is 0, not a gap.
func countFrame(counts []store.Count, f store.Filter, step time.Duration) *data.Frame {
	width := step.Milliseconds()
	number := func(at time.Time) int64 { // of the bucket; the database's is a float
		return int64(math.Round(float64(at.UnixMicro()) / 1000 / float64(width)))
	}
	first, last := f.From.UnixMilli()/width, f.To.UnixMilli()/width
	kinds := f.Kinds
	if len(kinds) == 0 {
		kinds = event.Kinds
	}
	at := make([]time.Time, last-first+1)
	for i := range at {
		at[i] = time.UnixMilli((first + int64(i)) * width).UTC()
	}
	frame := data.NewFrame("counts", data.NewField("time", nil, at))
	values := map[event.Kind][]float64{}
	for _, kind := range kinds {
		values[kind] = make([]float64, len(at))
	}
	for _, c := range counts {
		if i := number(c.At) - first; i >= 0 && i < int64(len(at)) && values[c.Kind] != nil {
			values[c.Kind][i] = float64(c.N)
		}
	}
	for _, kind := range kinds {
		frame.Fields = append(frame.Fields, data.NewField("events", data.Labels{"kind": string(kind)}, values[kind]))
	}
	return typed(frame, data.FrameTypeTimeSeriesWide, 1, data.VisTypeGraph)
}

// outcomeFrame is one row: started, completed, failed, timeout.
func outcomeFrame(o store.Outcomes) *data.Frame {
	return typed(data.NewFrame("outcomes",
		data.NewField("started", nil, []float64{float64(o.Started)}), data.NewField("completed", nil, []float64{float64(o.Completed)}),
		data.NewField("failed", nil, []float64{float64(o.Failed)}), data.NewField("timeout", nil, []float64{float64(o.TimedOut)}),
	), data.FrameTypeNumericWide, 1, "")
}

// durationFrame has the fields started, ended, session, spec, outcome and
// duration (seconds).
func durationFrame(attempts []store.Attempt) *data.Frame {
	n := len(attempts)
	started, ended, session, spec := make([]time.Time, n), make([]*time.Time, n), make([]string, n), make([]string, n)
	outcome, duration := make([]string, n), make([]*float64, n)
	for i, a := range attempts {
		started[i], ended[i], session[i], spec[i], outcome[i] = a.Started, a.Ended, a.Session, a.Spec, string(a.Outcome)
		if a.Ended != nil {
			seconds := a.Ended.Sub(a.Started).Seconds()
			duration[i] = &seconds
		}
	}
	frame := typed(data.NewFrame("durations",
		data.NewField("started", nil, started), data.NewField("ended", nil, ended), data.NewField("session", nil, session),
		data.NewField("spec", nil, spec), data.NewField("outcome", nil, outcome), data.NewField("duration", nil, duration),
	), data.FrameTypeTable, 0, data.VisTypeTable)
	frame.Fields[5].Config = &data.FieldConfig{Unit: "s"}
	return frame
}

// sessionFrame is a table of the sessions as they are now.
func sessionFrame(st state.State, only []string) *data.Frame {
	frame := typed(data.NewFrame("sessions",
		data.NewField("session", nil, []string{}), data.NewField("status", nil, []string{}), data.NewField("last heartbeat", nil, []*time.Time{}),
		data.NewField("heartbeat age", nil, []*float64{}), data.NewField("open", nil, []int64{}), data.NewField("completed", nil, []int64{}),
		data.NewField("failed", nil, []int64{}), data.NewField("timed out", nil, []int64{}), data.NewField("waiting", nil, []int64{}),
		data.NewField("failures in a row", nil, []int64{}),
	), data.FrameTypeTable, 0, data.VisTypeTable)
	frame.Fields[3].Config = &data.FieldConfig{Unit: "s"}
	for _, s := range st.Sessions {
		if len(only) > 0 && !slices.Contains(only, s.Session) {
			continue
		}
		frame.AppendRow(s.Session, string(s.Status), s.LastHeartbeat, heartbeatAge(st, s),
			int64(s.Specs.Open), int64(s.Specs.Completed), int64(s.Specs.Failed), int64(s.Specs.TimedOut), int64(s.Waiting),
			int64(s.FailureStreak))
	}
	return frame
}

func heartbeatAge(st state.State, s state.Session) *float64 {
	if s.LastHeartbeat == nil {
		return nil
	}
	// A writer's clock may run ahead a little.
	age := max(0, st.At.Sub(*s.LastHeartbeat).Seconds())
	return &age
}

// number is one number of a condition, as a field of a frame.
type number struct {
	name, unit string
	of         func(store.Condition) float64
}

var (
	age      = number{"age", "s", func(c store.Condition) float64 { return c.Age.Seconds() }}
	failures = number{"failures", "", func(c store.Condition) float64 { return float64(c.Events) }}
	// In milliseconds since 1970, as a dashboard's address wants its range.
	since = number{"since", "dateTimeAsIso", func(c store.Condition) float64 { return float64(c.Since.UnixMilli()) }}
)

// conditionFrame has the fields session, spec and the number. Grafana's
// expressions make of each row a number with the labels session and spec. A
// frame without rows says that all is well; it has no time in it and is no
// series with a gap.
func conditionFrame(name contract.QueryType, n number, found []store.Condition) *data.Frame {
	session, spec, value := make([]string, len(found)), make([]string, len(found)), make([]float64, len(found))
	for i, c := range found {
		session[i], spec[i], value[i] = c.Session, c.Spec, n.of(c)
	}
	frame := typed(data.NewFrame(string(name),
		data.NewField("session", nil, session), data.NewField("spec", nil, spec), data.NewField(n.name, nil, value),
	), data.FrameTypeNumericLong, 1, "")
	frame.Fields[2].Config = &data.FieldConfig{Unit: n.unit}
	return frame
}

// deliveryFrame is one row: connected (1 or 0), lag (seconds), subscribers,
// and since the data source started: reads, wake-ups, reconnects.
func deliveryFrame(s feed.Stats) *data.Frame {
	connected := 0.0
	if s.Connected {
		connected = 1
	}
	frame := typed(data.NewFrame("delivery",
		data.NewField("connected", nil, []float64{connected}), data.NewField("lag", nil, []float64{s.Lag.Seconds()}),
		data.NewField("subscribers", nil, []float64{float64(s.Subscribers)}), data.NewField("reads", nil, []float64{float64(s.Reads)}),
		data.NewField("wake-ups", nil, []float64{float64(s.Wakeups)}), data.NewField("reconnects", nil, []float64{float64(s.Reconnects)}),
	), data.FrameTypeNumericWide, 1, "")
	frame.Fields[1].Config = &data.FieldConfig{Unit: "s"}
	return frame
}

// timelineFrame has a field time and one text field for each spec, with the
// state that the spec is in from that moment on. States are repeated in every
// row, because the State timeline panel may take a missing one for a gap.
func timelineFrame(changes []store.Change) *data.Frame {
	type spec struct{ session, name string }
	var specs []spec
	index := map[spec]int{}
	sessions := map[string]bool{}
	for _, c := range changes {
		key := spec{c.Session, c.Spec}
		if _, known := index[key]; !known {
			index[key] = len(specs)
			specs = append(specs, key)
			sessions[c.Session] = true
		}
	}
	var times []time.Time
	values := make([][]*string, len(specs))
	current := make([]*string, len(specs))
	for i, c := range changes {
		outcome := string(c.Outcome)
		current[index[spec{c.Session, c.Spec}]] = &outcome
		if i+1 < len(changes) && changes[i+1].At.Equal(c.At) {
			continue // one row for all changes of a moment
		}
		times = append(times, c.At)
		for j := range specs {
			values[j] = append(values[j], current[j])
		}
	}
	skip := max(0, len(times)-maxTimelineRows)
	frame := typed(data.NewFrame("timeline", data.NewField("time", nil, append([]time.Time{}, times[skip:]...))), data.FrameTypeTable, 0, "")
	for j, s := range specs {
		field := data.NewField(s.name, data.Labels{"session": s.session}, values[j][skip:])
		name := s.name
		if name == "" {
			name = "(no spec)"
		}
		if len(sessions) > 1 {
			name = s.session + " / " + name
		}
		field.Config = &data.FieldConfig{DisplayNameFromDS: name}
		frame.Fields = append(frame.Fields, field)
	}
	if skip > 0 {
		frame.AppendNotices(data.Notice{Severity: data.NoticeSeverityWarning, Text: "Only the latest changes of this range are drawn; choose a shorter one."})
	}
	return frame
}
