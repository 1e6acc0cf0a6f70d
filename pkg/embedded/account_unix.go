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

// accountName is whom root runs PostgreSQL as, which refuses to run as root.
const accountName = "nobody"

// relocated is where root keeps data whose directory that user could not enter.
const relocated = "/var/lib/specwatch"

// account is another user; nil stands for the one who runs this process.
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

// Place is where Start keeps a server that is asked to live in dir. That is dir
// itself, made absolute, except for root: PostgreSQL then runs as another user,
// who cannot enter a directory below one that is closed to others.
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

// reaches says whether the account may enter dir and everything above it. What
// does not exist yet will be made enterable.
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

// own hands dir and what is in it to the account, unless it has it already.
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
		return fmt.Errorf("cannot hand %s to the user %q, as whom PostgreSQL must run: %w", dir, accountName, err)
	}
	return nil
}

func (a *account) credential() *syscall.Credential {
	if a == nil {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// shutdown is how a server is asked to end.
type shutdown = syscall.Signal

const (
	fastShutdown      = syscall.SIGINT
	immediateShutdown = syscall.SIGQUIT
)

func signalServer(_ installation, process *os.Process, kind shutdown) error {
	return process.Signal(kind)
}

// killTree kills a server with all its processes and waits until they are gone.
// It is stopped first, so that it starts no more of them while they are counted.
func killTree(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); errors.Is(err, syscall.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot kill PostgreSQL (process %d): %w", pid, err)
	}
	children, err := childrenOf(pid)
	for _, process := range append(children, pid) {
		if killed := syscall.Kill(process, syscall.SIGKILL); killed != nil && !errors.Is(killed, syscall.ESRCH) {
			err = errors.Join(err, fmt.Errorf("cannot kill PostgreSQL (process %d): %w", process, killed))
		}
	}
	for _, process := range children {
		for living(process) {
			time.Sleep(time.Millisecond) // there is no signal for the child of another process
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
