package datasource

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/grafana/grafana-plugin-sdk-go/backend"

	"github.com/specwatch/specwatch/pkg/store"
)

// settings are named as in Grafana's own PostgreSQL data source.
type settings struct {
	Database     string `json:"database"`
	Schema       string `json:"schema"`
	SSLMode      string `json:"sslmode"`
	MaxOpenConns int32  `json:"maxOpenConns"`
}

const defaultMaxOpenConns = 10

func readSettings(instance backend.DataSourceInstanceSettings) (store.Config, error) {
	s := settings{MaxOpenConns: defaultMaxOpenConns}
	if len(instance.JSONData) > 0 {
		if err := json.Unmarshal(instance.JSONData, &s); err != nil {
			return store.Config{}, errors.New("the settings of the data source cannot be read; open them and save them again")
		}
	}
	if strings.TrimSpace(s.Database) == "" {
		s.Database = instance.Database
	}
	// Provisioning fills them from variables and files, which often end with a newline.
	for _, text := range []*string{&s.Database, &s.Schema, &s.SSLMode, &instance.URL, &instance.User} {
		*text = strings.TrimSpace(*text)
	}
	secure := map[string]string{}
	for name, text := range instance.DecryptedSecureJSONData {
		if name == "password" { // may begin or end with spaces
			secure[name] = strings.Trim(text, "\r\n")
		} else {
			secure[name] = strings.TrimSpace(text)
		}
	}
	switch {
	case instance.URL == "":
		return store.Config{}, errors.New("the data source has no host; enter one such as localhost:5432")
	case !isHost(instance.URL):
		return store.Config{}, errors.New("the host is written as host:port, such as localhost:5432, without user, password, scheme or database; or it is the folder of a Unix socket")
	case s.Database == "":
		return store.Config{}, errors.New("the data source has no database name")
	case instance.User == "":
		return store.Config{}, errors.New("the data source has no user")
	case s.MaxOpenConns < 1:
		return store.Config{}, errors.New("the data source needs at least one connection")
	}
	address := url.URL{Scheme: "postgres", Path: "/" + s.Database, Host: instance.URL}
	query := url.Values{"sslmode": {"disable"}}
	host := instance.URL
	if strings.HasPrefix(instance.URL, "/") { // a Unix socket's folder
		address.Host = ""
		query.Set("host", instance.URL)
	} else if h, _, err := net.SplitHostPort(instance.URL); err == nil {
		host = h
	}
	address.User = url.UserPassword(instance.User, secure["password"])
	address.RawQuery = query.Encode()
	config := store.Config{URL: address.String(), Schema: s.Schema, MaxConns: s.MaxOpenConns}
	if s.SSLMode == "" {
		s.SSLMode = "verify-full"
		if isLocal(host) && secure["tlsCACert"]+secure["tlsClientCert"]+secure["tlsClientKey"] == "" {
			s.SSLMode = "disable"
		}
	}
	var err error
	config.TLS, err = tlsConfig(s.SSLMode, host, secure)
	return config, err
}

// isHost reports whether the text is host or host:port, several of them with
// commas between, or the folder of a Unix socket.
func isHost(text string) bool {
	if strings.HasPrefix(text, "/") {
		return true
	}
	for one := range strings.SplitSeq(text, ",") {
		u, err := url.Parse("postgres://" + one)
		if err != nil || u.Hostname() == "" || u.Host != one || strings.ContainsAny(one, " \\") {
			return false
		}
		if number, err := strconv.ParseUint(cmp.Or(u.Port(), "5432"), 10, 16); err != nil || number == 0 || strings.HasSuffix(one, ":") {
			return false
		}
	}
	return true
}

// isLocal reports whether the host is this machine. Such a connection needs no
// encryption, and servers on the same machine seldom have a certificate.
func isLocal(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.HasPrefix(host, "/") || strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// tlsConfig does what libpq does for an sslmode, with certificates that are
// in the settings and not in files.
func tlsConfig(mode, host string, secure map[string]string) (*tls.Config, error) {
	if mode == "disable" || strings.HasPrefix(host, "/") {
		return nil, nil
	}
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if ca := secure["tlsCACert"]; ca != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("the CA certificate is not PEM; it begins with -----BEGIN CERTIFICATE-----")
		}
	}
	if cert, key := secure["tlsClientCert"], secure["tlsClientKey"]; cert != "" || key != "" {
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			return nil, errors.New("client certificate and client key are not PEM, or do not belong together")
		}
		c.Certificates = []tls.Certificate{pair}
	}
	switch {
	case mode == "verify-full":
		return c, nil
	case mode == "verify-ca", mode == "require" && c.RootCAs != nil:
		// The chain is checked, the name is not; crypto/tls has no setting
		// for that.
		roots := c.RootCAs
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(state tls.ConnectionState) error {
			o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
			for _, cert := range state.PeerCertificates[1:] {
				o.Intermediates.AddCert(cert)
			}
			_, err := state.PeerCertificates[0].Verify(o)
			return err
		}
		return c, nil
	case mode == "require":
		c.InsecureSkipVerify = true
		return c, nil
	}
	return nil, fmt.Errorf("the TLS mode %q is not known; it is disable, require, verify-ca or verify-full", mode)
}
