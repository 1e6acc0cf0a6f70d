//go:build unix

package demo

import (
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/creack/pty"
)

// end asks a process to end.
func end(p *os.Process) error { return p.Signal(syscall.SIGTERM) }

// onTerminal runs a command on a terminal of its own.
func onTerminal(cmd *exec.Cmd, log io.Writer) error {
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		return err
	}
	defer terminal.Close()
	_, _ = io.Copy(log, terminal) // Linux ends it with an error
	return cmd.Wait()
}
