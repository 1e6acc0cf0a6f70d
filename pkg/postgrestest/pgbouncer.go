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
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	dir := t.TempDir()
	for place := dir; place != os.TempDir() && place != "/"; place = filepath.Dir(place) {
		if err := os.Chmod(place, 0o755); err != nil { // pgbouncer runs as another user
			t.Fatal(err)
		}
	}
	users := filepath.Join(dir, "users.txt")
	config := filepath.Join(dir, "pgbouncer.ini")
	for path, text := range map[string]string{
		users: fmt.Sprintf("%q %q\n", u.User.Username(), password),
		config: fmt.Sprintf("[databases]\n* = host=%s port=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\nauth_type = plain\nauth_file = %s\npool_mode = %s\ndefault_pool_size = %d\nmax_client_conn = 500\nserver_login_retry = 1\n",
			u.Hostname(), u.Port(), port, users, mode, size),
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
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
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // as above
	})
	u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	u.RawQuery = "sslmode=disable"
	through := u.String()
	for deadline := time.Now().Add(30 * time.Second); ; {
		conn, err := pgx.Connect(context.Background(), through)
		if err == nil {
			conn.Close(context.Background())
			return through
		}
		if time.Now().After(deadline) {
			t.Fatalf("pgbouncer does not answer: %v", err)
		}
	}
}
