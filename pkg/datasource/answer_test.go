package datasource_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"
)

// A user with the role Editor answers or dismisses a request in the panel; others
// get the reason why they cannot.
func TestAnswer(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	conn := g.connect()
	ask := func(spec string) (id int64) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), `INSERT INTO events (kind, session, spec) VALUES ('intervention_request', 'night', $1) RETURNING id`, spec).Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	waiting := func() int {
		t.Helper()
		return int(g.poll("")["state"].(map[string]any)["waitingTotal"].(float64))
	}
	as := func(role string) { g.context.User = &pluginv2.User{Login: "somebody", Role: role} }
	port := ask("login")
	for _, role := range []string{"Viewer", "None", ""} {
		as(role)
		if code, body, _ := g.call("answer"); code != http.StatusOK || body["allowed"] != false || !strings.Contains(fmt.Sprint(body["why"]), "role Editor") {
			t.Errorf("%s: %d %v", role, code, body)
		}
		if code, body, _ := g.send(http.MethodPost, "answer", fmt.Sprintf(`{"data":{"request":%d,"answer":"8080"}}`, port)); code != http.StatusForbidden || !strings.Contains(fmt.Sprint(body["detail"]), "role Editor") {
			t.Errorf("%s: %d %v", role, code, body)
		}
	}
	g.context.User = nil // as in the queries of rules
	if code, _, _ := g.send(http.MethodPost, "answer", fmt.Sprintf(`{"data":{"request":%d,"answer":"8080"}}`, port)); code != http.StatusForbidden {
		t.Errorf("nobody: %d", code)
	}
	if got := waiting(); got != 1 {
		t.Fatalf("%d wait", got)
	}
	as("Editor")
	for body, detail := range map[string]string{
		`{"data":{"answer":"8080"}}`:                                               "id of the intervention_request",
		fmt.Sprintf(`{"data":{"request":%d}}`, port):                               "not empty",
		fmt.Sprintf(`{"data":{"request":%d,"answer":" "}}`, port):                  "not empty",
		fmt.Sprintf(`{"data":{"request":%d,"answer":"x","dismissed":true}}`, port): "not empty",
		fmt.Sprintf(`{"data":{"request":%d,"answer":7}}`, port):                    "cannot be read",
		`{"data":{"request":99999999,"answer":"x"}}`:                               "no such request",
		`[`: "cannot be read",
		fmt.Sprintf(`{"data":{"request":%d,"answer":"%s"}}`, port, strings.Repeat("x", 1_100_000)): "too long",
	} {
		if code, problem, _ := g.send(http.MethodPost, "answer", body); code != http.StatusBadRequest && code != http.StatusNotFound || !strings.Contains(fmt.Sprint(problem["detail"]), detail) {
			t.Errorf("%.80s: %d %v", body, code, problem)
		}
	}
	// The answer has the session and spec of the request, also if others are sent.
	// A request without a spec is answered, too.
	reviewer, old := ask(""), ask("login")
	for i, sent := range []string{
		fmt.Sprintf(`{"kind":"spec_failed","session":"another","spec":"x","data":{"request":%d,"answer":"80\"80"}}`, port),
		fmt.Sprintf(`{"data":{"request":%d,"answer":"Ada"}}`, reviewer),
		fmt.Sprintf(`{"data":{"request":%d,"dismissed":true}}`, old),
	} {
		as([]string{"Editor", "Admin", "Editor"}[i])
		if code, body, _ := g.call("answer"); code != http.StatusOK || body["allowed"] != true {
			t.Errorf("%d %v", code, body)
		}
		if code, body, _ := g.send(http.MethodPost, "answer", sent); code != http.StatusCreated || len(body["ids"].([]any)) != 1 {
			t.Fatalf("%d %v", code, body)
		}
		if got := waiting(); got != 2-i {
			t.Errorf("%d wait after %s", got, sent)
		}
	}
	var written string
	if err := conn.QueryRow(t.Context(), `SELECT string_agg(format('%s|%s|%s', session, spec, data - 'request'), ' ' ORDER BY id) FROM events WHERE kind = 'intervention_answered'`).Scan(&written); err != nil ||
		written != `night|login|{"answer": "80\"80"} night||{"answer": "Ada"} night|login|{"dismissed": true}` {
		t.Errorf("%s: %v", written, err)
	}
}

// If the database user may only read, the panel shows that.
func TestAnswerNeedsAWriter(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	conn := g.connect()
	g.context.User = &pluginv2.User{Login: "editor", Role: "Editor"}
	user := fmt.Sprintf("specwatch_dashboard_%d", time.Now().UnixNano())
	row(t, conn, `CREATE ROLE `+user+` LOGIN PASSWORD 'secret' IN ROLE specwatch_reader`)
	t.Cleanup(func() { conn.Exec(context.Background(), `DROP ROLE `+user) })
	var request int64
	if err := conn.QueryRow(t.Context(), `INSERT INTO events (kind, session) VALUES ('intervention_request', 'night') RETURNING id`).Scan(&request); err != nil {
		t.Fatal(err)
	}
	source := g.context.DataSourceInstanceSettings
	source.User, source.DecryptedSecureJsonData["password"] = user, "secret"
	source.LastUpdatedMS++
	expect := func(allowed bool, why string) {
		t.Helper()
		if code, body, _ := g.call("answer"); code != http.StatusOK || body["allowed"] != allowed || !strings.Contains(fmt.Sprint(body["why"]), why) {
			t.Errorf("%d %v", code, body)
		}
	}
	expect(false, "grant it the role specwatch_writer")
	if code, body, _ := g.send(http.MethodPost, "answer", fmt.Sprintf(`{"data":{"request":%d,"answer":"x"}}`, request)); code == http.StatusCreated || body["detail"] == nil {
		t.Errorf("%d %v", code, body)
	}
	row(t, conn, `GRANT specwatch_writer TO `+user)
	expect(true, "")
	if code, body, _ := g.send(http.MethodPost, "answer", fmt.Sprintf(`{"data":{"request":%d,"answer":"x"}}`, request)); code != http.StatusCreated {
		t.Errorf("%d %v", code, body)
	}
}
