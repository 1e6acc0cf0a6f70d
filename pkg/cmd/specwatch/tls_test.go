//go:build unix

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
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
	until(t, "the address is printed", func() bool {
		return strings.HasSuffix(p.out.String(), "/\n") || strings.HasSuffix(p.out.String(), "\n")
	})
	page := strings.Replace(strings.TrimSpace(p.out.String()), "127.0.0.1", "localhost", 1)
	if !strings.HasPrefix(page, "https://localhost:") {
		t.Fatalf("it prints %q", &p.out)
	}
	config := &tls.Config{RootCAs: roots}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	number := func() int64 {
		answer, err := client.Get(page + "/healthz")
		if err != nil {
			return 0
		}
		defer answer.Body.Close()
		return answer.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	until(t, "it answers", func() bool { return number() == 1 })
	dialer := websocket.Dialer{TLSClientConfig: config, HandshakeTimeout: 10 * time.Second}
	conn, _, err := dialer.Dial(strings.Replace(page, "https:", "wss:", 1)+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	config.RootCAs = certify(t, certFile, keyFile, 2)
	until(t, "the new certificate is served", func() bool { return number() == 2 })
	if err := os.WriteFile(certFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the log says that it is broken", func() bool {
		return number() == 2 && strings.Contains(p.err.String(), "the last one stays")
	})
	p.interrupt(t, syscall.SIGTERM)
}
