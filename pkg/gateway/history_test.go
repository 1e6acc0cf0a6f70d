package gateway_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

// over is a gateway over a database that exists; it has a schema already.
func over(t testing.TB, address string) *server {
	t.Helper()
	return serve(t, store.Config{URL: address, MaxConns: 4}, gateway.Options{})
}

func migrate(t testing.TB, address string) {
	t.Helper()
	if _, err := schema.Migrate(t.Context(), store.Config{URL: address}, nil); err != nil {
		t.Fatal(err)
	}
}

// patiently polls until the gateway answers with 200: after a crash it may
// answer 503 for a while, and nothing else.
func (d *server) patiently(since string) answer {
	d.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		status, a, _ := d.do("GET", "/api/status?since="+url.QueryEscape(since), "")
		switch {
		case status == http.StatusOK:
			return a
		case status != http.StatusServiceUnavailable || time.Now().After(deadline):
			d.t.Fatalf("%d: %+v", status, a)
		}
	}
}

// PostgreSQL crashes and gives transaction ids out again: pollers, sockets
// that stay connected, and those that come back miss nothing and are told of
// no other history.
func TestCrashLosesNothing(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, map[string]string{"wal_writer_delay": "10s", "autovacuum": "off"})
	migrate(t, server.URL())
	d := over(t, server.URL())
	at := d.poll("").Cursor
	conn, hello := d.socket(at)
	cursor := hello.Cursor
	// next returns the next message. A restart that takes longer than the gateway
	// hides an outage is told by a close code, and the client resumes by cursor.
	next := func() push {
		t.Helper()
		for deadline := time.Now().Add(2 * patience); ; {
			conn.SetReadDeadline(time.Now().Add(patience))
			var p push
			err := conn.ReadJSON(&p)
			if err == nil {
				return p
			}
			if !websocket.IsCloseError(err, websocket.CloseInternalServerErr) || time.Now().After(deadline) {
				t.Fatal(err)
			}
			conn.Close()
			if conn, _, err = d.dial(cursor); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
		}
	}
	follow := func(want string) {
		t.Helper()
		var got []string
		for len(got) < strings.Count(want, " ")+1 {
			p := next()
			if resumed := p.Type == "connection_established" && !p.Expired; !resumed && p.From != cursor {
				t.Fatalf("a batch from %s after %s", p.From, cursor)
			}
			cursor = p.Cursor
			for _, r := range p.Data.Events {
				got = append(got, r.Spec)
			}
		}
		if strings.Join(got, " ") != want {
			t.Fatalf("pushed %q, want %q", got, want)
		}
	}
	for round := range 4 {
		db := postgrestest.Connect(t, server.URL())
		exec(t, db, "CHECKPOINT")
		if round%2 == 0 {
			exec(t, db, insert, fmt.Sprint("committed", round))
			follow(fmt.Sprint("committed", round))
		}
		for range 5 {
			exec(t, db, "SELECT pg_current_xact_id()")
		}
		exec(t, db, "BEGIN")
		exec(t, db, insert, "undone")
		exec(t, db, "ROLLBACK")
		at = d.poll(at).Cursor
		db.Close(t.Context())
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.patiently(at)
		var want []string
		db = postgrestest.Connect(t, server.URL())
		for i := range 8 {
			want = append(want, fmt.Sprintf("%d/%d", round, i))
			exec(t, db, insert, want[i])
		}
		db.Close(t.Context())
		follow(strings.Join(want, " "))
		polled := d.patiently(at)
		if got := specs(polled.Events); got != strings.Join(want, " ") {
			t.Fatalf("polled %q, want %q", got, want)
		}
		at = polled.Cursor
		// What the gateway counts while it stays up is what the table has.
		var rows float64
		if err := postgrestest.Connect(t, server.URL()).QueryRow(t.Context(), `SELECT count(*) FROM events WHERE kind = 'spec_started'`).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		if counted := polled.State["totals"].(map[string]any)["spec_started"]; counted != rows {
			t.Fatalf("round %d: the state counts %v events, the table has %v", round, counted, rows)
		}
	}
}

// alternate is the address of a server each of whose connections is passed on
// to the next of the given servers, as a URL with several hosts can do.
func alternate(t testing.TB, addresses ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	u, err := url.Parse(addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			target, err := url.Parse(addresses[n%len(addresses)])
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target.Host)
			if err != nil {
				conn.Close()
				continue
			}
			go func() { io.Copy(server, conn); server.Close() }()
			go func() { io.Copy(conn, server); conn.Close() }()
		}
	}()
	u.Host = l.Addr().String()
	return u.String()
}

