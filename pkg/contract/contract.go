// Package contract holds the definitions that Go and TypeScript share, and
// writes what follows from them: TypeScript, and the JSON Schema of an event.
package contract

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
)

//go:generate go run ./generate ../..

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
	QueryOverview  QueryType = "overview"
	QueryTimeline  QueryType = "timeline"
	QueryUsage     QueryType = "usage"
	QueryUsageOver QueryType = "usage_over_time"
	QueryNights    QueryType = "nights"
	QuerySpecs     QueryType = "specs"
	QueryRequests  QueryType = "requests"
	QueryDelivery  QueryType = "delivery"
	QueryPromises  QueryType = "promises"

	// What alert rules are made of.
	QueryTimedOut      QueryType = "timed_out"
	QueryWaiting       QueryType = "waiting"
	QueryHeartbeatAge  QueryType = "heartbeat_age"
	QueryIdle          QueryType = "idle"
	QueryFailureStreak QueryType = "failure_streak"
)

// Bounds of what the Grafana data source answers.
const (
	DefaultRows   = 1_000 // of an answer, when the query names no limit
	TimelineSpecs = 50    // of a timeline: rows that a person can tell apart
)

// TotalHeader is the header of a list of names in the data source. It has the
// total number of names, of which the list may have a part.
const TotalHeader = "X-Total-Count"

// FailureStreak is how many specs of a session that failed or timed out in a row
// the page notifies of, and the alert rules of Grafana and Prometheus fire at.
const FailureStreak = 3

// QueryTypes lists them in the order of the query editor, Conditions those
// among them that name sessions and specs in trouble, and Alerting those that
// are numbers, which an alert rule can compare.
var (
	Conditions = []QueryType{QueryTimedOut, QueryWaiting, QueryHeartbeatAge, QueryIdle, QueryFailureStreak}
	QueryTypes = append([]QueryType{QueryEvents, QueryLogs, QueryCounts, QueryOutcomes, QueryDurations, QuerySessions, QueryOverview, QueryTimeline, QueryUsage, QueryUsageOver, QueryNights, QuerySpecs, QueryRequests, QueryDelivery, QueryPromises}, Conditions...)
	Alerting   = append([]QueryType{QueryCounts, QueryOutcomes, QueryOverview, QueryUsageOver, QueryDelivery}, Conditions...)
)

// Files returns the texts of all generated files, by their paths.
func Files() map[string]string {
	return map[string]string{
		"src/contract.gen.ts":         TypeScript(),
		"src/connection/model.gen.ts": Model(),
		"docs/event.schema.json":      EventSchema(),
	}
}

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
		"nameBytes":     event.MaxNameBytes,
		"dataBytes":     event.MaxDataBytes,
		"pageDefault":   event.DefaultPage,
		"pageMax":       event.MaxPage,
		"rowsDefault":   DefaultRows,
		"timelineSpecs": TimelineSpecs,
		// A session counts as running for this long after its last sign of life.
		"awakeSeconds": int(state.Awake.Seconds()),
		// A spec that runs counts as idle from this long after its last sign of
		// work on.
		"idleSeconds":   int(state.Idle.Seconds()),
		"failureStreak": FailureStreak,
	})
	b.WriteString("\n")
	write("totalHeader", TotalHeader)
	b.WriteString("\n")
	write("settings", Settings)
	b.WriteString("\n")
	write("queryTypes", QueryTypes)
	b.WriteString("export type QueryType = (typeof queryTypes)[number];\n\n")
	write("conditions", Conditions)
	write("alerting", Alerting)
	return b.String()
}
