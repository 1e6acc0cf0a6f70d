package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

const (
	barWidth    = 24
	drawEvery   = 100 * time.Millisecond // on a terminal
	reportEvery = 10 * time.Second       // elsewhere, a line each
)

// progress shows the progress of long work: on a terminal as a bar, elsewhere as a
// line from time to time.
type progress struct {
	out      io.Writer
	terminal bool
	what     string // "rows read"
	began    time.Time
	shown    time.Time
	width    int // of what is drawn
}

func newProgress(out io.Writer, what string) *progress {
	now := time.Now()
	return &progress{out: out, terminal: isTerminal(out), what: what, began: now, shown: now}
}

// show reports how many are done, and the share of all; a negative share is unknown.
func (p *progress) show(done int64, share float64) {
	now := time.Now()
	every := reportEvery
	if p.terminal {
		every = drawEvery
	}
	if now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	line := progressLine(done, share, p.what, now.Sub(p.began))
	if !p.terminal {
		say(p.out, line)
		return
	}
	if share >= 0 {
		full := min(barWidth, int(share*barWidth))
		line = "[" + strings.Repeat("#", full) + strings.Repeat("-", barWidth-full) + "] " + line
	}
	// A line that wraps cannot be overwritten.
	if columns, _, err := term.GetSize(int(p.out.(*os.File).Fd())); err == nil && columns > 0 && len(line) >= columns {
		line = line[:columns-1]
	}
	fmt.Fprint(p.out, "\r"+line+strings.Repeat(" ", max(0, p.width-len(line))))
	p.width = len(line)
}

// end removes the bar.
func (p *progress) end() {
	if p.width > 0 {
		fmt.Fprint(p.out, "\r"+strings.Repeat(" ", p.width)+"\r")
		p.width = 0
	}
}

func progressLine(done int64, share float64, what string, took time.Duration) string {
	rate := float64(done) / max(took.Seconds(), 1e-3)
	if share < 0 {
		return fmt.Sprintf("%d %s, %.0f a second", done, what, rate)
	}
	share = min(share, 1)
	line := fmt.Sprintf("%.0f %%, %d %s, %.0f a second", 100*share, done, what, rate)
	if share > 0.01 {
		left := time.Duration(float64(took) * (1 - share) / share)
		line += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	return line
}

// share returns done/all, or -1 if all is unknown.
func share(done, all int64) float64 {
	if all <= 0 {
		return -1
	}
	return float64(done) / float64(all)
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// advise prints a note if standard error is a terminal. Programs that read standard
// error do not get it.
func advise(stderr io.Writer, text string) {
	if isTerminal(stderr) {
		say(stderr, text)
	}
}
