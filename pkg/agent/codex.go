package agent

import (
	"encoding/json"
	"strings"
	"time"
)

const codex = "codex"

// codexLine is a line of Codex, with the fields that are used.
type codexLine struct {
	Type    string          `json:"type"`
	Error   json.RawMessage `json:"error"`
	Message json.RawMessage `json:"message"`
	Usage   *struct {
		Input  int64 `json:"input_tokens"`
		Cached int64 `json:"cached_input_tokens"`
		Output int64 `json:"output_tokens"`
	} `json:"usage"`
	Item codexItem       `json:"item"`
	Msg  json.RawMessage `json:"msg"` // earlier versions wrap their events
}

// codexItem is one step of a turn.
type codexItem struct {
	Type    string          `json:"type"`
	Old     string          `json:"item_type"` // earlier versions
	Command json.RawMessage `json:"command"`
	Server  string          `json:"server"`
	Tool    string          `json:"tool"`
	Query   string          `json:"query"`
	Message json.RawMessage `json:"message"`
	Changes []struct {
		Path string `json:"path"`
	} `json:"changes"`
}

// CodexLine returns the signals of a line of `codex exec --json`, or of the argument
// of Codex's notify program.
func CodexLine(line []byte, now time.Time) []Signal {
	var m codexLine
	if json.Unmarshal(line, &m) != nil {
		return nil
	}
	var all []Signal
	switch {
	case m.Type == "" && len(m.Msg) > 0:
		return codexWrapped(m.Msg, now)
	case m.Type == "thread.started":
		all = append(all, doing(codex, "starts"))
	case m.Type == "turn.started":
		all = append(all, doing(codex, "reads a prompt"))
	case m.Type == "turn.completed":
		all = append(all, doing(codex, "has ended its turn"))
	case m.Type == "turn.failed":
		all = append(all, failure(codex, CodexError, firstText(m.Error, m.Message), now))
	case m.Type == "error":
		text := firstText(m.Message, m.Error)
		if strings.HasPrefix(strings.ToLower(text), "reconnecting") { // it retries by itself
			return []Signal{doing(codex, text)}
		}
		all = append(all, failure(codex, CodexError, text, now))
	case m.Type == "agent-turn-complete":
		all = append(all, doing(codex, "has ended its turn"))
	case m.Type == "approval-requested":
		all = append(all, request(codex, "Codex asks for approval", nil))
	case m.Type == "item.started", m.Type == "item.completed":
		all = append(all, m.Item.signal())
	}
	if m.Usage != nil {
		u := Usage{Input: m.Usage.Input, CachedInput: m.Usage.Cached, Output: m.Usage.Output}
		if !u.isZero() {
			all = append(all, Signal{Kind: CodexUsage, Data: map[string]any{"agent": codex, "usage": u.data()}})
		}
	}
	return all
}

// signal returns a heartbeat with what the item does.
func (i codexItem) signal() Signal {
	kind := i.Type
	if kind == "" {
		kind = i.Old
	}
	switch kind {
	case "command_execution":
		return doing(codex, "command: "+words(i.Command))
	case "file_change":
		if len(i.Changes) > 0 {
			return doing(codex, "changes "+i.Changes[0].Path)
		}
		return doing(codex, "changes files")
	case "mcp_tool_call":
		return doing(codex, i.Server+": "+i.Tool)
	case "web_search":
		return doing(codex, "web search: "+i.Query)
	case "error":
		s := doing(codex, "goes on")
		s.Data["error"] = brief(firstText(i.Message))
		return s
	}
	return doing(codex, strings.ReplaceAll(kind, "_", " "))
}

// words joins the words of a command.
func words(raw json.RawMessage) string {
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		return strings.Join(list, " ")
	}
	return firstText(raw)
}

// codexWrapped reads {"id":…,"msg":{"type":…}}.
func codexWrapped(raw json.RawMessage, now time.Time) []Signal {
	var m struct {
		Type    string          `json:"type"`
		Message json.RawMessage `json:"message"`
		Command json.RawMessage `json:"command"`
	}
	if json.Unmarshal(raw, &m) != nil {
		return nil
	}
	switch m.Type {
	case "error":
		return []Signal{failure(codex, CodexError, firstText(m.Message), now)}
	case "exec_approval_request", "apply_patch_approval_request":
		return []Signal{request(codex, "Codex asks for approval: "+words(m.Command), nil)}
	case "exec_command_begin":
		return []Signal{doing(codex, "command: "+words(m.Command))}
	case "task_started":
		return []Signal{doing(codex, "reads a prompt")}
	case "task_complete":
		return []Signal{doing(codex, "has ended its turn")}
	}
	return nil
}
