package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

// StateDir is the place that the system has for what a program must not
// forget.
func StateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "specwatch"), nil
	}
	if runtime.GOOS == "windows" {
		if dir := os.Getenv("LocalAppData"); dir != "" {
			return filepath.Join(dir, "specwatch"), nil
		}
		return "", errors.New("no place to keep unwritten events: %LocalAppData% is not set")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("no place to keep unwritten events: set HOME or XDG_STATE_HOME")
	}
	return filepath.Join(home, ".local", "state", "specwatch"), nil
}

// Spool is a directory of events that could not be written to one database.
// Each file is JSON Lines as `specwatch emit --from` reads them, and belongs
// to the run that wrote it. Two who send the same file at once do no harm: the
// database stores a key once.
type Spool struct{ Dir string }

const spoolSuffix = ".jsonl"

// newFile names a file so that names sort as times do.
func (s Spool) newFile(id string) string {
	return filepath.Join(s.Dir, time.Now().UTC().Format("20060102T150405.000000000Z")+"-"+id+spoolSuffix)
}

// load reads the oldest files, whole, until they hold enough events. A file
// that cannot be understood is put aside, for it would stand in the way of
// all others for ever.
func (s Spool) load(enough int, say func(string)) (events []event.Event, files []string) {
	found, _ := filepath.Glob(filepath.Join(s.Dir, "*"+spoolSuffix))
	slices.Sort(found)
	for _, file := range found {
		if len(events) >= enough {
			break
		}
		some, err := read(file)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue // somebody else has just sent it
		case errors.Is(err, errDamaged):
			aside := file + ".damaged"
			if os.Rename(file, aside) == nil {
				say(fmt.Sprintf("kept events cannot be read and are put aside in %s: %s", aside, err))
			}
			continue
		case err != nil:
			say(fmt.Sprintf("kept events cannot be read: %s", err))
			continue
		}
		events = append(events, some...)
		files = append(files, file)
	}
	return events, files
}

// Send writes everything in the spool, oldest first, and removes what is
// written. It tries once.
func (s Spool) Send(ctx context.Context, to Appender, say func(string)) error {
	for {
		events, files := s.load(queueBound, say)
		if len(files) == 0 {
			return nil
		}
		q := newQueue(to, say)
		q.add(events...)
		for rest := events; len(rest) > 0; rest, _ = q.rest() {
			if err := q.attempt(ctx); err != nil {
				return err
			}
		}
		for _, file := range files {
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err // it would be sent again and again
			}
		}
	}
}

var errDamaged = errors.New("damaged")

func read(file string) ([]event.Event, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var events []event.Event
	for line := range bytes.Lines(text) {
		e, err := event.Decode(bytes.TrimSpace(line))
		if err == nil && e.Key == "" {
			err = errors.New("an event has no key")
		}
		// A time that looks wrong today is the database's to refuse.
		var field *event.FieldError
		if err != nil && !(errors.As(err, &field) && field.Field == "at" && !e.At.IsZero()) {
			return nil, fmt.Errorf("%w: %w", errDamaged, err)
		}
		events = append(events, e)
	}
	return events, nil
}

// save replaces the file in one step, so that whoever reads it, or a machine
// that loses power, never meets half of it.
func save(file string, events []event.Event) error {
	var text bytes.Buffer
	for _, e := range events {
		line := struct {
			Kind    event.Kind      `json:"kind"`
			At      string          `json:"at,omitempty"`
			Session string          `json:"session"`
			Spec    string          `json:"spec"`
			Data    json.RawMessage `json:"data,omitempty"`
			Key     string          `json:"key"`
		}{Kind: e.Kind, Session: e.Session, Spec: e.Spec, Data: e.Data, Key: e.Key}
		if !e.At.IsZero() {
			line.At = e.At.UTC().Format(event.TimeLayout)
		}
		text.Write(encode(line))
		text.WriteByte('\n')
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	// CreateTemp gives the file mode 0600: what a command did is its owner's.
	part, err := os.CreateTemp(filepath.Dir(file), ".part-*")
	if err != nil {
		return err
	}
	_, err = part.Write(text.Bytes())
	if err == nil {
		err = part.Sync()
	}
	if closeErr := part.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(part.Name(), file)
	}
	if err != nil {
		os.Remove(part.Name())
	}
	return err
}

// encode is json.Marshal for what this package made itself.
func encode(value any) json.RawMessage {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		panic(err)
	}
	return bytes.TrimRight(text.Bytes(), "\n")
}
