package runner

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

// EnvRun names a file in which specwatch inside a command, such as `specwatch emit
// spec_failed`, notes for the runner what it wrote. Changing the file also counts
// as a sign of work.
const EnvRun = "SPECWATCH_RUN"

type note struct {
	Kind    event.Kind `json:"kind"`
	Session string     `json:"session"`
	Spec    string     `json:"spec"`
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
		if e.Kind == event.SpecStarted || e.Kind.EndsSpec() {
			_ = notes.Encode(note{e.Kind, e.Session, e.Spec})
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

// endTold returns the end of the spec that the command itself has written, unless
// the spec started again after it.
func endTold(path, session, spec string) (kind event.Kind, told bool) {
	file, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var n note
		if json.Unmarshal(lines.Bytes(), &n) == nil && n.Session == session && n.Spec == spec {
			kind, told = n.Kind, n.Kind.EndsSpec()
		}
	}
	return kind, told
}
