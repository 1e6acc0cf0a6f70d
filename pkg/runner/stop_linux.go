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

// stopSelf stops this process as Ctrl-Z would, and with it, where group says
// so, all of its process group. It returns when somebody lets it go on, or at
// once where nobody could: the kernel stops no job that no shell looks after.
func stopSelf(group bool) {
	// Of a signal that was ever asked for, os/signal keeps the handler, and
	// with a handler it stops nothing.
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
