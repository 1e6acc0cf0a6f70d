//go:build unix

package deploy_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
)

var executable = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "specwatch-deploy-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "specwatch")
	out, err := exec.Command("go", "build", "-o", path, "../pkg/cmd/specwatch").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// gateway starts one and returns its address and its log.
func gateway(t *testing.T, args ...string) (address string, log *programtest.Output) {
	t.Helper()
	program, err := executable()
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "SPECWATCH_DATABASE_URL="+postgrestest.Database(t))
	migrate := exec.Command(program, "migrate")
	migrate.Env = env
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(program, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = env
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	cmd.Stdout = write
	log = programtest.Start(t, cmd)
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "http://"), "/")
	return address, log
}

// certificate writes one for watch.example.
func certificate(t *testing.T, dir string) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"watch.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, roots
}

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Skip(name + " is not installed")
		}
	}
	return path
}

// recipe is a file of proxy/ with what differs here put in its place. What is
// to be replaced must be there.
func recipe(t *testing.T, file string, changes ...string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("%s does not contain %q", file, changes[i])
		}
		text = strings.ReplaceAll(text, changes[i], changes[i+1])
	}
	return text
}

// site is what a browser has before it: the proxy at watch.example.
type site struct {
	t      *testing.T
	client *http.Client
	dialer *websocket.Dialer
	log    *programtest.Output // of the proxy
}

func behind(t *testing.T, kind, gateway string, changes ...string) *site {
	t.Helper()
	dir := t.TempDir()
	cert, key, roots := certificate(t, dir)
	port := programtest.FreePort(t)
	var cmd *exec.Cmd
	switch kind {
	case "nginx":
		text := recipe(t, "proxy/nginx.conf", append([]string{"listen 443 ssl", "listen 127.0.0.1:" + port + " ssl", "/etc/ssl/watch.example.pem", cert, "/etc/ssl/watch.example.key", key, "127.0.0.1:8001", gateway}, changes...)...)
		whole := fmt.Sprintf("daemon off;\npid %[1]s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\nclient_body_temp_path %[1]s/b;\nproxy_temp_path %[1]s/p;\nfastcgi_temp_path %[1]s/f;\nuwsgi_temp_path %[1]s/u;\nscgi_temp_path %[1]s/s;\n%s}\n", dir, text)
		if os.Geteuid() == 0 {
			whole = "user root;\n" + whole
		}
		file := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(file, []byte(whole), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd = exec.Command(program(t, "nginx"), "-e", "stderr", "-c", file)
	case "caddy":
		text := recipe(t, "proxy/Caddyfile", append([]string{"watch.example {\n", "https://watch.example:" + port + " {\n\tbind 127.0.0.1\n\ttls " + cert + " " + key + "\n", "127.0.0.1:8001", gateway}, changes...)...)
		file := filepath.Join(dir, "Caddyfile")
		if err := os.WriteFile(file, []byte("{\n\tadmin off\n\tauto_https disable_redirects\n}\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd = exec.Command(program(t, "caddy"), "run", "--adapter", "caddyfile", "--config", file)
		cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "HOME="+dir)
	}
	s := &site{t: t, log: programtest.Start(t, cmd)}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
	}
	config := &tls.Config{RootCAs: roots}
	s.client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dial, TLSClientConfig: config}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.dialer = &websocket.Dialer{NetDialContext: dial, TLSClientConfig: config, HandshakeTimeout: 20 * time.Second}
	for deadline := time.Now().Add(30 * time.Second); ; {
		if answer, err := s.client.Get("https://watch.example/watch/healthz"); err == nil {
			answer.Body.Close()
			return s
		} else if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v\n%s", kind, err, s.log)
		}
	}
}

