package gateway

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificateAge is how long the files of a certificate are not looked at.
const certificateAge = time.Second

// TLS reads a certificate and its key from files, and again whenever these
// have changed. Files that cannot be read then leave the last certificate.
func TLS(certFile, keyFile string, log *slog.Logger) (*tls.Config, error) {
	c := &certificate{files: [2]string{certFile, keyFile}, log: log}
	if err := c.read(); err != nil {
		return nil, err
	}
	// HTTP/1.1 alone: the WebSocket needs it.
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: c.current}, nil
}

type certificate struct {
	files [2]string
	log   *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamps [2]stamp // of the files that were read, or could not be
	pair   *tls.Certificate
}

// stamp tells one content of a file from another.
type stamp struct {
	changed time.Time
	size    int64
}

func (c *certificate) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < certificateAge {
		return c.pair, nil
	}
	before := c.stamps
	if found := c.look(); found == before {
		return c.pair, nil
	}
	if err := c.read(); err != nil {
		c.log.Warn("the certificate was not read anew; the last one stays", "error", err)
	} else {
		c.log.Info("the certificate was read anew", "file", c.files[0])
	}
	return c.pair, nil
}

func (c *certificate) look() (found [2]stamp) {
	c.looked = time.Now()
	for i, path := range c.files {
		if info, err := os.Stat(path); err == nil {
			found[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return found
}

func (c *certificate) read() error {
	// Files that change while they are read are read again.
	c.stamps = c.look()
	for _, path := range c.files {
		if _, err := os.ReadFile(path); err != nil {
			return fmt.Errorf("the certificate cannot be read: %w", err)
		}
	}
	pair, err := tls.LoadX509KeyPair(c.files[0], c.files[1])
	if err != nil {
		return fmt.Errorf("the certificate %s and the key %s cannot be used: %w", c.files[0], c.files[1], err)
	}
	c.pair = &pair
	return nil
}
