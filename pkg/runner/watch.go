package runner

import (
	"context"
	"os"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
)

// How often idleness is checked.
const (
	lookLeast = 50 * time.Millisecond
	lookMost  = 10 * time.Second
)

// watch is a started command that is followed to its end. Its fields belong to the
// goroutine of run.watch.
type watch struct {
	run     *run
	command *command

	timeout <-chan time.Time // Config.Timeout is over; nil: it never is
	stopped time.Duration    // for which the command was stopped, in all

	idle  <-chan time.Time // it is time to check whether the command is idle; nil: never
	every time.Duration    // between two checks
	open  chan bool        // receives whether a request to a person is open, from another goroutine
	asked bool             // it is being asked
	due   bool             // the command was idle when it was asked

	interrupted os.Signal // the last signal that is not the terminal's own; nil: none
	signals     int       // of these
	timedOut    bool
}

// watch follows the started command to its end.
func (r *run) watch(c *command) Result {
	w := &watch{run: r, command: c, open: make(chan bool, 1), every: min(max(r.IdleTimeout/10, lookLeast), lookMost)}
	heartbeat := time.NewTicker(r.Heartbeat)
	defer heartbeat.Stop()
	if r.IdleTimeout > 0 {
		look := time.NewTicker(w.every)
		defer look.Stop()
		w.idle = look.C
	}
	asking, stopAsking := context.WithCancel(context.Background())
	defer stopAsking()
	w.setTimeout()
	// The first heartbeat is sent at once: a loop with specs shorter than the
	// interval would otherwise never send one.
	w.alive()
	for {
		select {
		case <-heartbeat.C:
			w.alive()
		case <-w.timeout:
			w.timeUp("time", limitLines, map[string]any{"timeoutSeconds": r.Timeout.Seconds()})
		case now := <-w.idle:
			w.checkIdle(asking, now)
		case open := <-w.open:
			w.endIdle(open)
		case s := <-r.Signals:
			w.signal(s)
		case <-c.hungUp: // its terminal is gone
			c.hungUp = nil
			w.interrupted = hangUp
			c.end(hangUp, r.Grace, false)
		case s := <-c.jobs:
			c.jobControl(s)
		case <-c.ticks:
			c.tend()
		case change := <-c.changes:
			if change.ended {
				return w.finish(change)
			}
			w.stopped += c.stopped(change, r.Say)
			r.work.resumed(time.Now())
			w.setTimeout()
		}
	}
}

func (w *watch) alive() {
	w.run.emit(event.SessionHeartbeat, w.run.work.tell(time.Now(), w.command.cpu()))
}

func (w *watch) setTimeout() {
	if w.run.Timeout > 0 {
		w.timeout = time.After(w.run.Timeout + w.stopped - time.Since(w.run.start))
	}
}

// timeUp ends the command because it has run or been idle for too long. lines are
// the last lines of output in which a usage limit is looked for.
func (w *watch) timeUp(reason string, lines int, data map[string]any) {
	w.timeout, w.idle = nil, nil
	// An interrupted command that does not end is still ended, but a spec
	// has one outcome.
	if w.interrupted == nil {
		w.timedOut = true
		data["reason"], data["silentSeconds"] = reason, seconds(w.run.work.silent(time.Now()))
		if limit := w.run.limit(w.run.work.openAtLimit(lines)); limit != nil {
			w.run.endByLimit(limit, data)
		} else {
			w.run.end(event.TimeoutTriggered, data)
		}
	}
	w.command.end(terminate, w.run.Grace, w.timedOut)
}

// checkIdle checks whether the command is idle. If there was no sign of work since
// the last check, it asks the destination for an open request. Another goroutine asks,
// because the loop must not wait for the destination.
func (w *watch) checkIdle(asking context.Context, now time.Time) {
	isIdle := w.run.work.idle(now, w.command.cpu(), w.run.IdleTimeout)
	if !w.asked && now.Sub(w.run.work.lastSign()) >= w.every {
		w.asked, w.due = true, isIdle
		go func() { w.open <- w.run.waits(asking) }()
	}
}

// endIdle ends an idle command, unless a request to a person is open.
func (w *watch) endIdle(open bool) {
	w.asked = false
	switch now := time.Now(); {
	case w.idle == nil:
	case open:
		w.run.work.waits(now)
	case w.due && w.run.work.idle(now, w.command.cpu(), w.run.IdleTimeout):
		w.timeUp("idle", screenLines, map[string]any{"idleTimeoutSeconds": w.run.IdleTimeout.Seconds()})
	}
}

// signal passes a signal on to the command, which the third one kills.
func (w *watch) signal(s os.Signal) {
	if w.command.knows(s) {
		return
	}
	w.interrupted = s
	switch w.signals++; {
	case w.signals >= 3:
		w.command.kill()
	case w.command.hangsUp(s):
		w.command.end(s, w.run.Grace, false)
	default:
		w.command.signal(s)
	}
}

// finish waits for the last output of the command, which has ended, and emits the
// outcome unless a timeout was emitted.
func (w *watch) finish(end change) Result {
	err := w.command.finish(w.run.Signals)
	if w.timedOut {
		return Result{Code: ExitTimeout}
	}
	return Result{Code: w.run.ended(end, err, w.interrupted), Interrupted: end.signal == "SIGINT"}
}
