package embedded

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
)

// homeVariable names a directory with bin/initdb and bin/postgres. If it is set, no
// other directory is searched.
const homeVariable = "SPECWATCH_POSTGRES_HOME"

// installation is a set of PostgreSQL programs that the server's user can run.
type installation struct {
	home  string
	major string
}

func (i installation) program(name string) string {
	return program(i.home, name)
}

func program(home, name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(home, "bin", name)
}

// findInstallation searches the directory in SPECWATCH_POSTGRES_HOME, then
// node_modules, then the programs of the machine. If that is not the version asked
// for, it installs this version.
func findInstallation(ctx context.Context, account *account, version string) (installation, error) {
	if version == "" {
		version = os.Getenv(versionVariable)
	}
	home, err := locate()
	if err != nil && version == "" {
		return installation{}, err
	}
	if err == nil {
		found, err := usable(home, account)
		if err != nil || version == "" || found.major == version {
			return found, err
		}
		if os.Getenv(homeVariable) != "" {
			return installation{}, fmt.Errorf("%s is %s, which is PostgreSQL %s, but PostgreSQL %s is asked for: unset it, or name a directory of that version", homeVariable, home, found.major, version)
		}
	}
	if home, err = install(ctx, version); err != nil {
		return installation{}, err
	}
	return usable(home, account)
}

// usable prepares an installation so that the server's user can run it.
func usable(home string, account *account) (installation, error) {
	if err := completeLinks(home); err != nil {
		return installation{}, err
	}
	if account != nil && !account.reaches(home) {
		var err error
		if home, err = copyForAccount(home); err != nil {
			return installation{}, err
		}
	}
	major, err := majorVersion(home)
	if err != nil {
		return installation{}, err
	}
	return installation{home: home, major: major}, nil
}

func locate() (string, error) {
	if home := os.Getenv(homeVariable); home != "" {
		if !hasPrograms(home) {
			return "", fmt.Errorf("%s is %s, which has no bin/initdb and bin/postgres: name a directory that has", homeVariable, home)
		}
		return filepath.Abs(home)
	}
	bundled := filepath.Join("node_modules", npmPackage(), "native")
	if dir := above(func(dir string) bool { return hasPrograms(filepath.Join(dir, bundled)) }); dir != "" {
		return filepath.Join(dir, bundled), nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		// /usr/bin/postgres may be a link into the real installation.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			if home := filepath.Dir(filepath.Dir(real)); hasPrograms(home) {
				return home, nil
			}
		}
	}
	if home := newestDebian("/usr/lib/postgresql"); home != "" {
		return home, nil
	}
	return "", fmt.Errorf("found no PostgreSQL to start (looked for %s, for postgres on PATH and in /usr/lib/postgresql): run `npm ci` in the repository, install PostgreSQL, or set %s to a directory with bin/initdb and bin/postgres; or use a running server through SPECWATCH_DATABASE_URL",
		bundled, homeVariable)
}

