package embedded_test

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/embedded"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// place makes a directory that the server's user can enter, which t.TempDir, closed
// to others, is not for root, and removes whatever a server put into it.
func place(t *testing.T) string {
	t.Helper()
	dir, err := embedded.Place(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func start(t *testing.T, config embedded.Config) *embedded.Server {
	t.Helper()
	if config.Settings == nil {
		config.Settings = map[string]string{"fsync": "off"}
	}
	server, err := embedded.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, server) })
	return server
}

func end(t *testing.T, server *embedded.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(t.Context())
	var answer string
	if err := connection.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(t.Context())
	if _, err := connection.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestDataSurvivesStopKillAndRestart(t *testing.T) {
	t.Parallel()
	dir := place(t)
	first := start(t, embedded.Config{Dir: dir})
	execute(t, first.URL(), "CREATE TABLE kept AS SELECT 'first' AS word")

	before := first.URL()
	if err := first.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if first.URL() != before {
		t.Errorf("Restart moved the server from %s to %s", before, first.URL())
	}
	execute(t, first.URL(), "UPDATE kept SET word = 'second'")

	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.Ended():
	default:
		t.Error("Kill returned before the server had ended")
	}
	if err := first.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(t.Context()); err != nil {
		t.Errorf("stopping a stopped server: %v", err)
	}

	second := start(t, embedded.Config{Dir: dir})
	if got := query(t, second.URL(), "SELECT word FROM kept"); got != "second" {
		t.Errorf("after stop and start the table holds %q, want %q", got, "second")
	}
}

