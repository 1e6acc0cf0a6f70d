package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// Clients that send their headers or bodies byte by byte are cut off, and keep
// nobody else out meanwhile.
func TestSlowRequests(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	t.Parallel()
	d := start(t, gateway.Options{ReadToken: "read-secret", WriteToken: "write-secret"})
	type slow struct {
		net.Conn
		ends time.Duration
	}
	var clients []slow
	for range 300 {
		clients = append(clients,
			slow{d.deaf("GET /api/status HTTP/1.1\r\nHost: localhost\r\nX-Slow: "), 50 * time.Second}, // before the limit of a whole request
			slow{d.deaf("POST /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer write-secret\r\nContent-Length: 1000\r\n\r\n["), 150 * time.Second})
	}
	began := time.Now()
	var waiting sync.WaitGroup
	for i, c := range clients {
		waiting.Go(func() {
			for {
				if _, err := c.Write([]byte(" ")); err != nil {
					break
				}
				c.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := io.Copy(io.Discard, c); err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
					break // cut off
				}
				if time.Since(began) > c.ends {
					t.Errorf("client %d is not cut off", i)
					break
				}
			}
		})
	}
	for range 10 {
		if status, _, _ := d.do("GET", "/api/status", "", "Authorization", "Bearer read-secret"); status != http.StatusOK {
			t.Errorf("a poll meanwhile: %d", status)
		}
	}
	waiting.Wait()
}

// Depth that no parser of JSON takes gets an answer, and what is stored can be
// read, by a poll and by a socket.
func TestDeepInput(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	cursor := d.poll("").Cursor
	stored := 0
	for _, depth := range []int{10, 100, 1_000, 3_000, 9_990, 10_000, 100_000, 400_000} {
		for _, pair := range []string{"[]", "{}"} {
			deep := strings.Repeat("[", depth) + strings.Repeat("]", depth)
			if pair == "{}" {
				deep = strings.Repeat(`{"":`, depth) + "1" + strings.Repeat("}", depth)
			}
			status, a, _ := d.do("POST", "/api/events", `{"kind":"spec_started","session":"s","data":`+deep+`}`)
			switch {
			case status == http.StatusCreated:
				stored++
			case status != http.StatusBadRequest || len(a.Detail) > 1_000:
				t.Errorf("%d deep: %d %.200s", depth, status, a.Detail)
			}
			// Not as data, but where nothing of the kind belongs.
			if status, _, _ := d.do("POST", "/api/events", deep); status != http.StatusBadRequest {
				t.Errorf("a body %d deep: %d", depth, status)
			}
			if status, _, _ := d.do("POST", "/api/login", deep); status != http.StatusBadRequest && status != http.StatusNoContent {
				t.Errorf("a login %d deep: %d", depth, status)
			}
		}
	}
	if a := d.poll(cursor); len(a.Events) != stored || stored == 0 {
		t.Errorf("%d of %d events", len(a.Events), stored)
	}
	conn, hello := d.socket(cursor)
	for pushed := len(hello.Data.Events); pushed < stored; {
		pushed += len(receive(t, conn).Data.Events)
	}
}

