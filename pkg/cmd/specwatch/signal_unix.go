//go:build unix

package main

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// passedOn are the signals that a running command gets from its runner. What
// the runner was started to ignore (nohup) stays ignored.
func passedOn() []os.Signal {
	all := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	return slices.DeleteFunc(all, signal.Ignored)
}

// dieOfInterrupt ends this process by SIGINT.
func dieOfInterrupt() {
	signal.Reset(syscall.SIGINT)
	if syscall.Kill(os.Getpid(), syscall.SIGINT) == nil {
		select {} // until the signal arrives
	}
}
