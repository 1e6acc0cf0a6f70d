package datasource

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
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
	s := settings{SSLMode: "verify-full", MaxOpenConns: defaultMaxOpenConns}
	if len(instance.JSONData) > 0 {
		if err := json.Unmarshal(instance.JSONData, &s); err != nil {
			return store.Config{}, errors.New("the settings of the data source cannot be read; open them and save them again")
		}
	}
	if s.Database == "" {
		s.Database = instance.Database
	}
	switch {
	case instance.URL == "":
		return store.Config{}, errors.New("the data source has no host; enter one such as localhost:5432")
	case strings.Contains(instance.URL, "://") || strings.Contains(instance.URL, "@"):
		return store.Config{}, errors.New("the host is written as host:port, such as localhost:5432, without user, password or scheme")
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
	address.User = url.UserPassword(instance.User, instance.DecryptedSecureJSONData["password"])
	address.RawQuery = query.Encode()
	config := store.Config{URL: address.String(), Schema: s.Schema, MaxConns: s.MaxOpenConns}
	var err error
	config.TLS, err = tlsConfig(s.SSLMode, host, instance.DecryptedSecureJSONData)
	return config, err
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
