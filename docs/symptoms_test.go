//go:build unix

package docs_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// sick is a place where the symptoms of troubleshooting.md are caused.
type sick struct {
	place
	server *url.URL // of PostgreSQL
	number int
}

// database makes a database, which Specwatch has migrated if asked to.
func (s *sick) database(t *testing.T, migrated bool) string {
	t.Helper()
	s.number++
	name := fmt.Sprintf("sick_%d", s.number)
	s.sql(t, s.server.String(), "CREATE DATABASE "+name)
	address := s.server.JoinPath("..", name).String()
	if migrated {
		if out := s.says(t, address, "migrate", "--schema", "specwatch"); !strings.Contains(out, "schema specwatch has version") {
			t.Fatal(out)
		}
		// Then nothing else needs to name the schema.
		s.sql(t, address, "ALTER DATABASE "+name+" SET search_path = specwatch")
	}
	return address
}

func (s *sick) sql(t *testing.T, address, script string) {
	t.Helper()
	if _, err := postgrestest.Connect(t, address).PgConn().Exec(t.Context(), script).ReadAll(); err != nil {
		t.Fatalf("%s: %v", script, err)
	}
}

// as makes a user who may log in, and returns the address with it.
func (s *sick) as(t *testing.T, address, user, rights string) string {
	t.Helper()
	s.sql(t, address, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'secret'; %s", user, rights))
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, "secret")
	return u.String()
}

// says returns what a command of Specwatch prints. Most of them fail here.
func (s *sick) says(t *testing.T, database string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd, errs := s.command(ctx, []string{"SPECWATCH_DATABASE_URL=" + database, "HOME=" + s.dir}, filepath.Join(s.bin, "specwatch"), args...)
	out, _ := cmd.Output()
	if ctx.Err() != nil {
		t.Fatalf("specwatch %v does not end: %s%s", args, out, errs)
	}
	return string(out) + errs.String()
}

