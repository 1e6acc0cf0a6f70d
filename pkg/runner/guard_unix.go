//go:build unix

package runner

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The guard is a process between the runner and the command. It does two things
// that the runner cannot do: it survives when the runner is killed, and then ends
// the command with its child processes; and on a terminal it is the session
// leader, because a session leader cannot be stopped by Ctrl-Z.

// Open file descriptors of the guard: the socket to its runner, and the terminal
// of its session.
const (
	controlFD  = 3
	terminalFD = 4
)

// Orders of the runner to the guard. The first one starts the command.
type order struct {
	Do string `json:"do"`

	Argv       []string      `json:"argv,omitempty"`       // start
	Terminal   bool          `json:"terminal,omitempty"`   // start: the guard leads a session on a terminal
	Foreground bool          `json:"foreground,omitempty"` // start, resume: the command is the terminal's foreground
	Signal     int           `json:"signal,omitempty"`     // signal, end
	Grace      time.Duration `json:"grace,omitempty"`      // start: for a command whose runner is gone; end
	Told       bool          `json:"told,omitempty"`       // end: the runner has written how the spec ended
	LastWords  *lastWords    `json:"last_words,omitempty"` // start
}

const (
	doStart   = "start"
	doSignal  = "signal"  // to the command's process group
	doResume  = "resume"  // continue a stopped command
	doEnd     = "end"     // SIGTERM to the command and its child processes, SIGKILL after the grace
	doKill    = "kill"    // SIGKILL to the command and its child processes
	doRelease = "release" // after the command has ended: the guard exits
)

// Reports of the guard to the runner.
type report struct {
	What     string `json:"what"`
	Pid      int    `json:"pid,omitempty"`       // started
	Error    string `json:"error,omitempty"`     // refused
	NotFound bool   `json:"not_found,omitempty"` // refused
	Status   int    `json:"status,omitempty"`    // stopped, ended: as wait(2) gives it
}

const (
	saysStarted = "started"
	saysRefused = "refused" // the command could not be started
	saysStopped = "stopped"
	saysEnded   = "ended"
)

// guard runs one command.
type guard struct {
	start   order
	control *os.File
	reports *json.Encoder
	tty     int // the terminal whose session it leads; -1: none
	pid     int // of the command, and of its process group

	// These belong to the goroutine that watches the command.
	words    *lastWords          // to write if the runner is gone; nil: the end of the spec is written
	alone    bool                // the runner is gone
	ending   bool                // the command is being ended
	deadline <-chan time.Time    // of a command that is being ended; nil: none, or it is over
	ended    *syscall.WaitStatus // nil: the command runs
	reported bool                // the runner knows that it has ended
}

// Guard runs the guard; the program that Config.Guard names calls it. deliver
// sends the events of a directory. It is called when the guard has written the
// end of the spec because the runner was killed.
func Guard(deliver func(dir string)) int {
	// The command dies with the thread that started it (see dieWith), so that
	// thread must be the one that lasts.
	runtime.LockOSThread()
	control := os.NewFile(controlFD, "control")
	unix.CloseOnExec(controlFD)
	unix.CloseOnExec(terminalFD) // of a guard without a terminal, nothing
	orders := json.NewDecoder(control)
	g := &guard{control: control, reports: json.NewEncoder(control), tty: -1}
	if err := orders.Decode(&g.start); err != nil || g.start.Do != doStart || len(g.start.Argv) == 0 {
		return 2 // not started by a runner
	}
	// What ends the runner must not end the guard before the command. What is
	// ignored stays so, in the command too.
	asked := make(chan os.Signal, 4)
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGPIPE} {
		if !signal.Ignored(s) {
			signal.Notify(asked, s)
		}
	}
	adoptOrphans()
	if err := g.startCommand(); err != nil {
		notFound := errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)
		g.say(report{What: saysRefused, Error: err.Error(), NotFound: notFound})
		return 0
	}
	g.say(report{What: saysStarted, Pid: g.pid})

	told := make(chan order)
	go func() {
		defer close(told)
		for {
			var o order
			if orders.Decode(&o) != nil {
				return
			}
			told <- o
		}
	}()
	changes := make(chan syscall.WaitStatus, 16)
	go g.wait(changes)
	return g.watch(told, changes, asked, deliver)
}

func (g *guard) say(r report) {
	// The end of the orders means that the runner is gone.
	_ = g.reports.Encode(r)
}

func (g *guard) startCommand() error {
	path, err := exec.LookPath(g.start.Argv[0])
	if err != nil {
		return err
	}
	attributes := &syscall.SysProcAttr{Setpgid: true}
	dieWith(attributes)
	if g.start.Terminal {
		if g.tty, err = unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		if g.start.Foreground {
			attributes.Foreground, attributes.Ctty = true, g.tty
		}
	}
	process, err := os.StartProcess(path, g.start.Argv, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: attributes,
	})
	if err != nil {
		return err
	}
	g.pid = process.Pid
	// From the background of its terminal the guard says who is its foreground.
	signal.Ignore(syscall.SIGTTOU, syscall.SIGTTIN)
	// The streams end with the command, not with the guard.
	if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		for fd := range 3 {
			_ = dup2(int(null.Fd()), fd)
		}
		null.Close()
	}
	return nil
}

