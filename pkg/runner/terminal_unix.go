//go:build unix

package runner

import (
	"bytes"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// terminal connects the terminal of the runner (outer) with that of the command
// (inner). It forwards input and output between them, so that keys, colours,
// sizes and signals reach the command as if it were run directly.
//
// The outer terminal is grabbed, so that each key goes to the command only, when
// it is both input and output of the command, or else when the command first
// reads it. Until then it belongs to the whole pipeline, and typed input stays
// for the next reader.
type terminal struct {
	outer  *os.File // the runner's
	master *os.File // the command's, seen from here
	inner  *os.File // and seen from there
	shared bool     // others of a pipeline print to the outer terminal, too
	work   *work
	say    func(string)

	// These belong to the goroutine that watches the command.
	wanted  bool          // the command is to have the outer terminal
	waiting bool          // and is stopped until it has
	saved   *unix.Termios // of the outer terminal
	given   *unix.Termios // to the inner one

	grabbed atomic.Bool
	opost   atomic.Bool // the outer terminal turns \n into \r\n

	stopKeys *os.File      // closed: keys are no longer read
	keysDone chan struct{} // closed when they are not

	mu   sync.Mutex
	held []string                     // lines for the user, printed after the terminal is restored
	own  map[syscall.Signal]time.Time // signals that the runner sent to its own group

	printed chan struct{}  // closed when all that the command printed is passed on
	sizes   chan os.Signal // SIGWINCH
	hungUp  chan struct{}  // closed when the outer terminal is gone
	gone    sync.Once      // closes it
	cr      bool           // a carriage return is held back until it is known what follows
}

// maxHeld bounds these lines.
const maxHeld = 100

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	if !ok || file == nil {
		return false
	}
	_, err := getTermios(file)
	return err == nil
}

// findTerminal returns the terminal that the command is run on: that of its
// streams or else the one that controls this process; nil where there is none.
func findTerminal(cfg *Config) *terminal {
	in, out, errs := isTerminal(cfg.Stdin) && !cfg.NoStdin, isTerminal(cfg.Stdout), isTerminal(cfg.Stderr)
	t := &terminal{wanted: in && out, shared: !out || !errs, say: cfg.Say, own: map[syscall.Signal]time.Time{}}
	var streams []*os.File
	for _, stream := range []struct {
		is   bool
		file any
	}{{in, cfg.Stdin}, {out, cfg.Stdout}, {errs, cfg.Stderr}} {
		if stream.is {
			streams = append(streams, stream.file.(*os.File))
		}
	}
	i := slices.IndexFunc(streams, bothWays)
	if i < 0 {
		// None of them is, or one was opened for one way, as by "</dev/tty".
		controlling, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err == nil {
			t.outer = controlling
			return t
		}
		if i = 0; len(streams) == 0 {
			return nil
		}
	}
	// A descriptor of its own, to close without closing the stream.
	fd, err := unix.FcntlInt(streams[i].Fd(), unix.F_DUPFD_CLOEXEC, 10)
	if err != nil {
		return nil
	}
	t.outer = os.NewFile(uintptr(fd), "terminal")
	return t
}

// bothWays reports whether a terminal can be read and written.
func bothWays(file *os.File) bool {
	flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_ACCMODE == unix.O_RDWR
}

// open makes the command's terminal, with the modes and the size of the outer.
func (t *terminal) open(w *work) (err error) {
	t.work = w
	if t.saved, err = getTermios(t.outer); err != nil {
		return err
	}
	t.opost.Store(t.saved.Oflag&unix.OPOST != 0)
	if t.master, t.inner, err = openPair(); err != nil {
		return err
	}
	if err = setTermios(t.inner, t.saved); err == nil {
		t.given, err = getTermios(t.inner)
	}
	if err != nil {
		t.inner.Close()
		t.master.Close()
		return err
	}
	t.resize()
	t.printed, t.hungUp = make(chan struct{}), make(chan struct{})
	t.sizes = make(chan os.Signal, 1)
	signal.Notify(t.sizes, syscall.SIGWINCH)
	return nil
}

// openPair opens a terminal from both sides. Reading from the master can be
// interrupted, which takes a descriptor that does not block; the library's does.
func openPair() (master, inner *os.File, err error) {
	blocking, inner, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 10)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		inner.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "master"), inner, nil
}

