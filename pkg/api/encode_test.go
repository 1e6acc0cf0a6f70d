package api

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/overview"
)

func TestStatusIsTheJSONOfItsFields(t *testing.T) {
	for _, s := range []Status{
		{Cursor: "AbC", Timestamp: "2026-01-02T03:04:05Z", Mode: "polling", State: &overview.Snapshot{JSON: []byte(`{"open":[]}`)}},
		{Events: event.List{{ID: 1, Kind: event.SpecStarted, At: time.Unix(1, 5), Session: `"`}}, Cursor: "AbC", More: true, Timestamp: "t", Mode: "polling", State: &overview.Snapshot{JSON: []byte(`{}`)}},
	} {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(s.encode()); got != string(want) {
			t.Errorf("%s, not %s", got, want)
		}
	}
}
