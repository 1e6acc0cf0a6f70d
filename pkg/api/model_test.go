package api_test

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/event"
)

// TestModelOfTheFrontEnd compares the interfaces of src/connection/model.ts with
// the JSON that is sent. The front end may leave fields out.
func TestModelOfTheFrontEnd(t *testing.T) {
	source, err := os.ReadFile("../../src/connection/model.ts")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]any{"SpecEvent": event.Event{}, "Status": api.Status{}} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		var sent map[string]any
		if err := json.Unmarshal(text, &sent); err != nil {
			t.Fatal(err)
		}
		_, body, found := strings.Cut(string(source), "export interface "+name+" {\n")
		body, _, ended := strings.Cut(body, "\n}")
		fields := regexp.MustCompile(`(?m)^  (\w+):`).FindAllStringSubmatch(body, -1)
		if !found || !ended || len(fields) < 5 {
			t.Fatalf("interface %s: %d fields", name, len(fields))
		}
		for _, field := range fields {
			if _, there := sent[field[1]]; !there {
				t.Errorf("%s.%s is not among %v", name, field[1], slices.Sorted(maps.Keys(sent)))
			}
		}
	}
}
