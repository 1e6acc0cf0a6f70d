package runner

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is the kernel's: handler, flags, restorer, mask.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// stopSelf stops this process as Ctrl-Z would and, if group is set, all of its
// process group. It returns when the process is continued, or at once if no shell
// controls this job: the kernel does not stop an orphaned process group.
func stopSelf(group bool) {
	// os/signal keeps a handler for each signal that was ever requested, and a
	// signal with a handler does not stop the process.
	var usual sigaction
	set := func(to, old *sigaction) {
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(syscall.SIGTSTP), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(usual.mask), 0, 0)
	}
	const byDefault, ignored = 0, 1
	set(&sigaction{handler: ignored}, &usual)
	defer set(&usual, nil)
	if group {
		_ = syscall.Kill(0, syscall.SIGTSTP) // the others first
	}
	set(&sigaction{handler: byDefault}, nil)
	// A signal to the thread itself is there before the call returns.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), syscall.SIGTSTP)
}
