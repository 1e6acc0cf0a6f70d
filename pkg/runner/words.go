package runner

import (
	"os"
	"path/filepath"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/outbox"
)

// lastWords describes the end of the spec that the guard writes when the runner was
// killed.
type lastWords struct {
	Session string    `json:"session"`
	Spec    string    `json:"spec"`
	Key     string    `json:"key"`
	Start   time.Time `json:"start"`
	File    string    `json:"file"`  // of the runner's events
	Notes   string    `json:"notes"` // of what the command runs of specwatch
}

func (w *lastWords) write(deliver func(dir string)) {
	if w == nil || w.File == "" {
		return
	}
	told := endTold(w.Notes, w.Session, w.Spec)
	_ = os.Remove(w.Notes)
	if !told {
		file := outbox.Takeover(w.File)
		// An error cannot be reported to anybody.
		_ = file.Append(event.Event{
			Kind: event.SpecFailed, At: time.Now(), Session: w.Session, Spec: w.Spec, Key: w.Key,
			Data: outbox.Data(map[string]any{
				"reason": "the runner was killed", "signal": "SIGKILL", "durationSeconds": seconds(time.Since(w.Start)),
			}),
		})
		file.Close()
	}
	if deliver != nil {
		deliver(filepath.Dir(w.File))
	}
}
