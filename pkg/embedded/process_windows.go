package embedded

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

const accountName = ""

// account is never another user here: Windows has no root that PostgreSQL refuses.
type account struct{}

func serverAccount() (*account, error) { return nil, nil }
func (a *account) reaches(string) bool { return true }
func (a *account) own(string) error    { return nil }

// Place is where Start keeps a server that is asked to live in dir.
func Place(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("cannot find the directory for PostgreSQL's data: %w", err)
	}
	return dir, nil
}

// processAttributes keep the console's Ctrl-C away from the server: its parent
// decides when it stops.
func processAttributes(*account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// servesDirectory leaves the question to PostgreSQL, which keeps its lock file
// open for as long as it runs, so that a living server's cannot be removed.
func servesDirectory(int, string) bool { return false }

// shutdown is how a server is asked to end, as pg_ctl calls it.
type shutdown = string

const (
	fastShutdown      = "INT"
	immediateShutdown = "QUIT"
)

// signalServer asks through pg_ctl: PostgreSQL on Windows listens for signals on a pipe.
func signalServer(install installation, process *os.Process, kind shutdown) error {
	output, err := exec.Command(install.program("pg_ctl"), "kill", kind, strconv.Itoa(process.Pid)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// killGroup ends a process of ours; its children end when their pipes do.
func killGroup(process *os.Process) error { return process.Kill() }

// killTree kills a server with all its processes.
func killTree(pid int) error {
	output, err := exec.Command("taskkill", "/F", "/T", "/PID", strconv.Itoa(pid)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot kill PostgreSQL (process %d): %w: %s", pid, err, output)
	}
	return nil
}
