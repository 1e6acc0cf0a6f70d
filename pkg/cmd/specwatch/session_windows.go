package main

import (
	"os"
	"strconv"
)

// processSession names the program that runs the loop.
func processSession() string { return strconv.Itoa(os.Getppid()) }
