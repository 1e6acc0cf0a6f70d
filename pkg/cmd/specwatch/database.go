package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/runner"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	envDatabaseURL = "SPECWATCH_DATABASE_URL"
	envSchema      = "SPECWATCH_SCHEMA"
)

// database holds the flags that name it.
type database struct{ url, schema string }

// config is where the events are: the flags, else the environment.
func (d *database) config() (store.Config, error) {
	if d.url != "" && carriesPassword(d.url) {
		return store.Config{}, wrongUse{errors.New("--database-url carries a password, which every user of this machine could read; put it into " + envDatabaseURL + ", PGPASSWORD or a password file")}
	}
	c := store.Config{URL: cmp.Or(d.url, os.Getenv(envDatabaseURL)), Schema: cmp.Or(d.schema, os.Getenv(envSchema))}
	if c.URL == "" {
		return c, wrongUse{errors.New("no database: set " + envDatabaseURL + " or give --database-url, such as postgres://user@host:5432/database")}
	}
	return c, nil
}

func (d *database) open(ctx context.Context) (*store.Store, store.Config, error) {
	c, err := d.config()
	if err != nil {
		return nil, c, err
	}
	st, err := store.Open(ctx, c)
	if err != nil {
		return nil, c, wrongUse{err}
	}
	return st, c, nil
}

var passwordKeyword = regexp.MustCompile(`(?i)(^|\s)(ssl)?password\s*=`)

// carriesPassword looks at a URL or a keyword/value string. In a URL that
// cannot be taken apart, anything might be one.
func carriesPassword(text string) bool {
	if !strings.Contains(text, "://") {
		return passwordKeyword.MatchString(text)
	}
	u, err := url.Parse(text)
	if err != nil {
		return strings.Contains(text, "@")
	}
	_, set := u.User.Password()
	q := u.Query()
	return set || q.Has("password") || q.Has("sslpassword")
}

// spool is where unwritten events of this database wait. Its name is a digest
// of what tells one database from another, the password not among it. Without
// a place, events cannot be kept, and the person is told.
func spool(c store.Config, stderr io.Writer) runner.Spool {
	state, err := runner.StateDir()
	if err != nil {
		say(stderr, err.Error())
		return runner.Spool{}
	}
	conn, err := pgx.ParseConfig(c.URL)
	if err != nil {
		return runner.Spool{} // store.Open has refused it before
	}
	hash := sha256.New()
	enc := func(parts ...string) {
		for _, part := range parts {
			hash.Write([]byte(part + "\x00"))
		}
	}
	enc(conn.Host, conn.Database, conn.User, conn.RuntimeParams["search_path"], c.Schema)
	hash.Write([]byte{byte(conn.Port >> 8), byte(conn.Port)})
	return runner.Spool{Dir: filepath.Join(state, "unwritten", hex.EncodeToString(hash.Sum(nil)[:12]))}
}
