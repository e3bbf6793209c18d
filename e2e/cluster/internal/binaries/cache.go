// Package binaries builds the programs of a cluster from Go modules alone, once per version, into a cache outside the
// repository.
package binaries

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// CacheDir returns the directory for all that is worth keeping between runs:
// ${PODTOKEN_CACHE:-${XDG_CACHE_HOME:-~/.cache}}/podtoken.
func CacheDir() (string, error) {
	parent := os.Getenv("PODTOKEN_CACHE")
	if parent == "" {
		var err error
		if parent, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("finding a directory for the cache: %w; set PODTOKEN_CACHE to a directory", err)
		}
	}
	if !filepath.IsAbs(parent) {
		return "", fmt.Errorf("PODTOKEN_CACHE is %q, but must be an absolute path", parent)
	}
	return filepath.Join(parent, "podtoken"), nil
}

// Lock waits until no other process holds the lock of that path, and returns what gives it up. The kernel gives it up
// too, when the process ends.
func Lock(path string, waiting func()) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		waiting()
		for {
			if err = unix.Flock(int(file.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}

// Hash is a short name for the content of files together with some text, for directories of the cache.
func Hash(files []string, text ...string) (string, error) {
	sum := sha256.New()
	for _, line := range text {
		_, _ = fmt.Fprintf(sum, "%d %s\n", len(line), line)
	}
	for _, path := range files {
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		info, err := file.Stat()
		if err == nil {
			_, _ = fmt.Fprintf(sum, "%s %d\n", filepath.Base(path), info.Size())
			_, err = io.Copy(sum, file)
		}
		_ = file.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}

// publish makes a directory appear under its final name complete, or not at all.
func publish(final string, fill func(directory string) error) error {
	if err := os.MkdirAll(filepath.Dir(final), 0o750); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(filepath.Dir(final), ".building-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temporary) }()
	if err := fill(temporary); err != nil {
		return err
	}
	return os.Rename(temporary, final)
}
