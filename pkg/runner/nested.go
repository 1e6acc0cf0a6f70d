package runner

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/specwatch/specwatch/pkg/agent"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/redact"
)

// EnvRun names a file in which specwatch inside a command, such as `specwatch emit
// spec_failed` or a hook of an agent, notes for the runner which starts, ends and
// usage limits it wrote. Changing the file also counts as a sign of work.
const EnvRun = "SPECWATCH_RUN"

type note struct {
	Kind    event.Kind `json:"kind"`
	Session string     `json:"session"`
	Spec    string     `json:"spec"`

	// Of a usage limit.
	At       time.Time `json:"at,omitzero"`
	Message  string    `json:"message,omitempty"`
	ResetsAt string    `json:"resetsAt,omitempty"`
}

// noteOf returns the note about an event. Other events need none.
func noteOf(e event.Event) (n note, needed bool) {
	n = note{Kind: e.Kind, Session: e.Session, Spec: e.Spec}
	if e.Kind == agent.AgentLimit {
		n.At = time.Now()
		var fields map[string]json.RawMessage
		_ = json.Unmarshal(e.Data, &fields) // what cannot be read stays empty
		_ = json.Unmarshal(fields["message"], &n.Message)
		_ = json.Unmarshal(fields["resetsAt"], &n.ResetsAt)
		n.Message, n.ResetsAt = clip(redact.Text(n.Message), lineBytes), clip(n.ResetsAt, lineBytes)
		return n, true
	}
	return n, e.Kind == event.SpecStarted || e.Kind.EndsSpec()
}

// Note notes the written events for the runner around this process, if there is
// one.
func Note(events ...event.Event) {
	path := os.Getenv(EnvRun)
	if path == "" {
		return
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0) // #nosec G703 -- the file that the runner of this process named
	if err != nil {
		return
	}
	defer file.Close()
	notes := json.NewEncoder(file)
	for _, e := range events {
		if n, needed := noteOf(e); needed {
			_ = notes.Encode(n)
		}
	}
	_ = os.Chtimes(path, time.Time{}, time.Now())
}

// makeNotes creates the file for a run in the directory.
func makeNotes(dir, id string) (path string, err error) {
	if dir == "" {
		return "", nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	path = filepath.Join(dir, id)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	return path, file.Close()
}

// notesOf returns the notes about a spec since it last started.
func notesOf(path, session, spec string) (notes []note) {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var n note
		if json.Unmarshal(lines.Bytes(), &n) != nil || n.Session != session || n.Spec != spec {
			continue
		}
		if n.Kind == event.SpecStarted {
			notes = nil
			continue
		}
		notes = append(notes, n)
	}
	return notes
}

// endTold reports whether the command itself has written an end of the spec,
// after which the spec did not start again.
func endTold(path, session, spec string) bool {
	return slices.ContainsFunc(notesOf(path, session, spec), func(n note) bool { return n.Kind.EndsSpec() })
}

// limitTold returns the last usage limit that the command itself has reported.
func limitTold(path, session, spec string) (limit note, told bool) {
	for _, n := range notesOf(path, session, spec) {
		if n.Kind == agent.AgentLimit {
			limit, told = n, true
		}
	}
	return limit, told
}

// data is that of the event.
func (n note) data() map[string]any {
	data := map[string]any{"message": n.Message}
	if n.ResetsAt != "" {
		data["resetsAt"] = n.ResetsAt
	}
	return data
}