// wait waits for the command and all orphans, and reports the changes of the
// command.
func (g *guard) wait(changes chan<- syscall.WaitStatus) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WUNTRACED, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil: // no child is left
			return
		case pid == g.pid:
			changes <- status
		}
	}
}

// watch follows the command to its end, and returns the exit code of the guard.
func (g *guard) watch(told <-chan order, changes <-chan syscall.WaitStatus, asked <-chan os.Signal, deliver func(string)) int {
	g.words = g.start.LastWords
	var look <-chan time.Time // for child processes that have not ended
	for {
		select {
		case o, ok := <-told:
			switch {
			case !ok && g.reported:
				return 0
			case !ok: // the runner is gone
				told, g.alone = nil, true
				g.endUnlessEnding()
			case o.Do == doRelease:
				g.leave()
				return 0
			default:
				g.obey(o)
			}
		case s := <-asked:
			// The guard itself was signalled. The runner handles the hangup of
			// the terminal.
			if s == syscall.SIGTERM {
				g.endUnlessEnding()
			}
		case <-g.deadline:
			g.deadline = nil
			killAll(g.pid)
		case status := <-changes:
			g.changed(status)
		case <-look:
		}
		look = nil
		switch {
		case g.ended == nil || g.reported:
			continue
		case g.childrenMayEnd():
			// No process of this spec may continue next to the next spec.
			look = time.After(20 * time.Millisecond)
			continue
		}
		g.endChildren()
		if g.alone {
			g.words.write(deliver)
			return 0
		}
		g.say(report{What: saysEnded, Status: int(*g.ended)})
		g.reported = true
	}
}

// obey carries out an order that changes the command.
func (g *guard) obey(o order) {
	switch o.Do {
	case doSignal:
		g.signal(syscall.Signal(o.Signal))
	case doResume:
		g.resume(o.Foreground)
	case doEnd:
		if o.Told {
			g.words = nil
		}
		g.end(syscall.Signal(o.Signal), o.Grace)
	case doKill:
		g.ending, g.deadline = true, nil
		killAll(g.pid)
	}
}

// end ends the command and its child processes by a signal, and by SIGKILL after
// the grace.
func (g *guard) end(s syscall.Signal, grace time.Duration) {
	g.ending = true
	g.signalAll(s)
	g.signalAll(syscall.SIGCONT) // a stopped process receives no other signal
	g.deadline = time.After(grace)
}

// endUnlessEnding ends the command without an order of the runner, unless it is being
// ended.
func (g *guard) endUnlessEnding() {
	if !g.ending {
		g.end(syscall.SIGTERM, g.start.Grace)
	}
}

// changed notes that the command was stopped or has ended. A command that is being
// ended is not reported as stopped.
func (g *guard) changed(status syscall.WaitStatus) {
	switch {
	case !status.Stopped():
		g.ended = &status
	case !g.ending:
		g.say(report{What: saysStopped, Status: int(status)})
	}
}

// childrenMayEnd reports whether child processes of a command that is being ended are
// left and have time to end by themselves.
func (g *guard) childrenMayEnd() bool {
	return g.ending && g.deadline != nil && len(descendants(os.Getpid())) > 0
}

// endChildren is called when the command has ended. It kills the child processes that
// are left of one that was to end, and gives those of another the time to print.
func (g *guard) endChildren() {
	if g.ending {
		killAll(g.pid)
	} else {
		g.linger()
	}
}

// linger gives child processes that end with the command the time to print their
// last line: when the guard exits, they lose their output.
func (g *guard) linger() {
	for range 15 {
		if syscall.Kill(-g.pid, 0) != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// leave makes the guard the foreground of the terminal: at the end of a session,
// the foreground process group gets SIGHUP, which background processes of the
// command must not get.
func (g *guard) leave() {
	if g.tty >= 0 {
		_ = unix.IoctlSetPointerInt(g.tty, unix.TIOCSPGRP, os.Getpid())
	}
}

func (g *guard) signal(s syscall.Signal) {
	// The only error is that no process is left.
	_ = syscall.Kill(-g.pid, s)
}

// signalAll signals the command's process group and all other processes that the
// command started.
func (g *guard) signalAll(s syscall.Signal) {
	g.signal(s)
	for _, pid := range descendants(os.Getpid()) {
		if group, err := unix.Getpgid(pid); err == nil && group != g.pid {
			_ = syscall.Kill(pid, s)
		}
	}
}

func (g *guard) resume(foreground bool) {
	if foreground && g.tty >= 0 {
		_ = unix.IoctlSetPointerInt(g.tty, unix.TIOCSPGRP, g.pid)
	}
	g.signal(syscall.SIGCONT)
}

// killAll kills the group and all descendants of this process, those too that
// are born meanwhile.
func killAll(group int) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if group > 0 {
			_ = syscall.Kill(-group, syscall.SIGKILL)
		}
		left := descendants(os.Getpid())
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
