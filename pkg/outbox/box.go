// Package outbox keeps events on disk until they are stored. An event is in a file
// before it is sent, so neither an outage nor the end of the process loses it.
package outbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

// Destination is where events are sent: a database, or a gateway. It stores a key
// once, so events may be sent again.
type Destination interface {
	Append(ctx context.Context, events []event.Event) (event.Receipt, error)
}

// StateDir is the directory for the state of this program.
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

// Box is a directory of events for one destination. Each file is JSON Lines as
// `specwatch emit --from` reads them, and belongs to the process that writes
// it, which holds a lock on it for as long as it lives. The zero value keeps
// nothing.
type Box struct {
	Dir  string
	mark string // a file that exists after the destination has answered once
}

// Open returns the box of the destination that these texts name. state is the
// directory of StateDir.
func Open(state string, destination ...string) Box {
	hash := sha256.Sum256([]byte(strings.Join(destination, "\x00")))
	name := hex.EncodeToString(hash[:12])
	return Box{Dir: filepath.Join(state, "unwritten", name), mark: filepath.Join(state, "reached", name)}
}

// Reached reports whether the destination has ever answered this machine. If it has
// not, the settings may be wrong.
func (b Box) Reached() bool {
	_, err := os.Stat(b.mark)
	return err == nil
}

func (b Box) reached() {
	if b.mark == "" || b.Reached() {
		return
	}
	if os.MkdirAll(filepath.Dir(b.mark), 0o700) == nil {
		_ = os.WriteFile(b.mark, nil, 0o600) // it is only a hint
	}
}

const suffix = ".jsonl"

// File returns a new file for the events of one process. It is created with the
// first event. Names sort by time.
func (b Box) File() *File {
	if b.Dir == "" {
		return &File{}
	}
	return &File{path: filepath.Join(b.Dir, time.Now().UTC().Format("20060102T150405.000000000Z")+"-"+rand.Text()+suffix)}
}

// files are those with events, oldest first.
func (b Box) files() []string {
	if b.Dir == "" {
		return nil
	}
	found, _ := filepath.Glob(filepath.Join(b.Dir, "*"+suffix))
	slices.Sort(found)
	return found
}

// Kept returns the kept events, oldest first, those of processes that still run too.
// It leaves out what cannot be read.
func (b Box) Kept() (all []event.Event) {
	for _, path := range b.files() {
		events, _ := read(path)
		all = append(all, events...)
	}
	return all
}

// Sent counts events by what the destination did with them.
type Sent struct {
	Stored int
	Known  int // stored before, under the same key
}

// Send writes the kept events, oldest first, and removes them. It skips files of
// processes that still run. It tries once.
func (b Box) Send(ctx context.Context, to Destination, say func(string)) (all Sent, err error) {
	for _, path := range b.files() {
		sent, err := b.send(ctx, path, to, say)
		all.Stored += sent.Stored
		all.Known += sent.Known
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// SendAlone is Send by one process at a time. Of the processes that call it
// meanwhile, one waits and sends the events of all.
func (b Box) SendAlone(ctx context.Context, to Destination) error {
	if len(b.files()) == 0 {
		return nil
	}
	next, taken, err := tryLock(b.mark + ".next")
	if err != nil || taken {
		return err
	}
	sending, err := waitLock(b.mark + ".sending")
	next.Close() // another process sends what is kept after this
	if err != nil {
		return err
	}
	defer sending.Close()
	_, err = b.Send(ctx, to, func(string) {})
	return err
}

func (b Box) send(ctx context.Context, path string, to Destination, say func(string)) (Sent, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return Sent{}, nil // another process has just sent it
	}
	if err != nil {
		say(fmt.Sprintf("kept events cannot be read: %s", err))
		return Sent{}, nil
	}
	defer file.Close()
	if !lock(file) || !linked(file, path) {
		return Sent{}, nil
	}
	events, err := read(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Sent{}, nil
	case errors.Is(err, errDamaged):
		// It would block all others.
		aside := path + ".damaged"
		if os.Rename(path, aside) == nil {
			say(fmt.Sprintf("kept events cannot be read and are moved to %s: %s", aside, err))
		}
	case err != nil:
		say(fmt.Sprintf("kept events cannot be read: %s", err))
		return Sent{}, nil
	}
	q := NewQueue(to, b, &File{}, say)
	q.events = events
	for rest := events; len(rest) > 0; rest, _ = q.Rest() {
		if err := q.attempt(ctx); err != nil {
			return q.sent, err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) && runtime.GOOS != "windows" {
		return q.sent, err // it would be sent again and again
	}
	return q.sent, nil
}

var errDamaged = errors.New("damaged")

// read returns the events of a file. The last line may be cut off where its
// writer was killed; that event has not happened as far as anybody was told.
func read(path string) ([]event.Event, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var events []event.Event
	for line := range bytes.Lines(text) {
		if line[len(line)-1] != '\n' {
			break
		}
		e, err := event.Decode(bytes.TrimSpace(line))
		if err == nil && e.Key == "" {
			err = errors.New("an event has no key")
		}
		// The destination checks the time.
		var field *event.FieldError
		if err != nil && (!errors.As(err, &field) || field.Field != "at" || e.At.IsZero()) {
			return events, fmt.Errorf("%w: %w", errDamaged, err)
		}
		events = append(events, e)
	}
	return events, nil
}
