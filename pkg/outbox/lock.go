package outbox

import (
	"os"
	"path/filepath"
)

// Alone runs do while no other process runs Alone for the same path. A file
// beside it is the lock. If that cannot be opened, do runs without the lock.
func Alone(path string, do func()) {
	if file, err := waitLock(path + ".lock"); err == nil {
		defer file.Close()
	}
	do()
}

// waitLock holds a lock from when it is free until the file is closed.
func waitLock(path string) (*os.File, error) {
	file, err := openLock(path)
	if err == nil {
		waitFor(file)
	}
	return file, err
}

// tryLock is the same for a lock that is free now.
func tryLock(path string) (file *os.File, taken bool, err error) {
	if file, err = openLock(path); err != nil {
		return nil, false, err
	}
	if !lock(file) {
		file.Close()
		return nil, true, nil
	}
	return file, false, nil
}

func openLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
}
