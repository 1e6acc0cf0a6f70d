//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	neturl "net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// status is what these tests look at of GET /api/status.
type status struct {
	State struct {
		Totals   map[string]int
		Sessions []struct {
			Session       string
			LastHeartbeat time.Time
			FailureStreak int
		}
		Running []struct {
			Session, Spec string
			LastWork      time.Time
		}
		Waiting []struct {
			ID            int64
			Session, Spec string
			Data          struct {
				Question string
				Options  []string
			}
		}
	}
	Events []struct {
		Kind, Session, Spec string
		Data                json.RawMessage
	}
}

func poll(t *testing.T, address string) (s status, ok bool) {
	t.Helper()
	client := http.Client{Timeout: 30 * time.Second}
	answer, err := client.Get(address + "/api/status?last=200")
	if err != nil {
		return s, false
	}
	defer answer.Body.Close()
	return s, answer.StatusCode == http.StatusOK && json.NewDecoder(answer.Body).Decode(&s) == nil
}

var address = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// page waits until a process has printed its address.
func (p *process) page(t *testing.T) (found string) {
	t.Helper()
	programtest.Until(t, "the address is printed", func() bool {
		found = address.FindString(p.out.String())
		select {
		case <-p.done:
			t.Fatalf("it has ended: %s%s", &p.out, &p.err)
		default:
		}
		return found != ""
	})
	return found
}

func (p *process) interrupt(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	if code := p.code(t); code != 0 {
		t.Errorf("exit code %d after %s: %s%s", code, s, &p.out, &p.err)
	}
}

func TestServe(t *testing.T) {
	a := migrated(t)
	p := a.start(t, nil, "serve", "--listen", "127.0.0.1:0")
	page := p.page(t)
	a.mustRun(t, "emit", "intervention_request", "--session", "s", "--spec", "login")
	programtest.Until(t, "the event is served", func() bool {
		s, ok := poll(t, page)
		return ok && len(s.State.Waiting) == 1 && s.State.Waiting[0].Spec == "login"
	})
	// A second one cannot have the same address.
	code, _, errs := a.run(t, "serve", "--listen", strings.TrimPrefix(page, "http://"))
	if code != 1 || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "--listen") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	p.interrupt(t, syscall.SIGTERM)
}

// link passes bytes on to the database until it is frozen, as a cut cable is.
type link struct {
	net.Listener
	frozen atomic.Bool
}

func newLink(t *testing.T, to string) (l *link, url string) {
	t.Helper()
	u, err := neturl.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { at.Close() })
	l = &link{Listener: at}
	target := u.Host
	go func() {
		for {
			near, err := at.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				near.Close()
				continue
			}
			t.Cleanup(func() { near.Close(); far.Close() })
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				go func() {
					buffer := make([]byte, 32<<10)
					for {
						n, err := way[0].Read(buffer)
						if l.frozen.Load() {
							return
						}
						if _, broken := way[1].Write(buffer[:n]); err != nil || broken != nil {
							near.Close()
							far.Close()
							return
						}
					}
				}()
			}
		}
	}()
	u.Host = at.Addr().String()
	return l, u.String()
}

// SIGTERM ends the gateway at once while its database hangs, too, with
// requests under way.
func TestServeStopsWhileTheDatabaseHangs(t *testing.T) {
	a := migrated(t)
	through, url := newLink(t, a.url)
	hung := place(t, url)
	p := hung.start(t, nil, "serve", "--listen", "127.0.0.1:0")
	page := p.page(t)
	programtest.Until(t, "it is served", func() bool { _, ok := poll(t, page); return ok })
	through.frozen.Store(true)
	type result struct {
		status int
		body   string
		err    error
	}
	const asked = 6
	results, written := make(chan result, asked), make(chan struct{}, asked)
	sent := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { written <- struct{}{} }})
	// Each on a connection of its own: one that was used before may be closed.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for i := range asked {
		go func() {
			request, _ := http.NewRequest("GET", fmt.Sprint(page, "/api/status?last=", i+1), nil)
			if i%2 == 1 {
				request, _ = http.NewRequest("POST", page+"/api/events", strings.NewReader(`{"kind":"spec_started","session":"s"}`))
			}
			answer, err := client.Do(request.WithContext(sent))
			if err != nil {
				results <- result{err: err}
				return
			}
			defer answer.Body.Close()
			text, err := io.ReadAll(answer.Body)
			results <- result{answer.StatusCode, string(text), err}
		}()
	}
	for range asked {
		select {
		case <-written:
		case r := <-results:
			t.Fatalf("answered by a database that hangs: %+v", r)
		}
	}
	// The gateway takes connections in order, so it has taken those of the requests.
	healthy, err := client.Get(page + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	healthy.Body.Close()
	select {
	case r := <-results:
		t.Errorf("answered by a database that hangs: %+v", r)
	case <-time.After(500 * time.Millisecond): // they are under way
	}
	began := time.Now()
	p.interrupt(t, syscall.SIGTERM)
	// Less than three seconds, and more on a busy machine. What waits for the
	// database takes ten longer.
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("stopping took %s", took)
	}
	for range asked {
		if r := <-results; r.err != nil || r.status != http.StatusServiceUnavailable || !strings.Contains(r.body, "stop") {
			t.Errorf("a request that was cut off: %d %s %v", r.status, r.body, r.err)
		}
	}
}

