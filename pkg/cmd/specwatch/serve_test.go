//go:build unix

package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/postgrestest"
)

// status is what these tests look at of GET /api/status.
type status struct {
	State struct {
		Totals  map[string]int
		Waiting []struct{ Spec string }
	}
}

func poll(t *testing.T, address string) (s status, ok bool) {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Get(address + "/api/status?limit=1")
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
	until(t, "the address is printed", func() bool {
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
	until(t, "the event is served", func() bool {
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

func TestServeRefusesOthersWithoutTokens(t *testing.T) {
	a := place(t, nowhere)
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "nonsense"} {
		code, _, errs := a.run(t, "serve", "--listen", listen)
		if code != 2 || !strings.HasPrefix(errs, "specwatch: ") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: exit code %d: %s", listen, code, errs)
		}
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
	until(t, "events are served", func() bool { _, ok := poll(t, page); return ok })
	p.interrupt(t, syscall.SIGTERM)
}

// The whole demo, twice: the second start finds the data of the first, and
// another port when its own is taken.
func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	a := place(t, "")
	p := a.start(t, nil, "demo", "--dir", dir, "--listen", "127.0.0.1:0")
	page := p.page(t)
	until(t, "the loop asks for an intervention", func() bool {
		s, ok := poll(t, page)
		return ok && len(s.State.Waiting) == 1 && s.State.Totals["spec_completed"] > 0
	})
	if err := os.WriteFile(filepath.Join(dir, "answer"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "it is answered", func() bool { s, ok := poll(t, page); return ok && len(s.State.Waiting) == 0 })
	until(t, "one fails and one times out", func() bool {
		s, ok := poll(t, page)
		return ok && s.State.Totals["spec_failed"] > 0 && s.State.Totals["timeout_triggered"] > 0
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
	until(t, "it says that the port is taken", func() bool { return strings.Contains(p.out.String(), "is taken by another program") })
	until(t, "it explains itself", func() bool { return strings.Contains(p.out.String(), "Specwatch is at") })
	_, out, _ := strings.Cut(p.out.String(), "Specwatch is at")
	page = address.FindString(out)
	var s status
	until(t, "the page answers", func() bool { var ok bool; s, ok = poll(t, page); return ok })
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
	until(t, "a spec completes", func() bool { s, ok := poll(t, page); return ok && s.State.Totals["spec_completed"] > 0 })
	if exists(filepath.Join(dir, "postgres")) {
		t.Error("it started a PostgreSQL of its own")
	}
	p.interrupt(t, syscall.SIGINT)
}
