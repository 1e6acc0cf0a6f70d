//go:build linux

package chaos

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// program is an executable that is ended and started again. It ends with this
// process, however that ends.
type program struct {
	name string
	path string
	args []string
	env  []string
	as   *syscall.Credential
	at   string // where it listens, host:port
	log  io.Writer
	died func(error) // hears that it ended though nobody ended it

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
	ends  *atomic.Bool  // it is being ended
	slow  int           // stops that had to be forced
	worst time.Duration // of a stop
}

// command prepares a process that ends with this one and hears no Ctrl-C.
func command(path string, args, env []string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (p *program) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	cmd := command(p.path, p.args, p.env)
	cmd.SysProcAttr.Credential = p.as
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.WaitDelay = time.Second
	fmt.Fprintf(p.log, "--- %s starts at %s\n", p.name, time.Now().UTC().Format(time.RFC3339Nano))
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", p.name, err)
	}
	ended, ends := make(chan struct{}), new(atomic.Bool)
	p.cmd, p.ended, p.ends = cmd, ended, ends
	go func() {
		err := cmd.Wait()
		if !ends.Load() && p.died != nil {
			p.died(fmt.Errorf("it ended by itself: %s (%w)", cmd.ProcessState, err))
		}
		close(ended)
	}()
	return nil
}

func (p *program) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.cmd.Process.Signal(s) //nolint:errcheck // it may have ended
	}
}

func (p *program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.ends.Store(true)
		p.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-p.ended
	}
}

// stopPatience is how long a program may take to stop in order.
const stopPatience = 15 * time.Second

func (p *program) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	begun := time.Now()
	p.ends.Store(true)
	p.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	select {
	case <-p.ended:
	case <-time.After(stopPatience):
		p.slow++
		p.cmd.Process.Kill() //nolint:errcheck // as above
		<-p.ended
	}
	p.worst = max(p.worst, time.Since(begun))
}

// ports are given out below those that outgoing connections get, so that a
// program which is started again finds its port free.
type ports struct {
	mu   sync.Mutex
	rng  *rand.Rand
	gave map[int]bool
}

func (p *ports) next() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 1_000 {
		port := 15_000 + p.rng.IntN(15_000)
		if p.gave[port] {
			continue
		}
		l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		l.Close()
		p.gave[port] = true
		return port, nil
	}
	return 0, errors.New("no free port on 127.0.0.1")
}

// logs are the files of one run.
type logs struct {
	folder string
	mu     sync.Mutex
	files  []*os.File
}

func (l *logs) open(name string) (*os.File, error) {
	file, err := os.Create(filepath.Join(l.folder, name+".log"))
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files = append(l.files, file)
	return file, nil
}

func (l *logs) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, file := range l.files {
		file.Close()
	}
}
