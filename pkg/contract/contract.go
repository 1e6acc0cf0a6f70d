// Package contract holds the definitions that Go and TypeScript share, and
// writes the TypeScript side of them.
package contract

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
)

//go:generate go run ./generate ../../src/contract.gen.ts

// Delivery modes, as settings and the dashboard variable spell them.
const (
	ModeLive    = "websocket"
	ModePolling = "polling"
	ModeAuto    = "auto"
)

// Settings of the connection: what a person may choose, and what holds until
// they do.
var Settings = struct {
	PreferredMode     Choice `json:"preferredMode"`
	PollingInterval   Span   `json:"pollingInterval"` // seconds
	AutoFallback      Switch `json:"autoFallback"`
	ManualRefreshOnly Switch `json:"manualRefreshOnly"`
}{
	PreferredMode:     Choice{Default: ModeLive, Values: []string{ModeLive, ModePolling, ModeAuto}},
	PollingInterval:   Span{Min: 5, Max: 60, Default: 10},
	AutoFallback:      Switch{Default: true},
	ManualRefreshOnly: Switch{Default: false},
}

// Choice is a setting with a fixed list of values.
type Choice struct {
	Default string   `json:"default"`
	Values  []string `json:"values"`
}

// Span is a whole number between two bounds, both included.
type Span struct {
	Min     int `json:"min"`
	Max     int `json:"max"`
	Default int `json:"default"`
}

// Switch is on or off.
type Switch struct {
	Default bool `json:"default"`
}

// QueryType names one thing that the Grafana data source can be asked.
type QueryType string

const (
	QueryEvents    QueryType = "events"
	QueryLogs      QueryType = "logs"
	QueryCounts    QueryType = "counts"
	QueryOutcomes  QueryType = "outcomes"
	QueryDurations QueryType = "durations"
	QuerySessions  QueryType = "sessions"
	QueryTimeline  QueryType = "timeline"
	QueryDelivery  QueryType = "delivery"

	// What alert rules are made of.
	QueryTimedOut      QueryType = "timed_out"
	QueryWaiting       QueryType = "waiting"
	QueryHeartbeatAge  QueryType = "heartbeat_age"
	QueryFailureStreak QueryType = "failure_streak"
)

// QueryTypes lists them in the order of the query editor, and Conditions
// those among them that name sessions and specs in trouble.
var (
	Conditions = []QueryType{QueryTimedOut, QueryWaiting, QueryHeartbeatAge, QueryFailureStreak}
	QueryTypes = append([]QueryType{QueryEvents, QueryLogs, QueryCounts, QueryOutcomes, QueryDurations, QuerySessions, QueryTimeline, QueryDelivery}, Conditions...)
)

// TypeScript returns the text of src/contract.gen.ts.
func TypeScript() string {
	var b strings.Builder
	b.WriteString("// Written by `go generate ./pkg/contract` from pkg/event and pkg/contract. Do not edit.\n\n")
	write := func(name string, value any) {
		text, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			panic(err) // the values are the constants above
		}
		fmt.Fprintf(&b, "export const %s = %s as const;\n", name, text)
	}
	write("kinds", event.Kinds)
	b.WriteString("export type Kind = (typeof kinds)[number];\n\n")
	write("limits", map[string]int{
		"nameBytes":   event.MaxNameBytes,
		"dataBytes":   event.MaxDataBytes,
		"pageDefault": event.DefaultPage,
		"pageMax":     event.MaxPage,
		// A session counts as running for this long after its last sign of life.
		"awakeSeconds": int(state.Awake.Seconds()),
	})
	b.WriteString("\n")
	write("settings", Settings)
	b.WriteString("\n")
	write("queryTypes", QueryTypes)
	b.WriteString("export type QueryType = (typeof queryTypes)[number];\n\n")
	write("conditions", Conditions)
	return b.String()
}
