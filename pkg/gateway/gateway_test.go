package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

const patience = 30 * time.Second

type row struct {
	ID      int64           `json:"id"`
	Kind    string          `json:"kind"`
	At      time.Time       `json:"at"`
	Session string          `json:"session"`
	Spec    string          `json:"spec"`
	Data    json.RawMessage `json:"data"`
}

type answer struct {
	Events    []row          `json:"events"`
	Cursor    string         `json:"cursor"`
	More      bool           `json:"more"`
	Timestamp string         `json:"timestamp"`
	Mode      string         `json:"mode"`
	State     map[string]any `json:"state"`
	IDs       []int64        `json:"ids"`

	Title  string `json:"title"`
	Detail string `json:"detail"`
	Field  string `json:"field"`
	Index  *int   `json:"index"`
	Code   string `json:"code"`
}

type push struct {
	Type      string `json:"type"`
	From      string `json:"from"`
	Cursor    string `json:"cursor"`
	Expired   bool   `json:"expired"`
	Timestamp string `json:"timestamp"`
	Data      struct {
		State  map[string]any `json:"state"`
		Events []row          `json:"events"`
	} `json:"data"`
}

type server struct {
	t        testing.TB
	address  string // host:port
	database string
	client   *http.Client
	stop     func()
}

func start(t testing.TB, o gateway.Options) *server {
	t.Helper()
	database, name := postgrestest.Schema(t)
	config := store.Config{URL: database, Schema: name, MaxConns: 8}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	return serve(t, config, o)
}