// above returns the first directory that fits, from the starting points upwards;
// empty: there is none.
func above(fits func(dir string) bool) string {
	for _, start := range startingPoints() {
		for dir := start; ; dir = filepath.Dir(dir) {
			if fits(dir) {
				return dir
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return ""
}

// startingPoints are where the search for node_modules begins, going upwards:
// the working directory (tests run inside their package) and the executable,
// which `go tool mage` builds inside the repository.
func startingPoints() []string {
	var points []string
	if dir, err := os.Getwd(); err == nil {
		points = append(points, dir)
	}
	if executable, err := os.Executable(); err == nil {
		points = append(points, filepath.Dir(executable))
	}
	return points
}

func hasPrograms(home string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(program(home, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}

// npmPackage is the package with the programs for this machine.
func npmPackage() string {
	system, cpu := runtime.GOOS, runtime.GOARCH
	switch cpu {
	case "amd64":
		cpu = "x64"
	case "386":
		cpu = "ia32"
	case "ppc64le":
		cpu = "ppc64"
	}
	return "@embedded-postgres/" + system + "-" + cpu
}

// newestDebian finds the highest version that Debian's packages installed below root.
func newestDebian(root string) string {
	entries, _ := os.ReadDir(root)
	newest, found := 0, ""
	for _, entry := range entries {
		version, err := strconv.Atoi(entry.Name())
		home := filepath.Join(root, entry.Name())
		if err == nil && version > newest && hasPrograms(home) {
			newest, found = version, home
		}
	}
	return found
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

func majorVersion(home string) (string, error) {
	output, err := exec.Command(program(home, "postgres"), "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s does not run on this machine: %w\n%s", program(home, "postgres"), err, output)
	}
	match := versionPattern.FindSubmatch(output)
	if match == nil {
		return "", fmt.Errorf("%s --version prints %q, which is not a PostgreSQL version", program(home, "postgres"), output)
	}
	return string(match[1]), nil
}

// completeLinks makes the symbolic links that npm archives cannot hold. The
// packages have a list of them and an install script. npm 11 runs install scripts
// only with approval, so the links are made here.
func completeLinks(home string) error {
	content, err := os.ReadFile(filepath.Join(home, "pg-symlinks.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the links that PostgreSQL's libraries need: %w", err)
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(content, &links); err != nil {
		return fmt.Errorf("cannot read %s: %w; remove node_modules and run `npm ci`", filepath.Join(home, "pg-symlinks.json"), err)
	}
	// The list names its files from the package's root, one above home, and may
	// not reach outside of it.
	root, err := os.OpenRoot(filepath.Dir(home))
	if err != nil {
		return fmt.Errorf("cannot open PostgreSQL's package: %w", err)
	}
	defer root.Close()
	for _, link := range links {
		to, err := filepath.Rel(filepath.Dir(link.Target), link.Source)
		if err != nil {
			return fmt.Errorf("PostgreSQL's package lists an unusable link %s: %w", link.Target, err)
		}
		if _, err := root.Lstat(link.Target); err == nil {
			continue
		}
		// Another process may have made it meanwhile.
		if err := root.Symlink(to, link.Target); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot link %s, which PostgreSQL's libraries need: %w", link.Target, err)
		}
	}
	return nil
}

// copies is the directory for copies of programs that the server's user cannot
// reach, such as those in a clone below /root.
const copies = "/var/cache/specwatch"

// copyForAccount copies an installation to where every user can run it. The
// copy's name depends on the content, so that it is made once for each content.
func copyForAccount(home string) (string, error) {
	sum, err := digest(program(home, "postgres"))
	if err != nil {
		return "", err
	}
	target := filepath.Join(copies, "postgresql-"+sum)
	if hasPrograms(target) {
		return target, nil
	}
	if err := os.MkdirAll(copies, 0o755); err != nil {
		return "", fmt.Errorf("PostgreSQL's programs in %s must be copied to where the user %q can run them: %w; or clone to a directory that user can enter", home, accountName, err)
	}
	partial, err := os.MkdirTemp(copies, "partial-")
	if err != nil {
		return "", fmt.Errorf("cannot copy PostgreSQL's programs: %w", err)
	}
	defer os.RemoveAll(partial)
	if err := os.CopyFS(partial, os.DirFS(home)); err != nil {
		return "", fmt.Errorf("cannot copy PostgreSQL's programs from %s: %w", home, err)
	}
	if err := os.Chmod(partial, 0o755); err != nil {
		return "", fmt.Errorf("cannot open the copy of PostgreSQL's programs: %w", err)
	}
	// Another process may have made the same copy meanwhile; then that one is used.
	if err := os.Rename(partial, target); err != nil && !hasPrograms(target) {
		return "", fmt.Errorf("cannot put the copy of PostgreSQL's programs in its place: %w", err)
	}
	return target, nil
}

func digest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read PostgreSQL's programs: %w", err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("cannot read PostgreSQL's programs: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil)[:8]), nil
}
