package embedded

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// processAttributes keep the terminal's Ctrl-C away from the server (its parent
// decides when it stops) and end it in order if the parent dies.
func processAttributes(account *account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Credential: account.credential(),
		Setpgid:    true,
		Pdeathsig:  syscall.SIGINT,
	}
}

// servesDirectory says whether the process is a server on this data directory:
// PostgreSQL works inside its own.
func servesDirectory(pid int, dataDir string) bool {
	at, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil {
		return false
	}
	dataDir, err = filepath.EvalSymlinks(dataDir)
	return err == nil && at == dataDir
}

// childrenOf lists the processes that a process has started.
func childrenOf(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var children []int
	for _, entry := range entries {
		if process, err := strconv.Atoi(entry.Name()); err == nil {
			if _, parent := status(process); parent == pid {
				children = append(children, process)
			}
		}
	}
	return children, nil
}

// living says whether a process still holds what it held: a zombie holds nothing.
func living(pid int) bool {
	state, _ := status(pid)
	return state != "" && state != "Z" && state != "X"
}

// status is a process's state and parent, or nothing if it is gone.
func status(pid int) (state string, parent int) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", 0
	}
	// The name before them stands in parentheses and may contain any.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}
