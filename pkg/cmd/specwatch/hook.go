package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/agent"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/runner"
)

const (
	hookInput = 16 << 20        // bytes of input that are looked at
	hookDrain = 2 * time.Second // for the last events of a pipeline, which are on disk
)

// agents lists the supported agents.
var agents = []string{"claude-code", "codex"}

func newHook(db *database) *cobra.Command {
	return &cobra.Command{
		Use:   "hook claude-code|codex",
		Short: "Write events from an agent's hooks or log lines",
		Long: `Reads the hooks or log lines of a coding agent and writes events: heartbeats with
what the agent is doing, requests when it waits for a person, usage, errors, and
usage limits. It never fails or delays the agent: events are kept on disk, and
another process sends them.

  claude-code  the input of a Claude Code hook or, in a pipeline, the lines of
               "claude -p --output-format stream-json"
  codex        in a pipeline, the lines of "codex exec --json", or the argument
               of Codex's notify program

In a pipeline, the lines are passed on.`,
		ValidArgs: agents,
		Example:   `  codex exec --json "Implement specs/login.md" | specwatch hook codex`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || !slices.Contains(agents, args[0]) {
				return errors.New("name the agent: claude-code or codex" + didYouMean(strings.Join(args, " "), agents...))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			h := hook{agent: args[0], out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()}
			to, err := db.destination(context.Background(), io.Discard)
			if err != nil {
				say(h.err, err.Error()) // the agent continues without events
			} else {
				h.to = to
				defer to.close()
			}
			// A fault of this program must not end the agent.
			defer func() {
				if problem := recover(); problem != nil {
					say(h.err, fmt.Sprintf("the hook failed: %v", problem))
				}
			}()
			if len(args) > 1 { // notify
				h.take(agent.CodexLine([]byte(args[1]), time.Now()), "", "")
				h.send()
				return nil
			}
			h.read(cmd.InOrStdin())
			return nil
		},
	}
}

// hook turns the messages of one agent into events.
type hook struct {
	agent    string
	to       *destination // nil: there is none
	out, err io.Writer
	loop     string        // the name of the loop's session; empty: not needed so far
	queue    *outbox.Queue // of a pipeline; nil: another process sends the events
	giveUp   func()        // ends the queue; nil: it has not started
}

// read reads the input of a hook, or the lines of a pipeline.
func (h *hook) read(input io.Reader) {
	lines := bufio.NewReaderSize(input, 64<<10)
	if h.agent == "codex" {
		h.pipeline(lines)
		return
	}
	first := firstValue(lines)
	if in, ok := agent.ParseClaudeHook(first); ok {
		h.claude(in)
		h.send()
		return
	}
	// Another object is the input of an unknown hook. Nothing may be printed: the
	// agent would take it for an answer.
	if object := map[string]json.RawMessage{}; json.Unmarshal(first, &object) == nil && object["type"] == nil {
		return
	}
	h.pipeline(io.MultiReader(bytes.NewReader(first), lines))
}

// firstValue reads the first line or, where a JSON object begins on it, up to
// the line on which that ends.
func firstValue(lines *bufio.Reader) (text []byte) {
	for {
		line, err := lines.ReadSlice('\n')
		text = append(text, line...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && len(text) < hookInput:
		case err != nil, len(text) >= hookInput, !bytes.HasPrefix(bytes.TrimSpace(text), []byte{'{'}), json.Valid(text):
			return text
		}
	}
}

// pipeline forwards the lines and turns them into events.
func (h *hook) pipeline(input io.Reader) {
	if h.to != nil {
		h.queue = outbox.NewQueue(h.to, h.to.box, h.to.box.File(), func(text string) { say(h.err, text) })
		defer h.drain()
	}
	lines := bufio.NewReaderSize(input, 64<<10)
	var line []byte
	for {
		part, err := lines.ReadSlice('\n')
		if _, failed := h.out.Write(part); failed != nil {
			return // the reader is gone
		}
		if len(line)+len(part) <= hookInput {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] == '{' {
			if h.agent == "codex" {
				h.take(agent.CodexLine(text, time.Now()), "", "")
			} else {
				h.take(agent.ClaudeLine(text, time.Now()), "", "")
			}
		}
		line = line[:0]
		if err != nil {
			return
		}
	}
}

// drain waits shortly until the last events are written. The rest is on disk.
func (h *hook) drain() {
	if h.giveUp == nil {
		return
	}
	h.queue.Close()
	select {
	case <-h.queue.Ended():
	case <-time.After(hookDrain):
	}
	h.giveUp()
	<-h.queue.Ended()
}

// memory is the state that the hooks of one session share.
type memory struct {
	Asked json.RawMessage  `json:"asked,omitempty"` // the request that waits for a person
	Read  map[string]int64 `json:"read"`            // how far each transcript is counted
}

