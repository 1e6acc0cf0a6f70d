package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 10, 14, 30, 0, 0, time.UTC)

func fixture(t testing.TB, name string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(text), []byte("\n"))
}

// shown is a signal as one line.
func shown(s Signal) string {
	data := map[string]any{}
	for name, value := range s.Data {
		if name != "agent" && name != "elsewhere" {
			data[name] = value
		}
	}
	text, _ := json.Marshal(data)
	return fmt.Sprintf("%s %s", s.Kind, text)
}

func TestClaudeHooks(t *testing.T) {
	var got []string
	for _, line := range fixture(t, "claude-hooks.jsonl") {
		h, ok := ParseClaudeHook(line)
		if !ok {
			t.Fatalf("not read: %s", line)
		}
		for _, s := range h.Signals(now, Usage{}) {
			got = append(got, shown(s))
		}
	}
	want := []string{
		`session_heartbeat {"doing":"starts startup"}`,
		`session_heartbeat {"doing":"reads a prompt"}`,
		`session_heartbeat {"doing":"Bash: API_KEY=… npm test"}`,
		`session_heartbeat {"doing":"Edit: src/login.ts"}`,
		`intervention_request {"question":"Claude needs your permission to use Bash"}`,
		`intervention_request {"question":"Claude is waiting for your input"}`,
		`session_heartbeat {"doing":"Signed in"}`,
		`intervention_request {"options":["8080","9090"],"question":"Which port?"}`,
		`session_heartbeat {"doing":"has the result of the agent Explore"}`,
		`agent.limit {"message":"rate limit: You've hit your limit, resets 5pm (UTC)","resetsAt":"2026-03-10T17:00:00Z"}`,
		`claude.error {"error":"529 overloaded"}`,
		`session_heartbeat {"doing":"has ended its turn"}`,
		`session_heartbeat {"doing":"SomethingNew"}`,
		`agent.limit {"message":"You've hit your limit · resets 5pm (UTC)","resetsAt":"2026-03-10T17:00:00Z"}`,
		`session_heartbeat {"doing":"has ended its turn"}`,
		`session_heartbeat {"doing":"starts the agent Explore"}`,
		`session_heartbeat {"doing":"Bash: Run the tests","error":"Command exited with non-zero status code 1"}`,
		`session_heartbeat {"doing":"compacts its context"}`,
		`intervention_request {"question":"Claude asks for permission to use Bash: Remove node_modules"}`,
		`intervention_request {"question":"Claude needs your permission to use Bash"}`,
		`session_heartbeat {"doing":"has ended prompt_input_exit"}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nexpected\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCodexLines(t *testing.T) {
	var got []string
	for _, line := range fixture(t, "codex-exec.jsonl") {
		for _, s := range CodexLine(line, now) {
			got = append(got, shown(s))
		}
	}
	want := []string{
		`session_heartbeat {"doing":"starts"}`,
		`session_heartbeat {"doing":"reads a prompt"}`,
		`session_heartbeat {"doing":"command: bash -lc ls"}`,
		`session_heartbeat {"doing":"changes src/login.ts"}`,
		`session_heartbeat {"doing":"agent message"}`,
		`session_heartbeat {"doing":"Reconnecting... 1/5"}`,
		`session_heartbeat {"doing":"has ended its turn"}`,
		`codex.usage {"usage":{"cachedInputTokens":24448,"inputTokens":24763,"outputTokens":122}}`,
		`agent.limit {"message":"You've hit your usage limit. Try again in 2 hours 13 minutes.","resetsAt":"2026-03-10T16:43:00Z"}`,
		`codex.error {"error":"model is gone"}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nexpected\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestClaudeTranscript(t *testing.T) {
	path := filepath.Join("testdata", "claude-transcript.jsonl")
	used, end, err := ClaudeUsageSince(path, 0)
	if want := (Usage{Input: 1111, CachedInput: 1000, Output: 9}); err != nil || used != want {
		t.Errorf("%+v, %v", used, err)
	}
	if again, _, err := ClaudeUsageSince(path, end); err != nil || !again.isZero() {
		t.Errorf("counted again: %+v, %v", again, err)
	}
}

func TestClaudeResultLine(t *testing.T) {
	line := `{"type":"result","subtype":"success","is_error":false,"total_cost_usd":0.25,"usage":{"input_tokens":3,"output_tokens":4},"uuid":"x"}`
	all := ClaudeLine([]byte(line), now)
	if len(all) != 1 || shown(all[0]) != `claude.usage {"usage":{"costUsd":0.25,"inputTokens":3,"outputTokens":4}}` || all[0].Key != "claude-result-x" {
		t.Errorf("%v", all)
	}
}

func TestLimit(t *testing.T) {
	for text, want := range map[string]string{
		"Claude AI usage limit reached|1773162000":                 "2026-03-10T17:00:00Z",
		"5-hour limit reached ∙ resets 5pm":                        "2026-03-10T17:00:00Z",
		"You've hit your limit · resets 2am (America/New_York)":    "2026-03-11T06:00:00Z",
		"Weekly limit reached · resets Mar 12 at 9:15am":           "2026-03-12T09:15:00Z",
		"You've hit your usage limit. Try again in 3 days 4 hours": "2026-03-13T18:30:00Z",
		"You've hit your usage limit. Try again at 3:05 PM.":       "2026-03-10T15:05:00Z",
		"You've reached your usage limit. It resets at 5 pm":       "2026-03-10T17:00:00Z",
		"usage limit reached":                                      "0001-01-01T00:00:00Z",
		"usage limit reached|99999999999":                          "0001-01-01T00:00:00Z",
		"the test exceeds the line limit of 80":                    "",
		"connection resets at 5 pm":                                "",
	} {
		resets, isLimit := Limit(text, now)
		got := ""
		if isLimit {
			got = resets.UTC().Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("%q: %q, expected %q", text, got, want)
		}
	}
}

func TestLimitIn(t *testing.T) {
	for text, want := range map[string]bool{
		"working\nClaude AI usage limit reached|1773162000": true,
		"You've hit your usage limit.":                      true,
		"5-hour limit reached ∙ resets 5pm\nbye":            true,
		"1 of 12 tests fails: the rate limit is enforced":   false,
		"limit reached": false,
		"":              false,
	} {
		if s, is := LimitIn(text, now); is != want || is && s.Data["message"] == "" {
			t.Errorf("%q: %v %v", text, s, is)
		}
	}
}

// Whatever comes, nothing breaks, and what is said can be stored.
func FuzzSignals(f *testing.F) {
	for _, name := range []string{"claude-hooks.jsonl", "codex-exec.jsonl", "claude-transcript.jsonl"} {
		for _, line := range fixture(f, name) {
			f.Add(line)
		}
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		all := append(CodexLine(line, now), ClaudeLine(line, now)...)
		if h, ok := ParseClaudeHook(line); ok {
			all = append(all, h.Signals(now, Usage{})...)
		}
		for _, s := range all {
			if text, err := json.Marshal(s.Data); err != nil || bytes.Contains(text, []byte(`\u0000`)) {
				t.Errorf("%v %s", err, text)
			}
		}
		var v Verdict
		for i := range line {
			v.Write(line[i : i+1])
		}
		whole := Verdict{}
		whole.Write(line)
		reason, failed := v.Failure()
		if r, f := whole.Failure(); r != reason || f != failed {
			t.Errorf("in parts %q %v, whole %q %v", reason, failed, r, f)
		}
	})
}