// Headers, addresses and cursors of any size get a short answer.
func TestHugeRequests(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{ReadToken: "read-secret", WriteToken: "write-secret"})
	huge := strings.Repeat("A", 100_000)
	many := strings.Repeat("X-Filler: 0123456789\r\n", 20_000)
	for name, c := range map[string]struct {
		request string
		status  []int
	}{
		"a cursor":                    {"GET /api/status?since=" + huge + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer read-secret\r\n\r\n", []int{400}},
		"a cursor of a socket":        {strings.Replace(fmt.Sprintf(upgrade, huge), "Host:", "Authorization: Bearer read-secret\r\nHost:", 1), []int{400}},
		"a path":                      {"GET /" + huge + " HTTP/1.1\r\nHost: localhost\r\n\r\n", []int{404}},
		"a path of the API":           {"GET /api/" + huge + " HTTP/1.1\r\nHost: localhost\r\n\r\n", []int{404}},
		"a path beyond every bound":   {"GET /" + strings.Repeat(huge, 10) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", []int{431}},
		"a header beyond the bound":   {"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + huge + huge + "\r\n\r\n", []int{431}},
		"headers beyond the bound":    {"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + many + "\r\n", []int{431}},
		"a host":                      {"GET /healthz HTTP/1.1\r\nHost: " + huge + "\r\n\r\n", []int{421}},
		"a cookie":                    {"GET /api/status HTTP/1.1\r\nHost: localhost\r\nCookie: specwatch_session=" + huge + "\r\n\r\n", []int{401}},
		"a token":                     {"GET /api/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + huge + "\r\n\r\n", []int{401}},
		"an origin":                   {strings.Replace(fmt.Sprintf(upgrade, ""), "Host:", "Authorization: Bearer read-secret\r\nOrigin: https://"+huge+"\r\nHost:", 1), []int{403}},
		"parameters":                  {"GET /api/status?" + strings.Repeat("a=1&", 20_000) + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer read-secret\r\n\r\n", []int{200, 400}},
		"two lengths":                 {"POST /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer write-secret\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", []int{400}},
		"a length and chunks":         {"POST /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer write-secret\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []int{400}},
		"a declared size":             {"POST /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer write-secret\r\nContent-Length: 99999999999\r\n\r\n" + strings.Repeat(" ", 17*megabyte), []int{413}},
		"a login":                     {"POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100009\r\n\r\n{\"token\":\"" + huge, []int{400}},
		"no host":                     {"GET /healthz HTTP/1.1\r\n\r\n", []int{400}},
		"another protocol altogether": {"SSH-2.0-OpenSSH_9.6\r\n\r\n", []int{400}},
	} {
		t.Run(name, func(t *testing.T) {
			c0, err := net.Dial("tcp", d.address)
			if err != nil {
				t.Fatal(err)
			}
			defer c0.Close()
			c0.SetDeadline(time.Now().Add(patience))
			go io.WriteString(c0, c.request)
			answer := make([]byte, 12)
			if _, err := io.ReadFull(c0, answer); err != nil {
				t.Fatal(err)
			}
			var status int
			fmt.Sscanf(string(answer), "HTTP/1.1 %d", &status)
			for _, want := range c.status {
				if status == want {
					return
				}
			}
			t.Errorf("%s", answer)
		})
	}
}

// descriptors is how many this process has open, or -1 where that cannot be told.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries)
}

// 2,000 clients connect and leave, half of them without closing. Goroutines, file
// descriptors and memory return to the level of before.
func TestManySocketsLeave(t *testing.T) { // not parallel: it counts what the process has
	d := start(t, gateway.Options{})
	cursor := d.poll("").Cursor
	warm, _ := d.socket(cursor)
	warm.Close()
	programtest.Until(t, "the first has left", func() bool { return d.subscribers() == 0 })
	d.client.CloseIdleConnections()
	goroutines, files, before := runtime.NumGoroutine(), descriptors(), heap()

	const clients = 2_000
	conns := make([]*websocket.Conn, clients)
	var coming sync.WaitGroup
	var slots = make(chan struct{}, 50)
	for i := range conns {
		slots <- struct{}{}
		coming.Go(func() {
			defer func() { <-slots }()
			conn, _, err := d.dial(cursor)
			if err != nil {
				t.Error(err)
				return
			}
			conns[i] = conn
			conn.SetReadDeadline(time.Now().Add(patience))
			if _, _, err := conn.ReadMessage(); err != nil {
				t.Error(err)
			}
		})
	}
	coming.Wait()
	if t.Failed() {
		return
	}
	programtest.Until(t, "all are here", func() bool { return d.subscribers() == clients })
	exec(t, d.connect(), insert, "for all")
	for _, conn := range conns {
		if p := news(t, conn); specs(p.Data.Events) != "for all" {
			t.Fatalf("%+v", p)
		}
	}
	t.Logf("%d clients: %d goroutines, %d descriptors, %d KB for each, both ends", clients, runtime.NumGoroutine(), descriptors(), (heap()-before)/clients/1024)
	for i, conn := range conns {
		if i%2 == 0 {
			conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
		}
		conn.Close()
		conns[i] = nil
	}
	programtest.Until(t, "all have left", func() bool { return d.subscribers() == 0 })
	programtest.Until(t, "nothing of them is left", func() bool {
		d.client.CloseIdleConnections()
		return runtime.NumGoroutine() <= goroutines+5 && descriptors() <= files+10 && heap() < before+4*megabyte
	})
}

// Names are data, whatever they hold: in JSON, in metrics, in the log.
func TestNamesAreData(t *testing.T) {
	t.Parallel()
	var log programtest.Output
	d := start(t, gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	names := []string{
		"\x01\x1b[31mred\x1b[0m\x7f", "line\nbreak\r\nlevel=ERROR msg=forged", `quote"and\backslash`, "<script>alert(1)</script>&amp;'", "\u202eright to left\u2066", "zero\u200bwidth\ufeff",
		"\u2028separator\u2029", strings.Repeat("x", event.MaxNameBytes), strings.Repeat("é", event.MaxNameBytes/2), `"} 1` + "\nspecwatch_forged 1\n", "{{.}}${x}%s%n", "'; DROP TABLE events; --", "\U0001F600", "\t",
		"e\u0301", "\ufdd0\uffff",
	}
	cursor := d.poll("").Cursor
	for _, name := range names {
		body, err := json.Marshal(map[string]any{"kind": "session_heartbeat", "session": name, "spec": name, "data": map[string]any{name: name}})
		if err != nil {
			t.Fatal(err)
		}
		if status, a, _ := d.do("POST", "/api/events", string(body)); status != http.StatusCreated {
			t.Fatalf("%q: %d %+v", name, status, a)
		}
	}
	conn, hello := d.socket(cursor)
	pushed := hello.Data.Events
	for len(pushed) < len(names) {
		pushed = append(pushed, receive(t, conn).Data.Events...)
	}
	for mode, events := range map[string][]row{"polled": d.poll(cursor).Events, "pushed": pushed} {
		if len(events) != len(names) {
			t.Fatalf("%s: %d of %d events", mode, len(events), len(names))
		}
		for i, e := range events {
			var data map[string]string
			if err := json.Unmarshal(e.Data, &data); err != nil || e.Session != names[i] || e.Spec != names[i] || data[names[i]] != names[i] {
				t.Errorf("%s: %q became %q %q %q", mode, names[i], e.Session, e.Spec, data)
			}
		}
	}
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	programtest.Until(t, "each name is one label", func() bool {
		text := "\n" + d.scrape()
		for _, name := range names {
			if !strings.Contains(text, "\nspecwatch_session_last_heartbeat_timestamp_seconds{session=\""+escape.Replace(name)+"\"} ") {
				return false
			}
		}
		return !strings.Contains(text, "\nspecwatch_forged")
	})
	// What a request says gets into the log on one line, and no further.
	for _, name := range names {
		d.do("GET", "/api/status?since="+url.QueryEscape(name)+"&last="+url.QueryEscape(name), "")
		d.do("POST", "/api/events", `{"kind":`+name)
		d.dial("", "Origin", "https://"+url.PathEscape(name))
		d.do("GET", "/"+url.PathEscape(name), "")
	}
	for _, line := range strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n") {
		if line != "" && !strings.HasPrefix(line, "time=") || strings.ContainsAny(line, "\x1b\r\u202e") {
			t.Errorf("the log has %q", line)
		}
	}
}

// Tokens and cookies are in no log, answer or metric.
func TestTokensAreToldNobody(t *testing.T) {
	t.Parallel()
	var log programtest.Output
	d := start(t, gateway.Options{ReadToken: "read-secret", WriteToken: "write-secret", Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	cookie, attributes := d.signIn()
	_, value, _ := strings.Cut(cookie, "=")
	var told strings.Builder
	told.WriteString(attributes)
	for _, header := range [][]string{nil, {"Authorization", "Bearer read-secret"}, {"Authorization", "Bearer write-secret"}, {"Cookie", cookie}} {
		for _, request := range [][2]string{
			{"GET", "/api/status"}, {"GET", "/api/status?since=read-secre"}, {"POST", "/api/events"}, {"GET", "/metrics"}, {"GET", "/readyz"}, {"GET", "/healthz"}, {"GET", "/"}, {"GET", "/ws"},
			{"POST", "/api/login"}, {"POST", "/api/logout"}, {"GET", "/api/nothing"},
		} {
			r, err := http.NewRequest(request[0], "http://"+d.address+request[1], strings.NewReader(`{"token":"read-secret-almost"}`))
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			resp, err := d.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(&told, resp.Header, string(body))
		}
	}
	told.WriteString(log.String())
	for _, secret := range []string{"read-secret", "write-secret", value} {
		if i := strings.Index(told.String(), secret); i >= 0 {
			t.Errorf("told: …%s…", told.String()[max(0, i-80):min(told.Len(), i+80)])
		}
	}
}