func TestServeRefusesOthersWithoutTokens(t *testing.T) {
	a := place(t, nowhere)
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "nonsense"} {
		for _, command := range []string{"serve", "demo"} {
			code, _, errs := a.run(t, command, "--listen", listen)
			if code != 2 || !strings.HasPrefix(errs, "specwatch: ") || strings.Count(errs, "\n") != 1 {
				t.Errorf("%s --listen %s: exit code %d: %s", command, listen, code, errs)
			}
		}
	}
}

// What would be accepted and then never match is refused at the start.
func TestServeRefusesWhatCannotMatch(t *testing.T) {
	a := place(t, nowhere)
	for _, args := range [][]string{
		{"--allow-origin", "https://grafana.example/d/specwatch"}, {"--allow-origin", "grafana.example"}, {"--allow-origin", "*"}, {"--allow-origin", "https://*.example"},
		{"--allow-origin", "null"}, {"--allow-origin", "https://"}, {"--allow-origin", "https://user@grafana.example"}, {"--allow-origin", "https://grafana.example?x"},
		{"--allow-host", "https://watch.example"}, {"--allow-host", "*"}, {"--allow-host", "watch.example/watch"},
		{"--base-path", "watch"}, {"--base-path", "/a/../b"}, {"--base-path", "/watch?x"}, {"--base-path", "https://watch.example/"},
	} {
		code, _, errs := a.run(t, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
		if code != 2 || !strings.Contains(errs, "such as") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: exit code %d: %s", args, code, errs)
		}
	}
}

