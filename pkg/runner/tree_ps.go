//go:build unix && !linux

package runner

import (
	"bufio"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// adoptOrphans does nothing: only Linux has subreapers. A process that has left
// the command's process group, and whose parent has ended, is not found here.
func adoptOrphans() {}

func dieWith(*syscall.SysProcAttr) {}

func dup2(from, to int) error { return unix.Dup2(from, to) }

type process struct {
	pid, parent int
	zombie      bool
	cpu         time.Duration
}

// processes asks ps, which every such system has.
func processes() (all []process) {
	ps := exec.Command("ps", "-axo", "pid=,ppid=,state=,time=")
	out, err := ps.StdoutPipe()
	if err != nil || ps.Start() != nil {
		return nil
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var p process
		var state, clock string
		_, err := fmt.Sscan(lines.Text(), &p.pid, &p.parent, &state, &clock)
		if err == nil && p.pid != ps.Process.Pid {
			p.zombie = strings.HasPrefix(state, "Z")
			p.cpu = parseClock(clock)
			all = append(all, p)
		}
	}
	_ = ps.Wait() // the guard may have collected it already
	return all
}

// parseClock reads 1-02:03:04 and 3:04.56.
func parseClock(text string) (sum time.Duration) {
	var days int
	if d, rest, ok := strings.Cut(text, "-"); ok {
		fmt.Sscan(d, &days) //nolint:errcheck // zero then
		text = rest
	}
	seconds := 0.0
	for part := range strings.SplitSeq(text, ":") {
		var n float64
		fmt.Sscan(part, &n) //nolint:errcheck // zero then
		seconds = seconds*60 + n
	}
	return time.Duration(days)*24*time.Hour + time.Duration(seconds*float64(time.Second))
}

func below(root int) (found []process) {
	all := processes()
	parents := []int{root}
	for len(parents) > 0 {
		parent := parents[0]
		parents = parents[1:]
		for _, p := range all {
			if p.parent == parent {
				found = append(found, p)
				parents = append(parents, p.pid)
			}
		}
	}
	return found
}

func descendants(root int) (alive []int) {
	for _, p := range below(root) {
		if !p.zombie {
			alive = append(alive, p.pid)
		}
	}
	return alive
}

// cpuTime is what those below root have used; those that have ended are not
// counted here.
func cpuTime(root int) (sum time.Duration) {
	for _, p := range below(root) {
		sum += p.cpu
	}
	return sum
}
