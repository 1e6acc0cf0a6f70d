package gateway

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/overview"
)

func TestMessageIsTheJSONOfItsFields(t *testing.T) {
	events := event.List{
		{ID: 1, Kind: event.SpecStarted, At: time.Unix(1, 5), Session: `"<night>" & ` + "\n\u2028", Spec: "", Data: []byte(`{"a": [1, {"b, c": " d: \" e"}]}`)},
		{ID: 2, Kind: "claude.cost", At: time.Unix(2, 0), Session: "\xff", Spec: "s"},
	}
	state := &overview.Snapshot{JSON: []byte(`{"sessions":[]}`)}
	for _, m := range []message{
		{Type: "connection_established", Cursor: "AbC-_1", Expired: true, Data: updateData{State: state, Events: events}},
		{Type: "event_update", From: "AbC", Cursor: "AbD", Data: updateData{Events: events[:1]}},
		{Type: "event_update", From: "AbC", Cursor: "AbC", Data: updateData{State: state}},
	} {
		want, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(m.encode()); got != string(want) {
			t.Errorf("%s, not %s", got, want)
		}
	}
}
