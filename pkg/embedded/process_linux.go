package embedded

import (
	"os"
	"path/filepath"
	"strconv"
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
