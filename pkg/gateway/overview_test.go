package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/postgrestest"
)

// conditional asks with the tag of the last answer and returns the status, the
// tag and the whole answer as it comes over the wire.
func (d *server) conditional(cursor, tag string) (status int, etag string, wire []byte) {
	d.t.Helper()
	request, err := http.NewRequestWithContext(d.t.Context(), "GET", "http://"+d.address+"/api/status?since="+cursor, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if tag != "" {
		request.Header.Set("If-None-Match", tag)
	}
	conn, err := net.Dial("tcp", d.address)
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	request.Close = true
	if err := request.Write(conn); err != nil {
		d.t.Fatal(err)
	}
	if wire, err = io.ReadAll(conn); err != nil {
		d.t.Fatal(err)
	}
	response, err := http.ReadResponse(newReader(wire), request)
	if err != nil {
		d.t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode, response.Header.Get("ETag"), wire
}

// A poll with nothing new is answered by 304 and few bytes, until an event
// comes or the state says something else.
func TestNothingNew(t *testing.T) {
	t.Parallel()
	// A server of its own: a cursor, which the tag names, also changes when
	// transactions of other tests end.
	own := postgrestest.Cluster(t, map[string]string{"autovacuum": "off"})
	migrate(t, own.URL())
	d := over(t, own.URL())
	conn := d.connect()
	exec(t, conn, `INSERT INTO events (kind, session, spec) SELECT 'spec_started', 'night', n::text FROM generate_series(1, 50) n`)
	a := d.poll("")
	cursor := a.Cursor
	status, tag, whole := d.conditional(cursor, "")
	if status != http.StatusOK || tag == "" {
		t.Fatalf("%d, tag %q", status, tag)
	}
	status, again, wire := d.conditional(cursor, tag)
	if status != http.StatusNotModified || again != tag || len(wire) > 300 {
		t.Fatalf("%d, tag %q after %q, %d bytes:\n%s", status, again, tag, len(wire), wire)
	}
	t.Logf("%d bytes instead of %d", len(wire), len(whole))
	if status, _, _ := d.conditional(cursor, `"other", `+tag); status != http.StatusNotModified {
		t.Errorf("a list of tags: %d", status)
	}
	if status, _, _ := d.conditional(cursor, `"other"`); status != http.StatusOK {
		t.Errorf("another tag: %d", status)
	}
	exec(t, conn, `INSERT INTO events (kind, session) VALUES ('session_heartbeat', 'night')`)
	status, next, _ := d.conditional(cursor, tag)
	if status != http.StatusOK || next == tag {
		t.Errorf("after an event: %d, tag %q after %q", status, next, tag)
	}
	// The same question once more: its answer still has an event.
	if status, _, _ := d.conditional(cursor, next); status != http.StatusOK {
		t.Errorf("an answer with an event: %d", status)
	}
}

// The state comes with batches, at most once a second, and the last of them
// after the last batch.
func TestStateIsPushed(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	conn := d.connect()
	exec(t, conn, `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 'night', '0')`)
	ws, hello := d.socket("")
	at, states, events, started := hello.Cursor, 0, 0, 0
	began := time.Now()
	deadline := began.Add(2 * patience)
	var writing sync.WaitGroup
	defer writing.Wait() // the last event may arrive before its writer is told
	writing.Go(func() {
		for i := range 100 {
			if _, err := conn.Exec(t.Context(), `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 'night', $1)`, fmt.Sprint(i+1)); err != nil {
				t.Error(err)
				return
			}
			<-time.After(20 * time.Millisecond) // the pace of a busy loop
		}
	})
	for events < 100 || started < 101 {
		var p push
		ws.SetReadDeadline(deadline)
		if err := ws.ReadJSON(&p); err != nil {
			t.Fatal(err)
		}
		if p.From != at {
			t.Fatalf("from %s after %s", p.From, at)
		}
		at = p.Cursor
		events += len(p.Data.Events)
		if p.Data.State == nil {
			if len(p.Data.Events) == 0 {
				t.Error("an update without events and state")
			}
			continue
		}
		states++
		started = int(p.Data.State["totals"].(map[string]any)["spec_started"].(float64))
		if started < events+1 {
			t.Errorf("a state of %d starts with event %d", started, events+1)
		}
	}
	if seconds := int(time.Since(began).Seconds()); states < 2 || states > seconds+2 {
		t.Errorf("%d states in %d seconds", states, seconds)
	}
}

// A state that is published while the feed reads is sent at once, and not only
// when the next event or the next ping wakes the client.
func TestStateIsPushedBetweenReads(t *testing.T) { // not parallel: the polls take a core
	d := start(t, gateway.Options{})
	conn := d.connect()
	ws, hello := d.socket("")
	polling, end := context.WithCancel(t.Context())
	var polls sync.WaitGroup
	defer polls.Wait()
	defer end()
	for range 2 {
		polls.Go(func() {
			for polling.Err() == nil { // each poll with a cursor asks the feed to read
				d.do(http.MethodGet, "/api/status?since="+url.QueryEscape(hello.Cursor), "")
			}
		})
	}
	for i := range 15 {
		// The first event has its state with it, the second has not: a second has
		// not gone by.
		for range 2 {
			exec(t, conn, `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 'night', 'login')`)
			<-time.After(50 * time.Millisecond)
		}
		sent := time.Now()
		for started := 0; started < 2*i+2; {
			ws.SetReadDeadline(sent.Add(10 * time.Second)) // a ping comes every 25 s
			var p push
			if err := ws.ReadJSON(&p); err != nil {
				t.Fatal(err)
			}
			if p.Data.State != nil {
				started = int(p.Data.State["totals"].(map[string]any)["spec_started"].(float64))
			}
		}
	}
}

func newReader(text []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(text)) }
