package demo

import (
	"io"
	"os"
	"os/exec"
)

// end ends a process: Windows cannot ask one that has no window.
func end(p *os.Process) error { return p.Kill() }

func onTerminal(cmd *exec.Cmd, log io.Writer) error { return onPipe(cmd, log) }
