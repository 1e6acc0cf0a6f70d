//go:build unix && !linux

package runner

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// stopSelf stops this process, and asks its process group to stop where group
// says so. It returns when somebody lets it go on, or at once where no shell
// looks after this job.
func stopSelf(group bool) {
	session, err := unix.Getsid(0)
	parents, errParents := unix.Getsid(os.Getppid())
	if err != nil || errParents != nil || session != parents {
		return
	}
	if group {
		_ = syscall.Kill(0, syscall.SIGTSTP) // which this process hears of and does not obey
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
}
