// Package event defines what Specwatch stores: one Event for each thing that
// happened in an unattended loop. It is the single definition of kinds and
// limits; SQL, TypeScript and the documents are generated from it or checked
// against it. It does not depend on PostgreSQL, HTTP or Grafana.
package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind says what happened; Meaning explains each.
type Kind string

const (
	SpecStarted          Kind = "spec_started"
	SpecCompleted        Kind = "spec_completed"
	SpecFailed           Kind = "spec_failed"
	InterventionRequest  Kind = "intervention_request"
	InterventionAnswered Kind = "intervention_answered"
	TimeoutTriggered     Kind = "timeout_triggered"
	SessionHeartbeat     Kind = "session_heartbeat"
)

// Other is the kind under which custom kinds are counted. No event has it.
const Other Kind = "other"

// LimitReason is the `reason` in the data of a spec_failed event that was
// caused by a usage limit of the agent. `resetsAt` in the data is when the
// limit is lifted, if that is known. Such an event does not count as a failure
// of the spec.
const LimitReason = "usage limit"

// Kinds lists the kinds that are not custom, in display order.
var Kinds = []Kind{SpecStarted, SpecCompleted, SpecFailed, InterventionRequest, InterventionAnswered, TimeoutTriggered, SessionHeartbeat}

// Known reports whether k is one of Kinds.
func (k Kind) Known() bool { return slices.Contains(Kinds, k) }

// Custom reports whether k is a kind of the writer's own: a name with a dot,
// such as claude.cost. Such events are stored, shown and counted as Other. They
// are activity of their session, and start or end nothing.
func (k Kind) Custom() bool { return strings.Contains(string(k), ".") }

// Counted returns the kind under which k is counted: k if it is known, else
// Other. A table may hold any number of custom kinds, and the number of
// counters must be bounded.
func (k Kind) Counted() Kind {
	if k.Known() {
		return k
	}
	return Other
}

// Meaning explains the kind in a few words.
func (k Kind) Meaning() string {
	switch k {
	case SpecStarted:
		return "work on a spec starts"
	case SpecCompleted:
		return "the spec ended successfully"
	case SpecFailed:
		return "the spec failed"
	case InterventionRequest:
		return "the loop asks a person and waits for the answer"
	case InterventionAnswered:
		return "a person answered or dismissed a request"
	case TimeoutTriggered:
		return "the spec ran out of time and was ended"
	case SessionHeartbeat:
		return "the loop is alive"
	}
	return "a kind of the writer's own: it shows that its session is alive and its spec at work, and changes nothing else of the state"
}

// EndsSpec reports whether an event of this kind closes its spec.
func (k Kind) EndsSpec() bool {
	return k == SpecCompleted || k == SpecFailed || k == TimeoutTriggered
}

// Limits of one event, one request and one answer.
const (
	MaxNameBytes   = 512       // kind, session, spec and key, each, in bytes of UTF-8
	MaxDataBytes   = 1_000_000 // data, in bytes of JSON text
	MaxDepth       = 500       // levels of data: JSON parsers have limits, and one event must not break a page
	MaxAhead       = time.Hour // how far `at` may lie ahead of the database's clock
	DefaultPage    = 500       // events in one answer when the caller names no limit
	MaxPage        = 5_000     // events in one answer, at most
	MaxBatch       = 10_000    // events in one POST
	MaxBatchBytes  = 16 << 20  // bytes in one POST
	DefaultHistory = 5 * time.Minute
)

// Earliest is the lowest allowed value of `at`.
var Earliest = time.Unix(0, 0).UTC()

// TimeLayout is the format of `at`: UTC and always nine fractional digits, so
// that texts sort in time order.
const TimeLayout = "2006-01-02T15:04:05.000000000Z"

// Event is one row: something that happened. It is never changed.
type Event struct {
	ID      int64           // given by the database
	Kind    Kind            //
	At      time.Time       // zero: the database's clock when the row is written
	Session string          // one run of the loop
	Spec    string          // one unit of work inside a session; may be empty
	Data    json.RawMessage // any JSON; empty means {}
	Key     string          // idempotency: the same key is stored once; never read back
	Stored  time.Time       // when the database stored it, by its own clock; zero: not known. Not printed
}

// MarshalJSON returns the event as readers receive it. Key, which only writers
// use, and Stored are left out.
func (e Event) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

