package outbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/specwatch/specwatch/pkg/event"
)

// ledger is a destination reduced to what a box can see of one: it stores a key
// once, and is there or not.
type ledger struct {
	mu     sync.Mutex
	down   error
	stored []event.Event
}

func (l *ledger) Append(_ context.Context, events []event.Event) (event.Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return event.Receipt{}, l.down
	}
	receipt := event.Receipt{IDs: make([]int64, len(events))}
	for _, e := range events {
		if slices.ContainsFunc(l.stored, func(s event.Event) bool { return s.Key == e.Key }) {
			receipt.Known++
		} else {
			l.stored = append(l.stored, e)
		}
	}
	return receipt, nil
}

var errDown = errors.New("nobody answers")

func heartbeat(key string) event.Event {
	return event.Event{Kind: event.SessionHeartbeat, Session: "s", Key: key}
}

func silent(string) {}

// During a night without a database the queue stays bounded, and only heartbeats
// are dropped.
func TestQueueIsBounded(t *testing.T) {
	box := Open(t.TempDir(), "d")
	q := NewQueue(&ledger{down: errDown}, Box{}, box.File(), silent)
	for i := range 100_000 {
		kind := event.SessionHeartbeat
		if i%1000 == 0 {
			kind = event.SpecStarted
		}
		q.Add(event.Event{Kind: kind, Session: "s", Key: fmt.Sprint(i)})
	}
	rest, _ := q.Rest()
	if len(rest) > QueueBound {
		t.Errorf("%d events held", len(rest))
	}
	if kept, err := read(q.file.Path()); err != nil || len(kept) != len(rest) {
		t.Errorf("%d events on disk, %v", len(kept), err)
	}
	starts := 0
	for _, e := range rest {
		if e.Kind == event.SpecStarted {
			starts++
		}
	}
	if starts != 100 || rest[0].Key != "0" {
		t.Errorf("%d starts kept, first is %s", starts, rest[0].Key)
	}
}

func TestStateDir(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/somewhere")
	if dir, err := StateDir(); dir != "/somewhere/specwatch" || err != nil {
		t.Error(dir, err)
	}
	t.Setenv("XDG_STATE_HOME", "relative")
	t.Setenv("HOME", "/home/p")
	if dir, err := StateDir(); dir != "/home/p/.local/state/specwatch" || err != nil {
		t.Error(dir, err)
	}
}

// An event is on disk before anybody tries to send it, and stays there when the
// process ends; a file whose process lives is left to it.
func TestOnDiskAtOnce(t *testing.T) {
	box, db := Open(t.TempDir(), "d"), &ledger{}
	file := box.File()
	q := NewQueue(db, box, file, silent)
	q.Add(heartbeat("1"), heartbeat("2"))
	if kept, err := read(file.Path()); err != nil || len(kept) != 2 {
		t.Fatalf("%d events, %v", len(kept), err)
	}
	if sent, err := box.Send(t.Context(), db, silent); sent != (Sent{}) || err != nil {
		t.Fatalf("sent of another's events: %+v, %v", sent, err)
	}
	file.Close() // as the end of the process does
	if sent, err := box.Send(t.Context(), db, silent); sent != (Sent{Stored: 2}) || err != nil {
		t.Fatalf("sent: %+v, %v", sent, err)
	}
	if left := box.files(); len(left) != 0 || len(db.stored) != 2 {
		t.Errorf("left %v, stored %d", left, len(db.stored))
	}
}

// A writer that was killed in the middle of a line has written the others.
func TestCutOffLine(t *testing.T) {
	box, db := Open(t.TempDir(), "d"), &ledger{}
	file := box.File()
	if err := file.Append(heartbeat("1"), heartbeat("2")); err != nil {
		t.Fatal(err)
	}
	file.Close()
	info, err := os.Stat(file.Path())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file.Path(), info.Size()-5); err != nil {
		t.Fatal(err)
	}
	if sent, err := box.Send(t.Context(), db, silent); sent != (Sent{Stored: 1}) || err != nil || db.stored[0].Key != "1" {
		t.Errorf("sent: %+v, %v", sent, err)
	}
}

func TestReached(t *testing.T) {
	state := t.TempDir()
	box := Open(state, "d")
	q := NewQueue(&ledger{down: errDown}, box, box.File(), silent)
	q.Add(heartbeat("1"))
	if q.attempt(t.Context()) == nil || box.Reached() {
		t.Error("reached though nobody answers")
	}
	q.to = &ledger{}
	if err := q.attempt(t.Context()); err != nil || !box.Reached() || Open(state, "other").Reached() {
		t.Error("not reached", err)
	}
}

// An attempt whose answer was lost has stored its events: the next one tells them
// apart from the others, over all files.
func TestSendTellsWhatWasKnown(t *testing.T) {
	box, db := Open(t.TempDir(), "d"), &ledger{stored: []event.Event{heartbeat("1"), heartbeat("3")}}
	for _, events := range [][]event.Event{{heartbeat("1"), heartbeat("2")}, {heartbeat("3"), heartbeat("4"), heartbeat("5")}} {
		file := box.File()
		if err := file.Append(events...); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	for _, want := range []Sent{{Stored: 3, Known: 2}, {}} {
		if sent, err := box.Send(t.Context(), db, silent); sent != want || err != nil {
			t.Errorf("sent %+v, expected %+v, %v", sent, want, err)
		}
	}
}

// Keys make repeats harmless, so a file may be sent by several at once.
func TestSendAtOnce(t *testing.T) {
	box, db := Open(t.TempDir(), "d"), &ledger{}
	for i := range 50 {
		file := box.File()
		if err := file.Append(heartbeat(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			if _, err := box.Send(context.Background(), db, silent); err != nil {
				t.Error(err)
			}
		})
	}
	senders.Wait()
	left, _ := filepath.Glob(filepath.Join(box.Dir, "*"))
	if len(left) != 0 || len(db.stored) != 50 {
		t.Errorf("left %v, stored %d", left, len(db.stored))
	}
}

// An answer that names its request by key is sent with the id of it.
func TestAnswerNamesItsRequestByKey(t *testing.T) {
	request := func(key string) event.Event {
		return event.Event{Kind: event.InterventionRequest, Session: "s", Key: key}
	}
	answer := func(key, to string) event.Event {
		return event.Event{Kind: event.InterventionAnswered, Session: "s", Key: key, Data: Data(map[string]any{"agent": "a", RequestKey: to})}
	}
	to := &numbered{}
	box := Open(t.TempDir(), "d")
	file := box.File()
	if err := file.Append(heartbeat("h"), request("r1"), answer("a1", "r1"), request("r2"), heartbeat("i"), answer("a2", "r2"), answer("a0", "refused")); err != nil {
		t.Fatal(err)
	}
	file.Close()
	if _, err := box.Send(t.Context(), to, silent); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range to.stored {
		got[e.Key] = string(e.Data)
	}
	if got["a1"] != `{"agent":"a","request":2}` || got["a2"] != `{"agent":"a","request":4}` || len(got) != 6 {
		t.Errorf("stored: %v", got)
	}
}

// numbered is a ledger that gives ids in the order of the events.
type numbered struct{ ledger }

func (n *numbered) Append(ctx context.Context, events []event.Event) (event.Receipt, error) {
	receipt, err := n.ledger.Append(ctx, events)
	for i, e := range events {
		receipt.IDs[i] = int64(slices.IndexFunc(n.stored, func(s event.Event) bool { return s.Key == e.Key })) + 1
	}
	return receipt, err
}
