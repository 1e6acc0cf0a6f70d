package runner

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Guard is for systems on which the runner needs one: here a job object ends
// the command with its runner.
func Guard(func(dir string)) int { return 2 }

// change is what becomes of a running command.
type change struct {
	ended  bool
	code   int
	signal string
}

// command is a running command and all that it started. It shares the runner's
// console.
type command struct {
	changes chan change
	hungUp  <-chan struct{}
	jobs    chan os.Signal
	ticks   <-chan time.Time

	cmd  *exec.Cmd
	job  windows.Handle
	err  error
	done chan struct{}
}

// startError is why a command could not be started.
type startError struct {
	text     string
	notFound bool
}

func (e *startError) Error() string { return e.text }

const (
	terminate = syscall.SIGTERM
	hangUp    = syscall.SIGHUP
)

func begin(cfg *Config, work *work, _ *lastWords, attach func(*command)) (*command, error) {
	c := &command{changes: make(chan change, 1), cmd: exec.Command(cfg.Command[0], cfg.Command[1:]...), done: make(chan struct{})}
	c.cmd.Env, c.cmd.WaitDelay = cfg.Env, cfg.Grace
	if !cfg.NoStdin {
		c.cmd.Stdin = cfg.Stdin
	}
	c.cmd.Stdout, c.cmd.Stderr = counted{cfg.Stdout, work, stdout}, counted{cfg.Stderr, work, stderr}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
	var err error
	if c.job, err = killOnClose(); err != nil {
		return nil, err
	}
	attach(c)
	if err := c.cmd.Start(); err != nil {
		windows.CloseHandle(c.job) //nolint:errcheck // it is empty
		return nil, &startError{err.Error(), errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)}
	}
	if process, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(c.cmd.Process.Pid)); err == nil {
		windows.AssignProcessToJobObject(c.job, process) //nolint:errcheck // then it is not ended with its runner
		windows.CloseHandle(process)                     //nolint:errcheck // as above
	}
	go func() {
		defer close(c.done)
		c.err = c.cmd.Wait()
		c.changes <- change{ended: true, code: c.cmd.ProcessState.ExitCode()}
	}()
	return c, nil
}

// killOnClose returns a job object that ends its processes with its last handle,
// which is this process's.
func killOnClose() (windows.Handle, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return 0, err
	}
	var limits windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	limits.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation, uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits)))
	return job, err
}

// signal sends Ctrl-Break: the one that Windows delivers to another group,
// whichever was received.
func (c *command) signal(os.Signal) {
	_ = windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(c.cmd.Process.Pid))
}

func (c *command) end(s os.Signal, grace time.Duration, _ bool) {
	c.signal(s)
	go func() {
		select {
		case <-c.done:
		case <-time.After(grace):
			c.kill()
		}
	}()
}

func (c *command) kill() {
	_ = exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(c.cmd.Process.Pid)).Run()
}

// cpu is the CPU time of all in the job.
func (c *command) cpu() time.Duration {
	var times struct {
		TotalUserTime, TotalKernelTime, ThisPeriodUser, ThisPeriodKernel int64 // in 100 ns
		PageFaults, Total, Active, Terminated                            uint32
	}
	const basicAccounting = 1
	if windows.QueryInformationJobObject(c.job, basicAccounting, uintptr(unsafe.Pointer(&times)), uint32(unsafe.Sizeof(times)), nil) != nil {
		return 0
	}
	return time.Duration(times.TotalUserTime+times.TotalKernelTime) * 100
}

func (c *command) finish(<-chan os.Signal) error {
	<-c.done
	windows.CloseHandle(c.job) //nolint:errcheck // it ends with this process
	var exit *exec.ExitError
	if errors.As(c.err, &exit) || errors.Is(c.err, exec.ErrWaitDelay) {
		return nil
	}
	return c.err
}

func (c *command) knows(os.Signal) bool                       { return false }
func (c *command) hangsUp(os.Signal) bool                     { return false }
func (c *command) tend()                                      {}
func (c *command) jobControl(os.Signal)                       {}
func (c *command) stopped(change, func(string)) time.Duration { return 0 }
func (c *command) tell(say func(string), text string)         { say(text) }

// counted is a stream of the command that is passed on.
type counted struct {
	to interface {
		Write([]byte) (int, error)
	}
	work   *work
	stream int
}

func (c counted) Write(text []byte) (int, error) {
	c.work.wrote(c.stream, text)
	return c.to.Write(text)
}

func signalName(s os.Signal) string { return s.String() }
