package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	envDatabaseURL = "SPECWATCH_DATABASE_URL"
	envSchema      = "SPECWATCH_SCHEMA"
	envRoles       = "SPECWATCH_ROLES"
)

// variable reads an environment variable without surrounding white space: files
// and secrets often end with a newline.
func variable(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// trimVariables removes white space around PostgreSQL's own variables, which pgx
// reads by itself. Spaces may be part of a password; an end of line is not.
func trimVariables() error {
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		trimmed := strings.TrimSpace(value)
		if name == "PGPASSWORD" || name == "PGSSLPASSWORD" {
			trimmed = strings.Trim(value, "\r\n")
		}
		if !strings.HasPrefix(name, "PG") || trimmed == value {
			continue
		}
		if err := os.Setenv(name, trimmed); err != nil {
			return err
		}
	}
	return nil
}

// database has the flags that name the database or gateway.
type database struct{ url, schema, gateway string }

// config returns the database that the flags or the environment name.
func (d *database) config() (store.Config, error) {
	if err := trimVariables(); err != nil {
		return store.Config{}, err
	}
	if d.url != "" && carriesPassword(d.url) {
		return store.Config{}, wrongUse{errors.New("--database-url carries a password, which every user of this machine could read; put it into " + envDatabaseURL + ", PGPASSWORD or a password file")}
	}
	c := store.Config{URL: cmp.Or(d.url, variable(envDatabaseURL)), Schema: cmp.Or(d.schema, variable(envSchema))}
	if c.URL == "" {
		return c, wrongUse{errors.New("no database: set " + envDatabaseURL + " or give --database-url, such as postgres://user@host:5432/database; programs that cannot reach it set " + envGateway)}
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

// carriesPassword reports whether a URL or keyword/value string contains a
// password. A URL that cannot be parsed may contain one.
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

// box is where unwritten events of this database are kept. Different URLs of the
// same database have the same box; the password does not matter. If there is no
// directory for it, events cannot be kept, and the user is told.
func box(c store.Config, stderr io.Writer) outbox.Box {
	state, err := outbox.StateDir()
	if err != nil {
		say(stderr, err.Error())
		return outbox.Box{}
	}
	conn, err := pgx.ParseConfig(c.URL)
	if err != nil {
		return outbox.Box{} // store.Open has already refused it
	}
	return outbox.Open(state, "postgres", hosts(conn), conn.Database, conn.User, schemaOf(c, conn))
}

// hosts returns the servers of the URL in a canonical order.
func hosts(conn *pgx.ConnConfig) string {
	found := map[string]bool{}
	add := func(host string, port uint16) {
		found[net.JoinHostPort(canonicalHost(host), strconv.Itoa(int(port)))] = true
	}
	add(conn.Host, conn.Port)
	for _, other := range conn.Fallbacks {
		add(other.Host, other.Port)
	}
	return strings.Join(slices.Sorted(maps.Keys(found)), ",")
}

// canonicalHost returns one name for a host: this machine has several.
func canonicalHost(host string) string {
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return "localhost"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip = ip.Unmap(); ip.IsLoopback() || ip.IsUnspecified() {
			return "localhost"
		}
		return ip.String()
	}
	return host
}

var searchPath = regexp.MustCompile(`(?:-c\s*|--)search_path=(\S+)`)

// schemaOf returns the requested schema; empty: that of the connection.
func schemaOf(c store.Config, conn *pgx.ConnConfig) string {
	schema := cmp.Or(c.Schema, conn.RuntimeParams["search_path"])
	if found := searchPath.FindStringSubmatch(conn.RuntimeParams["options"]); schema == "" && found != nil {
		schema = found[1]
	}
	return strings.Trim(schema, `"`)
}
