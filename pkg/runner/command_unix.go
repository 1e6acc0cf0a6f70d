//go:build unix

package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// change is a change of state of the command.
type change struct {
	stopped syscall.Signal // not 0: it was stopped by this signal
	ended   bool
	code    int    // as a shell reports it
	signal  string // that ended it, if one did
}

// command is a running command with its child processes.
type command struct {
	changes chan change
	hungUp  <-chan struct{}  // closed when the terminal is gone
	jobs    chan os.Signal   // job control of the shell around the runner
	ticks   <-chan time.Time // for tend
	ticker  *time.Ticker

	guard    *exec.Cmd
	pid      int // of the command, and of its process group
	control  *os.File
	mu       sync.Mutex // of orders
	orders   *json.Encoder
	streams  *streams
	terminal *terminal // nil: there is none
}

// startError says why the command could not be started.
type startError struct {
	text     string
	notFound bool
}

func (e *startError) Error() string { return e.text }

// begin starts the command under its guard. attach is given the command before
// anything of it is on the terminal. The error is a *startError when it is the
// command's own.
func begin(cfg *Config, work *work, words *lastWords, attach func(*command)) (*command, error) {
	ours, theirs, err := controlPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	c := &command{changes: make(chan change, 16), jobs: make(chan os.Signal, 4), control: ours}
	c.orders = json.NewEncoder(c.control)
	c.guard = exec.Command(cfg.Guard[0], cfg.Guard[1:]...)
	c.guard.Env = cfg.Env
	c.guard.ExtraFiles = []*os.File{theirs}
	first := order{Do: doStart, Argv: cfg.Command, Grace: cfg.Grace, LastWords: words}
	c.openTerminal(cfg, work)
	if c.terminal != nil {
		first.Terminal, first.Foreground = true, c.terminal.wanted
	}
	if c.streams, err = connect(cfg, c.guard, c.terminal, work); err != nil {
		c.close()
		return nil, err
	}
	attach(c)
	if c.terminal != nil {
		c.terminal.tend()
	}
	err = c.guard.Start()
	c.streams.started()
	if err != nil {
		c.close()
		return nil, err
	}
	reports := json.NewDecoder(c.control)
	if err := c.startUnderGuard(first, reports); err != nil {
		return nil, err
	}
	c.relay()
	go c.follow(reports)
	return c, nil
}

// controlPair returns both ends of a socket between the runner and its guard.
func controlPair() (ours, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	unix.CloseOnExec(pair[0])
	unix.CloseOnExec(pair[1])
	_ = unix.SetNonblock(pair[0], true)
	return os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control"), nil
}

// openTerminal opens the command's terminal, if it is to have one, and sets the
// session or process group of the guard.
func (c *command) openTerminal(cfg *Config, work *work) {
	c.terminal = findTerminal(cfg)
	if c.terminal == nil {
		// A signal to the runner's process group must not reach the guard.
		c.guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return
	}
	if err := c.terminal.open(work); err != nil {
		c.terminal.outer.Close()
		c.terminal = nil
		cfg.Say(fmt.Sprintf("the command runs without a terminal and with an empty standard input, because none can be opened for it: %s", err))
		// In this process's session the command would be stopped as soon as it
		// reads or sets the terminal.
		c.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return
	}
	c.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: terminalFD}
	c.guard.ExtraFiles = append(c.guard.ExtraFiles, c.terminal.inner)
}

// startUnderGuard sends the guard its first order and waits for the command's process.
// On error nothing of either is left.
func (c *command) startUnderGuard(first order, reports *json.Decoder) error {
	c.order(first)
	var r report
	if err := reports.Decode(&r); err != nil || r.What != saysStarted {
		c.orders.Encode(order{Do: doRelease}) //nolint:errcheck // it ends either way
		_ = c.guard.Wait()
		c.close()
		if err != nil {
			return errors.New("the guard process of the command does not start")
		}
		return &startError{r.Error, r.NotFound}
	}
	c.pid = r.Pid
	return nil
}

// relay begins to pass on job control, and from the terminal of the command what it
// prints. It also begins to notice that the outer terminal is free, or gone.
func (c *command) relay() {
	if !signal.Ignored(syscall.SIGTSTP) {
		signal.Notify(c.jobs, syscall.SIGTSTP)
	}
	signal.Notify(c.jobs, syscall.SIGCONT)
	if c.terminal == nil {
		return
	}
	c.terminal.relay()
	if !signal.Ignored(syscall.SIGHUP) {
		c.hungUp = c.terminal.hungUp
	}
	c.ticker = time.NewTicker(250 * time.Millisecond)
	c.ticks = c.ticker.C
}

