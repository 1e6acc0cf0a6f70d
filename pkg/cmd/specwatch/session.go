package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/runner"
)

// loopPause is the longest pause between two runs of the same session.
const loopPause = time.Hour

// loopSession is a session with a generated name.
type loopSession struct {
	name string
	file string // stores the name; empty: it is not stored
}

// sessionOfLoop returns the session of the loop that this process belongs to: all
// runs of one shell, or of one script without a terminal, in one folder.
func sessionOfLoop(now time.Time) loopSession {
	host, err := os.Hostname()
	if err != nil {
		host = "session"
	}
	folder, err := os.Getwd()
	if err != nil {
		folder = ""
	}
	s := loopSession{name: host + "-" + now.Format("2006-01-02T15:04:05")}
	if base := filepath.Base(folder); len(base) > 1 && len(base) <= 64 {
		s.name += "-" + strings.ToValidUTF8(base, "")
	}
	state, err := outbox.StateDir()
	loop := processSession()
	if err != nil || loop == "" {
		return s
	}
	digest := sha256.Sum256([]byte(strings.Join([]string{host, loop, folder}, "\x00")))
	s.file = filepath.Join(state, "sessions", hex.EncodeToString(digest[:12]))
	info, err := os.Stat(s.file)
	if name, errName := os.ReadFile(s.file); err == nil && errName == nil && now.Sub(info.ModTime()) < loopPause {
		s.name = cmp.Or(string(name), s.name)
		s.seen()
		return s
	}
	if os.MkdirAll(filepath.Dir(s.file), 0o700) == nil {
		first := s.name
		for n, taken := 2, names(filepath.Dir(s.file)); taken[s.name]; n++ {
			s.name = first + "-" + strconv.Itoa(n) // another loop of the same second
		}
		// On error, the next run starts another session.
		_ = os.WriteFile(s.file, []byte(s.name), 0o600) // #nosec G703 -- in the state folder of this user
		forget(filepath.Dir(s.file), now)
	}
	return s
}

// sayLoop prints the generated name of a session.
func sayLoop(stderr io.Writer, name string) {
	say(stderr, "session "+name+" (choose the name with --session or "+runner.EnvSession+")")
}

// seen updates the time of the last run.
func (s loopSession) seen() {
	if s.file != "" {
		now := time.Now()
		_ = os.Chtimes(s.file, now, now)
	}
}

// names returns the stored names.
func names(dir string) map[string]bool {
	taken := map[string]bool{}
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		name, _ := os.ReadFile(filepath.Join(dir, entry.Name()))
		taken[string(name)] = true
	}
	return taken
}

// forget removes sessions that ended long ago.
func forget(dir string, now time.Time) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && now.Sub(info.ModTime()) > 7*24*time.Hour {
			_ = os.Remove(filepath.Join(dir, entry.Name()))
		}
	}
}
