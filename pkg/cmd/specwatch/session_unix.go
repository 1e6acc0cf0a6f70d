//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// processSession identifies the session (setsid) of this process, such as that of a
// shell, a cron job or a service. Its id may be reused after it has ended, so its
// start time is included.
func processSession() string {
	id, err := unix.Getsid(0)
	if err != nil {
		return ""
	}
	if id == 0 {
		// The session began outside this PID namespace, as in some containers.
		// The first process inside inherited it; there is one such session.
		return "outside-" + begun(1)
	}
	return strconv.Itoa(id) + "-" + begun(id)
}

// begun returns the start time of a process in clock ticks since boot; empty without
// /proc, or if the process has ended.
func begun(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name, in parentheses, may hold anything; the start time is the 20th
	// field after it (proc_pid_stat(5)).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}
