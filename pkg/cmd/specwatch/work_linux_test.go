package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/programtest"
)

func (a at) heartbeats(t *testing.T) (all []map[string]any) {
	t.Helper()
	for _, r := range a.rows(t) {
		if r.Kind == "session_heartbeat" {
			all = append(all, r.Data)
		}
	}
	return all
}

// A heartbeat tells how much was printed, for how long nothing was, and the CPU
// time of all that the command started, since the one before.
func TestHeartbeatsTellOfWork(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	dir := t.TempDir()
	p := a.start(t, nil, "run", "--spec", "s", "--heartbeat", "100ms", "--", "sh", "-c",
		`printf 0123456789; printf 01234 >&2
		until [ -e "$0/busy" ]; do sleep 0.05; done
		setsid sh -c 'while [ ! -e "$0/stop" ]; do :; done' "$0"; wait`, dir)
	sum := func(name string) (n float64) {
		for _, data := range a.heartbeats(t) {
			n += data[name].(float64)
		}
		return n
	}
	programtest.Until(t, "what is printed is told", func() bool { return sum("outputBytes") == 15 })
	programtest.Until(t, "silence is told", func() bool {
		all := a.heartbeats(t)
		return all[len(all)-1]["silentSeconds"].(float64) > 0.5
	})
	idle := sum("cpuSeconds")
	if err := os.WriteFile(filepath.Join(dir, "busy"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	programtest.Until(t, "CPU time is told", func() bool { return sum("cpuSeconds") > idle+0.3 })
	if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := p.code(t); code != 0 || sum("outputBytes") != 15 {
		t.Errorf("exit code %d, %v bytes told", code, sum("outputBytes"))
	}
}

func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	code, _, errs := a.run(t, "run", "--spec", "hangs", "--session", "s", "--idle-timeout", "3s", "--", "sh", "-c", `echo asking; sleep 600`)
	if code != 124 || quiet(errs) != "" {
		t.Errorf("exit code %d: %s", code, errs)
	}
	if last := a.lastOf(t, "hangs"); last.Kind != "timeout_triggered" || last.Data["reason"] != "idle" || last.Data["output"] != "asking" ||
		last.Data["idleTimeoutSeconds"] != 3.0 || last.Data["silentSeconds"].(float64) < 3 {
		t.Errorf("last: %+v", last)
	}
	// Output, CPU time and an event of its own are each a sign of work.
	for spec, script := range map[string]string{
		"prints":   `for i in 1 2 3 4 5 6 7 8; do sleep 0.5; echo .; done`,
		"computes": `end=$(($(date +%s%N) + 4000000000)); while [ $(date +%s%N) -lt $end ]; do :; done`,
		"tells":    `for i in 1 2 3 4; do sleep 0.8; "$SW" emit session_heartbeat >/dev/null; done`,
	} {
		b := a
		b.env = []string{"SW=" + executable}
		if code, _, errs := b.run(t, "run", "--spec", spec, "--session", "s", "--idle-timeout", "3s", "--", "sh", "-c", script); code != 0 {
			t.Errorf("%s: exit code %d: %s", spec, code, errs)
		}
	}
	code, _, _ = a.run(t, "run", "--spec", "late", "--session", "s", "--timeout", "300ms", "--", "sleep", "600")
	if last := a.lastOf(t, "late"); code != 124 || last.Data["reason"] != "time" {
		t.Errorf("exit code %d, last: %+v", code, last)
	}
}

// The last lines of output go with each end, as a person would have seen them,
// without colours, without what a progress bar showed before, without secrets.
func TestOutputGoesWithTheEnd(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.env = []string{"MY_SERVICE_TOKEN=open-sesame-1234"}
	script := `printf 'building\n\033[31mred\033[0m\n'; printf ' 10%%\r 50%%\r100%%\n' >&2; printf 'a\0b\377\n'; echo "key is $MY_SERVICE_TOKEN"; echo "password=hunter2 failed: no such file"; exit 4`
	a.run(t, "run", "--spec", "bad", "--session", "s", "--output-lines", "5", "--", "sh", "-c", "exec 2>&1; "+script)
	last := a.lastOf(t, "bad")
	want := "red\n100%\nab\ufffd\nkey is …\npassword=… failed: no such file"
	if last.Data["output"] != want || last.Data["exitCode"] != 4.0 {
		t.Errorf("output %q\nexpected %q", last.Data["output"], want)
	}
	a.mustRun(t, "run", "--spec", "good", "--session", "s", "--", "seq", "100000")
	if output := a.lastOf(t, "good").Data["output"].(string); !strings.HasPrefix(output, "99981\n") || !strings.HasSuffix(output, "\n100000") {
		t.Errorf("output %q", output)
	}
	a.mustRun(t, "run", "--spec", "off", "--session", "s", "--output-lines", "0", "--", "echo", "secret")
	a.env = []string{"SPECWATCH_OUTPUT_LINES=0"}
	a.mustRun(t, "run", "--spec", "off too", "--session", "s", "--", "echo", "secret")
	for _, spec := range []string{"off", "off too"} {
		if output := a.lastOf(t, spec).Data["output"]; output != nil {
			t.Errorf("%s: output %q", spec, output)
		}
	}
	a.env = []string{"SPECWATCH_OUTPUT_LINES=many"}
	if code, _, errs := a.run(t, "run", "--spec", "x", "--", "true"); code != 2 || !strings.Contains(errs, "SPECWATCH_OUTPUT_LINES") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	// Any amount of it takes bounded memory and arrives whole.
	p := a
	p.env = nil
	if out := p.mustRun(t, "run", "--spec", "big", "--session", "s", "--", "head", "-c", "50000000", "/dev/zero"); len(out) != 50_000_000 {
		t.Errorf("%d bytes arrived", len(out))
	}
}

// An end that the command reports itself is the end of the spec.
func TestOutcomeIsNotTheExitCodeAlone(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.env = []string{"SW=" + executable}
	for _, c := range []struct {
		name, script, kind string
		code, ends         int
		reason             any
	}{
		{"told failed", `"$SW" emit spec_failed --data '{"reason":"tests are red"}'`, "spec_failed", 0, 1, "tests are red"},
		{"told completed", `"$SW" emit spec_completed --data '{"reason":"good enough"}'; exit 1`, "spec_completed", 1, 1, "good enough"},
		{"told of another", `"$SW" emit spec_failed --session s --spec other`, "spec_completed", 0, 1, nil},
		{"told in bulk", `echo '{"kind":"spec_failed","session":"s","spec":"told in bulk","data":{"reason":"bulk"}}' | "$SW" emit --from -`, "spec_failed", 0, 1, "bulk"},
		{"told in a large file", `{ for i in $(seq 1500); do echo '{"kind":"session_heartbeat","session":"s"}'; done; echo '{"kind":"spec_failed","session":"s","spec":"told in a large file","data":{"reason":"large"}}'; } | "$SW" emit --from -`, "spec_failed", 0, 1, "large"},
		{"told, then again", `"$SW" emit spec_failed; "$SW" emit spec_started`, "spec_completed", 0, 2, nil},
		{"claude", `echo '{"type":"system","subtype":"init"}'; echo '{"type":"result","subtype":"success","is_error":true,"result":"API Error: 529 overloaded"}'`, "spec_failed", 0, 1, "API Error: 529 overloaded"},
		{"claude max turns", `echo '{"type":"result","subtype":"error_max_turns","is_error":false}'`, "spec_failed", 0, 1, "error max turns"},
		{"claude good", `echo '{"type":"result","subtype":"success","is_error":false,"result":"an error was mended"}'`, "spec_completed", 0, 1, nil},
		{"claude list", `echo '[{"type":"system"},{"type":"result","is_error":true,"result":"no credit"}]'`, "spec_failed", 0, 1, "no credit"},
		{"claude no newline", `printf '{"type":"result","is_error":true,"result":"cut"}'`, "spec_failed", 0, 1, "cut"},
		{"codex", `echo '{"type":"thread.started","thread_id":"x"}'; echo '{"type":"error","message":"stream lost"}'; echo '{"type":"turn.failed","error":{"message":"model is gone"}}'`, "spec_failed", 0, 1, "model is gone"},
		{"codex recovers", `echo '{"type":"thread.started"}'; echo '{"type":"error","message":"reconnecting"}'; echo '{"type":"turn.completed","usage":{}}'`, "spec_completed", 0, 1, nil},
		{"pretty", `printf '{\n "response": "",\n "error": {\n  "message": "quota"\n }\n}\n'`, "spec_failed", 0, 1, "quota"},
		{"another's log", `echo '{"type":"error","message":"retrying"}'`, "spec_completed", 0, 1, nil},
		{"claude limit", `echo '{"type":"result","is_error":true,"result":"Claude AI usage limit reached|4102444800"}'`, "spec_failed", 0, 1, "usage limit"},
		{"plain limit", `echo "You've hit your limit · resets 5pm"; exit 1`, "spec_failed", 1, 1, "usage limit"},
		{"speaks of limits", `echo "ok: the rate limit resets"; echo "1 of 12 tests fails: rate limit"; exit 1`, "spec_failed", 1, 1, "exit code"},
		{"with exit code", `echo '{"type":"result","is_error":true,"result":"why"}'; exit 3`, "spec_failed", 3, 1, "why"},
	} {
		code, _, errs := a.run(t, "run", "--spec", c.name, "--session", "s", "--", "sh", "-c", c.script)
		last := a.ended(t, c.name) // an event of the command may be written before the start
		ends := 0
		for _, r := range a.rows(t) {
			if r.Spec == c.name && (r.Kind == "spec_failed" || r.Kind == "spec_completed") {
				ends++
			}
		}
		if code != c.code || quiet(errs) != "" || last.Kind != c.kind || ends != c.ends || last.Data["reason"] != c.reason {
			t.Errorf("%s: exit code %d %s, %d ends, last: %+v", c.name, code, errs, ends, last)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(a.state, "specwatch", "runs", "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// A runner that is killed takes the command with it, wherever that has moved,
// and the end of the spec is told all the same.
func TestKilledRunner(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	dir := t.TempDir()
	p := a.start(t, nil, "run", "--spec", "s", "--session", "s", "--grace", "500ms", "--", "sh", "-c",
		`echo $$ > "$0/pid"; setsid sh -c 'trap "" TERM; echo $$ > "$0/away"; while :; do sleep 1; done' "$0" & wait`, dir)
	pids := []int{pidIn(t, filepath.Join(dir, "pid")), pidIn(t, filepath.Join(dir, "away"))}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		programtest.Until(t, "the command is gone", func() bool { return !alive(pid) })
	}
	programtest.Until(t, "the end is told", func() bool { return a.lastOf(t, "s").Kind == "spec_failed" })
	if last := a.lastOf(t, "s"); last.Data["reason"] != "the runner was killed" {
		t.Errorf("last: %+v", last)
	}
	programtest.Until(t, "nothing is kept", func() bool { return len(a.kept()) == 0 })
}

// The same with everything that the runner has started in its own group.
func TestKilledGroup(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	dir := t.TempDir()
	cmd := exec.Command(executable, "run", "--spec", "s", "--session", "s", "--grace", "500ms", "--", "sh", "-c", `sleep 600 & echo $! > "$0/pid"; wait`, dir)
	cmd.Env = append(os.Environ(), envDatabaseURL+"="+a.url, "XDG_STATE_HOME="+a.state)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := pidIn(t, filepath.Join(dir, "pid"))
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	programtest.Until(t, "the command is gone", func() bool { return !alive(pid) })
	programtest.Until(t, "the end is told", func() bool { return a.lastOf(t, "s").Kind == "spec_failed" })
}

// A guard that is killed takes the command with it, and the runner says so.
func TestKilledGuard(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	dir := t.TempDir()
	p := a.start(t, nil, "run", "--spec", "s", "--session", "s", "--", "sh", "-c", `echo $PPID > "$0/guard"; echo $$ > "$0/pid"; sleep 600`, dir)
	guard, pid := pidIn(t, filepath.Join(dir, "guard")), pidIn(t, filepath.Join(dir, "pid"))
	if err := syscall.Kill(guard, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := p.code(t); code != 137 {
		t.Errorf("exit code %d", code)
	}
	programtest.Until(t, "the command is gone", func() bool { return !alive(pid) })
	if last := a.lastOf(t, "s"); last.Kind != "spec_failed" || last.Data["signal"] != "SIGKILL" {
		t.Errorf("last: %+v", last)
	}
}

func TestTimeoutReachesOtherSessions(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	dir := t.TempDir()
	code, _, _ := a.run(t, "run", "--spec", "s", "--session", "s", "--idle-timeout", "2s", "--grace", "300ms", "--", "sh", "-c",
		`setsid sh -c '(setsid sh -c "trap \"\" TERM; echo \$\$ > \"\$0/away\"; exec sleep 600" "$0" &) ; exit' "$0"
		until [ -e "$0/away" ]; do echo .; sleep 0.1; done; sleep 600`, dir)
	if code != 124 {
		t.Errorf("exit code %d", code)
	}
	if pid := pidIn(t, filepath.Join(dir, "away")); alive(pid) {
		t.Error("a process in a session of its own goes on")
	}
}

// Nobody reads standard error, and the database is away: the command is not ended,
// and all of its events are kept.
func TestNobodyReadsStandardError(t *testing.T) {
	t.Parallel()
	a := place(t, nowhere)
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(executable, "run", "--spec", "s", "--session", "s", "--flush-timeout", "0s", "--", "sh", "-c", `sleep 0.5; echo done > "$0/done"; exit 6`, dir)
	cmd.Env = append(os.Environ(), envDatabaseURL+"="+a.url, "XDG_STATE_HOME="+a.state)
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 6 || !exists(filepath.Join(dir, "done")) {
		t.Errorf("exit code %d", code)
	}
	files := a.kept()
	if len(files) != 1 {
		t.Fatalf("kept: %v", files)
	}
	if text, _ := os.ReadFile(files[0]); strings.Count(string(text), "\n") != 3 {
		t.Errorf("kept: %s", text)
	}
}

// A reader of standard output that goes away ends the command as it would
// without a runner.
func TestNobodyReadsStandardOutput(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	a.env = []string{"SW=" + executable}
	sh := exec.Command("bash", "-c", `"$SW" run --spec s --session s -- yes | head -n 1; echo ${PIPESTATUS[0]}`)
	sh.Env = append(os.Environ(), "SW="+executable, envDatabaseURL+"="+a.url, "XDG_STATE_HOME="+a.state)
	out, err := sh.Output()
	if err != nil || string(out) != "y\n141\n" {
		t.Errorf("%q, %v", out, err)
	}
	if last := a.lastOf(t, "s"); last.Data["signal"] != "SIGPIPE" {
		t.Errorf("last: %+v", last)
	}
}

// Killed in the middle of an outage, a run has lost nothing that happened.
func TestKilledInAnOutage(t *testing.T) {
	t.Parallel()
	noGateway := place(t, "")
	noGateway.env = []string{envGateway + "=http://127.0.0.1:1", envWriteToken + "=secret"}
	for name, a := range map[string]at{"of the database": place(t, nowhere), "of the gateway": noGateway} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := a.start(t, nil, "run", "--spec", "s", "--session", "s", "--heartbeat", "50ms", "--", "sh", "-c", `echo $PPID > "$0/guard"; sleep 600`, dir)
			guard := pidIn(t, filepath.Join(dir, "guard"))
			kept := func(what string) func() bool {
				return func() bool {
					files := a.kept()
					if len(files) != 1 {
						return false
					}
					text, _ := os.ReadFile(files[0])
					return strings.Contains(string(text), what)
				}
			}
			programtest.Until(t, "what happens is on disk", kept("session_heartbeat"))
			if !kept("spec_started")() {
				t.Error("the start is not on disk")
			}
			if err := p.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			programtest.Until(t, "the end is on disk", kept("spec_failed"))
			programtest.Until(t, "the guard is gone", func() bool { return !alive(guard) })
		})
	}
}

// The loop around the command keeps its list.
func TestNoStdin(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	sh := exec.Command("sh", "-c", `printf 'a\nb\nc\n' | while read spec; do "$SW" run --no-stdin --session s --spec "$spec" -- sh -c 'cat; echo ran'; done`)
	sh.Env = append(os.Environ(), "SW="+executable, envDatabaseURL+"="+a.url, "XDG_STATE_HOME="+a.state)
	out, err := sh.Output()
	if err != nil || string(out) != "ran\nran\nran\n" {
		t.Errorf("%q, %v", out, err)
	}
	start := time.Now()
	if out := a.mustRun(t, "run", "--no-stdin", "--spec", "d", "--session", "s", "--", "cat"); out != "" || time.Since(start) > 30*time.Second {
		t.Errorf("read %q", out)
	}
}

// What one shell runs in one folder is one session, without being told.
func TestOneLoopIsOneSession(t *testing.T) {
	t.Parallel()
	a := migrated(t)
	folder := filepath.Join(t.TempDir(), "shop")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	loop := func(name string, within ...string) string {
		command := append(within, "sh", "-c", `for i in 1 2; do "$SW" run --spec $0$i -- sh -c "exit $i"; done; cd /; "$SW" run --spec $0-elsewhere -- true`, name)
		sh := exec.Command(command[0], command[1:]...)
		sh.Dir = folder
		sh.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as a terminal's window, cron and ssh do
		sh.Env = append(os.Environ(), "SW="+executable, envDatabaseURL+"="+a.url, "XDG_STATE_HOME="+a.state)
		said, err := sh.CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		first, second, elsewhere := a.lastOf(t, name+"1").Session, a.lastOf(t, name+"2").Session, a.lastOf(t, name+"-elsewhere").Session
		if first != second || first == elsewhere || !strings.Contains(first, "-shop") {
			t.Errorf("sessions %q, %q, %q", first, second, elsewhere)
		}
		if strings.Count(string(said), "session "+first) != 2 {
			t.Errorf("says %s", said)
		}
		return first
	}
	if one, two := loop("one"), loop("two"); one == two {
		t.Errorf("two loops share the session %q", one)
	}
	// In a container the shell's session may have begun outside.
	container := []string{"unshare", "--pid", "--fork", "--mount-proc"}
	if err := exec.Command(container[0], append(container[1:], "true")...).Run(); err != nil {
		t.Logf("not tried in a PID namespace: %v", err)
		return
	}
	if one, two := loop("three", container...), loop("four", container...); one == two {
		t.Errorf("two loops in containers share the session %q", one)
	}
}

// After a pause the same shell begins another session.
func TestLoopPause(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	now := time.Now()
	first := sessionOfLoop(now)
	if again := sessionOfLoop(now.Add(loopPause - time.Minute)); again != first {
		t.Errorf("%v, then %v", first, again)
	}
	if later := sessionOfLoop(now.Add(2*loopPause + time.Minute)); later.name == first.name {
		t.Errorf("still %v", later)
	}
}