// claude takes the input of one hook.
func (h *hook) claude(in agent.ClaudeHook) {
	state, err := outbox.StateDir()
	if err != nil || in.Session == "" {
		h.take(in.Signals(time.Now(), agent.Usage{}), in.Session, in.Folder)
		return
	}
	digest := sha256.Sum256([]byte(in.Session))
	path := filepath.Join(state, "hooks", hex.EncodeToString(digest[:12]))
	// Tools that run at the same time call their hooks at the same time.
	outbox.Alone(path, func() {
		m := recall(path)
		asked, waits := m.request()
		goesOn := waits && in.GoesOn()
		signals := m.signals(in)
		if waits && !goesOn {
			signals = slices.DeleteFunc(signals, asks) // a reminder of the same
		}
		events := h.events(signals, in.Session, in.Folder)
		if goesOn {
			m.Asked = nil
		}
		if i := slices.IndexFunc(events, isRequest); i >= 0 {
			m.Asked = outbox.Encode(events[i])
		}
		if goesOn {
			events = append(h.answer(asked), events...)
		}
		h.write(events)
		_ = os.WriteFile(path, outbox.Data(m), 0o600) // on error, usage may be counted twice
		forget(filepath.Dir(path), time.Now())
	})
}

func recall(path string) (m memory) {
	if text, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(text, &m)
	}
	if m.Read == nil {
		m.Read = map[string]int64{}
	}
	return m
}

// signals returns the messages of a hook, using the state of earlier hooks.
func (m *memory) signals(in agent.ClaudeHook) []agent.Signal {
	if in.Event == "SessionStart" {
		// Usage before a resume was already counted.
		if info, err := os.Stat(in.Transcript); err == nil {
			m.Read[in.Transcript] = info.Size()
		}
	}
	return in.Signals(time.Now(), m.used(in))
}

func asks(s agent.Signal) bool     { return s.Kind == event.InterventionRequest }
func isRequest(e event.Event) bool { return e.Kind == event.InterventionRequest }

// request returns the request that waits for a person, if one does.
func (m *memory) request() (event.Event, bool) {
	e, err := event.Decode(m.Asked)
	return e, err == nil
}

// answer returns the events that clear a request and no other: a command of the agent
// may wait for an answer in the same spec.
func (h *hook) answer(asked event.Event) []event.Event {
	return []event.Event{asked, {
		Kind: event.InterventionAnswered, At: time.Now(), Session: asked.Session, Spec: asked.Spec, Key: "hook-" + rand.Text(),
		Data: outbox.Data(map[string]any{"agent": h.agent, outbox.RequestKey: asked.Key}),
	}}
}

// used returns the new usage in the transcript of an agent that has stopped.
func (m *memory) used(in agent.ClaudeHook) agent.Usage {
	transcript := in.Transcript
	switch in.Event {
	case "SubagentStop":
		transcript = in.AgentTranscript
	case "Stop", "StopFailure", "SessionEnd":
	default:
		return agent.Usage{}
	}
	if transcript == "" {
		return agent.Usage{}
	}
	used, end, err := agent.ClaudeUsageSince(transcript, m.Read[transcript])
	m.Read[transcript] = end
	if err != nil {
		return agent.Usage{}
	}
	return used
}

// session returns the session of the events: that of `specwatch run`, else one
// that is named after the agent's, else that of the loop, as for run and ask.
func (h *hook) session(session, folder string) string {
	if name := variable(runner.EnvSession); name != "" {
		return name
	}
	if session == "" {
		if h.loop == "" {
			h.loop = sessionOfLoop(time.Now()).name
		}
		return h.loop
	}
	name := h.agent + "-" + session[:min(8, len(session))]
	if base := filepath.Base(folder); len(base) > 1 && len(base) <= 64 {
		name += "-" + base
	}
	return name
}

// take writes the events of signals.
func (h *hook) take(signals []agent.Signal, session, folder string) {
	h.write(h.events(signals, session, folder))
}

// events turns signals into events.
func (h *hook) events(signals []agent.Signal, session, folder string) (all []event.Event) {
	if len(signals) == 0 || h.to == nil {
		return nil
	}
	name, spec := h.session(session, folder), variable(runner.EnvSpec)
	add := func(s agent.Signal) {
		e := event.Event{
			Kind: s.Kind, At: time.Now(), Session: name, Spec: spec,
			Data: outbox.Data(s.Data), Key: cmp.Or(s.Key, "hook-"+rand.Text()),
		}
		if e.Validate(time.Now()) == nil {
			all = append(all, e)
		}
	}
	for _, s := range signals {
		add(s)
		if s.Kind != agent.AgentLimit {
			continue
		}
		// The agent may stay open: for the state, a heartbeat says that it is
		// neither at work nor idle.
		if data := agent.AtLimit(s.Resets, time.Now()); data != nil {
			data["agent"] = h.agent
			add(agent.Signal{Kind: event.SessionHeartbeat, Data: data})
		}
	}
	return all
}

// write writes the events, or keeps them for the process that does.
func (h *hook) write(all []event.Event) {
	if len(all) == 0 || h.to == nil {
		return
	}
	runner.Note(all...)
	if h.queue != nil {
		if h.giveUp == nil {
			ctx, cancel := context.WithCancel(context.Background())
			h.giveUp = cancel
			go h.queue.Run(ctx)
		}
		h.queue.Add(all...)
		return
	}
	file := h.to.box.File()
	if err := file.Append(all...); err != nil {
		say(h.err, "events cannot be kept: "+err.Error())
	}
	file.Close()
}

// send starts a process that writes the kept events.
func (h *hook) send() {
	self, err := os.Executable()
	if err != nil || h.to == nil {
		return
	}
	cmd := exec.Command(self, "flush", "--background")
	cmd.Env = append(os.Environ(), h.to.env...)
	detached(cmd)
	if cmd.Start() == nil {
		_ = cmd.Process.Release()
	}
}