// After a crash, transaction ids that are not in the WAL are assigned again, and
// commits that did not wait for the WAL are lost.
func TestKillIsACrash(t *testing.T) {
	t.Parallel()
	const delay = 10 * time.Second
	server := start(t, embedded.Config{Dir: place(t), Settings: map[string]string{"fsync": "off", "wal_writer_delay": delay.String(), "autovacuum": "off"}})
	execute(t, server.URL(), "CREATE TABLE kept (word text)")
	var before string
	var lock []byte
	// The server writes the WAL when it starts, and again after wal_writer_delay.
	// On a machine where this takes longer, it is tried again.
	for attempt, early := 1, false; !early; attempt++ {
		if attempt > 10 {
			t.Fatalf("ten times a restart and three statements took longer than %s", delay)
		}
		began := time.Now()
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		until(t, server, "SELECT count(*)::text FROM pg_stat_activity WHERE backend_type = 'walwriter' AND wait_event = 'WalWriterMain'", "1")
		execute(t, server.URL(), "TRUNCATE kept")
		execute(t, server.URL(), "CHECKPOINT")
		before = query(t, server.URL(), "SELECT pg_current_xact_id()::text")
		execute(t, server.URL(), "SET synchronous_commit = off; INSERT INTO kept VALUES ('gone')")
		var err error
		if lock, err = os.ReadFile(filepath.Join(server.DataDir(), "postmaster.pid")); err != nil {
			t.Fatal(err)
		}
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		early = time.Since(began) < delay
	}
	if err := server.Kill(); err != nil {
		t.Errorf("killing a dead server: %v", err)
	}
	if left, err := os.ReadFile(filepath.Join(server.DataDir(), "postmaster.pid")); err != nil || !bytes.Equal(left, lock) {
		t.Errorf("the server had time to clear up: its lock file is %q (%v)", left, err)
	}
	for range 3 {
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := query(t, server.URL(), "SELECT count(*)::text FROM kept"); got != "0" {
			t.Errorf("%s rows outlived the crash", got)
		}
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := query(t, server.URL(), "SELECT pg_current_xact_id()::text"); after != before {
		t.Errorf("the next transaction is %s, that of before the crash was %s", after, before)
	}
}

func TestTheVersionIsTheNamedOne(t *testing.T) {
	t.Parallel()
	want := os.Getenv("SPECWATCH_POSTGRES_VERSION")
	server := start(t, embedded.Config{Dir: place(t), Version: want})
	if want == "" {
		want = "18"
	}
	if got := query(t, server.URL(), "SELECT (current_setting('server_version_num')::int / 10000)::text"); got != want {
		t.Errorf("PostgreSQL %s runs, %s is asked for", got, want)
	}
}

func TestServerAsksForItsPasswordAndListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	dir := place(t)
	server := start(t, embedded.Config{Dir: dir})

	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(embedded.User, "guess")
	if connection, err := pgx.Connect(t.Context(), u.String()); err == nil {
		connection.Close(t.Context())
		t.Error("the server let a wrong password in")
	}
	if got := query(t, server.URL(), "SHOW listen_addresses"); got != "127.0.0.1" {
		t.Errorf("listen_addresses = %q", got)
	}
	if got := query(t, server.URL(), "SHOW unix_socket_directories"); got != "" {
		t.Errorf("unix_socket_directories = %q, want none", got)
	}
	info, err := os.Stat(filepath.Join(server.Dir(), "password"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the password file has mode %v, want 0600", info.Mode().Perm())
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	t.Run("data of another version", func(t *testing.T) {
		t.Parallel()
		dir := place(t)
		write(t, filepath.Join(dir, "data", "PG_VERSION"), "9\n")
		fails(t, embedded.Config{Dir: dir}, "holds data of PostgreSQL 9", "SPECWATCH_POSTGRES_HOME")
	})
	t.Run("a directory of something else", func(t *testing.T) {
		t.Parallel()
		dir := place(t)
		write(t, filepath.Join(dir, "data", "letter.txt"), "Dear all\n")
		fails(t, embedded.Config{Dir: dir}, "is no PostgreSQL data directory")
	})
	t.Run("a lost password", func(t *testing.T) {
		t.Parallel()
		dir := place(t)
		server := start(t, embedded.Config{Dir: dir})
		if err := server.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, "password")); err != nil {
			t.Fatal(err)
		}
		fails(t, embedded.Config{Dir: dir}, "the file with its password cannot be read", "start with an empty database")
	})
	t.Run("a taken port", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		port := listener.Addr().(*net.TCPAddr).Port
		fails(t, embedded.Config{Dir: place(t), Port: port}, strconv.Itoa(port), "choose another port")
	})
	t.Run("an unknown setting", func(t *testing.T) {
		t.Parallel()
		fails(t, embedded.Config{Dir: place(t), Settings: map[string]string{"no_such_setting": "1"}}, "no_such_setting")
	})
	t.Run("an unknown version", func(t *testing.T) {
		t.Parallel()
		fails(t, embedded.Config{Dir: place(t), Version: "9.6"}, `"9.6"`, "13 14 15 16 17 18", "SPECWATCH_POSTGRES_HOME")
	})
	t.Run("no directory", func(t *testing.T) {
		t.Parallel()
		fails(t, embedded.Config{}, "Config.Dir is empty")
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func fails(t *testing.T, config embedded.Config, words ...string) {
	t.Helper()
	server, err := embedded.Start(t.Context(), config)
	if err == nil {
		server.Kill()
		t.Fatal("Start succeeded")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q:\n%v", word, err)
		}
	}
}

func TestASecondServerOnTheSameDataIsRefused(t *testing.T) {
	t.Parallel()
	dir := place(t)
	first := start(t, embedded.Config{Dir: dir})
	fails(t, embedded.Config{Dir: dir}, "already runs on", "process")
	if got := query(t, first.URL(), "SELECT 'alive'"); got != "alive" {
		t.Errorf("the first server answers %q", got)
	}
}

func TestAStaleLockFileIsRemoved(t *testing.T) {
	t.Parallel()
	dir := place(t)
	server := start(t, embedded.Config{Dir: dir})
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The id of a process that runs and is no server on this data, as after a crash:
	// process ids are used again.
	other := start(t, embedded.Config{Dir: place(t)})
	lock, err := os.ReadFile(filepath.Join(other.DataDir(), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "data", "postmaster.pid"), string(lock))
	again := start(t, embedded.Config{Dir: dir})
	if got := query(t, again.URL(), "SELECT 'up'"); got != "up" {
		t.Errorf("the server answers %q", got)
	}
}

func TestAnInterruptedFirstStartLeavesNothingInTheWay(t *testing.T) {
	t.Parallel()
	dir := place(t)
	interrupted, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	server, err := embedded.Start(interrupted, embedded.Config{Dir: dir})
	if err == nil {
		server.Kill()
		t.Fatal("Start succeeded within 100 ms, so that nothing was interrupted")
	}
	again := start(t, embedded.Config{Dir: dir})
	if got := query(t, again.URL(), "SELECT 'up'"); got != "up" {
		t.Errorf("the server answers %q", got)
	}
}

func TestStopCutsConnectionsOffAndReportsToTheLog(t *testing.T) {
	t.Parallel()
	var log programtest.Output
	server := start(t, embedded.Config{Dir: place(t), Log: &log, Settings: map[string]string{"fsync": "off"}})
	connection, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(context.Background())
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := connection.Ping(t.Context()); err == nil {
		t.Error("a connection outlived the server")
	}
	for _, words := range []string{"ready to accept connections", "fast shutdown", "database system is shut down"} {
		if !strings.Contains(log.String(), words) {
			t.Errorf("the log does not say %q:\n%s", words, log.String())
		}
	}
}