// serve starts a gateway over a database that has its schema.
func serve(t testing.TB, config store.Config, o gateway.Options) *server {
	t.Helper()
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- gateway.New(s, o).Serve(ctx, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	t.Cleanup(stop)
	return &server{t: t, address: l.Addr().String(), database: config.URL, client: &http.Client{Timeout: patience}, stop: stop}
}

func (d *server) do(method, path, body string, header ...string) (int, answer, http.Header) {
	d.t.Helper()
	r, err := http.NewRequest(method, "http://"+d.address+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	return d.send(r, path)
}

// send sends a request for the path, and checks the answer against the
// documentation.
func (d *server) send(r *http.Request, path string) (int, answer, http.Header) {
	d.t.Helper()
	resp, err := d.client.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	var a answer
	if strings.Contains(resp.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(text, &a); err != nil {
			d.t.Fatalf("%s: %s", err, text)
		}
	}
	if resp.StatusCode >= 400 && (resp.Header.Get("Content-Type") != "application/problem+json" || a.Detail == "") {
		d.t.Errorf("%s %s: %d without a problem: %s", r.Method, path, resp.StatusCode, text)
	}
	documented(d.t, r.Method, path, resp.StatusCode, resp.Header, text)
	return resp.StatusCode, a, resp.Header
}

func (d *server) poll(since string, more ...string) answer {
	d.t.Helper()
	status, a, _ := d.do("GET", "/api/status?since="+url.QueryEscape(since)+strings.Join(more, ""), "")
	if status != http.StatusOK {
		d.t.Fatalf("%d: %+v", status, a)
	}
	return a
}

func (d *server) dial(since string, header ...string) (*websocket.Conn, *http.Response, error) {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return websocket.DefaultDialer.DialContext(d.t.Context(), "ws://"+d.address+"/ws?since="+url.QueryEscape(since), h)
}

func (d *server) socket(since string) (*websocket.Conn, push) {
	d.t.Helper()
	conn, _, err := d.dial(since)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	hello := receive(d.t, conn)
	if hello.Type != "connection_established" || hello.Cursor == "" || hello.Data.State == nil || hello.Data.Events == nil {
		d.t.Fatalf("%+v", hello)
	}
	return conn, hello
}

func receive(t testing.TB, conn *websocket.Conn) push {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	var p push
	if err := conn.ReadJSON(&p); err != nil {
		t.Fatal(err)
	}
	return p
}

// news returns the next message with events: the state may come alone before.
func news(t testing.TB, conn *websocket.Conn) push {
	t.Helper()
	for {
		if p := receive(t, conn); len(p.Data.Events) > 0 {
			return p
		}
	}
}

func (d *server) connect() *pgx.Conn {
	d.t.Helper()
	return postgrestest.Connect(d.t, d.database)
}

func exec(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func specs(rows []row) string {
	var names []string
	for _, r := range rows {
		names = append(names, r.Spec)
	}
	return strings.Join(names, " ")
}

const insert = `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 's', $1)`

// Two overlapping transactions: the one that took its id first commits last.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	cursor := d.poll("").Cursor
	conn, hello := d.socket(cursor)
	late, early := d.connect(), d.connect()
	exec(t, late, "BEGIN")
	exec(t, late, insert, "late")
	exec(t, early, insert, "early")

	first := news(t, conn)
	if specs(first.Data.Events) != "early" || first.From != hello.Cursor {
		t.Fatalf("%+v after %+v", first, hello)
	}
	polled := d.poll(cursor)
	if specs(polled.Events) != "early" {
		t.Fatalf("%+v", polled)
	}
	exec(t, late, "COMMIT")
	second := news(t, conn)
	if specs(second.Data.Events) != "late" || second.From != first.Cursor {
		t.Fatalf("%+v after %+v", second, first)
	}
	if again := d.poll(polled.Cursor); specs(again.Events) != "late" || again.State["totals"].(map[string]any)["spec_started"] != 2.0 {
		t.Fatalf("%+v", again)
	}
}

// The same 10,000 events, written by 8 writers at once, arrive once each in
// both modes, and as the table has them.
func TestEveryEventOnceInBothModes(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	const writers, each = 8, 1_250
	begin := d.poll("").Cursor
	conn, hello := d.socket(begin)
	var writing sync.WaitGroup
	for w := range writers {
		db := d.connect()
		writing.Go(func() {
			ctx := context.Background()
			for i := 0; i < each; {
				tx, err := db.Begin(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				n := min(1+(w+i)%7, each-i)
				for j := range n {
					if _, err := tx.Exec(ctx, `INSERT INTO events (kind, session, spec, data) VALUES ($1, $2, $3, $4)`,
						event.Kinds[(i+j)%len(event.Kinds)], fmt.Sprint("writer ", w), fmt.Sprint(i+j), fmt.Sprintf(`{"n": %d}`, i+j)); err != nil {
						t.Error(err)
						return
					}
				}
				if i%11 == 3 { // undone, and written again
					err = tx.Rollback(ctx)
				} else {
					err = tx.Commit(ctx)
					i += n
				}
				if err != nil {
					t.Error(err)
					return
				}
				if i%11 == 3 {
					// The next attempt must not be undone as well.
					if _, err := db.Exec(ctx, `INSERT INTO events (kind, session, spec, data) VALUES ($1, $2, $3, $4)`,
						event.Kinds[i%len(event.Kinds)], fmt.Sprint("writer ", w), fmt.Sprint(i), fmt.Sprintf(`{"n": %d}`, i)); err != nil {
						t.Error(err)
						return
					}
					i++
				}
			}
		})
	}
	collect := func(mode string, got map[int64]row, events []row) {
		for _, e := range events {
			if _, twice := got[e.ID]; twice {
				t.Errorf("%s: event %d twice", mode, e.ID)
			}
			got[e.ID] = e
		}
	}
	live, polled := map[int64]row{}, map[int64]row{}
	var reading sync.WaitGroup
	reading.Go(func() {
		collect("live", live, hello.Data.Events)
		for last := hello.Cursor; len(live) < writers*each; {
			var p push
			conn.SetReadDeadline(time.Now().Add(patience))
			if err := conn.ReadJSON(&p); err != nil {
				t.Errorf("live, after %d events: %v", len(live), err)
				return
			}
			if p.From != last {
				t.Errorf("live: from %s after %s", p.From, last)
			}
			last = p.Cursor
			collect("live", live, p.Data.Events)
		}
	})
	reading.Go(func() {
		for cursor, end := begin, time.Now().Add(4*patience); len(polled) < writers*each && time.Now().Before(end); {
			resp, err := d.client.Get("http://" + d.address + "/api/status?limit=97&since=" + cursor)
			if err != nil {
				t.Error(err)
				return
			}
			var a answer
			err = json.NewDecoder(resp.Body).Decode(&a)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || len(a.Events) > 97 {
				t.Errorf("%d, %d events: %v", resp.StatusCode, len(a.Events), err)
				return
			}
			cursor = a.Cursor
			collect("polled", polled, a.Events)
		}
	})
	writing.Wait()
	reading.Wait()

	rows, err := d.connect().Query(t.Context(), `SELECT id, kind, at, session, spec, data::text FROM events`)
	if err != nil {
		t.Fatal(err)
	}
	stored := 0
	for rows.Next() {
		stored++
		var want row
		var data string
		if err := rows.Scan(&want.ID, &want.Kind, &want.At, &want.Session, &want.Spec, &data); err != nil {
			t.Fatal(err)
		}
		for mode, got := range map[string]row{"live": live[want.ID], "polled": polled[want.ID]} {
			var compact bytes.Buffer
			if err := json.Compact(&compact, []byte(data)); err != nil {
				t.Fatal(err)
			}
			if got.ID != want.ID || got.Kind != want.Kind || !got.At.Equal(want.At) || got.Session != want.Session || got.Spec != want.Spec || string(got.Data) != compact.String() {
				t.Errorf("%s: %+v, stored %+v %s", mode, got, want, data)
			}
		}
	}
	if stored != writers*each || len(live) != stored || len(polled) != stored {
		t.Errorf("%d stored, %d live, %d polled", stored, len(live), len(polled))
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	db := d.connect()
	exec(t, db, `INSERT INTO events (kind, session, spec, at) SELECT 'spec_started', 's', n::text, now() - n * interval '2 minutes' FROM generate_series(0, 5) n`)
	a := d.poll("")
	if specs(a.Events) != "2 1 0" || a.More || a.Mode != "polling" {
		t.Errorf("the last five minutes: %+v", a)
	}
	if _, err := time.Parse(time.RFC3339Nano, a.Timestamp); err != nil {
		t.Error(err)
	}
	since := time.Now().Add(-9 * time.Minute).Format(time.RFC3339)
	if a = d.poll(since, "&limit=2"); specs(a.Events) != "4 3" || !a.More {
		t.Errorf("since a time: %+v", a)
	}
	if a = d.poll(a.Cursor, "&limit=3"); specs(a.Events) != "2 1 0" {
		t.Errorf("its second page: %+v", a)
	}
	// The target was taken with the first page; more says whether to look beyond it.
	for a.More {
		if a = d.poll(a.Cursor); len(a.Events) > 0 {
			t.Errorf("events beyond all: %+v", a)
		}
	}
	exec(t, db, insert, "new")
	if a = d.poll(a.Cursor); specs(a.Events) != "new" {
		t.Errorf("after it: %+v", a)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, _, _ := d.do("GET", path, ""); status != http.StatusOK {
			t.Errorf("%s: %d", path, status)
		}
	}
}

// Every path answers errors as problems, which send checks.
func TestNoSuchPathOrMethod(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{BasePath: "/watch"})
	for _, path := range []string{"/nope", "/assets/nope.js", "/%ff", "/api", "/api/", "/api/nothing"} {
		for _, method := range []string{"GET", "POST"} {
			if status, a, h := d.do(method, path, ""); status != http.StatusNotFound || !strings.Contains(a.Detail, "/api/status") || h.Get("Cache-Control") != "no-store" {
				t.Errorf("%s %s: %d %+v %v", method, path, status, a, h)
			}
		}
	}
	for path, allowed := range map[string]string{
		"/": "GET, HEAD", "/watch/": "GET, HEAD", "/healthz": "GET, HEAD", "/readyz": "GET, HEAD", "/metrics": "GET, HEAD", "/ws": "GET",
		"/api/status": "GET, HEAD", "/watch/api/status": "GET, HEAD", "/api/events": "POST", "/api/login": "POST", "/api/logout": "POST",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS"} {
			if strings.Contains(allowed, method) {
				continue
			}
			if status, a, h := d.do(method, path, ""); status != http.StatusMethodNotAllowed || h.Get("Allow") != allowed || !strings.Contains(a.Detail, "use "+allowed[:3]) {
				t.Errorf("%s %s: %d %+v, allowed are %q", method, path, status, a, h.Get("Allow"))
			}
		}
		head, err := d.client.Head("http://" + d.address + path)
		if err != nil {
			t.Fatal(err)
		}
		head.Body.Close()
		if refused := head.StatusCode == http.StatusMethodNotAllowed; refused == strings.Contains(allowed, "HEAD") {
			t.Errorf("HEAD %s: %s", path, head.Status)
		}
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	other := start(t, gateway.Options{})
	d.poll("")
	for query, field := range map[string]string{
		"since=garbage": "since", "since=2026-01-01T00:00:00": "since", "since=" + strings.Repeat("A", 70_000): "since",
		"last=0": "last", "last=5001": "last", "last=5&since=2026-01-01T00:00:00Z": "last",
		"limit=0": "limit", "limit=1000000": "limit", "limit=-1": "limit", "limit=x": "limit", "limit=1.5": "limit",
	} {
		if status, a, _ := d.do("GET", "/api/status?"+query, ""); status != http.StatusBadRequest || a.Field != field {
			t.Errorf("%.40s: %d %+v", query, status, a)
		}
	}
	for name, c := range map[string]struct{ body, field string }{
		"no JSON":         {`{`, ""},
		"empty":           {``, ""},
		"a number":        {`1`, ""},
		"an empty list":   {`[]`, ""},
		"unknown kind":    {`{"kind":"spec_lost","session":"s"}`, "kind"},
		"no kind":         {`{"session":"s"}`, "kind"},
		"empty session":   {`{"kind":"spec_started","session":""}`, "session"},
		"no zone":         {`{"kind":"spec_started","session":"s","at":"2026-01-01T00:00:00"}`, "at"},
		"far future":      {`{"kind":"spec_started","session":"s","at":"2096-01-01T00:00:00Z"}`, "at"},
		"too much data":   {`{"kind":"spec_started","session":"s","data":"` + strings.Repeat("x", event.MaxDataBytes) + `"}`, "data"},
		"a NUL":           {`{"kind":"spec_started","session":"s\u0000"}`, "session"},
		"a NUL in data":   {`{"kind":"spec_started","session":"s","data":{"a":"\u0000"}}`, "data"},
		"invalid UTF-8":   {"{\"kind\":\"spec_started\",\"session\":\"\xff\"}", ""},
		"unknown field":   {`{"kind":"spec_started","session":"s","sesion":"t"}`, "sesion"},
		"an id":           {`{"kind":"spec_started","session":"s","id":7}`, "id"},
		"number too big":  {`{"kind":"spec_started","session":"s","data":1e999999}`, "data"},
		"second of three": {`[{"kind":"spec_started","session":"s"},{"kind":"x","session":"s"},{"kind":"spec_started","session":"s"}]`, "kind"},
		"too many events": {`[` + strings.Repeat(`{"kind":"spec_started","session":"s"},`, event.MaxBatch) + `{"kind":"spec_started","session":"s"}]`, ""},
	} {
		status, a, _ := d.do("POST", "/api/events", c.body)
		if status != http.StatusBadRequest || a.Field != c.field {
			t.Errorf("%s: %d %+v", name, status, a)
		}
		if name == "second of three" && (a.Index == nil || *a.Index != 1) {
			t.Errorf("%s: index %v", name, a.Index)
		}
	}
	if status, _, _ := d.do("POST", "/api/events", strings.Repeat(" ", event.MaxBatchBytes+1)); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a huge body: %d", status)
	}
	if a := d.poll(""); len(a.Events) != 0 {
		t.Errorf("something was stored: %+v", a.Events)
	}

	exec(t, d.connect(), insert, "here")
	foreign := other.poll("").Cursor
	status, a, _ := d.do("GET", "/api/status?since="+foreign, "")
	if status != http.StatusGone || a.Title != "cursor expired" || specs(a.Events) != "here" || a.Cursor == "" || a.State == nil {
		t.Errorf("another database's cursor: %d %+v", status, a)
	}
	conn, hello := d.socket(foreign)
	if !hello.Expired || specs(hello.Data.Events) != "here" {
		t.Errorf("another database's cursor: %+v", hello)
	}
	conn.Close()
	if _, resp, err := d.dial("garbage"); err == nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a garbage cursor opens a socket: %v", err)
	}
}

// Parameters that cannot be parsed are refused, not dropped.
func TestBadParameters(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	for _, query := range []string{"since=%zz", "since=a;b", "last=5&%"} {
		for _, path := range []string{"/api/status?", "/ws?", "/metrics?"} {
			if status, a, _ := d.do("GET", path+query, ""); status != http.StatusBadRequest || a.Title != "bad request" || !strings.Contains(a.Detail, "%25") {
				t.Errorf("%s%s: %d %+v", path, query, status, a)
			}
		}
		conn, resp, err := websocket.DefaultDialer.Dial("ws://"+d.address+"/ws?"+query, nil)
		if err == nil {
			conn.Close()
			t.Errorf("%s opens a socket", query)
		} else if resp == nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("a socket with %s: %v", query, err)
		}
	}
}

