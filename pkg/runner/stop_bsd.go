//go:build unix && !linux

package runner

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// stopSelf stops this process and, if group is set, asks its process group to
// stop. It returns when the process is continued, or at once if no shell controls
// this job.
func stopSelf(group bool) {
	session, err := unix.Getsid(0)
	parents, errParents := unix.Getsid(os.Getppid())
	if err != nil || errParents != nil || session != parents {
		return
	}
	if group {
		_ = syscall.Kill(0, syscall.SIGTSTP) // this process handles the signal and does not stop
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
}
