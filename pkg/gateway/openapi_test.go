package gateway_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/specwatch/specwatch/pkg/gateway"
)

// document is docs/openapi.yaml.
var document = sync.OnceValues(func() (*openapi3.T, error) {
	return openapi3.NewLoader().LoadFromFile("../../docs/openapi.yaml")
})

// documented checks an answer against docs/openapi.yaml. Paths that are not in
// it are the page's.
func documented(t testing.TB, method, path string, status int, header http.Header, body []byte) {
	t.Helper()
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	path, _, _ = strings.Cut(path, "?")
	item := doc.Paths.Value(path)
	if item == nil || item.GetOperation(method) == nil {
		return
	}
	response := item.GetOperation(method).Responses.Value(strconv.Itoa(status))
	if response == nil {
		t.Errorf("%s %s answers %d, which docs/openapi.yaml does not have", method, path, status)
		return
	}
	for name, described := range response.Value.Headers {
		if described.Value.Required && header.Get(name) == "" {
			t.Errorf("%s %s: %d without the header %s", method, path, status, name)
		}
	}
	if len(response.Value.Content) == 0 {
		if len(body) > 0 {
			t.Errorf("%s %s: %d has a body that docs/openapi.yaml does not have: %.200s", method, path, status, body)
		}
		return
	}
	kind, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	content := response.Value.Content[kind]
	if err != nil || content == nil {
		t.Errorf("%s %s: %d is %s, which docs/openapi.yaml does not have", method, path, status, header.Get("Content-Type"))
		return
	}
	// Larger answers have nothing but more events, and take long to check.
	if strings.HasSuffix(kind, "json") && len(body) < 4<<10 {
		conforms(t, content.Schema.Value, fmt.Sprintf("%s %s: %d", method, path, status), body)
	}
}

func conforms(t testing.TB, schema *openapi3.Schema, what string, body []byte) {
	t.Helper()
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		t.Errorf("%s: %v", what, err)
	} else if err := schema.VisitJSON(value, openapi3.EnableJSONSchema2020()); err != nil {
		reason, _, _ := strings.Cut(err.Error(), "\n") // the schema follows
		t.Errorf("%s is not as docs/openapi.yaml says: %s", what, reason)
	}
}

// docs/openapi.yaml is valid, and has the routes of the gateway and no others.
// Every test of this package checks the answers that it gets against it.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	source, err := os.ReadFile("gateway.go")
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, found := range regexp.MustCompile(`mux\.Handle(?:Func)?\("([A-Z]+ /\S*)"`).FindAllStringSubmatch(string(source), -1) {
		served[found[1]] = true
	}
	inDocument := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			inDocument[method+" "+path] = true
		}
	}
	if len(served) < 8 || !maps.Equal(served, inDocument) {
		t.Errorf("the gateway has %v, docs/openapi.yaml %v", slices.Sorted(maps.Keys(served)), slices.Sorted(maps.Keys(inDocument)))
	}

	d := start(t, gateway.Options{})
	d.do("POST", "/api/events", `[{"kind":"spec_started","session":"night","spec":"login","data":{"usage":{"inputTokens":5,"costUsd":0.5}}},
		{"kind":"session_heartbeat","session":"night","data":{"silentSeconds":1,"outputBytes":5,"cpuSeconds":1}},
		{"kind":"intervention_request","session":"night","spec":"cart","data":{"question":"Which port?"}},
		{"kind":"spec_started","session":"old","spec":"x","at":"`+time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)+`"}]`)
	_, all, header := d.do("GET", "/api/status?last=10", "")
	if len(all.Events) != 4 {
		t.Errorf("%d events", len(all.Events))
	}
	d.do("GET", "/api/status?last=10&since=x", "")
	if status, _, _ := d.do("GET", "/api/status?since="+all.Cursor, "", "If-None-Match", header.Get("ETag")); status != http.StatusNotModified && status != http.StatusOK {
		t.Errorf("a poll by the tag: %d", status)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/ws"} {
		d.do("GET", path, "")
	}
	other := start(t, gateway.Options{ReadToken: "r", WriteToken: "w"})
	other.do("GET", "/api/status", "")
	other.do("POST", "/api/login", `{"token":"x"}`)
	other.do("POST", "/api/login", `{"token":"r"}`)
	other.do("POST", "/api/logout", "")
	if status, _, _ := other.do("GET", "/api/status?since="+all.Cursor, "", "Authorization", "Bearer r"); status != http.StatusGone {
		t.Errorf("a cursor of another database: %d", status)
	}

	conn, _, err := d.dial("")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 2 {
		if i == 1 {
			d.do("POST", "/api/events", `{"kind":"spec_failed","session":"night","spec":"login"}`)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		_, text, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		conforms(t, doc.Components.Schemas["Message"].Value, "a message", text)
	}
}
