package runner

import (
	"maps"
	"os"
	"sync"
	"time"

	"github.com/specwatch/specwatch/pkg/agent"
	"github.com/specwatch/specwatch/pkg/state"
)

// The streams of a command; what it prints to a terminal counts as stdout.
const (
	stdout = 1
	stderr = 2
)

// work measures the signs of work of a command: its output, and the CPU time that
// it and its descendants use. It is safe for concurrent use.
type work struct {
	file string // changed by specwatch inside the command; empty: none

	mu      sync.Mutex
	count   int64     // bytes printed
	last    time.Time // of the last of them; at first, of the start
	tail    *tail
	keep    int // of its lines go with the end
	verdict agent.Verdict

	told    int64         // count at the last heartbeat
	toldCPU time.Duration // CPU time at the last heartbeat
	samples []sample      // of the CPU time, oldest first, over the time that may be idle
	waited  time.Time     // when the command was last seen to wait for a person
}

type sample struct {
	at  time.Time
	cpu time.Duration
}

func newWork(now time.Time, lines int, file string) *work {
	return &work{last: now, tail: newTail(max(lines, screenLines)), keep: lines, file: file}
}

// wrote counts output.
func (w *work) wrote(stream int, text []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count += int64(len(text))
	w.last = time.Now()
	w.tail.write(text)
	if stream == stdout {
		w.verdict.Write(text)
	}
}

func (w *work) bytes() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// silent is how long nothing was printed.
func (w *work) silent(now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(0, now.Sub(w.last))
}

// tell returns the data of a heartbeat: the work since the last one.
func (w *work) tell(now time.Time, cpu time.Duration) map[string]any {
	silent := w.silent(now)
	w.mu.Lock()
	defer w.mu.Unlock()
	data := map[string]any{
		"outputBytes": w.count - w.told, "silentSeconds": seconds(silent),
		// The time of descendants that ended unnoticed may be lost.
		"cpuSeconds": seconds(max(0, cpu-w.toldCPU)),
	}
	if silent >= state.LimitGrace {
		if limit, shown := w.shown(screenLines); shown {
			maps.Copy(data, agent.AtLimit(limit.Resets, now))
		}
	}
	w.told, w.toldCPU = w.count, cpu
	return data
}

// A command that uses a smaller share of a CPU is idle: it runs timers, or keeps a
// connection open.
const (
	idleShare = 0.02
	idleLeast = 50 * time.Millisecond
)

// idle takes a sample of the CPU time and reports whether the command has shown
// no sign of work for as long as d: nothing printed, next to no CPU time, no
// event of its own.
func (w *work) idle(now time.Time, cpu, d time.Duration) bool {
	w.samples = append(w.samples, sample{now, cpu})
	// The first is the latest that is old enough.
	for len(w.samples) > 1 && now.Sub(w.samples[1].at) >= d {
		w.samples = w.samples[1:]
	}
	since := w.samples[0]
	if now.Sub(since.at) < d || now.Sub(w.lastSign()) < d || now.Sub(w.waited) < d {
		return false
	}
	return cpu-since.cpu < max(idleLeast, time.Duration(float64(now.Sub(since.at))*idleShare))
}

// waits notes that the command waits for a person.
func (w *work) waits(now time.Time) { w.waited = now }

// lastSign is when the command last printed something or wrote an event.
func (w *work) lastSign() time.Time {
	w.mu.Lock()
	last := w.last
	w.mu.Unlock()
	if info, err := os.Stat(w.file); w.file != "" && err == nil && info.ModTime().After(last) {
		last = info.ModTime()
	}
	return last
}

// resumed ignores the time in which the command was stopped.
func (w *work) resumed(now time.Time) {
	w.samples = nil
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = now
}

// lines are the last lines of what was printed, and the reason that the
// command itself gave for a failure.
func (w *work) lines() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tail.text(w.keep)
}

// The last lines in which an agent says that it has reached a limit: of one that
// has ended, and of one that is open and shows below it where to type.
const (
	limitLines  = 3
	screenLines = 10
)

// limit returns the usage limit that the command reports in its result or, if it
// failed, in its last lines.
func (w *work) limit(failed bool, now time.Time) (agent.Signal, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if reason, reported := w.verdict.Failure(); reported {
		return agent.LimitIn(reason, now)
	}
	if !failed {
		return agent.Signal{}, false
	}
	return agent.LimitIn(w.tail.text(limitLines), now)
}

// openAtLimit returns the usage limit that the last lines of an open command show.
func (w *work) openAtLimit(lines int) (agent.Signal, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shown(lines)
}

// shown is openAtLimit for a caller that holds the lock. Times such as "in two
// hours" count from when they were printed.
func (w *work) shown(lines int) (agent.Signal, bool) {
	return agent.LimitIn(w.tail.text(lines), w.last)
}

func (w *work) failure() (reason string, failed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verdict.Failure()
}
