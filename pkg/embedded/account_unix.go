//go:build unix

package embedded

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// accountName is the user that PostgreSQL runs as if this process runs as root:
// PostgreSQL refuses to run as root.
const accountName = "nobody"

// relocated is the directory for the data of root's servers if that user cannot
// enter the directory asked for.
const relocated = "/var/lib/specwatch"

// account is a user that the server runs as; nil: the user of this process.
type account struct {
	uid, gid uint32
}

func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	found, err := user.Lookup(accountName)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL refuses to run as root and there is no user %q to run it as: %w; run this as an ordinary user", accountName, err)
	}
	// macOS writes the number as -2.
	uid, err := strconv.ParseInt(found.Uid, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("user %q has an unusable number: %w", accountName, err)
	}
	gid, err := strconv.ParseInt(found.Gid, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("user %q has an unusable group: %w", accountName, err)
	}
	return &account{uid: uint32(uid), gid: uint32(gid)}, nil // #nosec G115 -- -2 means 2^32-2
}

// Place returns the directory that Start uses for dir. That is dir itself, made
// absolute, except for root: PostgreSQL then runs as another user, who cannot
// enter a directory below one that is closed to others.
func Place(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("cannot find the directory for PostgreSQL's data: %w", err)
	}
	account, err := serverAccount()
	if err != nil || account == nil || account.reaches(filepath.Dir(dir)) {
		return dir, err
	}
	if err := os.MkdirAll(relocated, 0o755); err != nil {
		return "", fmt.Errorf("the user %q, as whom PostgreSQL must run, cannot enter %s, and no other place can be made: %w; choose a directory that user can enter", accountName, dir, err)
	}
	name := sha256.Sum256([]byte(dir))
	return filepath.Join(relocated, filepath.Base(dir)+"-"+hex.EncodeToString(name[:6])), nil
}

// reaches reports whether the account may enter dir and all directories above it.
// It may enter those that do not exist, because they are made with such rights.
func (a *account) reaches(dir string) bool {
	for {
		info, err := os.Stat(dir)
		if err == nil && !a.enters(info) {
			return false
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		up := filepath.Dir(dir)
		if up == dir {
			return true
		}
		dir = up
	}
}

func (a *account) enters(info fs.FileInfo) bool {
	if status, ok := info.Sys().(*syscall.Stat_t); ok && status.Uid == a.uid {
		return info.Mode()&0o100 != 0
	}
	return info.Mode()&0o001 != 0
}

// own makes the account the owner of dir and of what is in it.
func (a *account) own(dir string) error {
	if a == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if status, ok := info.Sys().(*syscall.Stat_t); ok && status.Uid == a.uid && status.Gid == a.gid {
			return nil
		}
		return os.Lchown(path, int(a.uid), int(a.gid)) // #nosec G122 -- nobody else writes in this folder yet, and links are not followed
	})
	if err != nil {
		return fmt.Errorf("cannot make the user %q, as whom PostgreSQL must run, the owner of %s: %w", accountName, dir, err)
	}
	return nil
}

func (a *account) credential() *syscall.Credential {
	if a == nil {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// shutdown is a signal that ends a server.
type shutdown = syscall.Signal

const (
	fastShutdown      = syscall.SIGINT
	immediateShutdown = syscall.SIGQUIT
)

func signalServer(_ installation, process *os.Process, kind shutdown) error {
	return process.Signal(kind)
}

// killTree kills a server with all its processes and waits until they have ended.
// It first stops the server, which then starts no process while they are listed.
func killTree(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); errors.Is(err, syscall.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot kill PostgreSQL (process %d): %w", pid, err)
	}
	// The signal arrives later than kill returns, and the server may start a
	// process until then.
	for running(pid) && !stopped(pid) {
		time.Sleep(time.Millisecond)
	}
	children, err := childrenOf(pid)
	for _, process := range append(children, pid) {
		if killed := syscall.Kill(process, syscall.SIGKILL); killed != nil && !errors.Is(killed, syscall.ESRCH) {
			err = errors.Join(err, fmt.Errorf("cannot kill PostgreSQL (process %d): %w", process, killed))
		}
	}
	for _, process := range children {
		for running(process) {
			time.Sleep(time.Millisecond) // the end of another process's child cannot be waited for
		}
	}
	return err
}

// killGroup ends a child process and those that it started.
func killGroup(process *os.Process) error {
	err := syscall.Kill(-process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
