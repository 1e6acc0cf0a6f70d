//go:build mage

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/magefile/mage/mg"
	"github.com/magefile/mage/sh"

	"github.com/specwatch/specwatch/pkg/archive"
)

const (
	pluginID  = "specwatch-events-app"
	releases  = "release" // where Dist puts its archives
	checksums = "SHA256SUMS"
)

// platforms are those of a release.
var platforms = [][2]string{
	{"linux", "amd64"}, {"linux", "arm64"}, {"linux", "arm"}, {"darwin", "amd64"}, {"darwin", "arm64"}, {"windows", "amd64"},
}

// release is what is built: a version at a commit.
type release struct {
	version  string
	revision string    // of git; empty outside of a clone
	at       time.Time // of the commit; else of now
}

func thisRelease() (release, error) {
	text, err := os.ReadFile("package.json")
	if err != nil {
		return release{}, err
	}
	var names struct{ Version string }
	if err := json.Unmarshal(text, &names); err != nil {
		return release{}, fmt.Errorf("package.json: %w", err)
	}
	r := release{version: names.Version, at: time.Now()}
	// Outside of a clone both fail, and the release is of an unknown commit.
	revision, _ := sh.Output("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
	committed, _ := sh.Output("git", "log", "-1", "--format=%ct")
	if seconds, err := strconv.ParseInt(committed, 10, 64); err == nil {
		r.revision, r.at = revision, time.Unix(seconds, 0)
	}
	return r, nil
}

// variables are filled in by the linker.
func (r release) variables() map[string]string {
	const name = "github.com/specwatch/specwatch/pkg/release."
	return map[string]string{name + "Version": r.version, name + "revision": r.revision}
}

// Paths of this machine, and git's tags, which may come later, stay out of what
// is built.
const reproducible = "-trimpath -buildvcs=false"

// gateway builds `specwatch`.
func (r release) gateway(system, cpu, out string) error {
	flags, variables := "-s -w", r.variables()
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		flags += " -X " + name + "=" + variables[name]
	}
	env := map[string]string{"GOOS": system, "GOARCH": cpu, "CGO_ENABLED": "0", "GOFLAGS": reproducible}
	return sh.RunWithV(env, "go", "build", "-ldflags", flags, "-o", out, "./pkg/cmd/specwatch")
}

func (r release) plugins() error {
	for _, platform := range platforms {
		step("building the backend for %s/%s", platform[0], platform[1])
		if err := r.plugin(platform[0], platform[1]); err != nil {
			return err
		}
	}
	return nil
}

// Dist makes release/: the plugin as a zip for Grafana, an archive of
// `specwatch` for each platform, and their SHA-256 sums. The same commit gives
// the same bytes.
func Dist() error {
	mg.Deps(dependencies)
	r, err := thisRelease()
	if err != nil {
		return err
	}
	if strings.HasSuffix(r.revision, "-dirty") {
		fmt.Println("Some files differ from the last commit: these archives are for trying out, not for a release.")
	}
	for _, folder := range []string{"dist", releases} {
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(releases, 0o755); err != nil {
		return err
	}
	if err := webpack(map[string]string{"SOURCE_DATE_EPOCH": strconv.FormatInt(r.at.Unix(), 10)}); err != nil {
		return err
	}
	if err := r.plugins(); err != nil {
		return err
	}
	step("packing the plugin")
	if err := r.packPlugin(); err != nil {
		return err
	}
	for _, platform := range platforms {
		step("building and packing specwatch for %s/%s", platform[0], platform[1])
		if err := r.packGateway(platform[0], platform[1]); err != nil {
			return err
		}
	}
	return sum()
}

func (r release) packPlugin() error {
	files, err := archive.Folder("dist", pluginID)
	if err != nil {
		return err
	}
	return r.pack(pluginID+"-"+r.version+".zip", archive.Zip, files)
}

func (r release) packGateway(system, cpu string) error {
	name := "specwatch-" + r.version + "-" + system + "-" + cpu
	program, format, ending := "specwatch", archive.TarGzip, ".tar.gz"
	if system == "windows" {
		program, format, ending = "specwatch.exe", archive.Zip, ".zip"
	}
	folder, err := os.MkdirTemp("", "specwatch-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	built := filepath.Join(folder, program)
	if err := r.gateway(system, cpu, built); err != nil {
		return err
	}
	files := []archive.File{{Name: name + "/" + program, Path: built, Executable: true}}
	for _, text := range []string{"CHANGELOG.md", "LICENSE", "README.md"} {
		files = append(files, archive.File{Name: name + "/" + text, Path: text})
	}
	return r.pack(name+ending, format, files)
}

func (r release) pack(name string, format archive.Format, files []archive.File) error {
	file, err := os.Create(filepath.Join(releases, name))
	if err != nil {
		return err
	}
	return errors.Join(format(file, r.at, files), file.Close())
}

// sum writes what `sha256sum --check SHA256SUMS` reads.
func sum() error {
	entries, err := os.ReadDir(releases)
	if err != nil {
		return err
	}
	var lines bytes.Buffer
	for _, entry := range entries {
		file, err := os.Open(filepath.Join(releases, entry.Name()))
		if err != nil {
			return err
		}
		hash := sha256.New()
		_, err = io.Copy(hash, file)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
		fmt.Fprintf(&lines, "%x  %s\n", hash.Sum(nil), entry.Name())
	}
	fmt.Print(lines.String())
	return os.WriteFile(filepath.Join(releases, checksums), lines.Bytes(), 0o644)
}

// Reproduce runs Dist twice and fails if the second run gives other bytes.
func Reproduce() error {
	var first []byte
	for range 2 {
		if err := Dist(); err != nil {
			return err
		}
		sums, err := os.ReadFile(filepath.Join(releases, checksums))
		if err != nil {
			return err
		}
		if first != nil && !bytes.Equal(first, sums) {
			return fmt.Errorf("the second build differs; the sums of the first were:\n%s", first)
		}
		first = sums
	}
	fmt.Println("both builds gave the same bytes")
	return nil
}

// Validate runs Grafana's plugin validator on the zip that Dist made.
// SPECWATCH_VALIDATOR names its executable, plugincheck2; docs/releasing.md says
// how to build it.
func Validate() error {
	validator := os.Getenv("SPECWATCH_VALIDATOR")
	if validator == "" {
		return errors.New("set SPECWATCH_VALIDATOR to the executable plugincheck2 of github.com/grafana/plugin-validator; docs/releasing.md says how to build it")
	}
	r, err := thisRelease()
	if err != nil {
		return err
	}
	zip := filepath.Join(releases, pluginID+"-"+r.version+".zip")
	if _, err := os.Stat(zip); err != nil {
		return fmt.Errorf("%w: run `go tool mage dist` first", err)
	}
	// It compares the zip with the sources of this commit, and scans them.
	folder, err := os.MkdirTemp("", "specwatch-source-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := sh.Run("git", "worktree", "add", "--detach", folder+"/source"); err != nil {
		return err
	}
	defer sh.Run("git", "worktree", "remove", "--force", folder+"/source") //nolint:errcheck // the folder goes in any case
	return sh.RunV(validator, "-config", ".config/plugin-validator.yaml", "-sourceCodeUri", "file://"+folder+"/source", zip)
}
