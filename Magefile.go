//go:build mage

// The commands of this repository: `go tool mage -l` lists them.
package main

import (
	"context"
	"encoding/json"
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

	"github.com/grafana/grafana-plugin-sdk-go/build"
	"github.com/grafana/grafana-plugin-sdk-go/build/buildinfo"
	"github.com/magefile/mage/mg"
	"github.com/magefile/mage/sh"
	"github.com/magefile/mage/target"

	"github.com/specwatch/specwatch/pkg/embedded"
)

const (
	work        = ".specwatch" // what the commands leave behind; not in git
	databaseURL = "SPECWATCH_DATABASE_URL"

	orphanEvery = 500 * time.Millisecond // between two looks at who the parent is
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

// parent is mage. It does not forward SIGTERM: it ends, and this process gets another
// parent, at any time since its start.
var parent = os.Getppid()

func orphaned() bool { return os.Getppid() != parent }

// foreground runs a program until it ends or the person ends it. Ctrl-C goes
// to the program, too, so this process only has to wait for it.
func foreground(program string, env []string, args ...string) error {
	cmd := exec.Command(program, args...) // #nosec G702 -- the caller names one of this repository's programs
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), env...)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if orphaned() {
		return errors.New("mage has ended, so nothing is started")
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	look := time.NewTicker(orphanEvery)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if orphaned() {
				look.Stop()
				cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it has ended already
			}
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
	// Webpack does not write files that would not change, so their times do not
	// show when it last ran. The time of a separate file does.
	built := filepath.Join(work, "frontend-built")
	newer, err := target.Dir(built, "src", "plugin.json", "package-lock.json", "CHANGELOG.md", "LICENSE", ".config/webpack/webpack.config.ts")
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
	if err := webpack(nil); err != nil {
		return err
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	return os.WriteFile(built, nil, 0o644)
}

func webpack(env map[string]string) error {
	step("building panel, data source and page (webpack)")
	return sh.RunWithV(env, "npm", "run", "--silent", "build")
}

func backend() error {
	step("building bin/specwatch and the plugin's backend (go build)")
	r, err := thisRelease()
	if err != nil {
		return err
	}
	if err := r.gateway(runtime.GOOS, runtime.GOARCH, binary("bin/specwatch")); err != nil {
		return err
	}
	return r.plugin(runtime.GOOS, runtime.GOARCH)
}

// plugin builds the backend where the data source's plugin.json looks for it.
func (r release) plugin(system, cpu string) error {
	err := build.SetBeforeBuildCallback(func(c build.Config) (build.Config, error) {
		c.PluginJSONPath = "dist" // where webpack has put it, and the data source's below
		c.CustomVars = r.variables()
		info, err := json.Marshal(buildinfo.Info{Time: r.at.UnixMilli(), PluginID: pluginID, Version: r.version})
		if err != nil {
			return c, err
		}
		// The SDK would name the time of building.
		c.CustomVars["github.com/grafana/grafana-plugin-sdk-go/build/buildinfo.buildInfoJSON"] = string(info)
		if c.Env != nil {
			c.Env["GOFLAGS"] = reproducible
		}
		return c, nil
	})
	if err != nil {
		return err
	}
	return build.Build{}.Custom(system, cpu)
}

// BuildAll makes dist/ with the backend for every platform of Grafana.
func BuildAll() error {
	mg.Deps(Build)
	r, err := thisRelease()
	if err != nil {
		return err
	}
	return r.plugins()
}

// Generate writes what follows from the Go definitions.
func Generate() error { return sh.RunV("go", "generate", "./...") }

// Bench measures what docs/scale.md promises, each figure against a reference
// in the same run, and prints the table. SPECWATCH_BENCH_ROWS, _CLIENTS, _ROUNDS,
// _SPAN, _ONLY and _PROFILES scale it, SPECWATCH_BENCH_CENTRIFUGO names an executable of
// Centrifugo to compare with, and SPECWATCH_BENCH_INTO a document that gets the table.
func Bench() error {
	r, err := thisRelease()
	if err != nil {
		return err
	}
	program, specwatch := binary(filepath.Join(work, "bench")), binary(filepath.Join(work, "bench-specwatch"))
	if err := sh.RunV("go", "build", "-o", program, "./pkg/bench/run"); err != nil {
		return err
	}
	// The page is not measured, so it need not be built.
	if err := r.gateway(runtime.GOOS, runtime.GOARCH, specwatch); err != nil {
		return err
	}
	args := []string{"-specwatch", specwatch, "-postgresql", os.Getenv(version)}
	for _, flag := range []string{"rows", "clients", "rounds", "span", "only", "profiles", "centrifugo", "into"} {
		if value := os.Getenv("SPECWATCH_BENCH_" + strings.ToUpper(flag)); value != "" {
			args = append(args, "-"+flag, value)
		}
	}
	return foreground(program, nil, args...)
}

// BenchGo runs the Go benchmarks, with what they allocate.
func BenchGo() error {
	return sh.RunV("go", "test", "-run", "^$", "-bench", ".", "-benchmem", "./pkg/cursor", "./pkg/state", "./pkg/feed", "./pkg/gateway")
}

// BenchBrowser measures a burst of events in the page, in a real browser.
func BenchBrowser(ctx context.Context) error {
	mg.Deps(Build)
	return withPostgreSQL(ctx, func(url string) error { return inBrowser(url, "bench", "--reporter=line") })
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