func TestAppend(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	cursor := d.poll("").Cursor
	status, one, _ := d.do("POST", "/api/events", `{"kind":"spec_started","session":"s","spec":"a","key":"k","data":{"n":1}}`)
	if status != http.StatusCreated || len(one.IDs) != 1 {
		t.Fatalf("%d %+v", status, one)
	}
	status, two, _ := d.do("POST", "/api/events", `[{"kind":"spec_started","session":"s","spec":"a","key":"k"},{"kind":"spec_failed","session":"s","spec":"b","at":"2026-01-01T00:00:00.5+02:00"}]`)
	if status != http.StatusCreated || len(two.IDs) != 2 || two.IDs[0] != one.IDs[0] {
		t.Fatalf("%d %+v", status, two)
	}
	a := d.poll(cursor)
	if specs(a.Events) != "a b" || string(a.Events[0].Data) != `{"n":1}` || !a.Events[1].At.Equal(time.Date(2025, 12, 31, 22, 0, 0, 5e8, time.UTC)) {
		t.Fatalf("%+v", a.Events)
	}
}

func closeCode(t testing.TB, conn *websocket.Conn) int {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			if e, ok := err.(*websocket.CloseError); ok {
				return e.Code
			}
			t.Fatal(err)
		}
	}
}

func TestSocket(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	conn, _ := d.socket("")
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"ping"}`)); err != nil {
		t.Fatal(err)
	}
	for {
		p := receive(t, conn)
		if p.Type == "event_update" && len(p.Data.Events) == 0 {
			continue // the state may come alone before
		}
		if p.Type != "pong" || p.Timestamp == "" {
			t.Fatalf("%+v", p)
		}
		break
	}
	for nonsense, want := range map[string]int{
		`{"type":"pong"}`: websocket.ClosePolicyViolation, `x`: websocket.ClosePolicyViolation, ``: websocket.ClosePolicyViolation,
		strings.Repeat("x", 5_000): websocket.CloseMessageTooBig,
	} {
		conn, _ := d.socket("")
		if err := conn.WriteMessage(websocket.TextMessage, []byte(nonsense)); err != nil {
			t.Fatal(err)
		}
		if code := closeCode(t, conn); code != want {
			t.Errorf("%.20q: closed with %d", nonsense, code)
		}
	}
	// A gap of more than one page comes in several messages.
	begin := d.poll("").Cursor
	exec(t, d.connect(), `INSERT INTO events (kind, session, spec) SELECT 'spec_started', 's', n::text FROM generate_series(1, 12000) n`)
	gap, hello := d.socket(begin)
	n, last := len(hello.Data.Events), hello.Cursor
	for n < 12_000 {
		p := receive(t, gap)
		if p.From != last {
			t.Fatalf("from %s after %s", p.From, last)
		}
		n, last = n+len(p.Data.Events), p.Cursor
	}
	if n != 12_000 {
		t.Errorf("%d of 12000 events", n)
	}
	d.stop()
	if code := closeCode(t, conn); code != websocket.CloseGoingAway {
		t.Errorf("a gateway that stops closes with %d", code)
	}
}

// A client that does not read delays no other client, and is disconnected.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	begin := d.poll("").Cursor
	stalled, _ := d.socket(begin)
	reader, hello := d.socket(begin)
	db := d.connect()
	const rows = 600 // 24 MB: more than the kernel buffers, less than the ring
	read := make(chan int, 1)
	go func() {
		n := len(hello.Data.Events)
		for n < rows {
			var p push
			reader.SetReadDeadline(time.Now().Add(2 * patience))
			if err := reader.ReadJSON(&p); err != nil {
				t.Error(err)
				break
			}
			n += len(p.Data.Events)
		}
		read <- n
	}()
	for range rows / 100 {
		exec(t, db, `INSERT INTO events (kind, session, data) SELECT 'spec_failed', 's', to_jsonb(repeat('x', 40000)) FROM generate_series(1, 100)`)
	}
	if n := <-read; n != rows {
		t.Errorf("the other client has %d of %d events", n, rows)
	}
	// The server has given the stalled client up, within its write timeout,
	// when the feed has one subscriber left.
	deadline := time.Now().Add(patience)
	for {
		resp, err := d.client.Get("http://" + d.address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if strings.Contains(string(text), "\nspecwatch_feed_subscribers 1\n") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the stalled client is still held")
		}
		<-time.After(50 * time.Millisecond)
	}
	stalled.Close()
}

func TestTokens(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{ReadToken: "read-secret", WriteToken: "write-secret"})
	one := `{"kind":"spec_started","session":"s"}`
	for _, c := range []struct {
		method, path, body, token string
		status                    int
	}{
		{"GET", "/api/status", "", "", 401},
		{"GET", "/api/status", "", "wrong", 401},
		{"GET", "/api/status", "", "write-secret", 200}, // who asks a question waits for the answer
		{"GET", "/api/status", "", "read-secret", 200},
		{"GET", "/metrics", "", "", 401},
		{"GET", "/metrics", "", "read-secret", 200},
		{"POST", "/api/events", one, "", 401},
		{"POST", "/api/events", one, "read-secret", 401},
		{"POST", "/api/events", one, "write-secret", 201},
		{"GET", "/healthz", "", "", 200},
		{"GET", "/readyz", "", "", 200},
		{"POST", "/api/login", `{"token":"wrong"}`, "", 401},
		{"POST", "/api/login", `{"token":""}`, "", 401},
		{"POST", "/api/login", `x`, "", 400},
	} {
		header := []string{}
		if c.token != "" {
			header = []string{"Authorization", "Bearer " + c.token}
		}
		if status, a, _ := d.do(c.method, c.path, c.body, header...); status != c.status {
			t.Errorf("%s %s as %q: %d %+v", c.method, c.path, c.token, status, a)
		}
	}
	if _, resp, err := d.dial(""); err == nil || resp.StatusCode != 401 {
		t.Errorf("a socket without a token: %v", err)
	}
	d.client.Jar, _ = cookiejar.New(nil)
	status, _, header := d.do("POST", "/api/login", `{"token":"read-secret"}`)
	cookie := header.Get("Set-Cookie")
	if status != 204 || !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Strict") || strings.Contains(cookie, "read-secret") {
		t.Fatalf("%d %q", status, cookie)
	}
	if status, _, _ := d.do("GET", "/api/status", ""); status != 200 {
		t.Errorf("with the cookie: %d", status)
	}
	if status, _, _ := d.do("POST", "/api/events", one); status != 401 {
		t.Errorf("writing with a cookie for the read token: %d", status)
	}
	name, _, _ := strings.Cut(cookie, ";")
	if status, _, header := d.do("POST", "/api/login", `{"token":"write-secret"}`); status != 204 || strings.Contains(header.Get("Set-Cookie"), "write-secret") {
		t.Errorf("signing in with the write token: %d %q", status, header.Get("Set-Cookie"))
	}
	if status, _, _ := d.do("POST", "/api/events", one); status != 201 {
		t.Errorf("writing with a cookie for the write token: %d", status)
	}
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
		if status, _, _ := d.do("POST", "/api/events", one, header...); status != 403 {
			t.Errorf("writing with the cookie and %q: %d", header, status)
		}
	}
	conn, _, err := d.dial("", "Cookie", name, "Origin", "http://"+d.address)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, resp, err := d.dial("", "Cookie", name, "Origin", "https://evil.example"); err == nil || resp.StatusCode != 403 {
		t.Errorf("a socket for another site's page: %v", err)
	}
	forged := strings.Replace(name, "=1", "=2", 1)
	if _, resp, err := d.dial("", "Cookie", forged); err == nil || resp.StatusCode != 401 {
		t.Errorf("a forged cookie: %v", err)
	}
	d.do("POST", "/api/logout", "")
	if status, _, _ := d.do("GET", "/api/status", ""); status != 401 {
		t.Errorf("after signing out: %d", status)
	}
	// The session that gained the right to write has ended as a whole.
	if status, _, _ := d.do("GET", "/api/status", "", "Cookie", name); status != 401 {
		t.Errorf("with its first cookie, after signing out: %d", status)
	}
}

// scrape returns what Prometheus gets.
func (d *server) scrape() string {
	d.t.Helper()
	resp, err := d.client.Get("http://" + d.address + "/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	exec(t, d.connect(), `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 's', 'a'), ('spec_started', 's', 'b'), ('spec_completed', 's', 'a'), ('intervention_request', 's', 'b'), ('session_heartbeat', 's', '')`)
	var text string
	settled := []string{`specwatch_feed_connected 1`, `specwatch_feed_lag_seconds 0`, `specwatch_events_total{kind="session_heartbeat"} 1`}
	deadline := time.Now().Add(patience)
	for slices.ContainsFunc(settled, func(line string) bool { return !strings.Contains(text, "\n"+line+"\n") }) {
		if time.Now().After(deadline) {
			t.Fatalf("not all of %q in %s", settled, text)
		}
		text = d.scrape()
	}
	for _, line := range []string{
		`specwatch_spec_outcomes_total{outcome="started"} 2`, `specwatch_spec_outcomes_total{outcome="completed"} 1`,
		`specwatch_spec_outcomes_total{outcome="failed"} 0`, `specwatch_spec_outcomes_total{outcome="timeout"} 0`,
		`specwatch_interventions_open 1`, `specwatch_session_last_heartbeat_timestamp_seconds{session="s"} `,
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("no %s", line)
		}
	}
}

func FuzzSocketInput(f *testing.F) {
	for _, seed := range []string{`{"type":"ping"}`, `{"type":"pong"}`, `{`, ``, "\xff", `[1]`, `{"type":1}`} {
		f.Add([]byte(seed))
	}
	d := start(f, gateway.Options{})
	f.Fuzz(func(t *testing.T, input []byte) {
		conn, _, err := websocket.DefaultDialer.Dial("ws://"+d.address+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		receive(t, conn)
		if err := conn.WriteMessage(websocket.TextMessage, input); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(patience))
		for {
			var p push
			switch err := conn.ReadJSON(&p); {
			case err == nil && p.Type == "event_update" && len(p.Data.Events) == 0:
				continue // the state may come alone before
			case err == nil && p.Type == "pong":
			case websocket.IsCloseError(err, websocket.ClosePolicyViolation, websocket.CloseMessageTooBig):
			default:
				t.Fatalf("%q: %+v, %v", input, p, err)
			}
			break
		}
	})
}

// While the database cannot be read, clients are told so: those that are connected
// and those that connect meanwhile.
func TestOutageIsTold(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	db := d.connect()
	exec(t, db, `INSERT INTO events (kind, session) VALUES ('spec_started', 'night')`)
	conn, hello := d.socket("")
	exec(t, db, `ALTER TABLE events RENAME TO away`)
	if code := endCode(conn); code != websocket.CloseInternalServerErr {
		t.Errorf("a connected client is told %d", code)
	}
	if again, _, err := websocket.DefaultDialer.Dial("ws://"+d.address+"/ws?since="+hello.Cursor, nil); err != nil {
		t.Error(err)
	} else if code := endCode(again); code != websocket.CloseInternalServerErr {
		t.Errorf("a client that connects is told %d", code)
	}
	exec(t, db, `ALTER TABLE away RENAME TO events; INSERT INTO events (kind, session) VALUES ('spec_failed', 'night')`)
	programtest.Until(t, "events are read again", func() bool { status, _, _ := d.do("GET", "/api/status", ""); return status == http.StatusOK })
	// A socket is told of the outage until the feed reads again, which is later
	// than that a poll can.
	programtest.Until(t, "the feed reads again", func() bool { return strings.Contains(d.scrape(), "\nspecwatch_feed_connected 1\n") })
	if _, hello := d.socket(hello.Cursor); len(hello.Data.Events) != 1 || hello.Data.Events[0].Kind != "spec_failed" {
		t.Errorf("afterwards: %+v", hello.Data.Events)
	}
}
