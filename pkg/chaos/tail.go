//go:build linux

package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tailing follows `specwatch tail`.
type tailing struct {
	*chain
	run      *run
	database string
	flags    []string
	rng      *rand.Rand
	log      io.Writer

	mu  sync.Mutex
	now *program // nil while it does not run
}

func (r *run) newTail(name, database string, flags ...string) (*tailing, error) {
	log, err := r.logs.open(name)
	if err != nil {
		return nil, err
	}
	return &tailing{chain: newChain(name), run: r, database: database, flags: flags, rng: r.random(name), log: log}, nil
}

var toldCursor = regexp.MustCompile(`--since (\S+)`)

// follow runs it, again and again, until ctx ends.
func (t *tailing) follow(ctx context.Context) {
	for ctx.Err() == nil {
		t.once(ctx)
		wait(ctx, 50*time.Millisecond)
	}
}

// once runs it until it ends, or ends it with ctx.
func (t *tailing) once(ctx context.Context) {
	since := t.at()
	if since == "" {
		since = beginning
		t.setReading(true)
	}
	cmd := command(t.run.specwatch, append([]string{"tail", "--since", since}, t.flags...), []string{"SPECWATCH_DATABASE_URL=" + t.database})
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return
	}
	var said strings.Builder
	cmd.Stderr = io.MultiWriter(&said, t.log)
	if err := cmd.Start(); err != nil {
		return
	}
	p := &program{cmd: cmd, ended: make(chan struct{})}
	t.mu.Lock()
	t.now = p
	t.mu.Unlock()
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-ctx.Done():
			cmd.Process.Kill() //nolint:errcheck // it may have ended
		case <-stop:
		}
	})
	some := t.read(stdout)
	cmd.Wait() //nolint:errcheck // its end is told by what it said
	close(stop)
	watching.Wait()
	t.mu.Lock()
	t.now = nil
	t.mu.Unlock()
	close(p.ended)
	if ctx.Err() == nil {
		t.resume(said.String(), some)
	}
}

// read takes the events that are printed; some says that there were any.
func (t *tailing) read(stdout io.Reader) (some bool) {
	lines := bufio.NewReaderSize(stdout, 4<<20)
	var begun time.Time // the first event was printed
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return some
		}
		var r row
		if json.Unmarshal(line, &r) != nil {
			t.answered("tail: unreadable")
			continue
		}
		// Events that exist when it first reads come in the order of time, and it may
		// wait long for the database before that.
		if begun.IsZero() {
			begun = time.Now()
		}
		if t.isReading() && time.Since(r.At) < time.Since(begun) {
			t.setReading(false)
		}
		t.take([]row{r}, t.at(), nil)
		some = true
	}
}

// resume finds in what tail said at its end where the next one begins.
func (t *tailing) resume(said string, some bool) {
	switch match := toldCursor.FindAllStringSubmatch(said, -1); {
	case len(match) > 0:
		t.answered("tail: stopped and told its cursor")
		t.take(nil, match[len(match)-1][1], nil)
		t.setReading(false)
	case strings.Contains(said, "start afresh"):
		t.answered("tail: expired")
		t.expired()
	case !some: // so its cursor is still the right one
		t.answered("tail: could not begin")
	default:
		t.answered("tail: ended without a cursor")
		t.afresh()
	}
}

func (t *tailing) signal(s syscall.Signal) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now == nil {
		return false
	}
	return t.now.cmd.Process.Signal(s) == nil
}
