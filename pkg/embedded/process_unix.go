//go:build unix && !linux

package embedded

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// processAttributes puts the server into a process group of its own, so that Ctrl-C
// in the terminal does not end it.
func processAttributes(account *account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Credential: account.credential(),
		Setpgid:    true,
	}
}

// servesDirectory reports whether the process may be a server on the data
// directory. It is true for all processes that run: their working directories are
// not known here.
func servesDirectory(pid int, _ string) bool {
	return syscall.Kill(pid, 0) == nil
}

// childrenOf lists the processes that a process has started.
func childrenOf(pid int) ([]int, error) {
	table, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var children []int
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[1] == strconv.Itoa(pid) {
			if child, err := strconv.Atoi(fields[0]); err == nil {
				children = append(children, child)
			}
		}
	}
	return children, nil
}

// running reports whether a process runs.
func running(pid int) bool { return syscall.Kill(pid, 0) == nil }

// stopped reports whether SIGSTOP has stopped a process.
func stopped(pid int) bool {
	state, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output() // #nosec G204 -- a number
	return err != nil || strings.HasPrefix(strings.TrimSpace(string(state)), "T")
}
