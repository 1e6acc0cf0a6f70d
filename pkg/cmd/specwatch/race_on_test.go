//go:build race

package main

// race says that the tests, and so the executable that they drive, look for
// data races.
const race = true