// resize gives the inner terminal the size of the outer.
func (t *terminal) resize() {
	var size *unix.Winsize
	err := request(t.outer, func(fd int) (err error) {
		size, err = unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		return err
	})
	if err == nil {
		_ = request(t.master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
	}
}

// foreground reports whether this process may use the outer terminal. One that
// does not control this process has no foreground, and is free to use.
func (t *terminal) foreground() bool {
	group, err := foregroundOf(t.outer)
	return err != nil || group == unix.Getpgrp()
}

// tend grabs the outer terminal if the command wants it and may have it. It
// reports whether the command has waited for it.
func (t *terminal) tend() (waited bool) {
	if !t.wanted || t.grabbed.Load() || !t.foreground() {
		return false
	}
	t.grab()
	waited, t.waiting = t.waiting, false
	return waited
}

// grab sets the outer terminal to raw mode and forwards its keys.
func (t *terminal) grab() {
	if now, err := getTermios(t.outer); err == nil {
		t.saved = now
	}
	// A job that was begun in the background began with the modes in which the
	// shell reads its own line.
	if inner, err := getTermios(t.master); err == nil && *inner == *t.given && setTermios(t.master, t.saved) == nil {
		t.given, _ = getTermios(t.master)
	}
	raw := *t.saved
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if !t.shared {
		raw.Oflag &^= unix.OPOST
	}
	if setTermios(t.outer, &raw) != nil {
		return // it is gone
	}
	t.opost.Store(raw.Oflag&unix.OPOST != 0)
	t.grabbed.Store(true)
	t.resize()
	stopped, stop, err := os.Pipe()
	if err != nil {
		return
	}
	t.stopKeys, t.keysDone = stop, make(chan struct{})
	go t.keys(stopped, t.keysDone)
}

// ungrab restores the outer terminal.
func (t *terminal) ungrab() {
	if !t.grabbed.Load() {
		return
	}
	if t.stopKeys != nil {
		t.stopKeys.Close()
		_ = t.master.SetWriteDeadline(time.Now()) // a command that does not read
		<-t.keysDone
		_ = t.master.SetWriteDeadline(time.Time{})
		t.stopKeys = nil
	}
	if t.foreground() {
		_ = setTermios(t.outer, t.saved)
	}
	t.opost.Store(t.saved.Oflag&unix.OPOST != 0)
	t.mu.Lock()
	t.grabbed.Store(false)
	held := t.held
	t.held = nil
	t.mu.Unlock()
	for _, text := range held {
		t.say(text)
	}
}

// tell tells the person one line, but not across a command's screen.
func (t *terminal) tell(text string) {
	t.mu.Lock()
	grabbed := t.grabbed.Load()
	if grabbed && len(t.held) < maxHeld {
		t.held = append(t.held, text)
	}
	t.mu.Unlock()
	if !grabbed {
		t.say(text)
	}
}

// keys forwards typed input until the pipe is closed.
func (t *terminal) keys(stopped *os.File, done chan struct{}) {
	defer close(done)
	defer stopped.Close()
	buffer := make([]byte, 4<<10)
	outer, stop := int32(t.outer.Fd()), int32(stopped.Fd()) // #nosec G115 -- file descriptors are small
	for {
		ready := []unix.PollFd{{Fd: stop, Events: unix.POLLIN}, {Fd: outer, Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err == unix.EINTR {
			continue
		} else if err != nil || ready[0].Revents != 0 {
			return
		}
		n, err := unix.Read(int(outer), buffer)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
		case err != nil || n == 0:
			// A stopped command that continues is read for again.
			t.gone.Do(func() { close(t.hungUp) })
			return
		default:
			t.echo(buffer[:n])
			if _, err := t.master.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

// echo sends the signal of a key to the runner's own process group, where the
// outer terminal would have sent it: a script around the runner, and the rest
// of its pipeline, hear of Ctrl-C, too.
func (t *terminal) echo(keys []byte) {
	modes, err := getTermios(t.master)
	if err != nil || modes.Lflag&unix.ISIG == 0 {
		return
	}
	for s, special := range map[syscall.Signal]int{syscall.SIGINT: unix.VINTR, syscall.SIGQUIT: unix.VQUIT} {
		key := modes.Cc[special]
		if key == 0 || !slices.Contains(keys, key) { // 0: there is no such key
			continue
		}
		if group, err := foregroundOf(t.outer); err != nil || group != unix.Getpgrp() {
			return // not everybody in the group is on this terminal
		}
		t.mu.Lock()
		t.own[s] = time.Now()
		t.mu.Unlock()
		_ = syscall.Kill(0, s)
	}
}

// isOwn reports whether the runner has just sent this signal to its own group.
// The command has it from its own terminal.
func (t *terminal) isOwn(s os.Signal) bool {
	number, _ := s.(syscall.Signal)
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.own[number]) < time.Second
}

// relay forwards the output of the command, and the size of the terminal.
func (t *terminal) relay() {
	printed := &pump{from: t.master, to: t, work: t.work, stream: stdout, ended: t.printed}
	go printed.run()
	go func() {
		for range t.sizes {
			t.resize()
		}
	}()
}

// Write prints on the outer terminal. If it converts \n to \r\n, the conversion of
// the inner one is undone. If the terminal is gone, output is dropped, and the
// command continues.
func (t *terminal) Write(text []byte) (int, error) {
	n := len(text)
	if t.shared && t.grabbed.Load() {
		t.mirror()
	}
	if !t.opost.Load() && !t.cr {
		_, _ = t.outer.Write(text)
		return n, nil
	}
	if t.cr {
		text = append([]byte{'\r'}, text...)
	}
	if t.cr = t.opost.Load() && bytes.HasSuffix(text, []byte{'\r'}); t.cr {
		text = text[:len(text)-1]
	}
	if t.opost.Load() {
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	}
	_, _ = t.outer.Write(text)
	return n, nil
}

// mirror sets how a terminal that other processes print to, too, converts \n: as
// the command's own terminal does. A program that draws a screen switches that off.
func (t *terminal) mirror() {
	inner, err := getTermios(t.master)
	if err != nil || inner.Oflag&unix.OPOST != 0 == t.opost.Load() {
		return
	}
	outer, err := getTermios(t.outer)
	if err != nil || !t.foreground() {
		return
	}
	outer.Oflag = outer.Oflag&^unix.OPOST | inner.Oflag&unix.OPOST
	if setTermios(t.outer, outer) == nil {
		t.opost.Store(!t.opost.Load())
	}
}

// drain waits until all output of the command has been forwarded.
func (t *terminal) drain(giveUp <-chan os.Signal) {
	_ = t.master.SetReadDeadline(time.Now())
	select {
	case <-t.printed:
	case <-giveUp:
		return
	}
	if t.cr {
		_, _ = t.outer.Write([]byte{'\r'})
	}
}

// unread returns typed input that the command has not read to the outer terminal,
// for the next reader. Where the system does not allow this, it is lost.
func (t *terminal) unread() {
	if !t.grabbed.Load() {
		return
	}
	t.ungrab()
	modes, err := getTermios(t.inner)
	if err != nil {
		return
	}
	modes.Lflag &^= unix.ICANON
	modes.Cc[unix.VMIN], modes.Cc[unix.VTIME] = 0, 0
	if setTermios(t.inner, modes) != nil {
		return
	}
	left := make([]byte, 4<<10)
	n, _ := unix.Read(int(t.inner.Fd()), left)
	for i := range max(0, n) {
		err := request(t.outer, func(fd int) error {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, uintptr(unsafe.Pointer(&left[i])))
			if errno != 0 {
				return errno
			}
			return nil
		})
		if err != nil {
			return
		}
	}
}

func (t *terminal) close() {
	t.unread()
	t.inner.Close()
	signal.Stop(t.sizes)
	close(t.sizes)
	t.master.Close()
	t.outer.Close()
}

// settled waits until the last output of a stopped command is on the outer
// terminal.
func (t *terminal) settled() {
	for last := int64(-1); last != t.work.bytes(); time.Sleep(10 * time.Millisecond) {
		last = t.work.bytes()
	}
}

// The three requests below leave a file as it is, where its Fd method would
// make it one that blocks.

func getTermios(file *os.File) (modes *unix.Termios, err error) {
	err = request(file, func(fd int) (err error) {
		modes, err = unix.IoctlGetTermios(fd, getTermiosRequest)
		return err
	})
	return modes, err
}

func setTermios(file *os.File, modes *unix.Termios) error {
	return request(file, func(fd int) error { return unix.IoctlSetTermios(fd, setTermiosRequest, modes) })
}

func foregroundOf(file *os.File) (group int, err error) {
	err = request(file, func(fd int) (err error) {
		group, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	return group, err
}

func request(file *os.File, do func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = do(int(fd)) }); err != nil {
		return err
	}
	return result
}