// serves starts a gateway, asks it for a path until its answer and its log have
// all that is wanted, and returns both.
func (s *sick) serves(t *testing.T, database, path string, header http.Header, want ...string) (text string) {
	t.Helper()
	port := programtest.FreePort(t)
	cmd, _ := s.command(context.Background(), []string{"SPECWATCH_DATABASE_URL=" + database, "HOME=" + s.dir}, filepath.Join(s.bin, "specwatch"), "serve", "--listen", "127.0.0.1:"+port)
	cmd.Stderr = nil // into the log
	log := programtest.Start(t, cmd)
	programtest.Until(t, fmt.Sprintf("the gateway says %q", want), func() bool {
		request, err := http.NewRequestWithContext(t.Context(), header.Get("Method"), "http://127.0.0.1:"+port+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		request.Host = header.Get("Host")
		if header != nil {
			request.Header = header.Clone()
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		text = string(body) + log.String()
		return err == nil && !slices.ContainsFunc(want, func(says string) bool { return !strings.Contains(text, says) })
	})
	return text
}

// Each symptom in the table of troubleshooting.md is caused with the real program, and
// its text is what that prints.
func TestSymptoms(t *testing.T) {
	server := postgrestest.Cluster(t, nil)
	address, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	s := &sick{place: newPlace(t), server: address}
	well := s.database(t, true)
	ready := func(t *testing.T, database, want string) string { return s.serves(t, database, "/readyz", nil, want) }
	caused := map[string]bool{}
	for symptom, cause := range map[string]func(t *testing.T) string{
		"events cannot be read": func(t *testing.T) string { return ready(t, s.database(t, false), "events cannot be read") },
		"cannot connect to PostgreSQL at": func(t *testing.T) string {
			return s.says(t, "postgres://127.0.0.1:"+programtest.FreePort(t)+"/gone", "status")
		},
		"server refused TLS connection": func(t *testing.T) string {
			return s.says(t, strings.Replace(well, "sslmode=disable", "sslmode=require", 1), "status")
		},
		"name the CA certificate": func(t *testing.T) string {
			encrypted, _ := postgrestest.TLSCluster(t)
			return s.says(t, strings.NewReplacer("127.0.0.1", "localhost", "sslmode=disable", "sslmode=verify-full").Replace(encrypted.URL()), "status")
		},
		"use the host name of the certificate": func(t *testing.T) string {
			encrypted, files := postgrestest.TLSCluster(t)
			return s.says(t, strings.Replace(encrypted.URL(), "sslmode=disable", "sslmode=verify-full&sslrootcert="+files.CA, 1), "status")
		},
		"there is no events table of": func(t *testing.T) string {
			empty := s.database(t, false)
			if out := s.says(t, empty, "status"); !strings.Contains(out, "there is no events table of") {
				t.Errorf("status says %s", out)
			}
			return ready(t, empty, "there is no events table of")
		},
		"and this Specwatch needs": func(t *testing.T) string {
			old := s.database(t, false)
			version02(t, old)
			return ready(t, old+"&search_path=specwatch", "and this Specwatch needs")
		},
		"and this Specwatch knows": func(t *testing.T) string {
			newer := s.database(t, true)
			s.sql(t, newer, `INSERT INTO specwatch.specwatch_migrations (version_id, is_applied) VALUES (999, true)`)
			return ready(t, newer, "and this Specwatch knows")
		},
		"lacks a right": func(t *testing.T) string {
			return s.says(t, s.as(t, well, "stranger", ""), "status", "--schema", "specwatch")
		},
		"lacks the right": func(t *testing.T) string { return s.says(t, s.as(t, well, "guest", ""), "migrate", "--schema", "mine") },
		"PostgreSQL has no connection left for this user": func(t *testing.T) string {
			return s.says(t, s.as(t, well, "limited", "GRANT specwatch_reader TO limited; ALTER ROLE limited CONNECTION LIMIT 0"), "status")
		},
		"the events were restored from another database cluster": func(t *testing.T) string {
			restored := s.database(t, true)
			s.sql(t, restored, `UPDATE specwatch.specwatch_meta SET system_identifier = 1`)
			return s.says(t, restored, "status")
		},
		"can be reached from other machines": func(t *testing.T) string { return s.says(t, well, "serve", "--listen", "0.0.0.0:0") },
		"needs the header Authorization": func(t *testing.T) string {
			answer, err := http.Get(s.gateway + "/api/status")
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			text, _ := io.ReadAll(answer.Body)
			return string(text)
		},
		"unknown host": func(t *testing.T) string {
			return s.serves(t, well, "/", http.Header{"Host": {"watch.example"}}, "unknown host", "--allow-host watch.example")
		},
		"cross-origin request": func(t *testing.T) string {
			return s.serves(t, well, "/api/events", http.Header{"Method": {"POST"}, "Origin": {"https://watch.example"}, "Content-Type": {"application/json"}}, "cross-origin request", "--allow-origin https://watch.example")
		},
		"a request for /ws was no WebSocket handshake": func(t *testing.T) string {
			return s.serves(t, well, "/ws", nil, "a request for /ws was no WebSocket handshake")
		},
		"The live connection could not be opened": func(t *testing.T) string {
			// In the page. The browser test provokes it.
			return read(t, "../tests/page.spec.ts")
		},
		"A connection pooler is in between": func(t *testing.T) string {
			return ready(t, postgrestest.Pgbouncer(t, well, "transaction", 20), "A connection pooler is in between")
		},
		"rows not mapped": func(t *testing.T) string {
			s.sql(t, well, `CREATE TABLE public.jobs (id serial PRIMARY KEY, kind text, at timestamptz, session text); INSERT INTO public.jobs (kind) VALUES ('done')`)
			s.says(t, well, "mirror", "public.jobs")
			return s.says(t, well, "mirror")
		},
		"kept on disk": func(t *testing.T) string {
			emit := []string{"emit", "session_heartbeat", "--session", "silent"}
			s.says(t, well, emit...)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := server.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			kept := s.says(t, well, emit...)
			if err := server.Restart(ctx); err != nil {
				t.Fatal(err)
			}
			flushed := s.says(t, well, "flush")
			var stored int
			if err := postgrestest.Connect(t, well).QueryRow(t.Context(), `SELECT count(*) FROM specwatch.events WHERE session = 'silent'`).Scan(&stored); err != nil || stored != 2 {
				t.Errorf("%d events are stored, %v; flush says %s", stored, err, flushed)
			}
			return kept
		},
	} {
		t.Run(symptom, func(t *testing.T) {
			if says := cause(t); !strings.Contains(says, symptom) {
				t.Errorf("it says: %s", says)
			}
		})
		caused[symptom] = true
	}
	for line := range strings.SplitSeq(read(t, "troubleshooting.md"), "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 1 {
			for _, quoted := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(cells[1], -1) {
				if !caused[quoted[1]] {
					t.Errorf("the page has %q, which is not caused here", quoted[1])
				}
				delete(caused, quoted[1])
			}
		}
	}
	for symptom := range caused {
		t.Errorf("the page lacks %q", symptom)
	}
}
