//go:build unix && !linux

package embedded

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// processAttributes keep the terminal's Ctrl-C away from the server: its parent
// decides when it stops.
func processAttributes(account *account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Credential: account.credential(),
		Setpgid:    true,
	}
}

// servesDirectory says whether the process may be a server on the data
// directory. Any living process may be: what directory it works in cannot be
// asked here.
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

// living says whether there is such a process.
func living(pid int) bool { return syscall.Kill(pid, 0) == nil }
