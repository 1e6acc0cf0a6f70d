package runner

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/windows"
)

// detach gives the command a process group of its own, so that it can be
// asked to end without asking the runner too.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

// group is a running command and all that it started.
type group struct{ pid int }

// signal sends Ctrl-Break: the one that Windows delivers to another group,
// whichever was received.
func (g group) signal(os.Signal) {
	_ = windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(g.pid))
}

func (g group) terminate() { g.signal(nil) }

func (g group) kill() {
	_ = exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(g.pid)).Run()
}

// alive is false: Windows keeps no list of a group whose first process ended.
func (g group) alive() bool { return false }

func ended(state *os.ProcessState) (code int, killedBy string) { return state.ExitCode(), "" }

func signalName(s os.Signal) string { return s.String() }
