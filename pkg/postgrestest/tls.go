package postgrestest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/embedded"
)

// Certificates are PEM files for clients of a server with TLS.
type Certificates struct {
	CA                string // of the server
	OtherCA, OtherKey string // of another CA
	Cert, Key         string // of the client ClientUser
}

// ClientUser is the database user, a superuser, who logs in to a server with
// TLS by a certificate.
const ClientUser = "certified"

// TLSCluster starts a Cluster with TLS. Its certificate is for localhost, not
// for 127.0.0.1.
func TLSCluster(t testing.TB) (*embedded.Server, Certificates) {
	t.Helper()
	dir, own := folder(t), t.TempDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	files := Certificates{
		CA: filepath.Join(own, "ca.pem"), OtherCA: filepath.Join(own, "other.pem"), OtherKey: filepath.Join(own, "other.key"),
		Cert: filepath.Join(own, "cert.pem"), Key: filepath.Join(own, "cert.key"),
	}
	ca := certificate(t, "CA of the server", nil)
	ca.write(t, files.CA, "")
	certificate(t, "another CA", nil).write(t, files.OtherCA, files.OtherKey)
	certificate(t, ClientUser, ca).write(t, files.Cert, files.Key)
	// The server gives itself what is in its folder.
	place := func(name string) string { return filepath.Join(dir, name) }
	ca.write(t, place("ca.pem"), "")
	certificate(t, "localhost", ca).write(t, place("server.pem"), place("server.key"))
	rules := "hostssl all " + ClientUser + " all cert\nlocal all all scram-sha-256\nhost all all all scram-sha-256\n"
	if err := os.WriteFile(place("pg_hba.conf"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	server, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Settings: map[string]string{
		"fsync": "off", "ssl": "on", "hba_file": place("pg_hba.conf"),
		"ssl_ca_file": place("ca.pem"), "ssl_cert_file": place("server.pem"), "ssl_key_file": place("server.key"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, server) })
	exec(t, server.URL(), "CREATE ROLE "+ClientUser+" LOGIN SUPERUSER")
	return server, files
}

type signed struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// certificate makes one for the name; without an issuer, that of a CA.
func certificate(t testing.TB, name string, issuer *signed) *signed {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
	}
	if issuer == nil {
		template.IsCA, template.DNSNames, template.KeyUsage = true, nil, x509.KeyUsageCertSign
		issuer = &signed{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.certificate, key.Public(), issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signed{made, key}
}

// write writes the certificate as PEM, and its key unless that has no path.
func (s *signed) write(t testing.TB, cert, key string) {
	t.Helper()
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certificate.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if key == "" {
		return
	}
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
