//go:build unix

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/client"
	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
	"github.com/specwatch/specwatch/pkg/store"
)

// throughAGateway is the same place for a program without database access.
func (a at) throughAGateway(t *testing.T) at {
	t.Helper()
	server := a
	server.env = append(server.env, envWriteToken+"=write-secret", envReadToken+"=read-secret")
	p := server.start(t, nil, "serve", "--listen", "127.0.0.1:0")
	programtest.Until(t, "the gateway serves", func() bool { return strings.Contains(p.out.String(), "\n") })
	url := strings.TrimSpace(p.out.String())
	programtest.Until(t, "the gateway is ready", func() bool {
		response, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return at{state: t.TempDir(), env: []string{envGateway + "=" + url, envWriteToken + "=write-secret"}}
}

func (a at) lastQuestion(t *testing.T, text string) (last row) {
	t.Helper()
	for _, r := range a.rows(t) {
		if r.Kind == "intervention_request" && r.Data["question"] == text {
			last = r
		}
	}
	return last
}

// rowsByID are the rows, each with its id.
func (a at) rowsByID(t *testing.T) map[int64]row {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), a.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	result, err := conn.Query(t.Context(), "SELECT id, kind, session, spec, at, data, key FROM events")
	if err != nil {
		t.Fatal(err)
	}
	all := map[int64]row{}
	var id int64
	var r row
	_, err = pgx.ForEachRow(result, []any{&id, &r.Kind, &r.Session, &r.Spec, &r.At, &r.Data, &r.Key}, func() error {
		all[id], r = r, row{} // the next has data of its own
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// insert writes an event as a program without specwatch does, and returns its id.
func (a at) insert(t *testing.T, kind, spec, data string) (id int64) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), a.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	err = conn.QueryRow(t.Context(), `INSERT INTO events (kind, session, spec, data) VALUES ($1, 's', $2, $3) RETURNING id`, kind, spec, data).Scan(&id)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// requests are the ids of the questions with this text.
func (a at) requests(t *testing.T, text string) (ids []int64) {
	t.Helper()
	for id, r := range a.rowsByID(t) {
		if r.Kind == "intervention_request" && r.Data["question"] == text {
			ids = append(ids, id)
		}
	}
	return ids
}

func TestAsk(t *testing.T) {
	t.Parallel()
	direct := migrated(t)
	for name, a := range map[string]at{"database": direct, "gateway": direct.throughAGateway(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "Which port, " + name + "?"
			answered := func(t *testing.T, data string, args ...string) *process {
				t.Helper()
				n := len(direct.requests(t, text))
				p := a.start(t, nil, append([]string{"ask", text, "--session", "s"}, args...)...)
				programtest.Until(t, "the question is written", func() bool { return len(direct.requests(t, text)) == n+1 })
				var last int64
				for _, id := range direct.requests(t, text) {
					last = max(last, id)
				}
				direct.mustRun(t, "emit", "intervention_answered", "--session", "s", "--data", fmt.Sprintf(`{"request":%d,"answer":"not yours"}`, last-1_000_000))
				direct.mustRun(t, "emit", "intervention_answered", "--session", "s", "--data", fmt.Sprintf(data, last))
				return p
			}
			p := answered(t, `{"request":%d,"answer":"9090"}`, "--spec", "p", "--option", "8080", "--option", "9090")
			if code := p.code(t); code != 0 || p.out.String() != "9090\n" || p.err.String() != "" {
				t.Errorf("exit code %d, prints %q, says %s", code, &p.out, &p.err)
			}
			if r := direct.lastQuestion(t, text); r.Spec != "p" || fmt.Sprint(r.Data["options"]) != "[8080 9090]" {
				t.Errorf("request: %+v", r)
			}
			p = answered(t, `{"request":%d,"dismissed":true}`)
			if code := p.code(t); code != 1 || p.out.String() != "" || !strings.Contains(p.err.String(), "dismissed") {
				t.Errorf("exit code %d, prints %q, says %s", code, &p.out, &p.err)
			}
			code, out, errs := a.run(t, "ask", text, "--session", "s", "--timeout", "1s", "--default", "8080")
			if code != 0 || out != "8080\n" || !strings.Contains(errs, "nobody answered") {
				t.Errorf("exit code %d, prints %q, says %s", code, out, errs)
			}
			code, out, errs = a.run(t, "ask", text, "--session", "s", "--timeout", "1s")
			if code != 1 || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "nobody answered") {
				t.Errorf("exit code %d, prints %q, says %s", code, out, errs)
			}
			n := len(direct.requests(t, text))
			p = a.start(t, nil, "ask", text, "--session", "s")
			programtest.Until(t, "the question is written", func() bool { return len(direct.requests(t, text)) == n+1 })
			if err := p.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code := p.code(t); code == 0 || p.out.String() != "" {
				t.Errorf("exit code %d, prints %q", code, &p.out)
			}
			// Nobody waits any more, so none of them is open.
			rows := direct.rowsByID(t)
			for _, id := range direct.requests(t, text) {
				ended := false
				for _, r := range rows {
					ended = ended || r.Kind == "intervention_answered" && r.Data["request"] == float64(id)
				}
				if !ended {
					t.Errorf("request %d is open: %v", id, rows[id])
				}
			}
		})
	}
}

// When its cursor expires, as after a fail-over, it reads again from the time of
// the question, however long ago that was.
func TestAnswerBeforeTheCursorExpired(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	st, err := store.Open(t.Context(), store.Config{URL: a.url})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	remote := a.throughAGateway(t)
	gateway, err := client.New(strings.TrimPrefix(remote.env[0], envGateway+"="), "write-secret", "")
	if err != nil {
		t.Fatal(err)
	}
	page, err := st.Since(t.Context(), cursor.Cursor{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	expired := page.Cursor
	expired.Epoch++
	a.mustRun(t, "emit", "intervention_answered", "--session", "s", "--at", time.Now().Add(-30*time.Minute).Format(time.RFC3339), "--data", `{"request":1,"answer":"yes"}`)
	for name, to := range map[string]*destination{"database": {store: st}, "gateway": {gateway: gateway}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			l := newListener(to, time.Now().Add(-time.Hour), func(string) {})
			l.cursor = expired.String()
			var listening sync.WaitGroup
			defer listening.Wait()
			defer cancel()
			listening.Go(func() { l.listen(ctx) })
			select {
			case e := <-l.answers:
				if text, _, _ := answerTo(1, e.Data); text != "yes" {
					t.Errorf("%s", e.Data)
				}
			case err := <-l.failed:
				t.Error(err)
			case <-ctx.Done():
				t.Error("the answer was not read")
			}
		})
	}
}

// Outside a run a question belongs to the loop of the shell.
func TestAskWithoutSession(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.env = []string{"SW=" + executable}
	p := a.start(t, nil, "run", "--spec", "p", "--", "true")
	if code := p.code(t); code != 0 {
		t.Fatalf("exit code %d: %s", code, &p.err)
	}
	if code, _, errs := a.run(t, "ask", "Which?", "--timeout", "1ms"); code != 1 || !strings.Contains(errs, "nobody answered") {
		t.Errorf("exit code %d, says %s", code, errs)
	}
	p = a.start(t, nil, "ask", "Which port?")
	programtest.Until(t, "it asks", func() bool { return len(a.requests(t, "Which port?")) == 1 })
	r := a.lastQuestion(t, "Which port?")
	if want := a.rows(t)[0].Session; r.Session == "" || r.Session != want && processSession() != "" || r.Spec != "" {
		t.Errorf("request %+v, the loop's session is %s", r, want)
	}
	a.mustRun(t, "emit", "intervention_answered", "--session", r.Session, "--data", fmt.Sprintf(`{"request":%d,"answer":"80"}`, a.requests(t, "Which port?")[0]))
	if code := p.code(t); code != 0 || p.out.String() != "80\n" {
		t.Errorf("exit code %d, prints %q, says %s", code, &p.out, &p.err)
	}
}

// Whoever waits for a person is not idle.
func TestAskInsideARun(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.env = []string{"SW=" + executable}
	dir := t.TempDir()
	// It prints until the question is written, so that it is not idle before.
	p := a.start(t, nil, "run", "--spec", "port", "--session", "s", "--idle-timeout", "2s", "--", "sh", "-c",
		`until [ -e "$0/go" ]; do echo .; sleep 0.1; done & answer=$("$SW" ask "Which?"); echo "took $answer"`, dir)
	programtest.Until(t, "the question is written", func() bool { return len(a.requests(t, "Which?")) == 1 })
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	programtest.Until(t, "it has waited for long", func() bool { return time.Since(asked) > 3*time.Second })
	a.mustRun(t, "emit", "intervention_answered", "--session", "s", "--spec", "port", "--data", fmt.Sprintf(`{"request":%d,"answer":"this"}`, a.requests(t, "Which?")[0]))
	if code := p.code(t); code != 0 || strings.TrimLeft(p.out.String(), ".\n") != "took this\n" {
		t.Errorf("exit code %d, prints %q, says %s", code, &p.out, &p.err)
	}
}

// A question that is asked in an outage is asked when the database is back, and
// an outage while it waits costs no answer.
func TestAskInAnOutage(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	a := place(t, server.URL())
	a.mustRun(t, "migrate")
	stop(t, server)
	p := a.start(t, nil, "ask", "Which?", "--session", "s")
	programtest.Until(t, "the question is kept", func() bool { return len(a.kept()) == 1 })
	restart(t, server)
	programtest.Until(t, "the question is written", func() bool { return len(a.requests(t, "Which?")) == 1 })
	stop(t, server)
	restart(t, server)
	a.mustRun(t, "emit", "intervention_answered", "--session", "s", "--data", fmt.Sprintf(`{"request":%d,"answer":"this"}`, a.requests(t, "Which?")[0]))
	if code := p.code(t); code != 0 || p.out.String() != "this\n" {
		t.Errorf("exit code %d, prints %q, says %s", code, &p.out, &p.err)
	}
	if left := a.kept(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// A question whose writing was cut off may be stored, so it is dismissed by its key.
func TestAskCutOff(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	lock, err := pgx.Connect(t.Context(), a.url)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close(context.Background())
	tx, err := lock.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE events IN SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	p := a.start(t, nil, "ask", "Which?", "--session", "s", "--timeout", "3s")
	if code := p.code(t); code != 1 || !strings.Contains(p.err.String(), "nobody answered") || !strings.Contains(p.err.String(), "stays open for now") {
		t.Errorf("exit code %d, says %s", code, &p.err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.mustRun(t, "flush")
	rows := a.rows(t)
	if len(rows) != 2 || rows[0].Kind != "intervention_request" || rows[1].Kind != "intervention_answered" || rows[1].Data["dismissed"] != true {
		t.Fatalf("events: %+v", rows)
	}
	if asked := a.requests(t, "Which?"); len(asked) != 1 || rows[1].Data["request"] != float64(asked[0]) {
		t.Errorf("request %v, dismissal %v", asked, rows[1].Data)
	}
	if left := a.kept(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// Programs without database access write and read through a gateway, with the
// same promises.
func TestThroughAGateway(t *testing.T) {
	t.Parallel()
	direct := migrated(t)
	a := direct.throughAGateway(t)
	a.env = append(a.env, "SW="+executable)
	code, out, errs := a.run(t, "run", "--spec", "p", "--session", "s", "--", "sh", "-c", `"$SW" emit intervention_request --data '{"question":"?"}'; echo hi; exit 3`)
	if code != 3 || !strings.HasSuffix(out, "hi\n") || quiet(errs) != "" {
		t.Errorf("exit code %d, prints %q, says %s", code, out, errs)
	}
	// The request, of another process, may be written before the start.
	if got := strings.Fields(direct.kinds(t)); len(got) != 4 || got[3] != "spec_failed" ||
		fmt.Sprint(slices.Sorted(slices.Values(got))) != "[intervention_request session_heartbeat spec_failed spec_started]" {
		t.Errorf("events: %s", got)
	}
	tail := a.start(t, nil, "tail", "--interval", "20ms")
	programtest.Until(t, "the tail prints", func() bool { return strings.Count(tail.out.String(), "\n") == 4 })
	a.mustRun(t, "emit", "claude.cost", "--session", "s", "--data", `{"usage":{"costUsd":0.5}}`)
	programtest.Until(t, "the tail goes on", func() bool { return strings.Contains(tail.out.String(), "claude.cost") })
	if err := tail.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := tail.code(t); code != 0 || !strings.Contains(tail.err.String(), "--since ") {
		t.Errorf("exit code %d, says %s", code, &tail.err)
	}
	p := a.start(t, strings.NewReader(`{"kind":"spec_started","session":"s"}`+"\n"+`{"kind":"spec_started","session":"s","data":{"n":1e999999}}`), "emit", "--from", "-")
	if code := p.code(t); code != 1 || !strings.HasPrefix(p.err.String(), "specwatch: line 2: data: ") {
		t.Errorf("exit code %d, says %s", code, &p.err)
	}

	// Kept while the gateway is away, and written to it under another name.
	url := strings.TrimPrefix(a.env[0], envGateway+"=")
	wrong := a
	wrong.env = []string{envGateway + "=" + url, envWriteToken + "=guess"}
	if code, _, errs := wrong.run(t, "emit", "spec_started", "--session", "s"); code != 1 || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, envWriteToken) || strings.Contains(errs, "guess") {
		t.Errorf("exit code %d, says %s", code, errs)
	}
	before := len(direct.rows(t))
	other := a
	other.env = append([]string{envGateway + "=" + strings.Replace(url, "127.0.0.1", "LocalHost", 1) + "/"}, a.env[1:]...)
	if out := other.mustRun(t, "flush"); out != "1 event stored, 0 known already\n" || len(direct.rows(t)) != before+1 {
		t.Errorf("says %q", out)
	}
	down := a
	down.env = []string{envGateway + "=http://127.0.0.1:1"}
	if code, _, errs := down.run(t, "run", "--spec", "p", "--session", "s", "--flush-timeout", "0s", "--", "sh", "-c", "exit 5"); code != 5 || !strings.Contains(errs, "3 events are not written yet") {
		t.Errorf("exit code %d, says %s", code, errs)
	}
	for args, says := range map[string]string{
		"emit spec_started --session s --gateway nonsense":            "cannot be read",
		"emit spec_started --session s --gateway http://u:hunter2@h/": "password",
	} {
		if code, _, errs := a.run(t, strings.Fields(args)...); code != 2 || !strings.Contains(errs, says) || strings.Contains(errs, "hunter2") {
			t.Errorf("%s: exit code %d, says %s", args, code, errs)
		}
	}
}
