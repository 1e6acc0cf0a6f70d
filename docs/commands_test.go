//go:build unix

package docs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/specwatch/specwatch/pkg/postgrestest"
)

// block is a fenced block of a page.
type block struct {
	language, text string
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

func blocksOf(t *testing.T, page string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range fence.FindAllStringSubmatch(string(text), -1) {
		all = append(all, block{found[1], found[2]})
	}
	return all
}

// first returns the first block of a language.
func first(t *testing.T, page, language string) string {
	t.Helper()
	for _, b := range blocksOf(t, page) {
		if b.language == language {
			return b.text
		}
	}
	t.Fatalf("%s has no %s", page, language)
	return ""
}

// pages are all that people read, from this folder.
func pages(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"../*.md", "../src/*.md", "../deploy/*.md", "../.github/*.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, more...)
	}
	return all
}

// operating are the pages that share a database, in the order of the index.
var operating = []string{"roles.md", "database-tls.md", "poolers.md", "backup.md", "upgrade.md", "retention.md", "size.md"}

// run are the pages whose commands a test of this package runs.
var run = append([]string{"../README.md", "../AGENTS.md", "running.md", "http.md", "mirror.md", "ways-in.md"}, operating...)

// notRun are the blocks of commands that no test of this package runs, by their
// first lines, and why.
var notRun = map[string]string{
	"go tool mage demo":     "runs until Ctrl-C; TestDemo in pkg/cmd/specwatch runs what it starts",
	"go tool mage build":    "installs packages and runs webpack for minutes; the browser tests use what it builds",
	"go tool mage buildAll": "needs Docker",
	"go tool mage bench":    "runs for many minutes on an idle machine",
	"git clone --depth 1 https://github.com/grafana/plugin-validator ../plugin-validator": "needs the internet, and builds for minutes; the workflow ci.yml runs the same",
	"go tool pprof http://127.0.0.1:6060/debug/pprof/profile?seconds=10":                  "needs a gateway with --pprof under load; its test is in pkg/cmd/specwatch",
	"go tool mage lint": "runs these tests itself",
	"go test ./pkg/cursor -run TestSnapshotsAreSets":                                                                                       "TestCommandsInText checks that what it names exists",
	"go test -race ./pkg/feed -run TestLateCommit":                                                                                         "TestCommandsInText checks that what it names exists",
	"npx playwright test --project=tests -g 'an event is pushed to the open page'":                                                         "TestCommandsInText checks that what it names exists",
	`specwatch serve --allow-host "$(tailscale status --json | jq -r '.Self.DNSName | rtrimstr(".")')" &`:                                  "needs an account of Tailscale",
	"ssh -N -L 8001:127.0.0.1:8001 you@your-machine":                                                                                       "TestTunnel runs it with a server and keys of its own",
	"cloudflared tunnel --url http://127.0.0.1:8001 --hostname watch.example":                                                              "needs an account of Cloudflare",
	"specwatch serve --base-path /watch/ --allow-host watch.example":                                                                       "TestRecipesOfProxies in deploy runs it behind nginx and Caddy",
	"specwatch serve --listen 0.0.0.0:8443 --allow-host watch.example --tls-cert /etc/specwatch/cert.pem --tls-key /etc/specwatch/key.pem": "TestServeWithTLS in pkg/cmd/specwatch runs it with files of its own",
}

// Each block of commands is run by a test, or is listed with the reason why
// not. What is not marked as commands must not look like them.
func TestEveryCommandIsRun(t *testing.T) {
	listed := map[string]bool{}
	command := regexp.MustCompile(`^(\$ |specwatch |go |npm |npx |psql |docker |curl |git |ssh |export )`)
	for _, page := range pages(t) {
		for _, b := range blocksOf(t, page) {
			line, _, _ := strings.Cut(b.text, "\n")
			switch {
			case b.language != "sh":
				if slices.Contains([]string{"", "text", "bash", "shell", "console"}, b.language) && command.MatchString(line) {
					t.Errorf("%s: mark the commands as sh, so that they are run: %s", page, line)
				}
			case notRun[line] != "":
				listed[line] = true
			case !slices.Contains(run, page):
				t.Errorf("%s: run these commands in a test, or list them in notRun with the reason: %s", page, line)
			}
		}
	}
	for line := range notRun {
		if !listed[line] {
			t.Errorf("no page has the commands that begin with: %s", line)
		}
	}
}