// follow forwards reports until the guard is gone.
func (c *command) follow(reports *json.Decoder) {
	defer close(c.changes)
	for {
		var r report
		if reports.Decode(&r) != nil {
			break
		}
		status := syscall.WaitStatus(r.Status) // #nosec G115 -- the guard sent it as wait(2) gave it
		switch {
		case r.What == saysStopped:
			c.changes <- change{stopped: status.StopSignal()}
		case r.What == saysEnded && status.Signaled():
			c.changes <- change{ended: true, code: 128 + int(status.Signal()), signal: unix.SignalName(status.Signal())}
			return
		case r.What == saysEnded:
			c.changes <- change{ended: true, code: status.ExitStatus()}
			return
		}
	}
	// The guard was killed, and with it the command.
	_ = syscall.Kill(-c.pid, syscall.SIGKILL)
	c.changes <- change{ended: true, code: 128 + int(syscall.SIGKILL), signal: "SIGKILL"}
}

func (c *command) order(o order) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The end of the reports means that the guard is gone.
	_ = c.orders.Encode(o)
}

func (c *command) signal(s os.Signal) {
	if number, ok := s.(syscall.Signal); ok {
		c.order(order{Do: doSignal, Signal: int(number)})
	}
}

// end sends SIGTERM to the command and its child processes, and SIGKILL after the
// grace to those that are left. told: the end of the spec is written already.
func (c *command) end(s os.Signal, grace time.Duration, told bool) {
	number, _ := s.(syscall.Signal)
	c.order(order{Do: doEnd, Signal: int(number), Grace: grace, Told: told})
}

func (c *command) kill() { c.order(order{Do: doKill}) }

// cpu is the CPU time of the command and all that it started, so far.
func (c *command) cpu() time.Duration { return cpuTime(c.guard.Process.Pid) }

// finish waits for the last output and restores the terminal after the command
// has ended. giveUp ends the wait for a reader that does not read.
func (c *command) finish(giveUp <-chan os.Signal) error {
	c.order(order{Do: doRelease})
	_ = c.guard.Wait()
	err := c.streams.drain(giveUp)
	if c.terminal != nil {
		c.terminal.drain(giveUp)
	}
	c.close()
	return err
}

func (c *command) close() {
	signal.Stop(c.jobs)
	if c.ticker != nil {
		c.ticker.Stop()
	}
	if c.terminal != nil {
		c.terminal.close()
	}
	c.control.Close()
}

// The signals by which the runner ends a command.
const (
	terminate = syscall.SIGTERM
	hangUp    = syscall.SIGHUP
)

// knows reports whether the command has this signal from its own terminal.
func (c *command) knows(s os.Signal) bool { return c.terminal != nil && c.terminal.isOwn(s) }

// hangsUp reports whether the signal says that the terminal is gone.
func (c *command) hangsUp(s os.Signal) bool { return c.terminal != nil && s == hangUp }

// tell prints one line for the user, but not over the screen of the command.
func (c *command) tell(say func(string), text string) {
	if c.terminal == nil {
		say(text)
		return
	}
	c.terminal.tell(text)
}

// tend gives the command the terminal that it waits for, as soon as it is free: a
// shell does not notify a background job that it is in the foreground.
func (c *command) tend() {
	if c.terminal != nil && c.terminal.tend() {
		c.resume()
	}
}

// jobControl handles a signal of job control that only the runner received.
func (c *command) jobControl(s os.Signal) {
	if s == syscall.SIGCONT {
		c.tend()
		c.resume()
		return
	}
	c.signal(s)
}

func (c *command) resume() {
	c.order(order{Do: doResume, Foreground: c.terminal != nil && c.terminal.wanted})
}

// stopped handles a stopped command. If it wants the terminal, it gets it. Else
// the runner stops too, so that the shell sees a stopped job, and continues the
// command when it continues itself. It returns for how long it was stopped.
func (c *command) stopped(change change, say func(string)) (away time.Duration) {
	t := c.terminal
	if t != nil && !t.grabbed.Load() && (change.stopped == syscall.SIGTTIN || change.stopped == syscall.SIGTTOU) {
		first := !t.wanted
		t.wanted, t.waiting = true, true
		c.tend()
		if t.waiting && first {
			say("the command waits for the terminal; bring it to the foreground: fg")
		}
		return 0
	}
	began := time.Now()
	group := false
	if t != nil {
		t.settled()
		group = t.grabbed.Load() && t.foreground()
		t.ungrab()
	}
	stopSelf(group)
	away = time.Since(began)
	if change.stopped == syscall.SIGSTOP && away < 50*time.Millisecond {
		return 0 // no shell controls this job: whoever stopped the command must continue it
	}
	if t != nil {
		t.tend()
	}
	c.resume()
	return away
}

