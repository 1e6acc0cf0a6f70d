package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

const claude = "claude-code"

// ClaudeHook is the input of a Claude Code hook, with the fields that are used.
type ClaudeHook struct {
	Session    string          `json:"session_id"`
	Transcript string          `json:"transcript_path"`
	Folder     string          `json:"cwd"`
	Event      string          `json:"hook_event_name"`
	Tool       string          `json:"tool_name"`
	Input      json.RawMessage `json:"tool_input"`
	ToolError  json.RawMessage `json:"error"`
	Message    string          `json:"message"`
	Type       string          `json:"notification_type"`
	Source     string          `json:"source"`
	Reason     string          `json:"reason"`
	Agent      string          `json:"agent_type"`

	AgentTranscript string          `json:"agent_transcript_path"`
	ErrorType       string          `json:"error_type"`
	ErrorMessage    string          `json:"error_message"`
	ErrorDetails    json.RawMessage `json:"error_details"`
	Last            string          `json:"last_assistant_message"`
}

// ParseClaudeHook reads the input of a hook. Unknown fields, and fields of an
// unexpected type, are ignored.
func ParseClaudeHook(raw []byte) (h ClaudeHook, ok bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return h, false
	}
	for name, text := range map[string]*string{
		"session_id": &h.Session, "transcript_path": &h.Transcript, "cwd": &h.Folder, "hook_event_name": &h.Event,
		"tool_name": &h.Tool, "message": &h.Message, "notification_type": &h.Type, "source": &h.Source, "reason": &h.Reason,
		"agent_type": &h.Agent, "agent_transcript_path": &h.AgentTranscript, "error_type": &h.ErrorType,
		"error_message": &h.ErrorMessage, "last_assistant_message": &h.Last,
	} {
		_ = json.Unmarshal(fields[name], text) // other types stay empty
	}
	h.Input, h.ToolError, h.ErrorDetails = fields["tool_input"], fields["error"], fields["error_details"]
	return h, h.Event != ""
}

// Signals returns the signals of the hook. used is the usage of the turn or
// sub-agent that has just ended; zero: not known.
func (h ClaudeHook) Signals(now time.Time, used Usage) (all []Signal) {
	add := func(s Signal) { all = append(all, s) }
	switch h.Event {
	case "PreToolUse":
		if question, ok := h.question(); ok {
			add(question)
		} else {
			add(doing(claude, tool(h.Tool, h.Folder, h.Input)))
		}
	case "PostToolUse": // the next event has the result
	case "PostToolUseFailure":
		s := doing(claude, tool(h.Tool, h.Folder, h.Input))
		s.Data["error"] = brief(firstText(h.ToolError))
		add(s)
	case "Notification":
		add(h.notification(now))
	case "UserPromptSubmit":
		add(doing(claude, "reads a prompt"))
	case "PermissionRequest":
		question, ok := h.question()
		if !ok {
			question = request(claude, "Claude asks for permission to use "+tool(h.Tool, h.Folder, h.Input), nil)
		}
		add(question)
	case "Stop":
		add(h.stopped(now))
	case "StopFailure":
		add(failure(claude, ClaudeError, h.stopFailure(), now))
	case "SubagentStart":
		add(doing(claude, "starts the agent "+h.Agent))
	case "SubagentStop":
		add(doing(claude, strings.TrimSpace("has the result of the agent "+h.Agent)))
	case "SessionStart":
		add(doing(claude, strings.TrimSpace("starts "+h.Source)))
	case "SessionEnd":
		add(doing(claude, strings.TrimSpace("has ended "+h.Reason)))
	case "PreCompact":
		add(doing(claude, "compacts its context"))
	default:
		add(doing(claude, h.Event))
	}
	if !used.isZero() {
		add(Signal{Kind: ClaudeUsage, Data: map[string]any{"agent": claude, "usage": used.data()}})
	}
	return all
}

// stopped returns the signal of a turn that has ended. Versions without StopFailure
// end the turn with the message of a limit alone.
func (h ClaudeHook) stopped(now time.Time) Signal {
	if s, isLimit := LimitIn(h.Last, now); isLimit && !strings.Contains(strings.TrimSpace(h.Last), "\n") {
		s.Data["agent"] = claude
		return s
	}
	return doing(claude, "has ended its turn")
}

// stopFailure returns the text of the error that ended a turn.
func (h ClaudeHook) stopFailure() string {
	text := strings.TrimSpace(strings.Join([]string{h.ErrorMessage, firstText(h.ErrorDetails), h.Last}, " "))
	if text == "" {
		text = firstText(h.ToolError)
	}
	switch {
	case h.ErrorType == "rate_limit" || firstText(h.ToolError) == "rate_limit":
		return strings.TrimSpace("rate limit: " + text)
	case text == "":
		return strings.ReplaceAll(h.ErrorType, "_", " ")
	}
	return text
}

// GoesOn reports whether the event shows that the agent no longer waits for a
// person: somebody answered in its terminal.
func (h ClaudeHook) GoesOn() bool {
	switch h.Event {
	case "PreToolUse", "PostToolUse", "PostToolUseFailure", "UserPromptSubmit", "Stop", "SessionEnd":
		return true
	}
	return false
}

