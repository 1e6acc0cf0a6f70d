//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// passedOn are the signals that a running command gets from its runner. One
// that nohup keeps away from the runner is kept away from the command.
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
