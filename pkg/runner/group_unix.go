//go:build unix

package runner

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// detach gives the command a process group of its own, so that what it
// started can be ended with it, and nothing else.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A group that is not the terminal's foreground would be stopped, without
	// a word, as soon as it reads from the terminal or sets its modes. Ignored
	// here, these signals are ignored in the command too, and it goes on:
	// a read from the terminal fails, which nobody has to wake up for.
	signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
}

// group is a running command and all that it started.
type group struct{ pid int }

func (g group) signal(s os.Signal) {
	if number, ok := s.(syscall.Signal); ok {
		// The one error is that nobody is left, which is what was wanted.
		_ = syscall.Kill(-g.pid, number)
	}
}

func (g group) terminate() { g.signal(syscall.SIGTERM) }
func (g group) kill()      { g.signal(syscall.SIGKILL) }

// alive reports whether anything of the group is left.
func (g group) alive() bool { return syscall.Kill(-g.pid, 0) != syscall.ESRCH }

// ended returns the exit code as a shell reports it, and the signal that
// ended the command, if one did.
func ended(state *os.ProcessState) (code int, killedBy string) {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), unix.SignalName(status.Signal())
	}
	return state.ExitCode(), ""
}

func signalName(s os.Signal) string {
	if number, ok := s.(syscall.Signal); ok {
		return unix.SignalName(number)
	}
	return s.String()
}
