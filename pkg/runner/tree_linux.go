package runner

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// adoptOrphans makes this process the parent of descendants whose parent ends, so
// that they are found even in sessions of their own.
func adoptOrphans() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// dieWith kills the process with the thread that starts it.
func dieWith(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }

func dup2(from, to int) error { return unix.Dup3(from, to, 0) }

// ticksPerSecond is the unit of /proc: USER_HZ, which is 100 on every
// architecture that Go runs Linux on.
const ticksPerSecond = 100

// process is a line of /proc.
type process struct {
	parent int
	zombie bool
	own    time.Duration // CPU time of its own
	past   time.Duration // and of its children that have ended
}

// processes returns all visible processes.
func processes() map[int]process {
	entries, _ := os.ReadDir("/proc")
	all := make(map[int]process, len(entries))
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		if p, ok := parseStat(text); ok {
			all[pid] = p
		}
	}
	return all
}

// parseStat reads /proc/PID/stat. The second field is the name, which may hold
// anything, so the rest is counted from its end.
func parseStat(text []byte) (p process, ok bool) {
	i := bytes.LastIndexByte(text, ')')
	if i < 0 {
		return p, false
	}
	fields := bytes.Fields(text[i+1:])
	if len(fields) < 15 {
		return p, false
	}
	number := func(field int) int64 {
		n, err := strconv.ParseInt(string(fields[field-3]), 10, 64)
		ok = ok && err == nil
		return n
	}
	ok = true
	ticks := func(field int) time.Duration { return time.Duration(number(field)) * time.Second / ticksPerSecond }
	p.zombie = fields[0][0] == 'Z'
	p.parent = int(number(4))
	p.own = ticks(14) + ticks(15)
	p.past = ticks(16) + ticks(17)
	return p, ok
}

// below returns all processes below root, those that have ended included.
func below(root int, all map[int]process) []int {
	children := make(map[int][]int, len(all))
	for pid, p := range all {
		children[p.parent] = append(children[p.parent], pid)
	}
	found := children[root]
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}

// descendants returns those below root that still run.
func descendants(root int) (alive []int) {
	all := processes()
	for _, pid := range below(root, all) {
		if !all[pid].zombie {
			alive = append(alive, pid)
		}
	}
	return alive
}

// cpuTime is what those below root have used, those that have ended included.
func cpuTime(root int) time.Duration {
	all := processes()
	sum := all[root].past
	for _, pid := range below(root, all) {
		sum += all[pid].own + all[pid].past
	}
	return sum
}
