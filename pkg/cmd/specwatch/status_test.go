package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/specwatch/specwatch/pkg/state"
)

// The overview is the same from the database and through a gateway, as text
// and as JSON.
func TestStatus(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	if out := a.mustRun(t, "status"); !strings.Contains(out, "No session wrote an event") {
		t.Errorf("of an empty table: %s", out)
	}
	a.mustRun(t, "emit", "spec_started", "--session", "night", "--spec", "cart")
	a.mustRun(t, "emit", "intervention_request", "--session", "night", "--spec", "cart", "--data", `{"question":"Which port?"}`)
	a.mustRun(t, "emit", "spec_failed", "--session", "night", "--spec", "login")
	for name, from := range map[string]at{"database": a, "gateway": a.throughAGateway(t)} {
		out := from.mustRun(t, "status")
		for _, part := range []string{`"night"`, "1 running, 0 completed, 1 failed", `"cart" of "night"`, `"Which port?"`} {
			if !strings.Contains(out, part) {
				t.Errorf("%s: no %s in\n%s", name, part, out)
			}
		}
		var st state.State
		if err := json.Unmarshal([]byte(from.mustRun(t, "status", "--output", "json")), &st); err != nil {
			t.Fatal(err)
		}
		if st.At.IsZero() || st.Specs.Open != 1 || st.Specs.Failed != 1 || st.WaitingTotal != 1 || len(st.Sessions) != 1 {
			t.Errorf("%s: %+v", name, st)
		}
	}
	if code, _, errs := a.run(t, "status", "--output", "xml"); code != exitWrongUse || !strings.Contains(errs, "text or json") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if out := (at{state: t.TempDir()}).mustRun(t, "version"); !strings.HasPrefix(out, "specwatch ") || strings.Count(out, "\n") != 1 {
		t.Errorf("%q", out)
	}
}
