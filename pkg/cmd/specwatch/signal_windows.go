package main

import "os"

func passedOn() []os.Signal { return []os.Signal{os.Interrupt} }

// dieOfInterrupt does nothing: shells here look at the exit code.
func dieOfInterrupt() {}