// AppendJSON appends what MarshalJSON returns. It never fails, so that no row
// prevents the delivery of the events around it. Data must be what Readable
// returned, or have passed Validate.
func (e *Event) AppendJSON(b []byte) []byte {
	b = append(b, `{"id":`...)
	b = strconv.AppendInt(b, e.ID, 10)
	b = append(b, `,"kind":`...)
	b = appendString(b, string(e.Kind))
	b = append(b, `,"at":"`...)
	b = e.At.UTC().AppendFormat(b, TimeLayout)
	b = append(b, `","session":`...)
	b = appendString(b, e.Session)
	b = append(b, `,"spec":`...)
	b = appendString(b, e.Spec)
	b = append(b, `,"data":`...)
	return append(appendData(b, e.Data), '}')
}

// appendData appends data without the white space that PostgreSQL writes
// between its parts.
func appendData(b []byte, data json.RawMessage) []byte {
	switch len(data) {
	case 0:
		return append(b, "{}"...)
	case 1, 2: // no space in it
		return append(b, data...)
	}
	compact := bytes.NewBuffer(b)
	if json.Compact(compact, data) != nil {
		return append(b, data...)
	}
	return compact.Bytes()
}

// List is events that are written as one JSON array.
type List []Event

// MarshalJSON returns an array, also of no events.
func (l List) MarshalJSON() ([]byte, error) { return l.AppendJSON(nil), nil }

// AppendJSON appends what MarshalJSON returns. json.Marshal takes more than
// twice as long, because it reads the result of MarshalJSON again.
func (l List) AppendJSON(b []byte) []byte {
	const fixed = 160 // bytes of an event beside its texts
	size := 2
	for i := range l {
		size += fixed + len(l[i].Session) + len(l[i].Spec) + len(l[i].Data)
	}
	b = append(slices.Grow(b, size), '[')
	for i := range l {
		if i > 0 {
			b = append(b, ',')
		}
		b = l[i].AppendJSON(b)
	}
	return append(b, ']')
}

// appendString appends a JSON string. Invalid UTF-8 becomes U+FFFD.
func appendString(b []byte, text string) []byte {
	plain := true
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			plain = false
			break
		}
	}
	if plain {
		b = append(b, '"')
		b = append(b, text...)
		return append(b, '"')
	}
	quoted, _ := json.Marshal(text) // a string cannot fail
	return append(b, quoted...)
}

// Readable returns data, as PostgreSQL prints it, as JSON that every reader can
// parse. Data that nests deeper than MaxDepth is replaced by an object that
// says so. Invalid UTF-8, which a database with the encoding SQL_ASCII may
// hold, becomes U+FFFD.
func Readable(data string) json.RawMessage {
	if !utf8.ValidString(data) {
		data = strings.ToValidUTF8(data, "\uFFFD")
	}
	if tooDeep(data) {
		return fmt.Appendf(nil, `{"unreadable":"the data nests deeper than %d levels","bytes":%d}`, MaxDepth, len(data))
	}
	return json.RawMessage(data)
}

// tooDeep reports whether JSON text nests deeper than MaxDepth.
func tooDeep(text string) bool {
	if len(text) < 2*MaxDepth {
		return false // each level takes two bytes
	}
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > MaxDepth {
				return true
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return false
}

// Receipt is the answer to a write.
type Receipt struct {
	IDs   []int64 `json:"ids"`   // in the order of the events
	Known int     `json:"known"` // how many of them were stored before, under the same key
}

// FieldError says which part of an input is wrong and what to do about it.
type FieldError struct {
	Field  string // as the writer spelt it: "kind", "session", …; empty: the whole input
	Detail string // for people
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return e.Detail
	}
	return e.Field + ": " + e.Detail
}

func fieldErrorf(field, format string, args ...any) *FieldError {
	return &FieldError{Field: field, Detail: fmt.Sprintf(format, args...)}
}

