//go:build unix

package docs_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/programtest"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The tunnel of ways-in.md, through a real sshd: the page, polls and the
// WebSocket work on the near end. The gateway has the flags that the page
// names: none.
func TestTunnel(t *testing.T) {
	for _, name := range []string{"sshd", "ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(name + " is not installed")
		}
	}
	if os.Getuid() == 0 && os.MkdirAll("/run/sshd", 0o755) != nil {
		t.Skip("sshd has no /run/sshd")
	}
	const command = "ssh -N -L 8001:127.0.0.1:8001 you@your-machine"
	if !strings.Contains(read(t, "ways-in.md"), "\n"+command+"\n") {
		t.Fatalf("ways-in.md has no %s", command)
	}
	p := newPlace(t)
	dir := t.TempDir()
	for _, name := range []string{"host", "key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	far, near := programtest.FreePort(t), programtest.FreePort(t)
	config := filepath.Join(dir, "config")
	settings := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %[2]s/key.pub\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n", far, dir)
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	sshd, err := exec.LookPath("sshd") // it must be started by its full path
	if err != nil {
		t.Fatal(err)
	}
	server := programtest.Start(t, exec.Command(sshd, "-D", "-e", "-f", config))
	programtest.Until(t, "sshd listens", func() bool { return strings.Contains(server.String(), "Server listening") })
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	arguments := strings.Fields(strings.NewReplacer("8001:127.0.0.1:8001", near+":"+strings.TrimPrefix(p.gateway, "http://"), "you@your-machine", me.Username+"@127.0.0.1").Replace(command))
	own := []string{"-F", "none", "-i", filepath.Join(dir, "key"), "-p", far, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes"}
	client := programtest.Start(t, exec.Command(arguments[0], append(own, arguments[1:]...)...))
	site := "http://localhost:" + near
	var answered *http.Response
	programtest.Until(t, "the tunnel is open", func() bool {
		answered, err = call(t.Context(), "GET", site+"/api/status", nil)
		return err == nil
	})
	defer answered.Body.Close()
	if answered.StatusCode != http.StatusOK {
		t.Errorf("a poll: %s\n%s%s", answered.Status, server.String(), client.String())
	}
	conn, _, err := websocket.DefaultDialer.Dial(strings.Replace(site, "http", "ws", 1)+"/ws", http.Header{"Origin": {site}, "Authorization": {"Bearer secret"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, text, err := conn.ReadMessage(); err != nil || !strings.Contains(string(text), "connection_established") {
		t.Errorf("the WebSocket: %.200s, %v", text, err)
	}
}
