package embedded_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/embedded"
)

func standby(t *testing.T, primary *embedded.Server, config embedded.Config) *embedded.Server {
	t.Helper()
	server, err := primary.Standby(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, server) })
	return server
}

// until runs the query again until it returns this.
func until(t *testing.T, server *embedded.Server, sql, answer string) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	late := time.After(30 * time.Second)
	for {
		got := query(t, server.URL(), sql)
		if got == answer {
			return
		}
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("%s: still %q after 30 s, want %q", sql, got, answer)
		}
	}
}

func TestAStandbyFollowsRestartsAndTakesOver(t *testing.T) {
	t.Parallel()
	primary := start(t, embedded.Config{Dir: place(t), Settings: map[string]string{"fsync": "off", "max_connections": "130"}})
	execute(t, primary.URL(), "CREATE TABLE words AS SELECT 'before' AS word")
	second := standby(t, primary, embedded.Config{Dir: place(t)})
	const newest = "SELECT string_agg(word, ' ' ORDER BY word) FROM words"
	until(t, second, newest, "before")
	if got := query(t, second.URL(), "SELECT pg_is_in_recovery()::text"); got != "true" {
		t.Errorf("pg_is_in_recovery() = %s on the standby", got)
	}
	if got := query(t, second.URL(), "SHOW max_connections"); got != "130" {
		t.Errorf("the standby has max_connections %s, its primary 130", got)
	}
	execute(t, primary.URL(), "INSERT INTO words VALUES ('then')")
	until(t, second, newest, "before then")

	// The standby continues after a stop of either server.
	if err := second.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	execute(t, primary.URL(), "INSERT INTO words VALUES ('unseen')")
	if err := second.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, second, newest, "before then unseen")
	if err := primary.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	execute(t, primary.URL(), "INSERT INTO words VALUES ('zuletzt')")
	until(t, second, newest, "before then unseen zuletzt")

	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := query(t, second.URL(), "SELECT pg_promote()::text"); got != "true" {
		t.Fatalf("pg_promote() = %s", got)
	}
	execute(t, second.URL(), "DELETE FROM words")
}

func TestTheStandbysPasswordStaysInItsFiles(t *testing.T) {
	t.Parallel()
	primary := start(t, embedded.Config{Dir: place(t)})
	second := standby(t, primary, embedded.Config{Dir: place(t)})
	password, err := os.ReadFile(filepath.Join(second.Dir(), "password"))
	if err != nil {
		t.Fatal(err)
	}
	arguments := query(t, second.URL(), "SELECT pg_read_file('postmaster.opts')")
	if strings.Contains(arguments, strings.TrimSpace(string(password))) {
		t.Error("the server's arguments contain the password")
	}
}

func TestAStandbyTakesNoDirectoryInUse(t *testing.T) {
	t.Parallel()
	primary := start(t, embedded.Config{Dir: place(t)})
	if server, err := primary.Standby(t.Context(), embedded.Config{Dir: primary.Dir()}); err == nil {
		server.Kill()
		t.Error("a standby started in its primary's directory")
	} else if !strings.Contains(err.Error(), "choose another directory") {
		t.Error(err)
	}
	if server, err := primary.Standby(t.Context(), embedded.Config{}); err == nil {
		server.Kill()
		t.Error("a standby started without a directory")
	}
	if err := primary.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if server, err := primary.Standby(t.Context(), embedded.Config{Dir: place(t)}); err == nil {
		server.Kill()
		t.Error("a stopped server got a standby")
	}
}
