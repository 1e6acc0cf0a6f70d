package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/programtest"
)

const upgrade = "GET /ws?since=%s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// A gateway that is told to stop does so at once, whatever its clients and its
// database do meanwhile, and tells everybody whom it can.
func TestStop(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	d.full()
	cursor := d.poll("", "&limit=1").Cursor
	here := cursor
	for {
		a := d.poll(here, "&limit=5000")
		if here = a.Cursor; !a.More {
			break
		}
	}
	// Clients that read, and are idle.
	codes := make(chan int, 50)
	var listening sync.WaitGroup
	for range cap(codes) {
		conn, _ := d.socket(here)
		listening.Go(func() { codes <- endCode(conn) })
	}
	// Clients that do not read, send half a header, half a body.
	for i := range 10 {
		d.deaf(fmt.Sprintf(upgrade, cursor))
		d.deaf(fmt.Sprintf("GET /api/status?last=4000&limit=%d HTTP/1.1\r\nHost: localhost\r\n\r\n", 4000+i))
		d.deaf("GET /api/status HTTP/1.1\r\nHo")
		d.deaf("POST /api/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
	}
	// Writers that wait for a key that another transaction holds.
	holder := d.connect()
	exec(t, holder, "BEGIN")
	exec(t, holder, `INSERT INTO events (kind, session, key) VALUES ('spec_started', 's', 'held')`)
	type result struct {
		status int
		answer answer
		header http.Header
	}
	blocked := make(chan result, 3)
	var taken sync.WaitGroup
	for range cap(blocked) {
		taken.Add(1)
		go func() {
			// The gateway says "continue" when it reads the body: from then on it has
			// the request, and owes an answer.
			has := sync.OnceFunc(taken.Done)
			defer has()
			r, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got100Continue: has}),
				"POST", "http://"+d.address+"/api/events", strings.NewReader(`{"kind":"spec_started","session":"s","key":"held"}`))
			if err != nil {
				t.Error(err)
				blocked <- result{}
				return
			}
			r.Header.Set("Expect", "100-continue")
			status, a, h := d.send(r, "/api/events")
			blocked <- result{status, a, h}
		}()
	}
	taken.Wait()
	// Those of other tests, which use the same server, do not count.
	waiting := d.connect()
	programtest.Until(t, "a writer waits", func() bool {
		var n int
		if err := waiting.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE '%insert%' AND position(current_schema()::text IN query) > 0`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n > 0
	})

	began := time.Now()
	d.stop()
	took := time.Since(began)
	t.Logf("stopped within %s", took)
	// Serve promises two seconds; other tests keep the machine busy. What waits
	// for a client or for the database takes longer than this.
	if took > 9*time.Second {
		t.Errorf("stopping took %s", took)
	}
	for range cap(codes) {
		if code := <-codes; code != websocket.CloseGoingAway {
			t.Errorf("a client is told %d", code)
		}
	}
	for range cap(blocked) {
		if r := <-blocked; r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || !strings.Contains(r.answer.Detail, "stop") {
			t.Errorf("a write that was cut off: %d %+v", r.status, r.answer)
		}
	}
}

// endCode reads to the end and returns its close code, or -1.
func endCode(conn *websocket.Conn) int {
	conn.SetReadDeadline(time.Now().Add(2 * patience))
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			var end *websocket.CloseError
			if errors.As(err, &end) {
				return end.Code
			}
			return -1
		}
	}
}

// A client that does not keep up is disconnected. When it reads on, it gets whole
// messages and then the close code, and resumes by cursor without a loss.
func TestSlowClientIsTold(t *testing.T) {
	t.Parallel()
	const each = 4 << 20 // bytes, beyond what the kernel keeps for a client
	for name, c := range map[string]struct {
		rate, batches int
		stops         bool
	}{
		"stops reading": {100 << 20, 6, true},
		"reads slowly":  {2 << 20, 25, false}, // … until the feed has gone on too far
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := start(t, gateway.Options{})
			begin := d.poll("").Cursor
			dialer := websocket.Dialer{NetDial: func(network, address string) (net.Conn, error) {
				conn, err := net.Dial(network, address)
				return throttled{conn, c.rate}, err
			}}
			conn, _, err := dialer.Dial("ws://"+d.address+"/ws?since="+begin, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			hello := receive(t, conn)
			db := d.connect()
			write := func() {
				exec(t, db, `INSERT INTO events (kind, session, data) SELECT 'spec_failed', 's', to_jsonb(repeat('x', $1 / 100)) FROM generate_series(1, 100)`, each)
			}
			write()
			// It has the first batch before the others come: a feed that goes on too
			// far before it wrote anything lets a client go with nothing.
			first := news(t, conn)
			if first.Type != "event_update" || first.From != hello.Cursor {
				t.Fatalf("first %s from %s after %s", first.Type, first.From, hello.Cursor)
			}
			for range c.batches - 1 {
				write()
			}
			if c.stops {
				programtest.Until(t, "the client is let go", func() bool { return d.subscribers() == 0 })
			}
			seen := map[int64]bool{}
			collect := func(rows []row) {
				for _, e := range rows {
					if seen[e.ID] {
						t.Errorf("event %d twice", e.ID)
					}
					seen[e.ID] = true
				}
			}
			collect(hello.Data.Events)
			collect(first.Data.Events)
			last := first.Cursor
			for {
				// A page pings, whatever it is busy with.
				conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"ping"}`))
				conn.SetReadDeadline(time.Now().Add(patience))
				var p push
				if err := conn.ReadJSON(&p); err != nil {
					var end *websocket.CloseError
					if !errors.As(err, &end) || end.Code != websocket.CloseTryAgainLater || end.Text == "" {
						t.Errorf("it ends with %v", err)
					}
					break
				}
				if p.Type == "event_update" {
					if p.From != last {
						t.Errorf("from %s after %s", p.From, last)
					}
					collect(p.Data.Events)
					last = p.Cursor
				}
			}
			for more := true; more; {
				a := d.poll(last, "&limit=5000")
				collect(a.Events)
				last, more = a.Cursor, a.More
			}
			var stored int
			if err := db.QueryRow(t.Context(), `SELECT count(*) FROM events`).Scan(&stored); err != nil {
				t.Fatal(err)
			}
			if len(seen) != stored {
				t.Errorf("%d of %d events", len(seen), stored)
			}
		})
	}
}

// subscribers is how many the feed has.
func (d *server) subscribers() (n int) {
	resp, err := d.client.Get("http://" + d.address + "/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, found := strings.CutPrefix(lines.Text(), "specwatch_feed_subscribers "); found {
			fmt.Sscan(text, &n)
			return n
		}
	}
	return -1
}
