package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// endsOf are the ends of a spec.
func (a at) endsOf(t *testing.T, spec string) (ends []string) {
	t.Helper()
	for _, r := range a.rows(t) {
		switch r.Kind {
		case "spec_completed", "spec_failed", "timeout_triggered":
			if r.Spec == spec {
				ends = append(ends, r.Kind)
			}
		}
	}
	return ends
}

// post writes an event through the gateway.
func (a at) post(t *testing.T, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, strings.TrimPrefix(a.env[0], envGateway+"=")+"/api/events", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer write-secret")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		t.Fatal(response.Status)
	}
}

// untilGo is a command that ends once the file "go" is there.
const untilGo = `: > "$0/started"; until [ -e "$0/go" ]; do sleep 0.02; done; exit 0`

// untilAsked is a command that prints until the file "go" is there, and then hangs.
const untilAsked = `until [ -e "$0/go" ]; do echo .; sleep 0.1; done; sleep 600`

// An end that the command writes by SQL or HTTP is the end, as one that it writes
// with specwatch emit.
func TestEndWithoutSpecwatch(t *testing.T) {
	t.Parallel()
	direct := migrated(t)
	gateway := direct.throughAGateway(t)
	post := func(t *testing.T, kind, spec, data string) int64 {
		t.Helper()
		gateway.post(t, fmt.Sprintf(`{"kind":%q,"session":"s","spec":%q,"data":%s}`, kind, spec, data))
		return 0
	}
	for name, c := range map[string]struct {
		at    at
		write func(t *testing.T, kind, spec, data string) int64
		kinds []string // that the command writes
		spec  string   // of these; empty: its own
		want  string
	}{
		"SQL":                    {direct, direct.insert, []string{"spec_failed"}, "", "[spec_failed]"},
		"SQL timeout":            {direct, direct.insert, []string{"timeout_triggered"}, "", "[timeout_triggered]"},
		"SQL, run by a gateway":  {gateway, direct.insert, []string{"spec_failed"}, "", "[spec_failed]"},
		"HTTP":                   {gateway, post, []string{"spec_failed"}, "", "[spec_failed]"},
		"HTTP, run by SQL":       {direct, post, []string{"spec_completed"}, "", "[spec_completed]"},
		"another spec":           {direct, direct.insert, []string{"spec_started", "spec_failed"}, "other", "[spec_completed]"},
		"it started again":       {direct, direct.insert, []string{"spec_failed", "spec_started"}, "", "[spec_failed spec_completed]"},
		"HTTP, it started again": {gateway, post, []string{"spec_failed", "spec_started"}, "", "[spec_failed spec_completed]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.at.state = t.TempDir() // what others keep is not looked at
			dir := t.TempDir()
			p := c.at.start(t, nil, "run", "--spec", name, "--session", "s", "--", "sh", "-c", untilGo, dir)
			programtest.Until(t, "it runs", func() bool { return exists(filepath.Join(dir, "started")) })
			spec := name
			if c.spec != "" {
				spec = c.spec
			}
			for _, kind := range c.kinds {
				c.write(t, kind, spec, `{"reason":"two tests are red"}`)
			}
			if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if code := p.code(t); code != 0 || strings.ReplaceAll(p.err.String(), onBusyMachine, "") != "" {
				t.Errorf("exit code %d: %s", code, &p.err)
			}
			if got := fmt.Sprint(direct.endsOf(t, name)); got != c.want {
				t.Errorf("ends: %s", got)
			}
			if left := c.at.kept(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// The same when nobody asks at once: the runner was killed, or it did not wait for the
// database. The end of an earlier run is written although a later one has ended.
func TestKeptEnd(t *testing.T) {
	t.Parallel()
	direct := migrated(t)
	gateway := direct.throughAGateway(t)
	for spec, a := range map[string]at{"again": direct, "again, by a gateway": gateway} {
		direct.insert(t, "spec_started", spec, `{}`)
		direct.insert(t, "spec_failed", spec, `{}`)
		a.mustRun(t, "emit", "spec_completed", "--session", "s", "--spec", spec, "--at", time.Now().Add(-time.Minute).Format(time.RFC3339Nano),
			"--key", fmt.Sprintf("run-%s-end", rand.Text()), "--data", `{"durationSeconds":1}`)
		if got := direct.endsOf(t, spec); len(got) != 2 {
			t.Errorf("ends: %v", got)
		}
	}
	for _, c := range []struct {
		name, end, want string
		at              at
	}{
		{"written", "spec_completed", "[spec_completed]", direct},
		{"written, by a gateway", "spec_completed", "[spec_completed]", gateway},
		{"none", "my.note", "[spec_failed]", direct},
		{"none, by a gateway", "my.note", "[spec_failed]", gateway},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// The guard of another run would send what this one keeps, and may end later.
			c.at.state = place(t, "").state
			dir := t.TempDir()
			p := c.at.start(t, nil, "run", "--spec", c.name, "--session", "s", "--", "sh", "-c", `echo $PPID >"$0/guard"; `+untilGo, dir)
			programtest.Until(t, "it runs", func() bool { return direct.lastOf(t, c.name).Kind == "spec_started" })
			guard := pidIn(t, filepath.Join(dir, "guard"))
			direct.insert(t, c.end, c.name, `{}`)
			if err := p.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			programtest.Until(t, "the guard has ended", func() bool { return !alive(guard) })
			if got := fmt.Sprint(direct.endsOf(t, c.name)); got != c.want {
				t.Errorf("ends: %s", got)
			}
		})
	}
	for name, throughGateway := range map[string]bool{"not waited": false, "not waited, by a gateway": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := postgrestest.Cluster(t, nil)
			a := place(t, server.URL())
			a.mustRun(t, "migrate")
			through := a
			if throughGateway {
				through = a.throughAGateway(t)
			}
			run := func(insert string) {
				dir := t.TempDir()
				p := through.start(t, nil, "run", "--spec", "p", "--session", "s", "--flush-timeout", "0s", "--", "sh", "-c", untilGo, dir)
				programtest.Until(t, "it runs", func() bool { return exists(filepath.Join(dir, "started")) && a.lastOf(t, "p").Kind == "spec_started" })
				if insert != "" {
					a.insert(t, insert, "p", `{}`)
				}
				stop(t, server)
				if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				p.code(t)
				restart(t, server)
			}
			run("spec_failed")
			run("")
			programtest.Until(t, "what is kept is written", func() bool {
				code, _, _ := through.run(t, "flush")
				return code == 0
			})
			if got := fmt.Sprint(a.endsOf(t, "p")); got != "[spec_failed spec_completed]" {
				t.Errorf("ends: %s", got)
			}
			if left := through.kept(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// A user that may only write cannot ask whether the spec has ended, and run writes
// the end. An end before the start is none of this run.
func TestEndThatCannotBeAskedFor(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.insert(t, "spec_failed", "p", `{}`)
	a.mustRun(t, "run", "--spec", "p", "--session", "s", "--", "true")
	conn, err := pgx.Connect(t.Context(), a.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	role := fmt.Sprintf("specwatch_writes_%d", time.Now().UnixNano())
	if _, err := conn.Exec(t.Context(), `CREATE ROLE `+role+` LOGIN PASSWORD 'p' IN ROLE specwatch_writer`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := conn.Exec(context.Background(), `DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	as, err := url.Parse(a.url)
	if err != nil {
		t.Fatal(err)
	}
	as.User = url.UserPassword(role, "p")
	dir := t.TempDir()
	p := place(t, as.String()).start(t, nil, "run", "--spec", "p", "--session", "s", "--", "sh", "-c", untilGo, dir)
	programtest.Until(t, "it has started", func() bool { return strings.Count(a.kinds(t), "spec_started") == 2 })
	a.insert(t, "spec_failed", "p", `{}`)
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := p.code(t); code != 0 {
		t.Errorf("exit code %d: %s", code, &p.err)
	}
	if got := fmt.Sprint(a.endsOf(t, "p")); got != "[spec_failed spec_completed spec_failed spec_completed]" {
		t.Errorf("ends: %s", got)
	}
}

// A command that waits for a person is not idle, whoever wrote the request. The
// idle time begins with the answer.
func TestIdleTimeoutWaitsForAPerson(t *testing.T) {
	t.Parallel()
	direct := migrated(t)
	for name, a := range map[string]at{"database": direct, "gateway": direct.throughAGateway(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := a.start(t, nil, "run", "--spec", name, "--session", "s", "--idle-timeout", "3s", "--", "sh", "-c", untilAsked, dir)
			programtest.Until(t, "it runs", func() bool { return direct.lastOf(t, name).Kind == "spec_started" })
			request := direct.insert(t, "intervention_request", name, `{"question":"Which port?"}`)
			other := direct.insert(t, "intervention_request", "other "+name, `{}`)
			if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			asked := time.Now()
			programtest.Until(t, "it has waited for long", func() bool { return time.Since(asked) > 7*time.Second })
			if got := direct.endsOf(t, name); len(got) != 0 {
				t.Fatalf("ends: %v", got)
			}
			answered := time.Now()
			direct.insert(t, "intervention_answered", name, fmt.Sprintf(`{"request":%d,"answer":"80"}`, request))
			if code := p.code(t); code != 124 {
				t.Errorf("exit code %d", code)
			}
			// An idle time that began earlier would be over by now. What the run has last
			// heard of the request is a little older than the answer.
			if waited := time.Since(answered); waited < 1500*time.Millisecond {
				t.Errorf("it ended %s after the answer", waited)
			}
			if last := direct.lastOf(t, name); last.Kind != "timeout_triggered" || last.Data["reason"] != "idle" {
				t.Errorf("last: %+v; request %d of another spec is open", last, other)
			}
		})
	}
}

// In an outage the last answer of the database counts, and requests that are kept on
// disk.
func TestIdleTimeoutInAnOutage(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	a := place(t, server.URL())
	a.mustRun(t, "migrate")
	dir := t.TempDir()
	run := func(spec, script string) *process {
		b := a
		b.env = []string{"SW=" + executable}
		return b.start(t, nil, "run", "--spec", spec, "--session", "s", "--idle-timeout", "3s", "--flush-timeout", "0s", "--", "sh", "-c", script, dir)
	}
	asks := run("asks", untilAsked)
	programtest.Until(t, "it runs", func() bool { return a.lastOf(t, "asks").Kind == "spec_started" })
	request := a.insert(t, "intervention_request", "asks", `{}`)
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// It asks again only when it has the answer, and for a new connection PostgreSQL
	// first describes the query.
	conn := postgrestest.Connect(t, a.url)
	asked := map[time.Time]bool{}
	programtest.Until(t, "it has asked the database", func() bool {
		rows, err := conn.Query(t.Context(), `
			SELECT query_start FROM pg_stat_activity
			WHERE application_name = 'specwatch' AND query LIKE '%SELECT e.id::bigint, %' AND query_start > (SELECT at FROM events WHERE id = $1)`, request)
		if err != nil {
			t.Fatal(err)
		}
		starts, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
		if err != nil {
			t.Fatal(err)
		}
		for _, start := range starts {
			asked[start] = true
		}
		return len(asked) >= 6
	})
	stop(t, server)
	hangs := run("hangs", "sleep 600")
	keeps := run("keeps", `"$SW" emit intervention_request --data '{"question":"Which?"}'; sleep 600`)
	if code := hangs.code(t); code != 124 {
		t.Errorf("hangs: exit code %d", code)
	}
	stopped := time.Now()
	programtest.Until(t, "the others wait for long", func() bool { return time.Since(stopped) > 6*time.Second })
	for name, p := range map[string]*process{"asks": asks, "keeps": keeps} {
		select {
		case <-p.done:
			t.Errorf("%s: exit code %d", name, p.code(t))
		default:
		}
	}
	restart(t, server)
	a.insert(t, "intervention_answered", "asks", fmt.Sprintf(`{"request":%d}`, request))
	a.mustRun(t, "flush")
	// Its start may be written later.
	programtest.Until(t, "the request is written", func() bool {
		return slices.ContainsFunc(a.rows(t), func(r row) bool { return r.Spec == "keeps" && r.Kind == "intervention_request" })
	})
	a.insert(t, "intervention_answered", "keeps", `{}`)
	for name, p := range map[string]*process{"asks": asks, "keeps": keeps} {
		if code := p.code(t); code != 124 {
			t.Errorf("%s: exit code %d", name, code)
		}
	}
}
