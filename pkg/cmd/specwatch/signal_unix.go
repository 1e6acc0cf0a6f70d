//go:build unix

package main

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// passedOn returns the signals that are forwarded to the command, without SIGHUP if
// nohup ignores it.
func passedOn() []os.Signal {
	all := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT}
	if !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	return all
}

// dieOfInterrupt ends this process by SIGINT.
func dieOfInterrupt() {
	signal.Reset(syscall.SIGINT)
	if syscall.Kill(os.Getpid(), syscall.SIGINT) == nil {
		select {} // until the signal arrives
	}
}

// keepWriting makes writing to a closed pipe an error instead of ending this process.
// Child processes inherit the original behaviour.
func keepWriting() {
	if !signal.Ignored(syscall.SIGPIPE) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	}
}

// detached lets a program survive the end of this one.
func detached(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