// Decode reads one event as a writer sends it. Every error is a *FieldError.
//
// It is stricter than encoding/json, which silently replaces invalid UTF-8,
// ignores unknown fields and matches field names without regard to case.
func Decode(raw []byte) (Event, error) {
	var e Event
	if !utf8.Valid(raw) {
		return e, fieldErrorf("", "the event is not valid UTF-8")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return e, fieldErrorf("", "an event is one JSON object such as {\"kind\":\"spec_started\",\"session\":\"night\",\"spec\":\"login\"}: %s", err)
	}
	if fields == nil {
		return e, fieldErrorf("", "an event is a JSON object, not null")
	}
	var at *string
	texts := map[string]any{"kind": &e.Kind, "session": &e.Session, "spec": &e.Spec, "key": &e.Key, "at": &at}
	for name, value := range fields {
		switch target, isText := texts[name]; {
		case isText:
			if err := json.Unmarshal(value, target); err != nil {
				return e, fieldErrorf(name, "must be a string")
			}
		case name == "data":
			e.Data = value
		case name == "id":
			return e, fieldErrorf("id", "is given by the database; leave it out")
		default:
			return e, fieldErrorf(clip(name), "is not a field of an event; the fields are kind, at, session, spec, data and key")
		}
	}
	if at != nil {
		t, err := ParseTime(*at)
		if err != nil {
			return e, fieldErrorf("at", "%s", err)
		}
		e.At = t
	}
	return e, e.Validate(time.Now())
}

// ParseTime reads an RFC 3339 time; the zone is required.
func ParseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, fmt.Errorf("%q is not an RFC 3339 time with its zone, such as 2026-11-24T05:14:04.5Z", clip(text))
	}
	return t.UTC(), nil
}

// Validate checks the event before it is written; now is the time that `at` is
// compared with. Every error is a *FieldError. The database has the same rules
// as constraints, for writers that use SQL.
func (e *Event) Validate(now time.Time) error {
	switch {
	case e.Kind == "":
		return fieldErrorf("kind", "is missing; it is one of %s", kindList())
	case !e.Kind.Known() && !e.Kind.Custom():
		return fieldErrorf("kind", "%q is not known; it is one of %s, or a name of your own with a dot, such as claude.cost", clip(string(e.Kind)), kindList())
	case e.Session == "":
		return fieldErrorf("session", "must not be empty")
	}
	for _, f := range []struct{ name, text string }{{"kind", string(e.Kind)}, {"session", e.Session}, {"spec", e.Spec}, {"key", e.Key}} {
		switch {
		case len(f.text) > MaxNameBytes:
			return fieldErrorf(f.name, "has %d bytes; at most %d are allowed", len(f.text), MaxNameBytes)
		case !utf8.ValidString(f.text):
			return fieldErrorf(f.name, "is not valid UTF-8")
		case strings.ContainsRune(f.text, 0):
			return fieldErrorf(f.name, "contains a NUL character, which PostgreSQL cannot store")
		}
	}
	if !e.At.IsZero() {
		if e.At.Before(Earliest) {
			return fieldErrorf("at", "%s lies before 1970", e.At.Format(time.RFC3339))
		}
		if e.At.After(now.Add(MaxAhead)) {
			return fieldErrorf("at", "%s lies more than %s in the future; check the writer's clock", e.At.Format(time.RFC3339), MaxAhead)
		}
	}
	return validateData(e.Data)
}

func validateData(data json.RawMessage) error {
	switch {
	case len(data) == 0:
		return nil
	case len(data) > MaxDataBytes:
		return fieldErrorf("data", "has %d bytes; at most %d are allowed", len(data), MaxDataBytes)
	case !utf8.Valid(data):
		return fieldErrorf("data", "is not valid UTF-8")
	case tooDeep(string(data)):
		return fieldErrorf("data", "nests deeper than %d levels", MaxDepth)
	case !json.Valid(data):
		return fieldErrorf("data", "is not JSON")
	case hasEscapedNUL(data):
		return fieldErrorf("data", "contains \\u0000, which PostgreSQL cannot store")
	}
	return nil
}

// hasEscapedNUL reports whether JSON text contains the escape \u0000. A
// backslash that is itself escaped does not begin one.
func hasEscapedNUL(data []byte) bool {
	for rest := data; ; {
		i := bytes.IndexByte(rest, '\\')
		if i < 0 || i+1 >= len(rest) {
			return false
		}
		if bytes.HasPrefix(rest[i:], []byte(`\u0000`)) {
			return true
		}
		rest = rest[i+2:]
	}
}

func kindList() string {
	names := make([]string, len(Kinds))
	for i, k := range Kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

// clip cuts text to 64 bytes, so that a long input cannot fill a log or an
// answer.
func clip(text string) string {
	const most = 64
	text = strings.ToValidUTF8(text, "�")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
