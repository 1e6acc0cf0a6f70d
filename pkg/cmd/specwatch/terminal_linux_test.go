package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/specwatch/specwatch/pkg/programtest"
)

// screen is a terminal on which a process runs.
type screen struct {
	programtest.Output
	master *os.File
	fd     int
	cmd    *exec.Cmd
	done   chan struct{}
}

// onTerminal starts a program as the leader of a session on a terminal.
func (a at) onTerminal(t *testing.T, args ...string) *screen {
	t.Helper()
	s := &screen{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "SPECWATCH_") && !strings.HasPrefix(variable, "PG") && !strings.HasPrefix(variable, "TERM=") {
			s.cmd.Env = append(s.cmd.Env, variable)
		}
	}
	s.cmd.Env = append(s.cmd.Env, "XDG_STATE_HOME="+a.state, "TERM=xterm", "PS1=$ ", "SW="+executable,
		envDatabaseURL+"="+a.url, "SPECWATCH_SESSION=s", "GORACE=exitcode=66 atexit_sleep_ms=0")
	master, err := pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	// One that does not block can be closed while it is read.
	fd, err := unix.Dup(int(master.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	master.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	s.master, s.fd = os.NewFile(uintptr(fd), "master"), fd
	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer := make([]byte, 4096)
		for {
			n, err := s.master.Read(buffer)
			s.Write(buffer[:n])
			if err != nil {
				return
			}
		}
	}()
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		s.master.Close()
		select {
		case <-s.done:
		case <-time.After(20 * time.Second):
			_ = s.cmd.Process.Kill()
			<-s.done
		}
		<-read
		if t.Failed() {
			t.Logf("the terminal shows %q", s.String())
		}
	})
	return s
}

func (s *screen) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// shows waits until the terminal shows the text, for the n-th time.
func (s *screen) shows(t *testing.T, text string, n ...int) {
	t.Helper()
	times := 1
	if len(n) > 0 {
		times = n[0]
	}
	for deadline := time.Now().Add(3 * time.Minute); strings.Count(s.String(), text) < times; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: the terminal shows %q", text)
		}
	}
}

// ends waits for the end and returns the exit code; 128 and more for a signal.
func (s *screen) ends(t *testing.T) int {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(3 * time.Minute):
		t.Fatalf("it does not end")
	}
	status := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// modes are those of the terminal, which a shell expects back.
