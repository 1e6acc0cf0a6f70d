package datasource

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"

	"github.com/specwatch/specwatch/pkg/contract"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/state"
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
// Stream frames have the same fields.
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
	// Ids are numbers, and Grafana would draw them as values.
	frame.Fields[5].Config = &data.FieldConfig{Custom: map[string]any{"hideFrom": undrawn}}
	return frame
}

// undrawn is the setting of a field that no panel draws.
var undrawn = map[string]bool{"viz": true, "legend": true, "tooltip": true}

// severities are the values by which Grafana's logs panel colours log lines.
var severities = map[event.Kind]string{
	event.SpecStarted: "info", event.SpecCompleted: "info", event.SpecFailed: "error",
	event.InterventionRequest: "warning", event.InterventionAnswered: "info", event.TimeoutTriggered: "error", event.SessionHeartbeat: "debug",
	event.Other: "info",
}

// logFrame has the fields of Grafana's log-lines contract: timestamp, body,
// severity, id, labels; and session, because labels have no links.
func logFrame(events []event.Event) *data.Frame {
	n := len(events)
	at, body, severity, id, session := make([]time.Time, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	labels := make([]json.RawMessage, n)
	for i, e := range events {
		line := string(e.Kind)
		if e.Spec != "" {
			line += " " + e.Spec
		}
		if text := dataOf(e); string(text) != "{}" {
			line += " " + string(text)
		}
		at[i], body[i], severity[i], id[i] = e.At, line, severities[e.Kind.Counted()], strconv.FormatInt(e.ID, 10)
		session[i] = e.Session
		labels[i], _ = json.Marshal(map[string]string{"kind": string(e.Kind), "session": e.Session, "spec": e.Spec}) // texts cause no error
	}
	return typed(data.NewFrame("logs",
		data.NewField("timestamp", nil, at), data.NewField("body", nil, body), data.NewField("severity", nil, severity),
		data.NewField("id", nil, id), data.NewField("labels", nil, labels), data.NewField("session", nil, session),
	), data.FrameTypeLogLines, 0, data.VisTypeLogs)
}

const usd = "currencyUSD"

// usageFrame is a table of the cost and the tokens of specs, with the time of the
// last event that reports them.
func usageFrame(used []state.Used, specs int64) *data.Frame {
	frame := typed(data.NewFrame("usage",
		data.NewField("session", nil, []string{}), data.NewField("spec", nil, []string{}), data.NewField("cost", nil, []float64{}),
		data.NewField("input tokens", nil, []int64{}), data.NewField("cached input tokens", nil, []int64{}), data.NewField("output tokens", nil, []int64{}),
		data.NewField("last used", nil, []time.Time{}),
	), data.FrameTypeTable, 0, data.VisTypeTable)
	frame.Fields[2].Config = &data.FieldConfig{Unit: usd}
	for _, u := range used {
		frame.AppendRow(u.Session, u.Spec, u.Usage.Cost.USD(), u.Usage.InputTokens, u.Usage.CachedInputTokens, u.Usage.OutputTokens, u.At)
	}
	noteCut(frame, len(used), specs, "most expensive", "specs")
	return frame
}

// usageOverFrame has a field time, with a row for every bucket of the range,
// and the fields cost, input tokens and output tokens.
func usageOverFrame(used []state.Used, f questions.Filter, step time.Duration) *data.Frame {
	buckets := bucketsOf(f, step)
	cost, input, output := make([]float64, len(buckets.at)), make([]float64, len(buckets.at)), make([]float64, len(buckets.at))
	for _, u := range used {
		if i, within := buckets.index(u.At); within {
			cost[i], input[i], output[i] = u.Usage.Cost.USD(), float64(u.Usage.InputTokens), float64(u.Usage.OutputTokens)
		}
	}
	frame := typed(data.NewFrame("usage over time", data.NewField("time", nil, buckets.at),
		data.NewField("cost", nil, cost), data.NewField("input tokens", nil, input), data.NewField("output tokens", nil, output),
	), data.FrameTypeTimeSeriesWide, 1, data.VisTypeGraph)
	frame.Fields[1].Config = &data.FieldConfig{Unit: usd}
	return frame
}

// buckets are the intervals of a time series; at has the beginning of each.
type buckets struct {
	at    []time.Time
	width int64 // ms
	first int64
}

func bucketsOf(f questions.Filter, step time.Duration) buckets {
	width := step.Milliseconds()
	first, last := f.From.UnixMilli()/width, f.To.UnixMilli()/width
	b := buckets{make([]time.Time, last-first+1), width, first}
	for i := range b.at {
		b.at[i] = time.UnixMilli((first + int64(i)) * width).UTC()
	}
	return b
}

// index returns the index of the bucket that begins at this time. It rounds,
// because the database computes these times as floats.
func (b buckets) index(at time.Time) (i int64, within bool) {
	i = int64(math.Round(float64(at.UnixMicro())/1000/float64(b.width))) - b.first
	return i, i >= 0 && i < int64(len(b.at))
}

// countFrame has a field time and one number field for each kind that was
// asked for. Every bucket of the range has a row: without events the number is 0.
func countFrame(counts []questions.Count, f questions.Filter, step time.Duration) *data.Frame {
	buckets := bucketsOf(f, step)
	kinds := f.Kinds
	if len(kinds) == 0 {
		kinds = append(slices.Clone(event.Kinds), event.Other)
	}
	frame := data.NewFrame("counts", data.NewField("time", nil, buckets.at))
	values := map[event.Kind][]float64{}
	for _, kind := range kinds {
		values[kind] = make([]float64, len(buckets.at))
	}
	for _, c := range counts {
		row := values[c.Kind]
		if row == nil {
			row = values[c.Kind.Counted()]
		}
		if i, within := buckets.index(c.At); within && row != nil {
			row[i] += float64(c.N)
		}
	}
	for _, kind := range kinds {
		frame.Fields = append(frame.Fields, data.NewField("events", data.Labels{"kind": string(kind)}, values[kind]))
	}
	return typed(frame, data.FrameTypeTimeSeriesWide, 1, data.VisTypeGraph)
}

// levelFrames sums the fields of a countFrame by the severity of their kinds, and
// returns a frame for each severity. Explore draws them above the log lines, in
// the colours of the lines.
func levelFrames(counts *data.Frame) data.Frames {
	var levels []string
	sums := map[string][]float64{}
	for _, field := range counts.Fields[1:] {
		level := severities[event.Kind(field.Labels["kind"]).Counted()]
		if sums[level] == nil {
			sums[level] = make([]float64, field.Len())
			levels = append(levels, level)
		}
		for i := range field.Len() {
			sums[level][i] += field.At(i).(float64)
		}
	}
	var frames data.Frames
	for _, level := range levels {
		frames = append(frames, typed(data.NewFrame(level, counts.Fields[0], data.NewField("events", data.Labels{"level": level}, sums[level])),
			data.FrameTypeTimeSeriesWide, 1, data.VisTypeGraph))
	}
	return frames
}

// outcomeFrame is one row: started, completed, failed, timeout, usage limit.
func outcomeFrame(o questions.Outcomes) *data.Frame {
	return typed(data.NewFrame("outcomes",
		data.NewField("started", nil, []float64{float64(o.Started)}), data.NewField("completed", nil, []float64{float64(o.Completed)}),
		data.NewField("failed", nil, []float64{float64(o.Failed)}), data.NewField("timeout", nil, []float64{float64(o.TimedOut)}),
		data.NewField("usage limit", nil, []float64{float64(o.Limited)}),
	), data.FrameTypeNumericWide, 1, "")
}

// durationFrame has the fields started, ended, session, spec, outcome and
// duration (seconds).
func durationFrame(attempts []questions.Attempt) *data.Frame {
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

// around is for how long before and after the time of a row the linked dashboard
// shows its session.
const around = 30 * time.Minute

// link adds to the fields of a frame that name sessions a link to the dashboard of
// the session, around the time of the row.
func link(frame *data.Frame, uid string) {
	for _, name := range []string{"session", "last session", "silent session"} {
		field, _ := frame.FieldByName(name)
		if field == nil {
			continue
		}
		address := "/d/specwatch-session?var-datasource=" + url.QueryEscape(uid) + "&var-session=${__value.raw:percentencode}"
		if bound(frame) {
			address += `&from=${__data.fields["from"].numeric}&to=${__data.fields["to"].numeric}`
		}
		if field.Config == nil {
			field.Config = &data.FieldConfig{}
		}
		field.Config.Links = []data.DataLink{{Title: "This session", URL: address}}
	}
}

// bound adds to a frame the fields from and to, in milliseconds since 1970, for its
// links, which cannot calculate. It reports whether the frame has these fields. The
// time of a row is in the first field that has a time in each row.
func bound(frame *data.Frame) bool {
	if from, _ := frame.FieldByName("from"); from != nil {
		return true
	}
	at := slices.IndexFunc(frame.Fields, func(f *data.Field) bool { return f.Type() == data.FieldTypeTime })
	if at < 0 {
		return false
	}
	n := frame.Fields[at].Len()
	from, to := make([]int64, n), make([]int64, n)
	for i := range n {
		moment := frame.Fields[at].At(i).(time.Time)
		from[i], to[i] = moment.Add(-around).UnixMilli(), moment.Add(around).UnixMilli()
	}
	hide(frame, data.NewField("from", nil, from), data.NewField("to", nil, to))
	return true
}

// hide adds fields to a frame that tables do not show and graphs do not draw.
func hide(frame *data.Frame, fields ...*data.Field) {
	for _, field := range fields {
		field.Config = &data.FieldConfig{Custom: map[string]any{"hidden": true, "hideFrom": undrawn}}
	}
	frame.Fields = append(frame.Fields, fields...)
}

// column adds a field to a frame, with one value of each row.
func column[R, T any](frame *data.Frame, name, unit string, rows []R, value func(R) T) {
	values := make([]T, len(rows))
	for i, row := range rows {
		values[i] = value(row)
	}
	field := data.NewField(name, nil, values)
	if unit != "" {
		field.Config = &data.FieldConfig{Unit: unit}
	}
	frame.Fields = append(frame.Fields, field)
}

// nightFrame is a table of nights. `from` and `to` are their bounds in
// milliseconds since 1970: the address of a dashboard takes its range so.
func nightFrame(nights []questions.Night) *data.Frame {
	frame := typed(data.NewFrame("nights"), data.FrameTypeTable, 0, data.VisTypeTable)
	column(frame, "night", "", nights, func(n questions.Night) time.Time { return n.From })
	column(frame, "sessions", "", nights, func(n questions.Night) int64 { return n.Sessions })
	column(frame, "started", "", nights, func(n questions.Night) int64 { return n.Started })
	column(frame, "completed", "", nights, func(n questions.Night) int64 { return n.Completed })
	column(frame, "failed", "", nights, func(n questions.Night) int64 { return n.Failed })
	column(frame, "timed out", "", nights, func(n questions.Night) int64 { return n.TimedOut })
	column(frame, "usage limits", "", nights, func(n questions.Night) int64 { return n.Limited })
	column(frame, "asked", "", nights, func(n questions.Night) int64 { return n.Asked })
	column(frame, "answered", "", nights, func(n questions.Night) int64 { return n.Answered })
	column(frame, "answer time", "s", nights, func(n questions.Night) *float64 { return n.AnswerTime })
	column(frame, "longest silence", "s", nights, func(n questions.Night) *float64 { return n.Silence })
	column(frame, "silent session", "", nights, func(n questions.Night) *string { return n.SilentSession })
	column(frame, "silent until", "", nights, func(n questions.Night) *time.Time { return n.SilentUntil })
	column(frame, "cost", usd, nights, func(n questions.Night) float64 { return n.Usage.Cost.USD() })
	column(frame, "tokens", "", nights, func(n questions.Night) int64 { return n.Usage.InputTokens + n.Usage.OutputTokens })
	column(frame, "from", "", nights, func(n questions.Night) int64 { return n.From.UnixMilli() })
	column(frame, "to", "", nights, func(n questions.Night) int64 { return n.To.UnixMilli() })
	return frame
}

// specFrame is a table of specs over all their attempts.
func specFrame(specs []questions.SpecHistory) *data.Frame {
	frame := typed(data.NewFrame("specs"), data.FrameTypeTable, 0, data.VisTypeTable)
	column(frame, "spec", "", specs, func(h questions.SpecHistory) string { return h.Spec })
	column(frame, "attempts", "", specs, func(h questions.SpecHistory) int64 { return h.Attempts })
	column(frame, "completed", "", specs, func(h questions.SpecHistory) int64 { return h.Completed })
	column(frame, "failed", "", specs, func(h questions.SpecHistory) int64 { return h.Failed })
	column(frame, "timed out", "", specs, func(h questions.SpecHistory) int64 { return h.TimedOut })
	column(frame, "usage limits", "", specs, func(h questions.SpecHistory) int64 { return h.Limited })
	column(frame, "changes", "", specs, func(h questions.SpecHistory) int64 { return h.Changes })
	column(frame, "typical", "s", specs, func(h questions.SpecHistory) *float64 { return h.Typical })
	column(frame, "slower", "", specs, func(h questions.SpecHistory) *float64 { return h.Slower })
	column(frame, "time", "s", specs, func(h questions.SpecHistory) float64 { return h.Seconds })
	column(frame, "last outcome", "", specs, func(h questions.SpecHistory) string { return string(h.Last) })
	column(frame, "last session", "", specs, func(h questions.SpecHistory) string { return h.LastSession })
	column(frame, "last started", "", specs, func(h questions.SpecHistory) time.Time { return h.LastStarted })
	return frame
}

// requestFrame is a table of requests for a person and how each ended.
func requestFrame(requests []questions.Asking) *data.Frame {
	frame := typed(data.NewFrame("requests"), data.FrameTypeTable, 0, data.VisTypeTable)
	column(frame, "time", "", requests, func(a questions.Asking) time.Time { return a.At })
	column(frame, "session", "", requests, func(a questions.Asking) string { return a.Session })
	column(frame, "spec", "", requests, func(a questions.Asking) string { return a.Spec })
	column(frame, "question", "", requests, func(a questions.Asking) string { return a.Question })
	column(frame, "ending", "", requests, func(a questions.Asking) string { return string(a.End) })
	column(frame, "answer", "", requests, func(a questions.Asking) string { return a.Answer })
	column(frame, "waited", "s", requests, func(a questions.Asking) *float64 {
		if a.Ended == nil {
			return nil
		}
		waited := max(0, a.Ended.Sub(a.At).Seconds())
		return &waited
	})
	column(frame, "id", "", requests, func(a questions.Asking) int64 { return a.ID })
	return frame
}

// sessionFrame is a table of sessions as they are now. A spec that has not ended
// is counted as open or as silent.
func sessionFrame(st state.State) *data.Frame {
	frame := typed(data.NewFrame("sessions",
		data.NewField("session", nil, []string{}), data.NewField("status", nil, []string{}), data.NewField("last heartbeat", nil, []*time.Time{}),
		data.NewField("heartbeat age", nil, []*float64{}), data.NewField("open", nil, []int64{}), data.NewField("silent", nil, []int64{}),
		data.NewField("completed", nil, []int64{}), data.NewField("failed", nil, []int64{}), data.NewField("timed out", nil, []int64{}),
		data.NewField("usage limits", nil, []int64{}), data.NewField("waiting", nil, []int64{}),
		data.NewField("failures in a row", nil, []int64{}), data.NewField("last seen", nil, []time.Time{}),
	), data.FrameTypeTable, 0, data.VisTypeTable)
	frame.Fields[3].Config = &data.FieldConfig{Unit: "s"}
	for _, s := range st.Sessions {
		frame.AppendRow(s.Session, string(s.Status), s.LastHeartbeat, heartbeatAge(st, s),
			int64(s.Specs.Open), int64(s.Specs.Silent), int64(s.Specs.Completed), int64(s.Specs.Failed), int64(s.Specs.TimedOut),
			int64(s.Specs.Limited), int64(s.Waiting), int64(s.FailureStreak), s.LastSeen)
	}
	noteCut(frame, len(st.Sessions), int64(st.SessionsTotal), "most recently active", "sessions")
	return frame
}

// overviewFrame has one row: sums over all sessions, listed by sessionFrame or not.
func overviewFrame(st state.State) *data.Frame {
	frame := typed(data.NewFrame("overview"), data.FrameTypeNumericWide, 1, "")
	for _, column := range []struct {
		name  string
		value int
	}{
		{"sessions", st.SessionsTotal}, {"running", st.SessionsRunning}, {"open", st.Specs.Open}, {"silent", st.Specs.Silent},
		{"completed", st.Specs.Completed}, {"failed", st.Specs.Failed}, {"timed out", st.Specs.TimedOut}, {"usage limits", st.Specs.Limited},
		{"waiting", st.WaitingTotal}, {"failures in a row", st.FailureStreak},
	} {
		frame.Fields = append(frame.Fields, data.NewField(column.name, nil, []float64{float64(column.value)}))
	}
	return frame
}

// noteCut adds a notice to a frame that does not have all rows.
func noteCut(frame *data.Frame, shown int, total int64, which, what string) {
	if int64(shown) < total {
		frame.AppendNotices(data.Notice{
			Severity: data.NoticeSeverityWarning,
			Text:     fmt.Sprintf("The %s %s of %s %s are shown. Narrow the range or the filters, or raise the limit of the query where it has one.", which, grouped(int64(shown)), grouped(total), what),
		})
	}
}

// grouped prints a number with commas between the thousands: 1,000,000.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func heartbeatAge(st state.State, s state.Session) *float64 {
	if s.LastHeartbeat == nil {
		return nil
	}
	// The clock of a writer may be ahead of that of the database.
	age := max(0, st.At.Sub(*s.LastHeartbeat).Seconds())
	return &age
}

// number describes the field of a frame that holds a number of conditions.
type number struct {
	name, unit string
	of         func(questions.Condition) float64
}

var (
	age      = number{"age", "s", func(c questions.Condition) float64 { return c.Age.Seconds() }}
	failures = number{"failures", "", func(c questions.Condition) float64 { return float64(c.Events) }}
	// In milliseconds since 1970: the address of a dashboard takes its range so.
	since = number{"since", "dateTimeAsIso", func(c questions.Condition) float64 { return float64(c.Since.UnixMilli()) }}
)

// conditionFrame has the fields session, spec and the number. Grafana's
// expressions read each row as a number with the labels session and spec. No
// rows means that the condition does not hold anywhere. It has no time field, so
// Grafana does not take it for a time series without values.
func conditionFrame(name contract.QueryType, n number, found []questions.Condition) *data.Frame {
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
