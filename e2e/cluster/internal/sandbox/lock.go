package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

var errLocked = errors.New("locked by another process")

// lock is an flock: the kernel gives it up when the process ends in whatever way, so it never has to be cleaned.
type lock struct{ file *os.File }

func tryLock(path string) (*lock, error) {
	for {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = file.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errLocked
			}
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		// The holder before may have removed the file between our open and our lock; then the lock is one on nothing.
		named, err := os.Stat(path)
		if err == nil {
			if opened, err := file.Stat(); err == nil && os.SameFile(named, opened) {
				return &lock{file: file}, nil
			}
		}
		_ = file.Close()
	}
}

func (l *lock) release() { _ = l.file.Close() }

func (l *lock) removeAndRelease() {
	_ = os.Remove(l.file.Name())
	_ = l.file.Close()
}