func (s *screen) modes(t *testing.T) unix.Termios {
	t.Helper()
	modes, err := unix.IoctlGetTermios(s.fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *modes
}

// lastOf is the last event of a spec but for heartbeats.
func (a at) lastOf(t *testing.T, spec string) row {
	t.Helper()
	var last row
	for _, r := range a.rows(t) {
		if r.Spec == spec && r.Kind != "session_heartbeat" {
			last = r
		}
	}
	return last
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func pidIn(t *testing.T, file string) (pid int) {
	t.Helper()
	programtest.Until(t, file+" has a process", func() bool {
		text, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0
	})
	return pid
}

func requires(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
}

// What a program sees of a terminal is what it would see without a runner.
func TestTerminalIsTheCommands(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	// It begins with a line, before which the terminal has its own modes.
	s := a.onTerminal(t, "sh", "-c", `read begin; exec "$@"`, "-", executable, "run", "--spec", "look", "--", "sh", "-c",
		`tty; stty size; ls -l --color=auto -d /; ps -o stat= -p $$; stty -a | head -c 400; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.02; done`)
	before := s.modes(t)
	s.press(t, "\r")
	s.shows(t, "ready\r\n")
	for _, what := range []string{"/dev/pts/", "30 100\r\n", "\x1b[01;34m", "+\r\n"} {
		s.shows(t, what)
	}
	if strings.Contains(s.String(), "\r\r\n") {
		t.Error("lines end twice")
	}
	if err := unix.IoctlSetWinsize(s.fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 41, Col: 90}); err != nil {
		t.Fatal(err)
	}
	s.shows(t, "41 90\r\n")
	if code := s.ends(t); code != 3 {
		t.Errorf("exit code %d", code)
	}
	if after := s.modes(t); after != before {
		t.Errorf("modes were %v and are %v", before, after)
	}
	if last := a.lastOf(t, "look"); last.Kind != "spec_failed" || last.Data["exitCode"] != 3.0 {
		t.Errorf("last: %+v", last)
	}
}

// Where no terminal is left for it, the command runs without one.
func TestNoTerminalIsLeft(t *testing.T) {
	t.Parallel()
	requires(t, "unshare", "mount")
	const none = `mount --bind /dev/null /dev/ptmx`
	if out, err := exec.Command("unshare", "--mount", "sh", "-c", none).CombinedOutput(); err != nil {
		t.Skipf("the terminals of this machine cannot be hidden: %s", out)
	}
	a := migrated(t)
	s := a.onTerminal(t, "unshare", "--mount", "sh", "-c", none+` && exec "$SW" run --spec p -- sh -c 'test -t 0 || test -t 1 || (: </dev/tty) 2>/dev/null || echo none; cat; echo read; exit 3'`)
	s.shows(t, "runs without a terminal")
	s.shows(t, "none\r\nread\r\n")
	if code := s.ends(t); code != 3 {
		t.Errorf("exit code %d", code)
	}
	if last := a.lastOf(t, "p"); last.Kind != "spec_failed" || last.Data["exitCode"] != 3.0 || last.Data["output"] != "none\nread" {
		t.Errorf("last: %+v", last)
	}
}

// A program that reads the terminal gets what is typed: a line at a time, or,
// when it asks for that, each key, those too that would be signals.
func TestTerminalKeys(t *testing.T) {
	t.Parallel()
	requires(t, "node")
	a := migrated(t)
	s := a.onTerminal(t, executable, "run", "--spec", "line", "--", "node", "-e",
		`process.stdin.on("data",d=>{console.log("got "+JSON.stringify(String(d)));process.exit(0)});console.log("ready")`)
	s.shows(t, "ready")
	s.press(t, "hel")
	s.press(t, "lo\r")
	s.shows(t, `got "hello\n"`)
	if code := s.ends(t); code != 0 {
		t.Errorf("exit code %d", code)
	}

	s = a.onTerminal(t, executable, "run", "--spec", "key", "--", "node", "-e",
		`process.stdin.setRawMode(true);process.stdin.on("data",d=>{console.log("got "+d.toString("hex"));if(d[0]==113)process.exit(7)});console.log("ready")`)
	s.shows(t, "ready")
	for key, hex := range map[string]string{"\x03": "03", "\x1a": "1a", "\x1b[A": "1b5b41", "ü": "c3bc"} {
		s.press(t, key)
		s.shows(t, "got "+hex)
	}
	s.press(t, "q")
	if code := s.ends(t); code != 7 {
		t.Errorf("exit code %d", code)
	}
}

// The program script records a run as it records any command.
func TestScript(t *testing.T) {
	t.Parallel()
	requires(t, "script")
	a := migrated(t)
	a.env = append(a.env, "SW="+executable)
	recorded := filepath.Join(t.TempDir(), "typescript")
	s := a.onTerminal(t, "script", "-qec", `"$SW" run --spec recorded -- sh -c 'echo ready; read line; echo "got $line"; exit 7'`, recorded)
	s.shows(t, "ready")
	s.press(t, "hello\r")
	s.shows(t, "got hello")
	if code := s.ends(t); code != 7 {
		t.Errorf("exit code %d", code)
	}
	if text, err := os.ReadFile(recorded); err != nil || !strings.Contains(string(text), "got hello") {
		t.Errorf("script recorded %q, %v", text, err)
	}
	if last := a.lastOf(t, "recorded"); last.Kind != "spec_failed" {
		t.Errorf("last: %+v", last)
	}
}

func TestFullScreenPrograms(t *testing.T) {
	t.Parallel()
	requires(t, "vim", "less", "top")
	a := migrated(t)
	file := filepath.Join(t.TempDir(), "note")
	s := a.onTerminal(t, executable, "run", "--spec", "vim", "--", "vim", "-u", "NONE", "-n", file)
	s.shows(t, "~")
	s.press(t, "iwritten in vim\x1b:wq\r")
	if code := s.ends(t); code != 0 {
		t.Errorf("vim: exit code %d", code)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "written in vim\n" {
		t.Errorf("vim wrote %q, %v", text, err)
	}
	s = a.onTerminal(t, executable, "run", "--spec", "less", "--", "less", "main_test.go")
	s.shows(t, "package main")
	s.press(t, "G")
	s.shows(t, "(END)")
	s.press(t, "q")
	if code := s.ends(t); code != 0 {
		t.Errorf("less: exit code %d", code)
	}
	s = a.onTerminal(t, executable, "run", "--spec", "top", "--", "top")
	s.shows(t, "PID")
	s.press(t, "q")
	if code := s.ends(t); code != 0 {
		t.Errorf("top: exit code %d", code)
	}
	// A screen that was closed again has left nothing to show.
	if output, _ := a.lastOf(t, "vim").Data["output"].(string); strings.Contains(output, "~") {
		t.Errorf("vim left %q", output)
	}
}

// Ctrl-C ends the command, and with it the loop of a shell around it, whether
// somebody types at that shell or it runs a script.
func TestInterruptEndsTheLoop(t *testing.T) {
	t.Parallel()
	requires(t, "bash")
	a := migrated(t)
	loop := `for i in 1 2 3; do $SW run --spec %s$i -- sh -c 'echo up; exec cat'; done; echo not $((1+1)) reached`
	for name, shell := range map[string][]string{
		"script": {"bash", "-c", fmt.Sprintf(loop, "script")},
		"typed":  {"bash", "--norc", "-i"},
	} {
		t.Run(name, func(t *testing.T) {
			s := a.onTerminal(t, shell...)
			if name == "typed" {
				s.shows(t, "$ ")
				s.press(t, fmt.Sprintf(loop, name)+"\r")
			}
			s.shows(t, "up\r\n")
			// cat repeats the line when it runs: a shell that is about to run a command
			// may lose the signal.
			s.press(t, "ready\r")
			s.shows(t, "ready\r\n", 2)
			s.press(t, "\x03")
			if name == "typed" {
				s.shows(t, "$ ", 2)
				s.press(t, "exit 5\r")
			}
			code := s.ends(t)
			if name == "typed" && code != 5 || name == "script" && code != 130 {
				t.Errorf("exit code %d", code)
			}
			if strings.Contains(s.String(), "not 2 reached") {
				t.Error("the loop went on")
			}
			if last := a.lastOf(t, name+"1"); last.Kind != "spec_failed" || last.Data["signal"] != "SIGINT" {
				t.Errorf("last: %+v", last)
			}
			if last := a.lastOf(t, name+"2"); last.Kind != "" {
				t.Errorf("the next: %+v", last)
			}
		})
	}
}

// A command that makes something else of Ctrl-C goes on, and so does the loop.
func TestInterruptThatTheCommandHandles(t *testing.T) {
	t.Parallel()
	requires(t, "bash")
	a := migrated(t)
	s := a.onTerminal(t, "bash", "-c", `$SW run --spec one -- bash -c 'trap "echo caught; exit 0" INT; echo up; sleep 100 & wait'; echo then $((1+1))`)
	s.shows(t, "up\r\n")
	s.press(t, "\x03")
	s.shows(t, "caught")
	s.shows(t, "then 2")
	if code := s.ends(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if last := a.lastOf(t, "one"); last.Kind != "spec_completed" {
		t.Errorf("last: %+v", last)
	}
}

// Ctrl-Z stops the command and gives the shell its terminal; fg brings it back.
func TestSuspend(t *testing.T) {
	t.Parallel()
	requires(t, "bash")
	a := migrated(t)
	s := a.onTerminal(t, "bash", "--norc", "-i")
	s.shows(t, "$ ")
	programtest.Until(t, "the shell reads keys", func() bool { return s.modes(t).Lflag&unix.ICANON == 0 })
	shells := s.modes(t)
	s.press(t, "$SW run --spec one --timeout 60s -- sh -c 'echo u\"\"p; read x; echo go\"\"t $x; stty size'\r")
	s.shows(t, "up\r\n")
	s.press(t, "\x1a")
	s.shows(t, "Stopped")
	// The shell sets its own when it has told of the stop.
	programtest.Until(t, "the shell has its modes", func() bool { return s.modes(t) == shells })
	s.press(t, "echo shell $((20+3))\r")
	s.shows(t, "shell 23")
	if err := unix.IoctlSetWinsize(s.fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	s.press(t, "fg\r")
	s.press(t, "hello\r")
	s.shows(t, "got hello\r\n")
	s.shows(t, "33 77\r\n")
	s.shows(t, "2004h$ ", 4) // what is typed before the prompt goes to the command
	s.press(t, "echo code $?\r")
	s.shows(t, "code 0")
	s.press(t, "exit\r")
	s.ends(t)
	if last := a.lastOf(t, "one"); last.Kind != "spec_completed" {
		t.Errorf("last: %+v", last)
	}
}

// In a loop of bash Ctrl-Z does what it does without a runner: it stops the command and
// ends the loop.
func TestSuspendInALoop(t *testing.T) {
	t.Parallel()
	requires(t, "bash")
	a := migrated(t)
	for name, run := range map[string]string{"directly": "", "run": "$SW run --spec $i -- "} {
		t.Run(name, func(t *testing.T) {
			s := a.onTerminal(t, "bash", "--norc", "-i")
			s.shows(t, "$ ")
			s.press(t, "for i in one two; do "+run+"sh -c 'echo u\"\"p $0; read x; echo go\"\"t $x' $i; done; echo code $?\r")
			s.shows(t, "up one\r\n")
			s.press(t, "\x1a")
			s.shows(t, "Stopped")
			s.shows(t, "code 148\r\n") // of bash, which ends the loop
			s.press(t, "fg\r")
			s.shows(t, "t $x' $i\r\n", 2) // bash prints the command
			s.press(t, "hello\r")
			s.shows(t, "got hello\r\n")
			s.shows(t, "2004h$ ", 3) // what is typed before the prompt goes to the command
			s.press(t, "echo code $?\r")
			s.shows(t, "code 0\r\n")
			s.press(t, "exit\r")
			s.ends(t)
			if strings.Contains(s.String(), "up two") {
				t.Error("the loop went on")
			}
		})
	}
}

// A full-screen program that is stopped leaves the shell a usable terminal and
// draws itself again.
func TestSuspendFullScreen(t *testing.T) {
	t.Parallel()
	requires(t, "bash", "vim")
	a := migrated(t)
	file := filepath.Join(t.TempDir(), "note")
	s := a.onTerminal(t, "bash", "--norc", "-i")
	s.shows(t, "$ ")
	s.press(t, "$SW run --spec one -- vim -u NONE -n "+file+"\r")
	s.shows(t, "~")
	s.press(t, "ifirst\x1b")
	s.shows(t, "first")
	s.press(t, "\x1a")
	s.shows(t, "Stopped")
	s.press(t, "echo shell $((20+3))\r")
	s.shows(t, "shell 23\r\n")
	drawn := strings.Count(s.String(), "first")
	s.press(t, "fg\r")
	s.shows(t, "first", drawn+1)
	s.press(t, "osecond\x1b:wq\r")
	programtest.Until(t, "vim has ended", func() bool { return a.lastOf(t, "one").Kind == "spec_completed" })
	s.press(t, "exit\r")
	s.ends(t)
	if text, err := os.ReadFile(file); err != nil || string(text) != "first\nsecond\n" {
		t.Errorf("vim wrote %q, %v", text, err)
	}
}

// Where no shell could let it go on, Ctrl-Z stops nothing, as without a runner.
func TestSuspendWithoutShell(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	s := a.onTerminal(t, executable, "run", "--spec", "one", "--", "sh", "-c", `echo up; read x; echo got $x`)
	s.shows(t, "up\r\n")
	s.press(t, "\x1a")
	s.press(t, "hello\r")
	s.shows(t, "got hello")
	if code := s.ends(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A terminal that was opened for one way only, as by "</dev/tty" or xargs -o,
// is the command's for both.
func TestTerminalOpenedForOneWay(t *testing.T) {
	t.Parallel()
	requires(t, "bash", "xargs")
	a := migrated(t)
	for name, line := range map[string]string{
		"in":     `$SW run --spec in -- "$@" </dev/tty`,
		"both":   `$SW run --spec both -- "$@" </dev/tty >/dev/tty`,
		"loop":   `while read spec; do $SW run --spec $spec -- "$@" </dev/tty; done <<<loop`,
		"xargs":  `echo xargs | xargs -o -I% $SW run --spec % -- "$@"`,
		"as tty": `$SW run --spec "as tty" -- "$@" <$(tty) >$(tty) 2>$(tty)`,
	} {
		s := a.onTerminal(t, "bash", "-c", line, "-", "sh", "-c", `test -t 0 && test -t 1 && echo up; read x; echo got $x`)
		s.shows(t, "up\r\n")
		s.press(t, "keys\r")
		s.shows(t, "got keys\r\n")
		if code := s.ends(t); code != 0 {
			t.Errorf("%s: exit code %d", name, code)
		}
		if last := a.lastOf(t, name); last.Kind != "spec_completed" {
			t.Errorf("%s: last: %+v", name, last)
		}
	}
}

// In a pipeline the keys belong to whoever asks for them, and lines end once.
func TestPipeline(t *testing.T) {
	t.Parallel()
	requires(t, "bash")
	a := migrated(t)
	s := a.onTerminal(t, "bash", "--norc", "-i")
	s.shows(t, "$ ")
	s.press(t, "$SW run --spec out -- sh -c 'test -t 1 && echo terminal; echo who >&2; read x; echo go\"\"t $x' | sed 's/^/sed: /'\r")
	s.shows(t, "who\r\n")
	s.press(t, "me\r")
	s.shows(t, "sed: got me\r\n")
	programtest.Until(t, "the first has ended", func() bool { return a.lastOf(t, "out").Kind == "spec_completed" })
	s.press(t, "seq 3 | $SW run --spec in -- sh -c 'test -t 1 && echo termi\"\"nal; wc -l; read x </dev/tty; echo go\"\"t $x'\r")
	s.shows(t, "terminal\r\n")
	s.shows(t, "3\r\n")
	s.press(t, "again\r")
	s.shows(t, "got again\r\n")
	programtest.Until(t, "the second has ended", func() bool { return a.lastOf(t, "in").Kind == "spec_completed" })
	// What is typed while nobody asks is for the shell.
	s.press(t, "$SW run --spec ahead -- sleep 0.5 | cat\r")
	s.press(t, "echo ahead $((20+3))\r")
	s.shows(t, "ahead 23\r\n")
	// Ctrl-C reaches all of it.
	// exec: a shell that forks may lose the signal.
	s.press(t, "$SW run --spec stop -- sh -c 'echo u\"\"p; exec sleep 100' | cat; echo code ${PIPESTATUS[0]}\r")
	s.shows(t, "up\r\n")
	s.press(t, "\x03")
	programtest.Until(t, "the command has ended", func() bool { return a.lastOf(t, "stop").Kind == "spec_failed" })
	s.press(t, "exit\r")
	s.ends(t)
	if strings.Contains(s.String(), "sed: terminal") {
		t.Error("a pipe is no terminal")
	}
	if strings.Contains(s.String(), "\r\r\n") {
		t.Error("lines end twice")
	}
	for _, spec := range []string{"out", "in", "ahead"} {
		if last := a.lastOf(t, spec); last.Kind != "spec_completed" {
			t.Errorf("last of %s: %+v", spec, last)
		}
	}
}

// A command in the background that wants the terminal says so and gets it with
// the foreground; until then the runner goes on and ends it when time is up.
func TestBackground(t *testing.T) {
	t.Parallel()
	requires(t, "bash")
	a := migrated(t)
	s := a.onTerminal(t, "bash", "--norc", "-i")
	s.shows(t, "$ ")
	s.press(t, "$SW run --spec one -- sh -c 'read x </dev/tty; echo go\"\"t $x' </dev/null | cat &\r")
	s.shows(t, "waits for the terminal")
	s.press(t, "echo shell $((20+3))\r")
	s.shows(t, "shell 23")
	s.press(t, "fg\r")
	s.press(t, "hello\r")
	s.shows(t, "got hello")
	programtest.Until(t, "the first has ended", func() bool { return a.lastOf(t, "one").Kind == "spec_completed" })
	s.press(t, "$SW run --spec two --timeout 1s -- sh -c 'read x </dev/tty' </dev/null | cat &\r")
	programtest.Until(t, "the time is up", func() bool { return a.lastOf(t, "two").Kind == "timeout_triggered" })
	s.press(t, "exit\r\rexit\r")
	s.ends(t)
}

// Closing the terminal ends the command and its runner, and is told.
func TestTerminalCloses(t *testing.T) {
	t.Parallel()
	requires(t, "bash")
	for name, how := range map[string][]string{
		"directly": {executable, "run", "--spec", "one", "--"},
		"in shell": {"bash", "--norc", "-c", `$SW run --spec one -- "$@"; echo`, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			a := migrated(t)
			dir := t.TempDir()
			s := a.onTerminal(t, append(how, "sh", "-c", `echo $$ > "$0/pid"; sleep 300 & echo $! > "$0/child"; wait`, dir)...)
			pids := []int{pidIn(t, filepath.Join(dir, "pid")), pidIn(t, filepath.Join(dir, "child"))}
			s.master.Close()
			s.ends(t)
			for _, pid := range pids {
				programtest.Until(t, "the command is gone", func() bool { return !alive(pid) })
			}
			programtest.Until(t, "the end is told", func() bool { return a.lastOf(t, "one").Kind == "spec_failed" })
			if last := a.lastOf(t, "one"); last.Data["signal"] != "SIGHUP" {
				t.Errorf("last: %+v", last)
			}
		})
	}
}

// The same in tmux, whose window is closed.
func TestTmux(t *testing.T) {
	t.Parallel()
	requires(t, "tmux")
	a := migrated(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "tmux")
	tmux := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("tmux", append([]string{"-S", socket, "-f", "/dev/null"}, args...)...)
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+a.state, envDatabaseURL+"="+a.url, "SPECWATCH_SESSION=s", "TERM=xterm")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	tmux("new-session", "-d", "-x", "80", "-y", "24", executable+` run --spec one -- sh -c 'stty size; echo $$ > "$0/pid"; read x; echo got $x; read y' `+dir)
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", socket, "kill-server").Run() })
	pid := pidIn(t, filepath.Join(dir, "pid"))
	pane := func(text string) func() bool {
		return func() bool { return strings.Contains(tmux("capture-pane", "-p"), text) }
	}
	programtest.Until(t, "the pane has its size", pane("24 80"))
	tmux("send-keys", "hello", "Enter")
	programtest.Until(t, "the pane answers", pane("got hello"))
	tmux("kill-session")
	programtest.Until(t, "the command is gone", func() bool { return !alive(pid) })
	programtest.Until(t, "the end is told", func() bool { return a.lastOf(t, "one").Kind == "spec_failed" })
}

// README's loop in tmux: keys and a new size reach a program with a full screen, the
// loop goes on when it is left, and a question in the loop is answered from elsewhere.
func TestLoopInTmux(t *testing.T) {
	t.Parallel()
	requires(t, "tmux", "vim", "bash")
	a := migrated(t)
	gateway := a.throughAGateway(t)
	dir := t.TempDir()
	for _, spec := range []string{"1-edit", "2-ask", "3-last"} {
		if err := os.WriteFile(filepath.Join(dir, spec+".md"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := filepath.Join(dir, "loop")
	if err := os.WriteFile(script, []byte(`cd "$1"
for spec in *.md; do
  case $spec in
  1*) set -- vim -u NONE -n -c 'set laststatus=2 statusline=%{&lines}x%{&columns}' note ;;
  2*) set -- sh -c 'port=$("$SW" ask "Which port?" --timeout 2h); date +%s%N >answered; echo "port is $port"' ;;
  3*) set -- sh -c 'stty size; echo "$SPECWATCH_SPEC runs"' ;;
  esac
  "$SW" run --spec "$spec" --timeout 45m --idle-timeout 15m -- "$@"
done
echo "the loop has ended"
read -r end
`), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "tmux")
	tmux := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("tmux", append([]string{"-S", socket, "-f", "/dev/null"}, args...)...)
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+a.state, envDatabaseURL+"="+a.url, "SPECWATCH_SESSION=s", "SW="+executable, "TERM=xterm")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	tmux("new-session", "-d", "-x", "80", "-y", "24", "bash "+script+" "+dir)
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", socket, "kill-server").Run() })
	tmux("set-option", "-g", "window-size", "manual")
	pane := func(text string) {
		t.Helper()
		programtest.Until(t, "the pane shows "+text, func() bool { return strings.Contains(tmux("capture-pane", "-p"), text) })
	}

	pane("24x80")
	tmux("send-keys", "i", "written in vim")
	pane("written in vim")
	tmux("resize-window", "-x", "100", "-y", "30")
	pane("30x100")
	pane("written in vim")
	tmux("send-keys", "Escape")
	tmux("send-keys", ":wq", "Enter")
	programtest.Until(t, "the question is written", func() bool { return len(a.requests(t, "Which port?")) == 1 })
	if text, err := os.ReadFile(filepath.Join(dir, "note")); err != nil || string(text) != "written in vim\n" {
		t.Errorf("vim wrote %q, %v", text, err)
	}

	tail := a.start(t, nil, "tail")
	programtest.Until(t, "the tail follows", func() bool { return strings.Contains(tail.out.String(), "intervention_request") })
	posted := time.Now()
	gateway.post(t, `{"kind":"my.note","session":"s"}`)
	programtest.Until(t, "the tail prints it", func() bool { return strings.Contains(tail.out.String(), "my.note") })
	ordinary := time.Since(posted)
	posted = time.Now()
	gateway.post(t, fmt.Sprintf(`{"kind":"intervention_answered","session":"s","spec":"2-ask.md","data":{"request":%d,"answer":"8080"}}`, a.requests(t, "Which port?")[0]))
	pane("port is 8080")
	text, err := os.ReadFile(filepath.Join(dir, "answered"))
	if err != nil {
		t.Fatal(err)
	}
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("from POST: ask has ended after %s, tail printed an event after %s", time.Unix(0, nanoseconds).Sub(posted), ordinary)

	pane("3-last.md runs")
	pane("30 100")
	pane("the loop has ended")
	for _, spec := range []string{"1-edit.md", "2-ask.md", "3-last.md"} {
		if last := a.lastOf(t, spec); last.Kind != "spec_completed" {
			t.Errorf("last of %s: %+v", spec, last)
		}
	}
}

// sshd starts a server for this user and returns the client's command line.
func sshd(t *testing.T) []string {
	t.Helper()
	requires(t, "sshd", "ssh", "ssh-keygen")
	if os.Getuid() == 0 && os.MkdirAll("/run/sshd", 0o755) != nil {
		t.Skip("sshd has no /run/sshd")
	}
	dir := t.TempDir()
	for _, name := range []string{"host", "key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	path, err := exec.LookPath("sshd") // it wants to know where it is
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	port := ""
	for port == "" {
		port = sshdOnAPort(t, path, dir)
	}
	return []string{"ssh", "-F", "none", "-i", filepath.Join(dir, "key"), "-p", port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-tt", me.Username + "@127.0.0.1"}
}

// sshdOnAPort starts sshd on a free port. It returns no port if another program was
// given that port meanwhile.
func sshdOnAPort(t *testing.T, path, dir string) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	listener.Close()
	config := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %[2]s/key.pub\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n", port, dir)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log programtest.Output
	server := exec.Command(path, "-D", "-e", "-f", filepath.Join(dir, "config"))
	server.Stderr = &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = server.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = server.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("sshd says %s", &log)
		}
	})
	programtest.Until(t, "sshd listens", func() bool {
		select {
		case <-ended:
			if !strings.Contains(log.String(), "already in use") {
				t.Fatal("sshd has ended")
			}
			port = ""
			return true
		default:
			return strings.Contains(log.String(), "Server listening")
		}
	})
	return port
}

// The same over ssh; when the connection is lost the command ends.
func TestSSH(t *testing.T) {
	t.Parallel()
	client := sshd(t)
	a := migrated(t)
	dir := t.TempDir()
	loop := func(spec, command string) []string {
		return append(slices.Clone(client), fmt.Sprintf(`env XDG_STATE_HOME='%s' %s='%s' SPECWATCH_SESSION=s sh -c 'for n in 1 2; do %s run --spec %s$n -- sh -c "%s"; done'`,
			a.state, envDatabaseURL, a.url, executable, spec, command))
	}
	s := a.onTerminal(t, loop("keys", `stty size; read x; echo got \$x; read y`)...)
	s.shows(t, "30 100\r\n")
	s.press(t, "hello\r")
	s.shows(t, "got hello")
	s.press(t, "\x03")
	s.ends(t)
	if last := a.lastOf(t, "keys1"); last.Kind != "spec_failed" || last.Data["signal"] != "SIGINT" {
		t.Errorf("last: %+v", last)
	}
	if last := a.lastOf(t, "keys2"); last.Kind != "" {
		t.Errorf("the loop went on: %+v", last)
	}
	pidFile := filepath.Join(dir, "pid")
	s = a.onTerminal(t, loop("lost", `echo \$\$ > `+pidFile+`; sleep 300`)...)
	pid := pidIn(t, pidFile)
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	programtest.Until(t, "the command is gone", func() bool { return !alive(pid) })
	programtest.Until(t, "the end is told", func() bool { return a.lastOf(t, "lost1").Data["signal"] == "SIGHUP" })
}

// README's loop over ssh with a program that has a full screen: keys and a new size
// reach it. When the connection is cut, it ends with all that was started, and the end
// is stored or, while the database is away, kept.
func TestLoopOverSSH(t *testing.T) {
	t.Parallel()
	requires(t, "vim", "bash")
	client := sshd(t)
	for name, a := range map[string]at{"stored": migrated(t), "kept": place(t, nowhere)} {
		t.Run(name, func(t *testing.T) {
			flags := ""
			if name == "kept" {
				flags = "--flush-timeout=0s" // the database is not waited for
			}
			dir := t.TempDir()
			script := filepath.Join(dir, "loop")
			if err := os.WriteFile(script, []byte(`cd "$1"
echo $$ >loop.pid
for spec in one two three; do
  "$SW" run --spec "$spec" --timeout 45m --idle-timeout 15m $2 -- sh -c 'echo $PPID >$0.guard; echo $$ >$0.pid; exec "$@"' "$spec" \
    vim -u NONE -n -c "set laststatus=2 statusline=$spec-%{&lines}x%{&columns}" note
done
`), 0o600); err != nil {
				t.Fatal(err)
			}
			s := a.onTerminal(t, append(slices.Clone(client), fmt.Sprintf(`env XDG_STATE_HOME='%s' %s='%s' SPECWATCH_SESSION=s SW=%s bash %s %s %s`,
				a.state, envDatabaseURL, a.url, executable, script, dir, flags))...)
			s.shows(t, "30x100")
			s.press(t, "iwritten in vim")
			s.shows(t, "written in vim")
			if err := unix.IoctlSetWinsize(s.fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 41, Col: 90}); err != nil {
				t.Fatal(err)
			}
			s.shows(t, "41x90")
			s.press(t, "\x1b:wq\r")
			pids := []int{pidIn(t, filepath.Join(dir, "two.pid")), pidIn(t, filepath.Join(dir, "two.guard")), pidIn(t, filepath.Join(dir, "loop.pid"))}
			pids = append(pids, parent(t, pids[1]))
			if text, err := os.ReadFile(filepath.Join(dir, "note")); err != nil || string(text) != "written in vim\n" {
				t.Errorf("vim wrote %q, %v", text, err)
			}
			s.shows(t, "two-41x90")
			if err := s.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			for _, pid := range pids {
				programtest.Until(t, "everything has ended", func() bool { return !alive(pid) })
			}
			if exists(filepath.Join(dir, "three.pid")) {
				t.Error("the loop went on")
			}
			if name == "stored" {
				if last := a.lastOf(t, "one"); last.Kind != "spec_completed" {
					t.Errorf("last of one: %+v", last)
				}
				if last := a.lastOf(t, "two"); last.Kind != "spec_failed" || last.Data["signal"] != "SIGHUP" || last.Data["reason"] != "interrupted" {
					t.Errorf("last of two: %+v", last)
				}
			}
			var kept strings.Builder
			for _, file := range a.kept() {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				kept.Write(text)
			}
			if want := name == "kept"; strings.Contains(kept.String(), `"SIGHUP"`) != want {
				t.Errorf("kept: %s", &kept)
			}
		})
	}
}

// parent is the process that a process is a child of.
func parent(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	ppid, err := strconv.Atoi(strings.Fields(rest)[1])
	if err != nil {
		t.Fatal(err)
	}
	return ppid
}

// On a terminal the bar is drawn over itself, fits on one line and leaves
// nothing behind.
func TestProgressOnATerminal(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer tty.Close()
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 10, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	p := newProgress(tty, "rows read")
	for _, done := range []int64{250, 500} {
		p.shown = time.Now().Add(-drawEvery)
		p.show(done, share(done, 1_000))
	}
	p.end()
	fmt.Fprintln(tty, "end")
	var drawn strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(drawn.String(), "end") {
		n, err := master.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		drawn.Write(buffer[:n])
	}
	lines := strings.Split(strings.TrimSuffix(drawn.String(), "\r\n"), "\r")
	if len(lines) != 5 || !strings.HasPrefix(lines[1], "[######------------------] 25 %, 250 ") || !strings.HasPrefix(lines[2], "[############------------] 50 %, 500 ") ||
		strings.TrimSpace(lines[3]) != "" || lines[4] != "end" {
		t.Errorf("%q", lines)
	}
	for _, line := range lines {
		if len(line) >= 40 {
			t.Errorf("%d characters: %q", len(line), line)
		}
	}
}
