//go:build mage

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/magefile/mage/mg"
	"github.com/magefile/mage/sh"

	"github.com/specwatch/specwatch/pkg/embedded"
)

// testDatabase names the PostgreSQL server that tests share.
const testDatabase = "SPECWATCH_TEST_DATABASE_URL"

// version names the PostgreSQL version of the servers that are started.
const version = "SPECWATCH_POSTGRES_VERSION"

// tally counts tests across the tools that run them.
type tally struct{ passed, failed, skipped int }

func (t *tally) add(o tally) {
	t.passed += o.passed
	t.failed += o.failed
	t.skipped += o.skipped
}

// Test runs everything: the form of the code, Go with the race detector,
// TypeScript, and the built programs in a real browser, against an embedded
// PostgreSQL (or the server of SPECWATCH_TEST_DATABASE_URL).
func Test(ctx context.Context) error {
	mg.Deps(Build)
	mg.Deps(Lint)
	reports := filepath.Join(work, "test")
	if err := os.MkdirAll(reports, 0o755); err != nil {
		return err
	}
	var total tally
	var failures []error
	run := func(name string, f func() (tally, error)) {
		step("%s", name)
		counted, err := f()
		total.add(counted)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
		}
	}
	run("known vulnerabilities of dependencies", func() (tally, error) { return tally{}, Audit(ctx) })
	run("TypeScript (vitest)", func() (tally, error) { return vitest(reports) })
	err := withPostgreSQL(ctx, func(url string) error {
		run("Go (race detector on)", func() (tally, error) { return goTests(reports, url) })
		run("browser (Playwright)", func() (tally, error) { return browserTests(ctx, reports, url) })
		return nil
	})
	if err != nil {
		failures = append(failures, err)
	}
	for _, failure := range failures {
		fmt.Println("FAILED:", failure)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", total.passed, total.failed, total.skipped)
	if len(failures) > 0 || total.failed > 0 {
		return errors.New("the tests failed")
	}
	return nil
}

// Versions runs the tests of what speaks to PostgreSQL (store, feed, migration)
// on every version that Specwatch promises, each installed when it is missing, or
// on those of SPECWATCH_POSTGRES_VERSION, such as "13,18".
func Versions(ctx context.Context) error {
	versions := embedded.Versions()
	if named := os.Getenv(version); named != "" {
		versions = strings.Split(named, ",")
	}
	var failures []error
	for _, v := range versions {
		step("PostgreSQL %s", v)
		if err := os.Setenv(version, v); err != nil { // for the server, and for those that tests start
			return err
		}
		err := withPostgreSQL(ctx, func(url string) error {
			return sh.RunWithV(map[string]string{testDatabase: url}, "go", "test", "-timeout", "15m", "./pkg/embedded", "./pkg/store", "./pkg/schema/...", "./pkg/mirror", "./pkg/questions", "./pkg/maintenance", "./pkg/feed")
		})
		if err != nil {
			failures = append(failures, fmt.Errorf("PostgreSQL %s: %w", v, err))
		}
	}
	return errors.Join(failures...)
}

// Chaos makes every kind of fault a hundred times (or as SPECWATCH_CHAOS_ROUNDS
// says), in an order that follows from a printed seed (or SPECWATCH_CHAOS_SEED),
// on the PostgreSQL of SPECWATCH_POSTGRES_VERSION, compares what every client was
// given with the table, and writes the result into docs/faults.md.
func Chaos() error {
	program := binary(filepath.Join(work, "chaos"))
	if err := sh.RunV("go", "build", "-o", program, "./pkg/chaos/run"); err != nil {
		return err
	}
	args := []string{"-into", "docs/faults.md", "-postgresql", os.Getenv(version)}
	for flag, variable := range map[string]string{"-rounds": "SPECWATCH_CHAOS_ROUNDS", "-seed": "SPECWATCH_CHAOS_SEED"} {
		if value := os.Getenv(variable); value != "" {
			args = append(args, flag, value)
		}
	}
	return foreground(program, nil, args...)
}

// withPostgreSQL runs f with the URL of a server for tests. fsync is off: the data
// of a test need not survive a crash of the machine.
func withPostgreSQL(ctx context.Context, f func(url string) error) error {
	if url := os.Getenv(testDatabase); url != "" && os.Getenv(version) == "" {
		return f(url)
	}
	folder, err := os.MkdirTemp("", "specwatch-test-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := os.Chmod(folder, 0o755); err != nil { // PostgreSQL may run as another user
		return err
	}
	step("starting PostgreSQL for the tests")
	server, err := embedded.Start(ctx, embedded.Config{Dir: filepath.Join(folder, "postgres"), Settings: map[string]string{
		"fsync": "off", "max_connections": "200", "max_prepared_transactions": "10",
	}})
	if err != nil {
		return err
	}
	defer stop(server)
	return f(server.URL())
}

