package contract_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/specwatch/specwatch/pkg/contract"
	"github.com/specwatch/specwatch/pkg/event"
)

func TestGeneratedFilesAreUpToDate(t *testing.T) {
	for name, want := range contract.Files() {
		got, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s differs from the Go definitions: run `go generate ./pkg/contract`", name)
		}
	}
}

// Rules in files fire at the streak of which the page notifies.
func TestRulesFireAtTheFailureStreak(t *testing.T) {
	for name, want := range map[string]string{
		"provisioning/alerting/rules.yaml":      fmt.Sprintf("expression: failures, conditions: [{ evaluator: { type: gt, params: [%d] } }]", contract.FailureStreak-1),
		"deploy/prometheus/specwatch.rules.yml": fmt.Sprintf("specwatch_session_failure_streak[5m])) >= %d\n", contract.FailureStreak),
	} {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %q", name, want)
		}
	}
}

// schema is a part of docs/event.schema.json; empty: the whole.
func schema(t *testing.T, part string) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(contract.EventSchema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("event.schema.json", document); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("event.schema.json" + part)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// The schema and the decoder accept and refuse the same events.
func TestSchemaAgreesWithDecode(t *testing.T) {
	written := schema(t, "")
	texts := []string{
		`{"kind":"claude.cost","session":"s","data":[1,null]}`,
		`{"kind":"spec_failed","session":"s","spec":"p","key":"k","at":"2026-01-02T03:04:05.5+01:00","data":{"reason":7}}`,
		`{"kind":"spec_failed","session":"s","spec":""}`,
		`{"kind":"spec_lost","session":"s"}`, `{"kind":"","session":"s"}`, `{"kind":"spec_failed"}`, `{"kind":"spec_failed","session":""}`, `{"session":"s"}`,
		`{"kind":"spec_failed","session":"s","id":1}`, `{"kind":"spec_failed","session":"s","Spec":"p"}`, `{"kind":"spec_failed","session":7}`,
		`{"kind":"spec_failed","session":"s","at":"yesterday"}`, `{"kind":"spec_failed","session":"s","at":"2026-01-02T03:04:05"}`,
		`{"kind":"spec_failed","session":"` + strings.Repeat("x", event.MaxNameBytes+1) + `"}`,
		`{"kind":"spec_failed","session":"` + strings.Repeat("x", event.MaxNameBytes) + `"}`, `[]`, `null`, `"x"`,
	}
	for _, k := range event.Kinds {
		texts = append(texts, `{"kind":"`+string(k)+`","session":"s"}`)
	}
	for _, text := range texts {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		_, refused := event.Decode([]byte(text))
		if invalid := written.Validate(value); (invalid == nil) != (refused == nil) {
			t.Errorf("%.80s: the schema says %v, the decoder %v", text, invalid, refused)
		}
	}
}

func TestSchemaOfReadEvents(t *testing.T) {
	text, err := json.Marshal(event.Event{ID: 1, Kind: event.SpecStarted, At: time.Now(), Session: "s"})
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema(t, "#/$defs/read").Validate(value); err != nil {
		t.Error(err)
	}
}

func TestSchemaOfConventions(t *testing.T) {
	conventional := schema(t, "#/$defs/conventional")
	for text, right := range map[string]bool{
		`{"kind":"intervention_request","session":"s","data":{"question":"?","options":["a"],"timeoutSeconds":7200}}`: true,
		`{"kind":"intervention_request","session":"s","data":{"question":7}}`:                                         false,
		`{"kind":"intervention_answered","session":"s","data":{"request":12,"answer":"yes"}}`:                         true,
		`{"kind":"claude.cost","session":"s","data":{"usage":{"costUsd":"much"}}}`:                                    false,
		`{"kind":"claude.cost","session":"s","data":{"usage":{"costUsd":0.5},"more":true}}`:                           true,
		`{"kind":"spec_failed","session":"s","data":{"reason":"usage limit","resetsAt":"soon"}}`:                      false,
	} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := conventional.Validate(value); (err == nil) != right {
			t.Errorf("%s: %v", text, err)
		}
	}
}