// commandsOf are the commands of a page that are run, in one script.
func commandsOf(t *testing.T, page string) (script string) {
	t.Helper()
	for _, b := range blocksOf(t, page) {
		if line, _, _ := strings.Cut(b.text, "\n"); b.language == "sh" && notRun[line] == "" {
			script += b.text
		}
	}
	if script == "" {
		t.Fatalf("%s has no commands", page)
	}
	return script
}

// Commands in the text of a page name what exists.
func TestCommandsInText(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	magefiles := ""
	files, _ := filepath.Glob("../*agefile*.go")
	for _, file := range files {
		magefiles += read(file)
	}
	var manifest struct{ Scripts map[string]string }
	if err := json.Unmarshal([]byte(read("../package.json")), &manifest); err != nil {
		t.Fatal(err)
	}
	help, err := exec.Command(filepath.Join(specwatch(t), "specwatch"), "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	targets := regexp.MustCompile(`go tool mage ([a-z]\w*)`)
	scripts := regexp.MustCompile(`npm (?:run )?(test|[a-z:]+)\b`)
	commands := regexp.MustCompile("`specwatch ([a-z]+)")
	goTests := regexp.MustCompile(`go test (?:-race )?\./(\S+) -run (\w+)`)
	vitest := regexp.MustCompile(`npx vitest run (\S+\.ts)`)
	playwright := regexp.MustCompile(`npx playwright test .*-g '([^']+)'`)
	for _, page := range pages(t) {
		text := read(page)
		for _, found := range targets.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(strings.ToLower(magefiles), "func "+strings.ToLower(found[1])+"(") {
				t.Errorf("%s: there is no target %s", page, found[1])
			}
		}
		for _, found := range scripts.FindAllStringSubmatch(text, -1) {
			if strings.HasPrefix(found[0], "npm run") && manifest.Scripts[found[1]] == "" {
				t.Errorf("%s: there is no script %s", page, found[1])
			}
		}
		for _, found := range commands.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(string(help), "\n  "+found[1]+" ") {
				t.Errorf("%s: there is no command specwatch %s", page, found[1])
			}
		}
		for _, found := range goTests.FindAllStringSubmatch(text, -1) {
			sources, _ := filepath.Glob(filepath.Join("..", found[1], "*_test.go"))
			test := regexp.MustCompile(`func \w*` + found[2])
			declared := slices.ContainsFunc(sources, func(source string) bool { return test.MatchString(read(source)) })
			if !declared {
				t.Errorf("%s: there is no test %s in %s", page, found[2], found[1])
			}
		}
		for _, found := range vitest.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join("..", found[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
		for _, found := range playwright.FindAllStringSubmatch(text, -1) {
			specs, _ := filepath.Glob("../tests/*.spec.ts")
			if !slices.ContainsFunc(specs, func(spec string) bool { return strings.Contains(read(spec), found[1]) }) {
				t.Errorf("%s: there is no browser test %q", page, found[1])
			}
		}
	}
}

// built is the folder of the executable, which all tests here share.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "specwatch-docs-")
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "specwatch"), "../pkg/cmd/specwatch").CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

