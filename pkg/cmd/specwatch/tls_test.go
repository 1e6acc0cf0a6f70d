//go:build unix

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	neturl "net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// certify writes a certificate of this number for localhost, and its key.
func certify(t *testing.T, certFile, keyFile string, number int64) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(number), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(certificate)
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return roots
}

// The gateway serves TLS by itself, page, polls and WebSocket, and takes a new
// certificate without a restart; one that is broken leaves the last.
func TestServeWithTLS(t *testing.T) {
	a := migrated(t)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for _, args := range [][]string{{"--tls-cert", certFile}, {"--tls-cert", certFile, "--tls-key", keyFile}} {
		if code, _, errs := a.run(t, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...); code != 2 || !strings.Contains(errs, "--tls-key") && !strings.Contains(errs, certFile) && !strings.Contains(errs, keyFile) {
			t.Errorf("%v: %d, %s", args, code, errs)
		}
	}
	roots := certify(t, certFile, keyFile, 1)
	p := a.start(t, nil, "serve", "--listen", "127.0.0.1:0", "--tls-cert", certFile, "--tls-key", keyFile)
	programtest.Until(t, "the address is printed", func() bool {
		return strings.HasSuffix(p.out.String(), "/\n") || strings.HasSuffix(p.out.String(), "\n")
	})
	page := strings.Replace(strings.TrimSpace(p.out.String()), "127.0.0.1", "localhost", 1)
	if !strings.HasPrefix(page, "https://localhost:") {
		t.Fatalf("it prints %q", &p.out)
	}
	config := &tls.Config{RootCAs: roots}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 30 * time.Second}
	number := func() int64 {
		answer, err := client.Get(page + "/healthz")
		if err != nil {
			return 0
		}
		defer answer.Body.Close()
		return answer.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	programtest.Until(t, "it answers", func() bool { return number() == 1 })
	dialer := websocket.Dialer{TLSClientConfig: config, HandshakeTimeout: time.Minute}
	conn, _, err := dialer.Dial(strings.Replace(page, "https:", "wss:", 1)+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	config.RootCAs = certify(t, certFile, keyFile, 2)
	programtest.Until(t, "the new certificate is served", func() bool { return number() == 2 })
	if err := os.WriteFile(certFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	programtest.Until(t, "the log says that it is broken", func() bool {
		return number() == 2 && strings.Contains(p.err.String(), "the last one stays")
	})
	p.interrupt(t, syscall.SIGTERM)
}

// A setting of the database connection that cannot be used is named, with what
// to change. No secret is printed, and the URL is not blamed.
func TestSettingsOfTheConnection(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key, other := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "other.pem")
	certify(t, cert, other, 1)
	certify(t, filepath.Join(dir, "second.pem"), key, 2)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private := x509.MarshalPKCS1PrivateKey(rsaKey)
	block, err := x509.EncryptPEMBlock(rand.Reader, "RSA PRIVATE KEY", private, []byte("hunter2"), x509.PEMCipherAES256) //nolint:staticcheck // what libpq reads
	if err != nil {
		t.Fatal(err)
	}
	locked := file("locked.pem", string(pem.EncodeToMemory(block)))
	locked8 := file("locked8.pem", string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("not readable")})))
	garbage := file("garbage.pem", "hunter2")
	services := file("services.conf", "[known]\nhost=localhost\n")
	missing := filepath.Join(dir, "missing")
	for _, c := range []struct {
		name, query, env, says string
	}{
		{"no CA file", "sslmode=verify-full&sslrootcert=" + missing, "", "the file " + missing + " cannot be read (no such file or directory); correct its path (sslrootcert"},
		{"a folder as the CA file", "sslmode=verify-full", "PGSSLROOTCERT=" + dir, "PGSSLROOTCERT"},
		{"CA file that is not PEM", "sslmode=verify-full&sslrootcert=" + garbage, "", "the CA file (sslrootcert"},
		{"no certificate file", "sslmode=require&sslkey=" + key + "&sslcert=" + missing, "", "(sslcert in"},
		{"no key file", "sslmode=require&sslcert=" + cert + "&sslkey=" + missing, "", "(sslkey in"},
		{"certificate without key", "sslmode=require&sslcert=" + cert, "", "set both sslcert and sslkey"},
		{"certificate and key of others", "sslmode=require&sslcert=" + cert + "&sslkey=" + key, "", "do not belong together"},
		{"certificate that is not PEM", "sslmode=require&sslcert=" + garbage + "&sslkey=" + key, "", "the client certificate (sslcert"},
		{"key that is not PEM", "sslmode=require&sslcert=" + cert + "&sslkey=" + garbage, "", "the client key (sslkey"},
		{"encrypted key without a password", "sslmode=require&sslcert=" + cert + "&sslkey=" + locked, "", "set its password with PGSSLPASSWORD"},
		{"encrypted key with another password", "sslmode=require&sslcert=" + cert + "&sslkey=" + locked, "PGSSLPASSWORD=hunter22", "correct its password"},
		{"encrypted key of PKCS 8", "sslmode=require&sslcert=" + cert + "&sslkey=" + locked8, "", "openssl pkey"},
		{"TLS mode", "sslmode=hunter2", "", "the TLS mode (sslmode in the database URL, or PGSSLMODE) is not known"},
		{"TLS mode of the environment", "", "PGSSLMODE=hunter2", "the TLS mode"},
		{"port", "", "PGPORT=hunter2", "correct it in the database URL, PGPORT or"},
		{"several ports", "", "PGPORT=1,2", "one port for all hosts"},
		{"no service file", "service=known&servicefile=" + missing, "", "the file of services"},
		{"no service", "service=other&servicefile=" + services, "", "the service that is asked for"},
		{"service of the environment", "", "PGSERVICE=known", "the file of services"},
		{"time to connect", "connect_timeout=hunter2", "", "the setting connect_timeout"},
		{"kind of server", "target_session_attrs=hunter2", "", "the setting target_session_attrs"},
		{"channel binding", "", "PGCHANNELBINDING=hunter2", "the setting channel_binding"},
		{"size of the pool", "pool_max_conns=hunter2", "", "the setting pool_max_conns"},
		{"small pool", "pool_max_conns=0", "", "the setting pool_max_conns"},
		{"kind of statements", "default_query_exec_mode=hunter2", "", "the setting default_query_exec_mode"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := place(t, "postgres://u:hunter2@localhost/d?"+c.query)
			if strings.HasPrefix(c.env, "PGPORT") {
				a.url = "host=localhost user=u password=hunter2"
			}
			a.env = []string{c.env, "HOME=" + a.state}
			code, out, errs := a.run(t, "status")
			if code != 2 || out != "" || !strings.Contains(errs, c.says) || strings.Count(errs, "\n") != 1 {
				t.Errorf("exit code %d: %q, want %q", code, errs, c.says)
			}
			if strings.Contains(errs, "hunter2") || strings.Contains(errs, "the database URL cannot be read") {
				t.Error(errs)
			}
		})
	}
}

