//go:build unix && !linux

package embedded

import "syscall"

// processAttributes keep the terminal's Ctrl-C away from the server: its parent
// decides when it stops.
func processAttributes(account *account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Credential: account.credential(),
		Setpgid:    true,
	}
}

// servesDirectory says whether the process may be a server on the data
// directory. Any living process may be: what directory it works in cannot be
// asked here.
func servesDirectory(pid int, _ string) bool {
	return syscall.Kill(pid, 0) == nil
}