func goTests(reports, url string) (tally, error) {
	programsBeside()
	report := filepath.Join(reports, "go.json")
	err := sh.RunWithV(map[string]string{testDatabase: url}, "go", "tool", tools, "gotestsum", "--format", "pkgname-and-test-fails", "--format-hide-empty-pkg",
		"--jsonfile", report, "--", "-race", "-timeout", "20m", "./...")
	file, openErr := os.Open(report)
	if openErr != nil {
		return tally{}, errors.Join(err, openErr)
	}
	defer file.Close()
	var t tally
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var line struct{ Action, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Test == "" {
			continue
		}
		switch line.Action {
		case "pass":
			t.passed++
		case "fail":
			t.failed++
		case "skip":
			t.skipped++
		}
	}
	return t, err
}

// programsBeside installs what tests run beside Specwatch, where it may, and says
// which tests are skipped.
func programsBeside() {
	// Debian's package, and its program.
	for pkg, program := range map[string]string{
		"prometheus": "prometheus", "pgbouncer": "pgbouncer", "faketime": "faketime", "nginx": "nginx", "caddy": "caddy",
		"openssh-server": "sshd", "tmux": "tmux", "vim": "vim", "less": "less", "bsdutils": "script",
	} {
		switch path, err := installed(pkg, program); {
		case err != nil:
			fmt.Printf("%s could not be installed, so its tests are skipped: %v\n", program, err)
		case path == "":
			fmt.Printf("%s is not installed, so its tests are skipped; CI=true lets this command install the distribution's package\n", program)
		}
	}
	// These packages start a server of the machine, or are its init system, so
	// they are not installed for a test.
	for pkg, program := range map[string]string{"postgresql": "/usr/lib/postgresql/*/bin/initdb", "systemd": "/usr/bin/systemd-analyze"} {
		if found, _ := filepath.Glob(program); len(found) == 0 {
			fmt.Printf("Debian's package %s is not installed, so its tests are skipped\n", pkg)
		}
	}
}

func vitest(reports string) (tally, error) {
	report := filepath.Join(reports, "vitest.json")
	err := sh.RunV("npx", "--no-install", "vitest", "run", "--reporter=default", "--reporter=json", "--outputFile="+report)
	var r struct{ NumPassedTests, NumFailedTests, NumPendingTests int }
	err = errors.Join(err, readReport(report, &r))
	return tally{r.NumPassedTests, r.NumFailedTests, r.NumPendingTests}, err
}

