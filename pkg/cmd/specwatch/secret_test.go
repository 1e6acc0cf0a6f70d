//go:build unix

package main

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// The parts of a password, before and after a character that a URL or a
// keyword string may take for something else.
const passHead, passTail = "Xk7head", "Qz9tail"

var odd = []string{"@", "/", "?", "#", "%", "%zz", ":", " ", "'", `"`, `\`, "&", "=", "+", "[", "]", ",", "\t", "ü", "@h/d?x=", "/@", "#@", "?@", ":1/"}

func leaks(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, strings.ToLower(passHead)) || strings.Contains(text, strings.ToLower(passTail))
}

// databases are the ways to write one with a password, right and wrong.
func databases(password, host, user, name string) map[string]string {
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password)
	return map[string]string{
		"URL, not encoded":       "postgres://" + user + ":" + password + "@" + host + "/" + name,
		"URL, encoded":           (&url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: host, Path: name}).String(),
		"URL, in the query":      "postgres://" + user + "@" + host + "/" + name + "?password=" + password,
		"URL, unknown setting":   "postgres://" + user + ":" + password + "@" + host + "/" + name + "?sslmode=maybe",
		"URL, two hosts":         "postgres://" + user + ":" + password + "@" + host + ",127.0.0.1:2/" + name,
		"keywords, quoted":       "host=" + strings.Replace(host, ":", " port=", 1) + " user=" + user + " dbname=" + name + " password='" + quoted + "'",
		"keywords, not quoted":   "password=" + password + " host=" + strings.Replace(host, ":", " port=", 1) + " user=" + user + " dbname=" + name,
		"keywords, wrong port":   "host=127.0.0.1 port=x user=" + user + " dbname=" + name + " password='" + quoted + "'",
		"URL, another scheme":    "mysql://" + user + ":" + password + "@" + host + "/" + name,
		"URL, port is no number": "postgres://" + user + ":" + password + "@127.0.0.1:x/" + name,
	}
}

// No error tells a part of a password, however it is written and whatever is
// wrong.
func TestErrorsTellNoPassword(t *testing.T) {
	server := postgrestest.Cluster(t, nil)
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	right, _ := u.User.Password()
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv("PGCONNECT_TIMEOUT", "2")
	t.Setenv(envSchema, "")
	run := func(database string, args ...string) (int, string) {
		t.Setenv(envDatabaseURL, database)
		var out, errs bytes.Buffer
		code := execute(args, strings.NewReader(""), &out, &errs)
		return code, out.String() + errs.String()
	}
	for _, character := range odd {
		password := passHead + character + passTail
		for target, database := range map[string]map[string]string{
			"refused":        databases(password, "127.0.0.1:1", "somebody", "none"),
			"wrong password": databases(password, u.Host, "postgres", "postgres"),
		} {
			for form, text := range database {
				code, said := run(text, "migrate")
				if code == 0 || said == "" {
					t.Errorf("%q, %s, %s: exit code %d: %s", password, target, form, code, said)
				}
				if leaks(said) {
					t.Errorf("%q, %s, %s: %s", password, target, form, said)
				}
			}
		}
	}
	// The right password, for a database that is not there, and of a user who
	// may not connect.
	for form, text := range databases(right, u.Host, u.User.Username(), passHead) {
		if _, said := run(strings.Replace(text, "/"+passHead, "/absent", 1), "migrate"); strings.Contains(said, right) {
			t.Errorf("%s: %s", form, said)
		}
	}
	// Every command that opens a database.
	for _, args := range [][]string{{"tail"}, {"prune", "--older-than", "24h"}, {"serve", "--listen", "127.0.0.1:0"}, {"emit", "spec_started", "--session", "s", "--spec", "a"}} {
		for form, text := range databases(passHead+"/"+passTail, "127.0.0.1:x", "somebody", "none") {
			if code, said := run(text, args...); code == 0 || leaks(said) {
				t.Errorf("%s with %s: exit code %d: %s", args[0], form, code, said)
			}
		}
	}
}

// A gateway that cannot reach its database tells no password either: not in
// its log, not in an answer, not in its metrics.
func TestGatewayTellsNoPassword(t *testing.T) {
	for form, text := range databases(passHead+"@"+passTail, "127.0.0.1:1", "somebody", "none") {
		a := place(t, text)
		a.env = []string{envReadToken + "=" + passHead + "-read", envWriteToken + "=" + passHead + "-write"}
		p := a.start(t, nil, "serve", "--listen", "127.0.0.1:0")
		programtest.Until(t, "it starts or refuses", func() bool {
			select {
			case <-p.done:
				return true
			default:
				return strings.Contains(p.err.String(), "events cannot be read yet")
			}
		})
		select {
		case <-p.done:
		default:
			page := p.page(t)
			client := http.Client{Timeout: 40 * time.Second}
			for _, path := range []string{"/api/status", "/readyz", "/metrics", "/healthz", "/"} {
				request, err := http.NewRequest("GET", page+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set("Authorization", "Bearer "+passHead+"-read")
				answer, err := client.Do(request)
				if err != nil {
					t.Errorf("%s: %s: %v", form, path, err)
					continue
				}
				body, err := io.ReadAll(answer.Body)
				answer.Body.Close()
				if err != nil || leaks(string(body)) || answer.StatusCode == http.StatusUnauthorized {
					t.Errorf("%s: %s: %s %s %v", form, path, answer.Status, body, err)
				}
			}
			p.interrupt(t, syscall.SIGTERM)
		}
		if said := p.out.String() + p.err.String(); leaks(said) {
			t.Errorf("%s: it says %s", form, said)
		}
	}
}
