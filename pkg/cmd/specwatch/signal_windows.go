package main

import (
	"os"
	"os/exec"
)

func passedOn() []os.Signal { return []os.Signal{os.Interrupt} }

// dieOfInterrupt does nothing: shells here look at the exit code.
func dieOfInterrupt() {}

func keepWriting() {}

func detached(*exec.Cmd) {}