// streams are the input and output of the command that are not a terminal.
type streams struct {
	given  []*os.File // closed here once the guard has them
	pumps  []*pump
	broken chan error // why input could not be passed on, at most one
}

// connect sets the streams of the command. A stream that is a terminal becomes
// the command's own terminal; other output goes through a pipe, to see whether
// the command works.
func connect(cfg *Config, guard *exec.Cmd, t *terminal, w *work) (*streams, error) {
	s := &streams{broken: make(chan error, 1)}
	switch {
	case cfg.NoStdin || cfg.Stdin == nil || t == nil && isTerminal(cfg.Stdin): // as /dev/null
	case isTerminal(cfg.Stdin):
		guard.Stdin = t.inner
	default:
		if file, ok := cfg.Stdin.(*os.File); ok {
			guard.Stdin = file // unread by anybody else
			break
		}
		r, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		guard.Stdin = r
		s.given = append(s.given, r)
		go func() {
			defer write.Close()
			if _, err := io.Copy(write, cfg.Stdin); err != nil && !errors.Is(err, syscall.EPIPE) {
				s.broken <- err
			}
		}()
	}
	output := func(to io.Writer, which int) (*os.File, error) {
		if t != nil && isTerminal(to) {
			return t.inner, nil
		}
		r, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.given = append(s.given, write)
		s.pumps = append(s.pumps, &pump{from: r, to: to, work: w, stream: which, ended: make(chan struct{})})
		return write, nil
	}
	out, err := output(cfg.Stdout, 1)
	if err != nil {
		return nil, err
	}
	guard.Stdout, guard.Stderr = out, out
	if !same(cfg.Stdout, cfg.Stderr) { // in one file, the order of both is kept
		if guard.Stderr, err = output(cfg.Stderr, 2); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func same(a, b io.Writer) bool {
	x, xIsFile := a.(*os.File)
	y, yIsFile := b.(*os.File)
	if !xIsFile || !yIsFile {
		return a == b
	}
	first, err := x.Stat()
	second, errSecond := y.Stat()
	return err == nil && errSecond == nil && os.SameFile(first, second)
}

func (s *streams) started() {
	for _, file := range s.given {
		file.Close()
	}
	for _, p := range s.pumps {
		go p.run()
	}
}

// drain forwards what the command has printed. It does not wait for processes
// that outlive the command and keep its output open.
func (s *streams) drain(giveUp <-chan os.Signal) error {
	for _, p := range s.pumps {
		_ = p.from.SetReadDeadline(time.Now())
	}
	for _, p := range s.pumps {
		select {
		case <-p.ended:
		case <-giveUp: // nobody reads the output
			return nil
		}
	}
	for _, p := range s.pumps {
		if p.err != nil {
			return p.err
		}
	}
	select {
	case err := <-s.broken:
		return err
	default:
		return nil
	}
}

// pump forwards one stream.
type pump struct {
	from   *os.File
	to     io.Writer
	work   *work
	stream int
	err    error
	ended  chan struct{}
}

func (p *pump) run() {
	defer close(p.ended)
	defer p.from.Close() // the command notices a closed reader as without a runner
	buffer := make([]byte, 32<<10)
	for {
		n, err := p.from.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			n, err = p.rest(buffer)
		}
		if n > 0 {
			p.work.wrote(p.stream, buffer[:n])
			if _, err := p.to.Write(buffer[:n]); err != nil {
				if !errors.Is(err, syscall.EPIPE) {
					p.err = err
				}
				return
			}
		}
		if err != nil || n == 0 {
			return
		}
	}
}

// rest reads what is there, without waiting for more.
func (p *pump) rest(buffer []byte) (n int, err error) {
	raw, err := p.from.SyscallConn()
	if err != nil {
		return 0, err
	}
	_ = p.from.SetReadDeadline(time.Time{})
	var read error
	err = raw.Read(func(fd uintptr) bool {
		n, read = unix.Read(int(fd), buffer)
		return true
	})
	_ = p.from.SetReadDeadline(time.Now())
	if read != nil {
		return 0, read
	}
	return n, err
}