// serve does not print its URL if it cannot serve because of its settings.
func TestServeRefusesAWrongDatabaseURL(t *testing.T) {
	a := place(t, "postgres://u@h:notaport/d")
	code, out, errs := a.run(t, "serve", "--listen", "127.0.0.1:0")
	if code != 2 || out != "" || !strings.HasPrefix(errs, "specwatch: ") || strings.Count(errs, "\n") != 1 {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}

// The gateway need not wait for its database.
func TestServeBeforeTheDatabase(t *testing.T) {
	server := postgrestest.Cluster(t, nil)
	stop(t, server)
	a := place(t, server.URL())
	p := a.start(t, nil, "serve", "--listen", "127.0.0.1:0")
	page := p.page(t)
	if _, ok := poll(t, page); ok {
		t.Error("events are served without a database")
	}
	restart(t, server)
	a.mustRun(t, "migrate")
	programtest.Until(t, "events are served", func() bool { _, ok := poll(t, page); return ok })
	p.interrupt(t, syscall.SIGTERM)
}

// The whole demo, twice: the second start finds the data of the first, and
// another port when its own is taken.
func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	a := place(t, "")
	p := a.start(t, nil, "demo", "--dir", dir, "--listen", "127.0.0.1:0")
	page := p.page(t)
	var asked status
	programtest.Until(t, "the loop asks for an intervention", func() (ok bool) {
		asked, ok = poll(t, page)
		return ok && len(asked.State.Waiting) == 1 && asked.State.Totals["spec_completed"] > 0
	})
	request := asked.State.Waiting[0]
	if request.Data.Question != "SQLite or PostgreSQL?" || len(request.Data.Options) != 2 {
		t.Errorf("request %+v", request)
	}
	answer := fmt.Sprintf(`{"kind":"intervention_answered","session":%q,"spec":%q,"data":{"request":%d,"answer":"SQLite"}}`, request.Session, request.Spec, request.ID)
	response, err := http.Post(page+"/api/events", "application/json", strings.NewReader(answer))
	if err != nil || response.StatusCode != http.StatusCreated {
		t.Fatalf("%v %v", response, err)
	}
	response.Body.Close()
	programtest.Until(t, "it is answered", func() bool {
		s, ok := poll(t, page)
		for _, w := range s.State.Waiting {
			ok = ok && w.ID != request.ID // the loop asks again later
		}
		return ok
	})
	programtest.Until(t, "one fails and one times out", func() bool {
		s, ok := poll(t, page)
		return ok && s.State.Totals["spec_failed"] > 0 && s.State.Totals["timeout_triggered"] > 0
	})
	programtest.Until(t, "heartbeats of the one that hangs go on without a sign of work", func() bool {
		s, _ := poll(t, page)
		for _, r := range s.State.Running {
			for _, session := range s.State.Sessions {
				if r.Spec == "wait-for-a-lock" && r.Session == session.Session && !r.LastWork.IsZero() && session.LastHeartbeat.Sub(r.LastWork) > 10*time.Second {
					return true
				}
			}
		}
		return false
	})
	wanted := []string{
		"session_heartbeat upload-results of the loop-elsewhere", // from emit
		"spec_started resize-images of the loop", "silent resize-images of the loop",
		"codex write-tests of the loop", "codex.usage write-tests of the loop", "demo.coverage write-tests of the loop",
		"claude-code review-changes of the loop", "claude.usage review-changes of the loop",
		"spec_failed check-links of the loop", "on a terminal", "failures in a row",
		"agent.limit refactor-store of the loop",
		"spec_completed write-docs of the loop-sandbox", // through the gateway
		"spec_started write-changelog of another session",
	}
	seen := map[string]bool{}
	programtest.Until(t, "all that the demo shows is seen", func() bool {
		s, _ := poll(t, page)
		for _, row := range s.State.Sessions {
			if row.Session == request.Session && row.FailureStreak >= 3 {
				seen["failures in a row"] = true
			}
		}
		for _, e := range s.Events {
			session, named := strings.CutPrefix(e.Session, request.Session)
			where := e.Spec + " of the loop" + session
			if !named {
				where = e.Spec + " of another session"
			}
			seen[e.Kind+" "+where] = true
			if e.Spec == "look-around" && bytes.Contains(e.Data, []byte("on a terminal with 24x80 characters")) {
				seen["on a terminal"] = true
			}
			if e.Spec == "check-links" && e.Kind == "spec_completed" {
				t.Error("the end that check-links wrote is not the only one")
			}
			var heartbeat struct {
				Agent, Doing  string
				SilentSeconds *float64
			}
			if json.Unmarshal(e.Data, &heartbeat) == nil && heartbeat.Doing != "" {
				seen[heartbeat.Agent+" "+where] = true
			}
			// A spec is silent by itself only if its heartbeats told of work.
			if e.Kind == "session_heartbeat" && heartbeat.SilentSeconds != nil {
				seen["silent "+where] = true
			}
			if e.Spec == "fix-login" && e.Kind == "spec_failed" {
				var failed struct{ Output string }
				if err := json.Unmarshal(e.Data, &failed); err != nil || strings.Contains(failed.Output, "hunter2") || strings.Contains(failed.Output, "\x1b") ||
					!strings.Contains(failed.Output, "testing with API_KEY=") || !strings.Contains(failed.Output, "\n1 of 12 tests fails: login") {
					t.Errorf("%q: %v", failed.Output, err)
				}
				seen["failed"] = true
			}
		}
		return seen["failed"] && !slices.ContainsFunc(wanted, func(what string) bool { return !seen[what] })
	})

	// What it tells the person to try.
	info, err := os.Stat(filepath.Join(dir, "env"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	env, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	url, found := strings.CutPrefix(strings.TrimSpace(string(env)), "export SPECWATCH_DATABASE_URL='")
	url = strings.TrimSuffix(url, "'")
	if !found || strings.Contains(p.out.String()+p.err.String(), url) {
		t.Errorf("the database's URL is missing or printed: %s", &p.out)
	}
	mine := place(t, url)
	mine.mustRun(t, "run", "--session", "mine", "--spec", "first", "--", "true")
	p.interrupt(t, syscall.SIGINT)
	if errs := p.err.String(); strings.Contains(errs, "specwatch: ") {
		t.Errorf("says %s", errs)
	}

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p = a.start(t, nil, "demo", "--dir", dir, "--listen", taken.Addr().String())
	programtest.Until(t, "it says that the port is taken", func() bool { return strings.Contains(p.out.String(), "is taken by another program") })
	programtest.Until(t, "it explains itself", func() bool { return strings.Contains(p.out.String(), "Specwatch is at") })
	_, out, _ := strings.Cut(p.out.String(), "Specwatch is at")
	page = address.FindString(out)
	var s status
	programtest.Until(t, "the page answers", func() bool { var ok bool; s, ok = poll(t, page); return ok })
	if s.State.Totals["timeout_triggered"] == 0 || s.State.Totals["intervention_request"] == 0 {
		t.Errorf("the data of the first start is gone: %v", s.State.Totals)
	}
	p.interrupt(t, syscall.SIGTERM)
}

// With a database of one's own the demo starts none.
func TestDemoOnAGivenDatabase(t *testing.T) {
	url, _ := postgrestest.Schema(t)
	a := place(t, url)
	dir := filepath.Join(t.TempDir(), "demo")
	p := a.start(t, nil, "demo", "--dir", dir, "--listen", "127.0.0.1:0")
	page := p.page(t)
	programtest.Until(t, "a spec completes", func() bool { s, ok := poll(t, page); return ok && s.State.Totals["spec_completed"] > 0 })
	if exists(filepath.Join(dir, "postgres")) {
		t.Error("it started a PostgreSQL of its own")
	}
	p.interrupt(t, syscall.SIGINT)
}

// A role that may have few connections is enough: polls and writers wait for
// each other, and the pool is as large as the URL says.
func TestServeWithFewConnections(t *testing.T) {
	a := migrated(t)
	conn, err := pgx.Connect(t.Context(), a.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	role := fmt.Sprintf("specwatch_few_%d", time.Now().UnixNano())
	for _, sql := range []string{`CREATE ROLE ` + role + ` LOGIN PASSWORD 'p' CONNECTION LIMIT 2`, `GRANT specwatch_reader, specwatch_writer TO ` + role} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := conn.Exec(context.Background(), `DROP ROLE `+role); err != nil {
			t.Log(err)
		}
	})
	u, err := neturl.Parse(a.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = neturl.UserPassword(role, "p")
	few := place(t, u.String())
	p := few.start(t, nil, "serve", "--listen", "127.0.0.1:0")
	page := p.page(t)
	programtest.Until(t, "it is served", func() bool { _, ok := poll(t, page); return ok })
	results := make(chan string, 16)
	for i := range cap(results) {
		go func() {
			for n := range 5 {
				answer, err := http.Get(fmt.Sprintf("%s/api/status?last=%d", page, 1+n*cap(results)+i)) // no two the same
				want := http.StatusOK
				if i%4 == 3 {
					answer, err = http.Post(page+"/api/events", "application/json", strings.NewReader(`{"kind":"spec_started","session":"s"}`))
					want = http.StatusCreated
				}
				if err != nil {
					results <- err.Error()
					return
				}
				text, _ := io.ReadAll(answer.Body)
				answer.Body.Close()
				if answer.StatusCode != want {
					results <- fmt.Sprint(answer.StatusCode, " ", string(text))
					return
				}
			}
			results <- ""
		}()
	}
	for range cap(results) {
		if failed := <-results; failed != "" {
			t.Error(failed)
		}
	}
	p.interrupt(t, syscall.SIGTERM)

	// The URL's own word counts, in place of the gateway's.
	u.User = neturl.UserPassword(role, "p")
	q := u.Query()
	q.Set("pool_max_conns", "1")
	u.RawQuery = q.Encode()
	p = place(t, u.String()).start(t, nil, "serve", "--listen", "127.0.0.1:0")
	page = p.page(t)
	programtest.Until(t, "it is served with one", func() bool { _, ok := poll(t, page); return ok })
	p.interrupt(t, syscall.SIGTERM)
}
