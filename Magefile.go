//go:build mage

// The commands of this repository: `go tool mage -l` lists them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/magefile/mage/mg"
	"github.com/magefile/mage/sh"
	"github.com/magefile/mage/target"

	"github.com/specwatch/specwatch/pkg/embedded"
)

const (
	work        = ".specwatch" // what the commands leave behind; not in git
	databaseURL = "SPECWATCH_DATABASE_URL"
)

func binary(path string) string {
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	return path
}

func step(format string, args ...any) { fmt.Printf("→ "+format+"\n", args...) }

// Demo builds everything, starts it with a PostgreSQL of its own (or that of
// SPECWATCH_DATABASE_URL) and runs real commands as specs, until Ctrl-C.
func Demo() error {
	mg.Deps(Build)
	return foreground(binary("bin/specwatch"), nil, "demo", "--dir", filepath.Join(work, "demo"))
}

// foreground runs a program until it ends or the person ends it. Ctrl-C goes
// to the program, too, so this process only has to wait for it.
func foreground(program string, env []string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), env...)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGTERM {
				cmd.Process.Signal(s) //nolint:errcheck // it has ended already
			}
		case err := <-ended:
			return err
		}
	}
}

// Build makes dist/ (the Grafana plugin for this machine) and bin/specwatch
// (with the gateway's page inside).
func Build() error {
	mg.Deps(frontend)
	mg.Deps(backend)
	return nil
}

// dependencies installs what package-lock.json names, unless it is there.
func dependencies() error {
	newer, err := target.Path("node_modules/.package-lock.json", "package-lock.json")
	if err != nil || !newer {
		return err
	}
	step("installing the front end's packages (npm ci), once; this takes a minute or two")
	return sh.RunV("npm", "ci", "--no-audit", "--no-fund")
}

func frontend() error {
	mg.Deps(dependencies)
	// Webpack leaves files alone that would not change, so their times tell
	// nothing; a file of our own tells when it last ran.
	built := filepath.Join(work, "frontend-built")
	newer, err := target.Dir(built, "src", "plugin.json", "package-lock.json", "webpack.config.js")
	if err != nil {
		return err
	}
	for _, output := range []string{"dist/module.js", "pkg/gateway/page/index.html"} {
		if _, err := os.Stat(output); err != nil {
			newer = true
		}
	}
	if !newer {
		return nil
	}
	step("building panel, data source and page (webpack)")
	if err := sh.RunV("npm", "run", "--silent", "build"); err != nil {
		return err
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	return os.WriteFile(built, nil, 0o644)
}

func backend() error {
	step("building bin/specwatch and the plugin's backend (go build)")
	if err := sh.RunV("go", "build", "-o", binary("bin/specwatch"), "./pkg/cmd/specwatch"); err != nil {
		return err
	}
	return plugin(runtime.GOOS, runtime.GOARCH)
}

// plugin builds the backend where the data source's plugin.json looks for it.
func plugin(system, cpu string) error {
	out := filepath.Join("dist", "gpx_specwatch_"+system+"_"+cpu)
	if system == "windows" {
		out += ".exe"
	}
	env := map[string]string{"GOOS": system, "GOARCH": cpu, "CGO_ENABLED": "0"}
	return sh.RunWithV(env, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./pkg")
}

// BuildAll makes dist/ with the backend for every platform of Grafana.
func BuildAll() error {
	mg.Deps(Build)
	for _, platform := range []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64"} {
		step("building the backend for %s", platform)
		system, cpu, _ := strings.Cut(platform, "/")
		if err := plugin(system, cpu); err != nil {
			return err
		}
	}
	return nil
}

// Generate writes what follows from the Go definitions.
func Generate() error { return sh.RunV("go", "generate", "./...") }

// Lint checks the form of Go and TypeScript.
func Lint() error {
	mg.Deps(dependencies)
	unformatted, err := sh.Output("gofmt", "-l", "pkg", "Magefile.go", "magefile_tests.go", "magefile_grafana.go")
	if err != nil {
		return err
	}
	if unformatted != "" {
		return fmt.Errorf("gofmt would change:\n%s", unformatted)
	}
	if err := sh.RunV("go", "vet", "./..."); err != nil {
		return err
	}
	return sh.RunV("npm", "run", "--silent", "typecheck")
}

// Bench runs the benchmarks. Their figures are ratios within one run.
func Bench(ctx context.Context) error {
	mg.Deps(Build)
	return withPostgreSQL(ctx, func(url string) error {
		if err := sh.RunWithV(map[string]string{testDatabase: url}, "go", "test", "-run", "^$", "-bench", ".", "./..."); err != nil {
			return err
		}
		return inBrowser(url, "bench", "--reporter=line")
	})
}

// Screenshots takes the pictures of docs/connection.md anew.
func Screenshots(ctx context.Context) error {
	mg.Deps(Build)
	return withPostgreSQL(ctx, func(url string) error { return inBrowser(url, "screenshots", "--reporter=list") })
}

// inBrowser runs a project of playwright.config.ts that needs no Grafana.
func inBrowser(url, project string, args ...string) error {
	env, err := browserEnv(url)
	if err != nil {
		return err
	}
	return playwright(env, project, args...)
}

// Grafana starts the Grafana that GRAFANA_HOME names, with this plugin, its
// data source and its dashboard, over the demo's events, until Ctrl-C.
func Grafana(ctx context.Context) error {
	mg.Deps(Build)
	if os.Getenv("GRAFANA_HOME") == "" {
		return errors.New("set GRAFANA_HOME to the folder of an unpacked Grafana 11 or later (with bin/, conf/ and public/), or use `docker compose up`")
	}
	url := os.Getenv(databaseURL)
	if url == "" {
		server, err := embedded.Start(ctx, embedded.Config{Dir: filepath.Join(work, "demo", "postgres")})
		if err != nil {
			return err
		}
		defer stop(server)
		url = server.URL()
	}
	if err := sh.RunWithV(map[string]string{databaseURL: url}, binary("bin/specwatch"), "migrate"); err != nil {
		return err
	}
	env, program, args, err := grafana(url, "", filepath.Join(work, "grafana"), "3000")
	if err != nil {
		return err
	}
	fmt.Println("Grafana: http://127.0.0.1:3000/d/specwatch (user admin, password admin); events come from `specwatch run` with " + databaseURL + " set")
	return foreground(program, env, args...)
}

func stop(server *embedded.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