// The database is reached over TLS, and its certificate is checked. PostgreSQL's
// variables may end with a newline, as files of secrets do.
func TestDatabaseWithTLS(t *testing.T) {
	server, files := postgrestest.TLSCluster(t)
	with := func(query string) at {
		u, err := neturl.Parse(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		u.Host, u.RawQuery = "localhost:"+u.Port(), query
		return place(t, u.String())
	}
	encrypted := "sslmode=verify-full&sslrootcert=" + files.CA
	with(encrypted).mustRun(t, "migrate")
	with(encrypted).mustRun(t, "emit", "spec_started", "--session", "s")
	with("sslmode=verify-ca&sslrootcert="+files.CA).mustRun(t, "status")
	with("sslmode=require").mustRun(t, "status")

	refused := func(a at, says string) {
		t.Helper()
		code, _, errs := a.run(t, "status")
		if code != 1 || !strings.Contains(errs, says) {
			t.Errorf("exit code %d: %s, want %q", code, errs, says)
		}
	}
	for _, mode := range []string{"verify-full", "verify-ca", "require"} {
		refused(with("sslmode="+mode+"&sslrootcert="+files.OtherCA), "name the CA certificate that signed the server's")
	}
	byNumber := with(encrypted)
	byNumber.url = strings.Replace(byNumber.url, "localhost", "127.0.0.1", 1)
	refused(byNumber, "use the host name of the certificate")
	byNumber.url = strings.Replace(byNumber.url, "verify-full", "verify-ca", 1)
	byNumber.mustRun(t, "status")

	// A client's certificate in place of a password.
	u, err := neturl.Parse(with(encrypted).url)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	u.User = neturl.User(postgrestest.ClientUser)
	refused(place(t, u.String()), "name a client certificate")
	refused(place(t, u.String()+"&sslcert="+files.OtherCA+"&sslkey="+files.OtherKey), "name a client certificate")
	u.RawQuery += "&sslcert=" + files.Cert + "&sslkey=" + files.Key
	place(t, u.String()).mustRun(t, "status")

	a := place(t, "postgres://")
	a.env = []string{"PGHOST=localhost\n", "PGPORT=" + u.Port() + "\n", "PGUSER=specwatch\n", "PGPASSWORD=" + password + "\n", "PGDATABASE=postgres\n", "PGSSLMODE=verify-full\n", "PGSSLROOTCERT=" + files.CA + "\n"}
	a.mustRun(t, "status")
}
