// Package agent reads the formats of coding agents: the results that they print,
// and the input of their hooks. Versions differ and fields are added, so it ignores
// what it does not know.
package agent

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Verdict finds the result in the output of an agent, whatever its exit code is. The
// zero value is ready. It keeps at most one line and one document.
type Verdict struct {
	line     []byte
	tooLong  bool
	document []byte // all output, as long as it may be one JSON document
	noJSON   bool   // it is not
	codex    bool   // the output is that of codex exec --json
	failed   bool
	reason   string
}

// maxDocument bounds a line and a document.
const maxDocument = 1 << 20

// Write takes the next part of the output.
func (v *Verdict) Write(text []byte) {
	if !v.noJSON {
		v.document = append(v.document, text...)
		if start := bytes.TrimSpace(v.document); len(v.document) > maxDocument || len(start) > 0 && start[0] != '{' && start[0] != '[' {
			v.document, v.noJSON = nil, true
		}
	}
	for len(text) > 0 {
		part, rest, ended := bytes.Cut(text, []byte{'\n'})
		text = rest
		if v.tooLong = v.tooLong || len(v.line)+len(part) > maxDocument; v.tooLong {
			v.line = v.line[:0]
		} else {
			v.line = append(v.line, part...)
		}
		if ended {
			v.look()
		}
	}
}

// look reads a line that is complete.
func (v *Verdict) look() {
	if line := bytes.TrimSpace(v.line); len(line) > 1 && line[0] == '{' && line[len(line)-1] == '}' {
		v.message(line)
	}
	v.line, v.tooLong = v.line[:0], false
}

// Failure returns the reason for a failure that the output reports last.
func (v *Verdict) Failure() (reason string, failed bool) {
	v.look()
	if !v.noJSON {
		document := bytes.TrimSpace(v.document)
		var list []json.RawMessage
		switch {
		case len(document) == 0:
		case document[0] == '{':
			v.message(document)
		case json.Unmarshal(document, &list) == nil && len(list) > 0:
			v.message(list[len(list)-1])
		}
	}
	return v.reason, v.failed
}

// message has the fields of all messages that say how a run ended.
type message struct {
	Type    string          `json:"type"`
	Subtype string          `json:"subtype"`
	Status  string          `json:"status"`
	IsError *bool           `json:"is_error"`
	Result  json.RawMessage `json:"result"`
	Errors  json.RawMessage `json:"errors"`
	Error   json.RawMessage `json:"error"`
	Message json.RawMessage `json:"message"`

	Response json.RawMessage `json:"response"`
	Stats    json.RawMessage `json:"stats"`
}

func (v *Verdict) message(text []byte) {
	var m message
	if json.Unmarshal(text, &m) != nil {
		return
	}
	switch {
	case m.Type == "result" && (m.IsError != nil && *m.IsError || strings.HasPrefix(m.Subtype, "error") || m.Status == "error"):
		v.failed, v.reason = true, firstText(m.Error, m.Errors, m.Result, m.Message)
		if v.reason == "" {
			v.reason = strings.ReplaceAll(m.Subtype, "_", " ")
		}
	case m.Type == "result" && (m.IsError != nil || m.Status != ""):
		v.failed, v.reason = false, ""
	case m.Type == "thread.started":
		v.codex = true
	case m.Type == "turn.failed", m.Type == "error" && v.codex:
		v.failed, v.reason = true, firstText(m.Error, m.Message)
	case m.Type == "turn.completed" && v.codex:
		v.failed, v.reason = false, ""
	case m.Type == "" && (m.Response != nil || m.Stats != nil) && len(m.Error) > 0 && string(m.Error) != "null":
		v.failed, v.reason = true, firstText(m.Error)
	default:
		return
	}
	if v.failed && v.reason == "" {
		v.reason = "the agent reported an error"
	}
}

// firstText returns the text of an error, which is a string, a list of strings, or an
// object with a message.
func firstText(raws ...json.RawMessage) string {
	for _, raw := range raws {
		var text string
		var list []json.RawMessage
		var object map[string]json.RawMessage
		switch {
		case len(raw) == 0:
		case json.Unmarshal(raw, &text) == nil:
		case json.Unmarshal(raw, &list) == nil:
			text = firstText(list...)
		case json.Unmarshal(raw, &object) == nil:
			text = firstText(object["message"], object["error"], object["detail"], object["type"])
		}
		if text = strings.TrimSpace(text); text != "" {
			return text
		}
	}
	return ""
}
