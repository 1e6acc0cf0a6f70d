//go:build unix

package programtest

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Start starts a program and returns what it prints to the streams that the command
// leaves open. The program and its child processes end with the test.
func Start(t testing.TB, cmd *exec.Cmd) *Output {
	t.Helper()
	out := &Output{}
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = out
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		signal := func(s syscall.Signal) { _ = syscall.Kill(-cmd.Process.Pid, s) } // it may have ended
		signal(syscall.SIGTERM)
		late := time.AfterFunc(20*time.Second, func() { signal(syscall.SIGKILL) })
		defer late.Stop()
		_ = cmd.Wait()
	})
	return out
}