func (s *site) get(path string) (int, string, http.Header) {
	s.t.Helper()
	answer, err := s.client.Get("https://watch.example" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(text), answer.Header
}

// browser opens the WebSocket as a page of this site does.
func (s *site) browser() (*websocket.Conn, *http.Response, error) {
	return s.dialer.Dial("wss://watch.example/watch/ws", http.Header{"Origin": {"https://watch.example"}})
}

// The recipes of proxy/, in nginx and Caddy themselves, with and without the
// prefix taken off: page, polls, writing, metrics and the WebSocket work below
// a path.
func TestRecipesOfProxies(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		gateway    []string
		changes    []string
	}{
		{"nginx", "nginx", []string{"--base-path", "/watch/", "--allow-host", "watch.example"}, nil},
		{"nginx takes the prefix off", "nginx", []string{"--allow-host", "watch.example"}, []string{"proxy_pass http://GATEWAY;", "proxy_pass http://GATEWAY/;"}},
		{"nginx takes the prefix off, which the gateway knows", "nginx", []string{"--base-path", "/watch/", "--allow-host", "watch.example"}, []string{"proxy_pass http://GATEWAY;", "proxy_pass http://GATEWAY/;"}},
		{"caddy", "caddy", []string{"--base-path", "/watch/", "--allow-host", "watch.example"}, nil},
		{"caddy takes the prefix off", "caddy", []string{"--allow-host", "watch.example"}, []string{"handle /watch/*", "handle_path /watch/*"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			address, log := gateway(t, c.gateway...)
			for i := range c.changes {
				c.changes[i] = strings.ReplaceAll(c.changes[i], "GATEWAY", address)
			}
			s := behind(t, c.kind, address, c.changes...)
			if status, _, header := s.get("/watch"); status/100 != 3 || !strings.HasSuffix(header.Get("Location"), "/watch/") {
				t.Errorf("/watch: %d %s", status, header.Get("Location"))
			}
			answer, err := s.client.Post("https://watch.example/watch/api/events", "application/json", strings.NewReader(`{"kind":"spec_started","session":"s","spec":"behind"}`))
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusCreated {
				t.Errorf("writing: %d", answer.StatusCode)
			}
			for path, says := range map[string]string{"/watch/api/status": `"spec":"behind"`, "/watch/metrics": "specwatch_", "/watch/readyz": "ready"} {
				if status, text, _ := s.get(path); status != http.StatusOK || !strings.Contains(text, says) {
					t.Errorf("%s: %d %.200s\n%s", path, status, text, log)
				}
			}
			if status, text, _ := s.get("/watch/"); status == http.StatusOK && (strings.Contains(text, `src="/`) || strings.Contains(text, `href="/`)) {
				t.Errorf("the page names what lies at the root: %s", text)
			}
			conn, _, err := s.browser()
			if err != nil {
				t.Fatalf("the WebSocket: %v\n%s%s", err, log, s.log)
			}
			defer conn.Close()
			if _, text, err := conn.ReadMessage(); err != nil || !strings.Contains(string(text), "connection_established") {
				t.Errorf("the WebSocket: %.200s, %v", text, err)
			}
		})
	}
}

// What a proxy gets wrong is in the gateway's log, with what to set, and
// polling still works.
func TestMistakesOfProxiesAreLogged(t *testing.T) {
	for _, c := range []struct {
		name    string
		gateway []string
		changes []string
		says    string
		polls   bool
	}{
		{"no upgrade", []string{"--allow-host", "watch.example"}, []string{"        proxy_set_header Upgrade $http_upgrade;\n", "", "        proxy_set_header Connection $specwatch_connection;\n", ""}, "Upgrade and Connection", true},
		{"another host", nil, []string{"        proxy_set_header Host $http_host;\n", ""}, "--allow-origin https://watch.example", true},
		{"unknown host", nil, []string{"$http_host", "$http_host"}, "--allow-host watch.example", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			address, log := gateway(t, append(c.gateway, "--base-path", "/watch/")...)
			s := behind(t, "nginx", address, c.changes...)
			if conn, _, err := s.browser(); err == nil {
				conn.Close()
				t.Error("the WebSocket works")
			}
			status, text, _ := s.get("/watch/api/status")
			if (status == http.StatusOK) != c.polls {
				t.Errorf("a poll: %d %s", status, text)
			}
			for deadline := time.Now().Add(10 * time.Second); !strings.Contains(log.String(), c.says); {
				if time.Now().After(deadline) {
					t.Fatalf("the log does not say %q: %s", c.says, log)
				}
			}
		})
	}
}

// The unit is one that systemd takes, and it is shut off from the system.
func TestSystemdUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd is not installed")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "specwatch.service")
	if err := os.WriteFile(file, []byte(recipe(t, "specwatch.service", "/usr/local/bin/specwatch", self)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--recursive-errors=no", "--man=no", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), "specwatch.service") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = exec.Command(analyze, "security", "--offline=true", "--threshold=20", file).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