// specwatch returns the folder of the executable.
func specwatch(t *testing.T) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := built(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// operator is a PostgreSQL server with TLS, and the environment of a person who
// administers it. The server is as old as the psql and pg_dump that are
// installed.
type operator struct {
	address     *url.URL
	files       postgrestest.Certificates
	dir         string
	environment []string
}

func newOperator(t *testing.T) operator {
	t.Helper()
	// The package of the server depends on the one with psql and pg_dump.
	installed, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(installed) == 0 {
		t.Skip("Debian's package postgresql is not installed")
	}
	tools := filepath.Dir(installed[len(installed)-1])
	t.Setenv("SPECWATCH_POSTGRES_HOME", filepath.Dir(tools))
	server, files := postgrestest.TLSCluster(t)
	address, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := address.User.Password()
	dir := t.TempDir()
	return operator{address, files, dir, []string{
		"HOME=" + dir, "XDG_STATE_HOME=" + dir, "PGHOST=localhost", "PGPORT=" + address.Port(), "PGUSER=" + address.User.Username(), "PGPASSWORD=" + password, "PGSSLMODE=disable",
		fmt.Sprintf("PATH=%s:%s:%s", specwatch(t), tools, os.Getenv("PATH")),
	}}
}

// database makes a database and returns its URL for the administrator.
func (o operator) database(t *testing.T, name string) string {
	t.Helper()
	if _, err := postgrestest.Connect(t, o.address.String()).Exec(t.Context(), `CREATE DATABASE "`+name+`"`); err != nil {
		t.Fatal(err)
	}
	return o.address.JoinPath("..", name).String()
}

// run runs a script and returns what it prints.
func (o operator) run(t *testing.T, script string, more ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-c", "set -euo pipefail\n"+script)
	shell.Dir = o.dir
	shell.Env = append(slices.Clone(o.environment), more...)
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// The commands of these pages are run as they stand, each group of pages in a
// database of its own.
func TestCommandsForOperators(t *testing.T) {
	o := newOperator(t)
	for _, group := range []struct {
		pages []string
		says  []string // of what the commands print
	}{
		{[]string{"mirror.md"}, []string{`"kind":"spec_started"`, "3 rows of jobs: 2 can be mapped, 1 cannot", "4 rows read: 1 became events now, 3 were events already", "restored \n----------\n        4", "jobs is not mirrored any more"}},
		{operating, []string{"schema specwatch has version", "spec_started | night   | login", "0 events removed", "t   | TLSv1.3", "schema team has version"}},
		{[]string{"ways-in.md"}, nil},
	} {
		t.Run(group.pages[0], func(t *testing.T) {
			database := strings.TrimSuffix(group.pages[0], ".md")
			address := o.database(t, database)
			script := ""
			for _, page := range group.pages {
				script += commandsOf(t, page)
			}
			if strings.Contains(script, "localhost:6432") {
				// Some providers close these functions.
				closed := `REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint(), pg_control_recovery() FROM PUBLIC`
				if _, err := postgrestest.Connect(t, address).Exec(t.Context(), closed); err != nil {
					t.Fatal(err)
				}
				pooler, err := url.Parse(postgrestest.Pgbouncer(t, address, "transaction", 2))
				if err != nil {
					t.Fatal(err)
				}
				script = strings.ReplaceAll(script, "localhost:6432", pooler.Host)
			}
			script = strings.ReplaceAll(script, "/etc/specwatch/ca.pem", o.files.CA)
			out := o.run(t, script, "PGDATABASE="+database, "SPECWATCH_DATABASE_URL=postgres:///"+database)
			for _, says := range group.says {
				if !strings.Contains(out, says) {
					t.Errorf("the commands do not say %q:\n%s", says, out)
				}
			}
		})
	}
}

// version02 is what version 0.2 had in its schema.
func version02(t *testing.T, address string) {
	t.Helper()
	first, err := os.ReadFile("../pkg/schema/migrations/00001_events.sql")
	if err != nil {
		t.Fatal(err)
	}
	script := `CREATE SCHEMA specwatch; SET search_path = specwatch;
		CREATE TABLE specwatch_migrations (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now());
		INSERT INTO specwatch_migrations (version_id, is_applied) VALUES (0, true), (1, true);
		` + strings.ReplaceAll(string(first), "@.", "specwatch.")
	if _, err := postgrestest.Connect(t, address).PgConn().Exec(t.Context(), script).ReadAll(); err != nil {
		t.Fatal(err)
	}
}

// The section about upgrades is followed on a database of version 0.2: the
// events stay, and the way back leads to them, too.
func TestUpgradeFollowsThePage(t *testing.T) {
	o := newOperator(t)
	address := o.database(t, "upgrade")
	version02(t, address)
	conn := postgrestest.Connect(t, address)
	if _, err := conn.Exec(t.Context(), `INSERT INTO specwatch.events (kind, session, spec) SELECT 'spec_started', 'night', 'spec ' || n FROM generate_series(1, 1000) n`); err != nil {
		t.Fatal(err)
	}
	state := func() (got string) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), `SELECT format('version %s, %s events', (SELECT max(version_id) FROM specwatch.specwatch_migrations), (SELECT count(*) FROM specwatch.events))`).Scan(&got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	there, back, found := strings.Cut(commandsOf(t, "upgrade.md"), "psql -c 'DROP SCHEMA")
	if !found {
		t.Fatal("the section has no way back")
	}
	environment := []string{"PGDATABASE=upgrade", "SPECWATCH_DATABASE_URL=postgres:///upgrade", "SPECWATCH_SCHEMA=specwatch"}
	out := o.run(t, there, environment...)
	if !strings.Contains(out, "migrations applied now") || !strings.Contains(out, "spec 1000") {
		t.Errorf("it prints %s", out)
	}
	newest, err := filepath.Glob("../pkg/schema/migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := state(), fmt.Sprintf("version %d, 1000 events", len(newest)); got != want {
		t.Errorf("after the upgrade: %s, expected %s", got, want)
	}
	o.run(t, "psql -c 'DROP SCHEMA"+back, environment...)
	if got := state(); got != "version 1, 1000 events" {
		t.Errorf("after the way back: %s", got)
	}
}

// Without the list of mirror.md the trigger is what a restore elsewhere lacks,
// with the error that the page names.
func TestDumpOfMirroredTable(t *testing.T) {
	o := newOperator(t)
	o.database(t, "mirrored")
	o.database(t, "elsewhere")
	out := o.run(t, `
		specwatch migrate --schema specwatch
		psql -c "CREATE TABLE public.jobs (id serial PRIMARY KEY, kind text, at timestamptz, session text); INSERT INTO public.jobs (kind, at, session) VALUES ('done', now(), 's'), ('done', now(), 's')"
		specwatch mirror public.jobs --schema specwatch
		pg_dump --table=public.jobs --format=custom --file=table.dump
		if pg_restore --dbname=elsewhere table.dump; then echo "no error"; fi
		psql -d elsewhere -c "SELECT count(*) AS restored FROM public.jobs"
		psql -d elsewhere -c "DROP TABLE public.jobs"
		if pg_restore --dbname=elsewhere --single-transaction table.dump; then echo "no error"; fi
		psql -d elsewhere -c "SELECT to_regclass('public.jobs') IS NULL AS nothing"
	`, "PGDATABASE=mirrored", "SPECWATCH_DATABASE_URL=postgres:///mirrored")
	for _, says := range []string{`schema "specwatch" does not exist`, "errors ignored on restore: 1\n", "restored \n----------\n        2", "nothing \n---------\n t"} {
		if !strings.Contains(out, says) {
			t.Errorf("it does not say %q: %s", says, out)
		}
	}
	if strings.Contains(out, "no error") {
		t.Errorf("it does not fail: %s", out)
	}
}

var repositoryFile = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// Files that the pages lead to exist, and the index has all pages.
func TestLinksOfThePages(t *testing.T) {
	index, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range repositoryFile.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), found[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
		if filepath.Dir(page) == "." && page != "README.md" && !strings.Contains(string(index), "("+page+")") {
			t.Errorf("the index in docs/README.md lacks %s", page)
		}
	}
}
