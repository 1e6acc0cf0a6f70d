//go:build linux

package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/embedded"
)

const (
	patience  = time.Minute // for what should take much less
	stopGrace = 10 * time.Second
)

// world is the server and what runs over it.
type world struct {
	Options
	began    time.Time
	folder   string
	postgres *embedded.Server

	mu        sync.Mutex
	processes []*process
}

// say prints the progress of the run.
func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.Log, "%6.1f s  "+format+"\n", append([]any{time.Since(w.began).Seconds()}, args...)...)
}

func (w *world) close() {
	w.endAll()
	if w.postgres != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := w.postgres.Stop(ctx); err != nil {
			w.say("%v", err)
		}
	}
}

func connect(ctx context.Context, address string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, address)
}

func exec1(ctx context.Context, address, sql string, args ...any) error {
	conn, err := connect(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// database makes a database with Specwatch's schema.
func (w *world) database(ctx context.Context, name string) (address string, err error) {
	if err := exec1(ctx, w.postgres.URL(), "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", err
	}
	u, err := url.Parse(w.postgres.URL())
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	cmd := exec.CommandContext(ctx, w.Specwatch, "migrate")
	cmd.Env = append(os.Environ(), "SPECWATCH_DATABASE_URL="+u.String(), "SPECWATCH_SCHEMA=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("specwatch migrate: %w: %s", err, out)
	}
	return u.String(), nil
}

// drop removes a database, which nobody uses any more.
func (w *world) drop(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := exec1(ctx, w.postgres.URL(), "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		w.say("%v", err)
	}
}

// process is a program that ends with this one.
type process struct {
	base    string // its address, http://host:port
	pprof   string // the same of its profiles
	started time.Time
	cmd     *exec.Cmd
	ended   chan struct{}
}

// start runs a program and returns once it has printed its address, or is
// reachable at the one that is given.
func (w *world) start(ctx context.Context, address string, env []string, path string, args ...string) (*process, error) {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(w.folder, filepath.Base(path)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	p := &process{started: time.Now(), cmd: cmd, ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	first := make(chan string, 1)
	go func() { // ends with the process
		defer close(p.ended)
		lines := bufio.NewReader(stdout)
		line, _ := lines.ReadString('\n')
		first <- strings.TrimSpace(line)
		io.Copy(io.Discard, lines) //nolint:errcheck // the process has ended
		cmd.Wait()                 //nolint:errcheck // as above
	}()
	w.mu.Lock()
	w.processes = append(w.processes, p)
	w.mu.Unlock()
	if p.base = address; address != "" {
		return p, nil
	}
	select {
	case p.base = <-first:
		p.base = strings.TrimSuffix(p.base, "/")
		if !strings.HasPrefix(p.base, "http") {
			text, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("%s did not start: %s", filepath.Base(path), text)
		}
		return p, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("%s does not start", filepath.Base(path))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// end ends a process.
func (w *world) end(p *process) {
	w.mu.Lock()
	w.processes = slices.DeleteFunc(w.processes, func(o *process) bool { return o == p })
	w.mu.Unlock()
	p.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	select {
	case <-p.ended:
	case <-time.After(stopGrace):
		p.cmd.Process.Kill() //nolint:errcheck // as above
		<-p.ended
	}
}

func (w *world) endAll() {
	for {
		w.mu.Lock()
		if len(w.processes) == 0 {
			w.mu.Unlock()
			return
		}
		p := w.processes[0]
		w.mu.Unlock()
		w.end(p)
	}
}

// serve starts a gateway; it may not be ready yet.
func (w *world) serve(ctx context.Context, database string) (*process, error) {
	port, err := embedded.FreePort()
	if err != nil {
		return nil, err
	}
	profiles := "127.0.0.1:" + strconv.Itoa(port)
	p, err := w.start(ctx, "", []string{"SPECWATCH_DATABASE_URL=" + database, "SPECWATCH_SCHEMA=", "SPECWATCH_READ_TOKEN=", "SPECWATCH_WRITE_TOKEN="},
		w.Specwatch, "serve", "--listen", "127.0.0.1:0", "--pprof", profiles)
	if err == nil {
		p.pprof = "http://" + profiles
	}
	return p, err
}

// gateway starts a gateway and waits until it answers.
func (w *world) gateway(ctx context.Context, database string) (*process, error) {
	p, err := w.serve(ctx, database)
	if err != nil {
		return nil, err
	}
	_, err = p.answers(ctx)
	return p, err
}

// answers waits until a gateway answers a poll, and returns for how long it
// has been running by then.
func (p *process) answers(ctx context.Context) (time.Duration, error) {
	for deadline := time.Now().Add(10 * patience); ; {
		resp, err := http.Get(p.base + "/api/status?last=1&limit=1")
		if err == nil {
			io.Copy(io.Discard, resp.Body) //nolint:errcheck // the status tells
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Since(p.started), nil
			}
			err = fmt.Errorf("the gateway answers %s", resp.Status)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return 0, err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// metric reads one of the gateway's figures.
func (p *process) metric(name string) (float64, error) {
	resp, err := http.Get(p.base + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, found := strings.CutPrefix(lines.Text(), name+" "); found {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("the gateway has no figure %s", name)
}

// profile writes a CPU profile of the gateway while f runs, where a folder for
// them is named.
func (w *world) profile(p *process, name string, span time.Duration, f func() error) error {
	if w.Profiles == "" {
		return f()
	}
	var taking sync.WaitGroup
	taking.Go(func() {
		resp, err := http.Get(fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", p.pprof, max(1, int(span.Seconds()))))
		if err != nil {
			w.say("no profile of %s: %v", name, err)
			return
		}
		defer resp.Body.Close()
		file, err := os.Create(filepath.Join(w.Profiles, name+".pprof"))
		if err != nil {
			w.say("%v", err)
			return
		}
		defer file.Close()
		io.Copy(file, resp.Body) //nolint:errcheck // a profile that is cut short shows
	})
	defer taking.Wait()
	return f()
}
