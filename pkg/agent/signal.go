package agent

import (
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/redact"
)

// Custom kinds of the events of agents.
const (
	ClaudeUsage event.Kind = "claude.usage"
	ClaudeError event.Kind = "claude.error"
	CodexUsage  event.Kind = "codex.usage"
	CodexError  event.Kind = "codex.error"
	AgentLimit  event.Kind = "agent.limit" // a usage limit was reached
)

// Signal is an event that follows from a message of an agent.
type Signal struct {
	Kind   event.Kind
	Data   map[string]any
	Key    string    // if the agent may repeat the message
	Resets time.Time // of AgentLimit: when the limit is lifted; zero: not known
}

// Usage is the usage of a part of an agent's work. Input includes tokens from a
// cache.
type Usage struct {
	Input, CachedInput, Output int64
	CostUSD                    float64
}

func (u Usage) isZero() bool { return u == Usage{} }

func (u *Usage) add(o Usage) {
	u.Input += o.Input
	u.CachedInput += o.CachedInput
	u.Output += o.Output
	u.CostUSD += o.CostUSD
}

func (u Usage) data() map[string]any {
	data := map[string]any{"inputTokens": u.Input, "outputTokens": u.Output}
	if u.CachedInput > 0 {
		data["cachedInputTokens"] = u.CachedInput
	}
	if u.CostUSD > 0 {
		data["costUsd"] = u.CostUSD
	}
	return data
}

// doing returns a heartbeat with what the agent is doing.
func doing(agent, what string) Signal {
	return Signal{Kind: event.SessionHeartbeat, Data: map[string]any{"agent": agent, "doing": brief(what)}}
}

// failure returns an error of the agent or, if its text says so, a usage limit.
func failure(agent string, kind event.Kind, text string, now time.Time) Signal {
	if resets, isLimit := Limit(text, now); isLimit {
		s := limit(text, resets)
		s.Data["agent"] = agent
		return s
	}
	return Signal{Kind: kind, Data: map[string]any{"agent": agent, "error": brief(text)}}
}

func limit(text string, resets time.Time) Signal {
	data := map[string]any{"message": brief(text)}
	if !resets.IsZero() {
		data["resetsAt"] = resets.Format(time.RFC3339)
	}
	return Signal{Kind: AgentLimit, Data: data, Resets: resets}
}

// AtLimit returns the fields by which a heartbeat says that an agent has reached
// a usage limit: the agent stays open, and its spec neither works nor hangs. It
// is nil if the limit is lifted already. The time is relative, so that a wrong
// clock of the writer does not matter.
func AtLimit(resets, now time.Time) map[string]any {
	switch {
	case resets.IsZero():
		return map[string]any{"limited": true}
	case resets.After(now):
		return map[string]any{"limited": true, "resetsInSeconds": math.Round(resets.Sub(now).Seconds())}
	}
	return nil
}

// LimitIn finds a usage limit in the last output of a command. Other programs mention
// limits too, so without a time the text must name an agent's usage limit.
func LimitIn(text string, now time.Time) (Signal, bool) {
	for line := range strings.Lines(text) {
		if resets, isLimit := Limit(line, now); isLimit && (!resets.IsZero() || plainly.MatchString(line)) {
			return limit(line, resets), true
		}
	}
	return Signal{}, false
}

// brief returns a text as one short line, with secrets masked.
func brief(text string) string {
	const most = 200
	text = strings.Join(strings.Fields(redact.Text(strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "?"))), " ")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// tool describes the use of a tool in a few words.
func tool(name, folder string, input json.RawMessage) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(input, &fields) != nil {
		return name
	}
	for _, field := range []string{"description", "command", "file_path", "notebook_path", "path", "pattern", "query", "url", "skill", "prompt"} {
		var text string
		if json.Unmarshal(fields[field], &text) != nil || text == "" {
			continue
		}
		if relative, err := filepath.Rel(folder, text); filepath.IsAbs(text) && err == nil && !strings.HasPrefix(relative, "..") {
			text = relative
		}
		return name + ": " + text
	}
	return name
}