// A poll that turns pages goes from a gateway on the primary to one on a
// standby that is behind, and to one whose URL names both servers.
func TestPollsMoveBetweenServers(t *testing.T) {
	t.Parallel()
	primary := postgrestest.Cluster(t, nil)
	migrate(t, primary.URL())
	standby := postgrestest.Standby(t, primary)
	p, s := over(t, primary.URL()), over(t, standby.URL())
	here, there := postgrestest.Connect(t, primary.URL()), postgrestest.Connect(t, standby.URL())
	exec(t, here, insert, "first")
	start := p.poll("").Cursor
	s.patiently(start)
	exec(t, there, "SELECT pg_wal_replay_pause()")
	for paused := false; !paused; {
		if err := there.QueryRow(t.Context(), "SELECT pg_get_wal_replay_pause_state() = 'paused'").Scan(&paused); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		exec(t, here, insert, fmt.Sprint(i))
	}
	page := p.poll(start, "&limit=5")
	if len(page.Events) != 5 || !page.More {
		t.Fatalf("%+v", page)
	}
	status, refused, header := s.do("GET", "/api/status?limit=5&since="+page.Cursor, "")
	if status != http.StatusServiceUnavailable || refused.Code != store.Behind || !strings.Contains(refused.Detail, "behind") || header.Get("Retry-After") == "" {
		t.Fatalf("a standby that is behind: %d %+v", status, refused)
	}
	ahead, _, err := s.dial(page.Cursor)
	if err != nil {
		t.Fatal(err)
	}
	defer ahead.Close()
	var closed *websocket.CloseError
	if _, _, err := ahead.ReadMessage(); !errors.As(err, &closed) || closed.Code != websocket.CloseTryAgainLater || !strings.Contains(closed.Text, "behind") {
		t.Fatalf("a socket of a standby that is behind: %v", err)
	}
	// One address behind which each connection finds another server: whichever
	// answers, nothing is lost.
	exec(t, there, "SELECT pg_wal_replay_resume()")
	both := over(t, alternate(t, standby.URL(), primary.URL()))
	var got []string
	cursor := page.Cursor
	for deadline := time.Now().Add(patience); len(got) < 15 && time.Now().Before(deadline); {
		status, a, _ := both.do("GET", "/api/status?limit=5&since="+cursor, "")
		if status == http.StatusServiceUnavailable {
			continue
		}
		if status != http.StatusOK {
			t.Fatalf("%d: %+v", status, a)
		}
		for _, r := range a.Events {
			got = append(got, r.Spec)
		}
		cursor = a.Cursor
	}
	if strings.Join(got, " ") != "5 6 7 8 9 10 11 12 13 14 15 16 17 18 19" {
		t.Fatalf("%q", got)
	}
	again := s.patiently(page.Cursor)
	if len(again.Events) != 15 {
		t.Fatalf("on the standby: %d events", len(again.Events))
	}
}

// Through a transaction pooler events reach a socket within the delay that
// the state tells.
func TestSocketThroughPgbouncer(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	migrate(t, server.URL())
	d := over(t, postgrestest.Pgbouncer(t, server.URL(), "transaction", 8))
	conn, hello := d.socket("")
	delivery := hello.Data.State["delivery"].(map[string]any)
	if delivery["push"] != false || delivery["delaySeconds"].(float64) <= 0 || delivery["delaySeconds"].(float64) > 1 {
		t.Fatalf("%v", delivery)
	}
	db := postgrestest.Connect(t, server.URL())
	for i := range 10 {
		exec(t, db, insert, fmt.Sprint(i))
		begin := time.Now()
		if p := news(t, conn); specs(p.Data.Events) != fmt.Sprint(i) {
			t.Fatalf("%+v", p)
		}
		if took := time.Since(begin); took > 20*time.Second { // a busy machine adds to the delay
			t.Errorf("event %d took %s", i, took)
		}
	}
	// Polls and the health check agree.
	var polling sync.WaitGroup
	for range 20 {
		polling.Go(func() {
			if status, a, _ := d.do("GET", "/api/status?since="+url.QueryEscape(hello.Cursor), ""); status != http.StatusOK || len(a.Events) != 10 {
				t.Errorf("a poll: %d %+v", status, a)
			}
		})
	}
	polling.Wait()
	programtest.Until(t, "it is ready", func() bool { status, _, _ := d.do("GET", "/readyz", ""); return status == http.StatusOK })
}

// An error is not repeated after what caused it was put right.
func TestNoOldErrorAfterARepair(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	db := d.connect()
	d.poll("")
	exec(t, db, "ALTER TABLE specwatch_meta RENAME TO hidden")
	exec(t, db, `SELECT pg_terminate_backend(l.pid) FROM pg_locks l, hidden m WHERE l.pid <> pg_backend_pid()
		AND locktype = 'advisory' AND ((classid::bigint << 32) | objid::bigint) = m.bell`)
	for deadline := time.Now().Add(patience); ; {
		if status, _, _ := d.do("GET", "/api/status", ""); status == http.StatusServiceUnavailable {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the missing table is not noticed")
		}
	}
	exec(t, db, "ALTER TABLE hidden RENAME TO specwatch_meta")
	if status, a, _ := d.do("GET", "/api/status", ""); status != http.StatusOK {
		t.Fatalf("after the repair: %d %+v", status, a)
	}
}

// One event that nests deeply is delivered as a note; the others come as they
// are, by polls and sockets.
func TestADeepEventIsDeliveredAsANote(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	conn, hello := d.socket("")
	db := d.connect()
	exec(t, db, `INSERT INTO events (kind, session, spec, data) VALUES ('spec_failed', 's', 'deep', (repeat('[',6000)||repeat(']',6000))::jsonb)`)
	exec(t, db, insert, "after")
	var got []string
	for len(got) < 2 {
		for _, r := range receive(t, conn).Data.Events {
			got = append(got, r.Spec)
		}
	}
	if strings.Join(got, " ") != "deep after" {
		t.Fatalf("%q", got)
	}
	if a := d.poll(hello.Cursor); specs(a.Events) != "deep after" || !strings.Contains(string(a.Events[0].Data), "unreadable") {
		t.Fatalf("%+v", a.Events)
	}
}