// request returns a question that is answered in the agent's own terminal.
func request(agent, question string, options []string) Signal {
	data := map[string]any{"agent": agent, "question": brief(question), "elsewhere": true}
	if len(options) > 0 {
		data["options"] = options
	}
	return Signal{Kind: event.InterventionRequest, Data: data}
}

// question returns the question that the agent asks by a tool.
func (h ClaudeHook) question() (Signal, bool) {
	switch h.Tool {
	case "ExitPlanMode":
		return request(claude, "Claude has a plan and waits for approval", nil), true
	case "AskUserQuestion":
		var input struct {
			Questions []struct {
				Question string `json:"question"`
				Options  []struct {
					Label string `json:"label"`
				} `json:"options"`
			} `json:"questions"`
		}
		if json.Unmarshal(h.Input, &input) != nil || len(input.Questions) == 0 {
			return request(claude, "Claude has a question", nil), true
		}
		var options []string
		for _, option := range input.Questions[0].Options {
			options = append(options, brief(option.Label))
		}
		return request(claude, input.Questions[0].Question, options), true
	}
	return Signal{}, false
}

// notification reports whether a notification is a request. Older versions have no
// type, only a text.
func (h ClaudeHook) notification(now time.Time) Signal {
	if _, isLimit := Limit(h.Message, now); isLimit {
		return failure(claude, ClaudeError, h.Message, now)
	}
	words := strings.ToLower(h.Message)
	switch {
	case h.Type == "permission_prompt", h.Type == "idle_prompt", h.Type == "elicitation_dialog",
		h.Type == "" && (strings.Contains(words, "permission") || strings.Contains(words, "waiting for your")):
		return request(claude, h.Message, nil)
	}
	return doing(claude, h.Message)
}

// maxTranscript bounds one read of a transcript.
const maxTranscript = 64 << 20

// ClaudeUsageSince sums the usage of a transcript from an offset, and returns the
// offset after the last complete line.
func ClaudeUsageSince(path string, offset int64) (used Usage, end int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return used, offset, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || info.Size() < offset {
		return used, 0, errors.Join(err, errors.New("the transcript is another one"))
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return used, offset, err
	}
	lines := bufio.NewReaderSize(io.LimitReader(file, maxTranscript), 64<<10)
	messages := map[string]Usage{} // a message has several lines, each with its total usage
	end = offset
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // an incomplete line is read next time
			break
		}
		end += int64(len(line))
		if !bytes.Contains(line, []byte(`"usage"`)) {
			continue
		}
		var entry struct {
			Type    string  `json:"type"`
			Cost    float64 `json:"costUSD"`
			UUID    string  `json:"uuid"`
			Message struct {
				ID    string       `json:"id"`
				Usage *claudeUsage `json:"usage"`
			} `json:"message"`
		}
		if json.Unmarshal(line, &entry) != nil || entry.Type != "assistant" || entry.Message.Usage == nil {
			continue
		}
		id := entry.Message.ID
		if id == "" {
			id = entry.UUID
		}
		u := entry.Message.Usage.sum()
		u.CostUSD = entry.Cost
		messages[id] = u
	}
	for _, u := range messages {
		used.add(u)
	}
	return used, end, nil
}

type claudeUsage struct {
	Input      int64 `json:"input_tokens"`
	CacheWrite int64 `json:"cache_creation_input_tokens"`
	CacheRead  int64 `json:"cache_read_input_tokens"`
	Output     int64 `json:"output_tokens"`
}

func (u claudeUsage) sum() Usage {
	return Usage{Input: u.Input + u.CacheWrite + u.CacheRead, CachedInput: u.CacheRead, Output: u.Output}
}

// ClaudeLine returns the signals of a line of `claude -p --output-format
// stream-json`.
func ClaudeLine(line []byte, now time.Time) (all []Signal) {
	var m struct {
		Type    string       `json:"type"`
		Subtype string       `json:"subtype"`
		Session string       `json:"session_id"`
		UUID    string       `json:"uuid"`
		Folder  string       `json:"cwd"`
		Cost    float64      `json:"total_cost_usd"`
		Usage   *claudeUsage `json:"usage"`
		Message struct {
			Content json.RawMessage `json:"content"`
		} `json:"message"`
	}
	if json.Unmarshal(line, &m) != nil {
		return nil
	}
	switch m.Type {
	case "system":
		return []Signal{doing(claude, strings.TrimSpace("starts "+m.Subtype))}
	case "assistant":
		var parts []struct {
			Type  string          `json:"type"`
			Name  string          `json:"name"`
			Input json.RawMessage `json:"input"`
		}
		_ = json.Unmarshal(m.Message.Content, &parts)
		for _, part := range parts {
			if part.Type == "tool_use" {
				all = append(all, doing(claude, tool(part.Name, m.Folder, part.Input)))
			}
		}
		if len(all) == 0 {
			all = append(all, doing(claude, "writes"))
		}
	case "result":
		if m.Usage != nil {
			u := m.Usage.sum()
			u.CostUSD = m.Cost
			s := Signal{Kind: ClaudeUsage, Data: map[string]any{"agent": claude, "usage": u.data()}}
			if m.UUID != "" {
				s.Key = "claude-result-" + m.UUID
			}
			all = append(all, s)
		}
		var v Verdict
		v.Write(append(bytes.Clone(line), '\n'))
		if reason, failed := v.Failure(); failed {
			all = append(all, failure(claude, ClaudeError, reason, now))
		}
	}
	return all
}
