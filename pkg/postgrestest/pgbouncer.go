package postgrestest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	process "os/exec"
	"os/user"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/programtest"
)

// Pgbouncer starts pgbouncer before a server and returns the address of the
// same database through it. The mode is "transaction" or "session"; size is
// the number of connections to the server. Without pgbouncer the test skips.
func Pgbouncer(t testing.TB, address, mode string, size int) string {
	t.Helper()
	program, err := process.LookPath("pgbouncer")
	if err != nil {
		if program, err = process.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Skip("pgbouncer is not installed")
		}
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	host, server := u.Hostname(), u.Port()
	dir := t.TempDir()
	for place := dir; place != os.TempDir() && place != "/"; place = filepath.Dir(place) {
		if err := os.Chmod(place, 0o755); err != nil { // pgbouncer runs as another user
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "users.txt"), fmt.Appendf(nil, "%q %q\n", u.User.Username(), password), 0o644); err != nil {
		t.Fatal(err)
	}
	// Another process may take a port between when it is found free and when
	// pgbouncer binds it. Then pgbouncer ends, and the next port is tried.
	for attempt := 1; ; attempt++ {
		port := programtest.FreePort(t)
		config := filepath.Join(dir, "pgbouncer.ini")
		text := fmt.Sprintf("[databases]\n* = host=%s port=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %s\nunix_socket_dir =\nauth_type = plain\nauth_file = %s\npool_mode = %s\ndefault_pool_size = %d\nmax_client_conn = 500\nserver_login_retry = 1\n",
			host, server, port, filepath.Join(dir, "users.txt"), mode, size)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		u.Host = net.JoinHostPort("127.0.0.1", port)
		u.RawQuery = "sslmode=disable"
		through := u.String()
		err := bounce(t, program, config, through)
		if err == nil {
			return through
		}
		if attempt == 5 {
			t.Fatal(err)
		}
	}
}

// bounce runs pgbouncer until the test ends, and returns once it passes a
// connection on. The error is that it has ended.
func bounce(t testing.TB, program, config, through string) error {
	t.Helper()
	args := []string{"-q", config}
	if os.Geteuid() == 0 { // pgbouncer refuses to run as root
		for _, name := range []string{"nobody", "daemon"} {
			if _, err := user.Lookup(name); err == nil {
				args = append([]string{"-u", name}, args...)
				break
			}
		}
	}
	cmd := process.Command(program, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var exit error
	go func() {
		exit = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-ended
	})
	for deadline := time.Now().Add(2 * time.Minute); ; {
		// What else listens there may accept a connection and never answer.
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		conn, err := pgx.Connect(ctx, through)
		cancel()
		if err == nil {
			conn.Close(context.Background())
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("pgbouncer has ended: %v; the last attempt to connect: %w", exit, err)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("pgbouncer does not answer: %v", err)
		}
	}
}
