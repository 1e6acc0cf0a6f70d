//go:build unix

package runner

import (
	"os"
	"testing"

	"github.com/creack/pty"
)

// The keys of a terminal that is gone are read again when a stopped command
// continues.
func TestTerminalIsGoneTwice(t *testing.T) {
	far, outer, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	master, inner, err := openPair()
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{outer: outer, master: master, inner: inner, hungUp: make(chan struct{})}
	far.Close()
	for range 2 {
		stopped, stop, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go term.keys(stopped, done)
		<-term.hungUp
		<-done
		stop.Close()
	}
	for _, file := range []*os.File{outer, master, inner} {
		file.Close()
	}
}
