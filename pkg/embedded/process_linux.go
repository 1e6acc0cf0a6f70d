package embedded

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// processAttributes puts the server into a process group of its own, so that Ctrl-C
// in the terminal does not end it. If this process ends, the server gets SIGINT
// and shuts down.
func processAttributes(account *account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Credential: account.credential(),
		Setpgid:    true,
		Pdeathsig:  syscall.SIGINT,
	}
}

// servesDirectory reports whether the process is a server on this data directory,
// which is the working directory of its processes.
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

// running reports whether a process runs; a zombie does not.
func running(pid int) bool {
	state, _ := status(pid)
	return state != "" && state != "Z" && state != "X"
}

// stopped reports whether SIGSTOP has stopped a process.
func stopped(pid int) bool {
	state, _ := status(pid)
	return state == "T" || state == "t"
}

// status returns the state and the parent of a process; empty: it does not exist.
func status(pid int) (state string, parent int) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", 0
	}
	// The fields follow the name, which is in parentheses and may contain some.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}
