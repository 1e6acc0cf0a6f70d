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

// account has no values on Windows: the server runs as the user of this process.
type account struct{}

func serverAccount() (*account, error) { return nil, nil }
func (a *account) reaches(string) bool { return true }
func (a *account) own(string) error    { return nil }

// Place returns the directory that Start uses for dir.
func Place(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("cannot find the directory for PostgreSQL's data: %w", err)
	}
	return dir, nil
}

// processAttributes puts the server into a process group of its own, so that Ctrl-C
// in the console does not end it.
func processAttributes(*account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// servesDirectory need not know: a server keeps its lock file open while it runs,
// and Windows does not remove an open file.
func servesDirectory(int, string) bool { return false }

// shutdown is a signal that ends a server, by its name in pg_ctl.
type shutdown = string

const (
	fastShutdown      = "INT"
	immediateShutdown = "QUIT"
)

// signalServer uses pg_ctl, because PostgreSQL on Windows receives signals on a pipe.
func signalServer(install installation, process *os.Process, kind shutdown) error {
	output, err := exec.Command(install.program("pg_ctl"), "kill", kind, strconv.Itoa(process.Pid)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// killGroup ends a child process. Its own children end when their pipes close.
func killGroup(process *os.Process) error { return process.Kill() }

// killTree kills a server with all its processes.
func killTree(pid int) error {
	output, err := exec.Command("taskkill", "/F", "/T", "/PID", strconv.Itoa(pid)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot kill PostgreSQL (process %d): %w: %s", pid, err, output)
	}
	return nil
}
