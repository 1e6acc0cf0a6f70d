package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/specwatch/specwatch/pkg/event"
)

// File has the events of one process that are not known to be stored. The zero
// value keeps nothing. It is not safe for concurrent use.
type File struct {
	path string
	file *os.File // nil: not there yet
}

// Path is where the events are; empty: nowhere.
func (f *File) Path() string { return f.path }

// Takeover returns the file of a process that has ended, or a new one if another
// process already sends it.
func Takeover(path string) *File {
	if file, err := os.OpenFile(path, os.O_APPEND|os.O_RDWR, 0); err == nil {
		if lock(file) && linked(file, path) {
			return &File{path, file}
		}
		file.Close()
	}
	return Box{Dir: filepath.Dir(path)}.File()
}

// linked reports whether the file is still the one of that name.
func linked(file *os.File, path string) bool {
	open, err := file.Stat()
	named, errNamed := os.Stat(path)
	return err == nil && errNamed == nil && os.SameFile(open, named)
}

var errNowhere = errors.New("there is no directory to keep them in")

// Append adds events, each of which must have its key.
func (f *File) Append(events ...event.Event) error {
	if f.file == nil {
		return f.Replace(events)
	}
	_, err := f.file.Write(encodeAll(events))
	return err
}

// Replace replaces all events atomically, for readers and for power failures.
func (f *File) Replace(events []event.Event) error {
	if f.path == "" {
		return errNowhere
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	// Of mode 0600: what a command did is its owner's. It is locked before it
	// has the name by which others find it.
	part, err := os.CreateTemp(filepath.Dir(f.path), ".part-*")
	if err != nil {
		return err
	}
	lock(part)
	if _, err = part.Write(encodeAll(events)); err == nil {
		err = os.Rename(part.Name(), f.path)
	}
	if err != nil {
		part.Close()
		os.Remove(part.Name())
		return err
	}
	if f.file != nil {
		f.file.Close()
	}
	f.file = part
	return nil
}

// Empty removes all events: they are stored.
func (f *File) Empty() {
	if f.file != nil {
		// If this fails, they are sent again, and stored once.
		_ = f.file.Truncate(0)
		_, _ = f.file.Seek(0, io.SeekStart)
	}
}

// Remove removes the file: all its events are stored.
func (f *File) Remove() {
	if f.file != nil {
		_ = os.Remove(f.path)
		f.Close()
	}
}

// Close keeps the events for the next sender.
func (f *File) Close() {
	if f.file != nil {
		_ = f.file.Sync()
		f.file.Close()
		f.file = nil
	}
}

// Encode prints an event as a writer sends it.
func Encode(e event.Event) json.RawMessage {
	line := struct {
		Kind    event.Kind      `json:"kind"`
		At      string          `json:"at,omitempty"`
		Session string          `json:"session"`
		Spec    string          `json:"spec"`
		Data    json.RawMessage `json:"data,omitempty"`
		Key     string          `json:"key,omitempty"`
	}{Kind: e.Kind, Session: e.Session, Spec: e.Spec, Data: e.Data, Key: e.Key}
	if !e.At.IsZero() {
		line.At = e.At.UTC().Format(event.TimeLayout)
	}
	return Data(line)
}

func encodeAll(events []event.Event) []byte {
	var text bytes.Buffer
	for _, e := range events {
		text.Write(Encode(e))
		text.WriteByte('\n')
	}
	return text.Bytes()
}

// Data is json.Marshal for what the program made itself.
func Data(value any) json.RawMessage {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		panic(err)
	}
	return bytes.TrimRight(text.Bytes(), "\n")
}