func readReport(report string, into any) error {
	text, err := os.ReadFile(report)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func browserTests(ctx context.Context, reports, url string) (tally, error) {
	env, err := browserEnv(url)
	if err != nil {
		return tally{}, err
	}
	if os.Getenv("GRAFANA_HOME") == "" {
		fmt.Println("GRAFANA_HOME is not set: the tests in a real Grafana are skipped")
	} else {
		end, err := testGrafana(ctx, url, env)
		if err != nil {
			return tally{}, err
		}
		defer end()
	}
	report, err := filepath.Abs(filepath.Join(reports, "playwright.json"))
	if err != nil {
		return tally{}, err
	}
	env["PLAYWRIGHT_JSON_OUTPUT_NAME"] = report
	os.Remove(report)
	err = playwright(env, "tests", "--reporter=list,json")
	var r struct {
		Stats struct{ Expected, Unexpected, Flaky, Skipped int }
	}
	err = errors.Join(err, readReport(report, &r))
	return tally{r.Stats.Expected, r.Stats.Unexpected + r.Stats.Flaky, r.Stats.Skipped}, err
}

// playwright runs one of the projects of playwright.config.ts.
func playwright(env map[string]string, project string, args ...string) error {
	return sh.RunWithV(env, "npx", append([]string{"--no-install", "playwright", "test", "--project", project}, args...)...)
}

// browserEnv is what the tests in a browser need to know.
func browserEnv(url string) (map[string]string, error) {
	browser, err := chromium()
	if err != nil {
		return nil, err
	}
	// The network between browser and server, whose faults the tests choose.
	toxiproxy, err := filepath.Abs(binary(filepath.Join(work, "toxiproxy")))
	if err != nil {
		return nil, err
	}
	if err := sh.RunV("go", "-C", "tools", "build", "-o", toxiproxy, "github.com/Shopify/toxiproxy/v2/cmd/server"); err != nil {
		return nil, err
	}
	return map[string]string{
		testDatabase: url, "SPECWATCH_CHROMIUM": browser, "SPECWATCH_TOXIPROXY": toxiproxy, "SPECWATCH_EXECUTABLE": binary("bin/specwatch"),
	}, nil
}

// testGrafana starts a Grafana over a schema of its own, and tells the tests
// of both by env.
func testGrafana(ctx context.Context, url string, env map[string]string) (end func(), err error) {
	schema := fmt.Sprintf("grafana_%d", time.Now().UnixNano())
	own := map[string]string{databaseURL: url, "SPECWATCH_SCHEMA": schema}
	if err := sh.RunWith(own, binary("bin/specwatch"), "migrate"); err != nil {
		return nil, err
	}
	data, err := os.MkdirTemp("", "specwatch-grafana-")
	if err != nil {
		return nil, err
	}
	port, err := embedded.FreePort()
	if err != nil {
		return nil, err
	}
	webhook, err := embedded.FreePort() // where the test of alerts will listen
	if err != nil {
		return nil, err
	}
	settings, program, args, err := grafana(url, schema, data, strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	settings = append(settings, fmt.Sprintf("SPECWATCH_ALERT_WEBHOOK_URL=http://127.0.0.1:%d/", webhook), "GF_AUTH_ANONYMOUS_ENABLED=true")
	// The test of a Grafana without Live starts one of its own.
	start, err := json.Marshal(map[string]any{"program": program, "args": args, "env": settings})
	if err != nil {
		return nil, err
	}
	env["SPECWATCH_TEST_GRAFANA_START"] = string(start)
	step("starting the Grafana of GRAFANA_HOME")
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), settings...)
	log, err := os.Create(filepath.Join(work, "test", "grafana.log"))
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() {
		cmd.Process.Signal(os.Interrupt) //nolint:errcheck // it may have ended
		cmd.Wait()                       //nolint:errcheck // as above
		log.Close()
		os.RemoveAll(data)
	}
	address := fmt.Sprintf("http://127.0.0.1:%d", port)
	for again := time.NewTicker(200 * time.Millisecond); ; <-again.C {
		if resp, err := http.Get(address + "/api/health"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if ctx.Err() != nil {
			end()
			return nil, ctx.Err()
		}
	}
	env["SPECWATCH_TEST_GRAFANA"], env["SPECWATCH_TEST_GRAFANA_SCHEMA"], env["SPECWATCH_TEST_WEBHOOK_PORT"] = address, schema, strconv.Itoa(webhook)
	return end, nil
}

// chromium finds a browser, or installs the distribution's where it may.
func chromium() (string, error) {
	if named := os.Getenv("SPECWATCH_CHROMIUM"); named != "" {
		return named, nil
	}
	path, err := installed("chromium", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge",
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", `C:\Program Files\Google\Chrome\Application\chrome.exe`)
	if err == nil && path == "" {
		err = errors.New("no browser found: install Chromium or Chrome, or set SPECWATCH_CHROMIUM to its executable, or CI=true to let this command install the distribution's package")
	}
	if err == nil {
		fmt.Println("browser:", path)
	}
	return path, err
}

// installed finds a program by one of its names. If there is none, it
// installs the distribution's package where CI is set and it may; else it
// answers "".
func installed(pkg string, names ...string) (string, error) {
	find := func() string {
		for _, name := range names {
			if path, err := exec.LookPath(name); err == nil {
				return path
			}
		}
		return ""
	}
	if path := find(); path != "" {
		return path, nil
	}
	if os.Getenv("CI") == "" {
		return "", nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return "", nil
	}
	step("installing %s from the distribution's packages", pkg)
	if err := packageLists(); err != nil {
		return "", err
	}
	if err := sh.RunWith(noQuestions, "apt-get", "install", "-y", "-qq", "--no-install-recommends", pkg); err != nil {
		return "", err
	}
	return find(), nil
}

var noQuestions = map[string]string{"DEBIAN_FRONTEND": "noninteractive"}

// packageLists fetches what the distribution offers now.
var packageLists = sync.OnceValue(func() error { return sh.RunWith(noQuestions, "apt-get", "update", "-qq") })
