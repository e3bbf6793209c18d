package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// tampering is what a process may do to a file of its own user, by name. A file of mode 0400 is made writable for as long as
// it takes.
var tampering = map[string]func(path string) error{
	"delete": os.RemoveAll,
	// With as many bytes and the same mode: only the time and the content tell.
	"overwrite": func(path string) error {
		return writable(path, func(info os.FileInfo) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.Write(bytes.Repeat([]byte("x"), int(info.Size())))
			return errors.Join(err, f.Close())
		})
	},
	"truncate": func(path string) error {
		return writable(path, func(os.FileInfo) error { return os.Truncate(path, 0) })
	},
	"chmod": func(path string) error { return os.Chmod(path, 0o644) }, //nolint:gosec // that is the attack
	"symlink": func(path string) error {
		return errors.Join(os.Remove(path), os.Symlink("/etc/hostname", path))
	},
	"folder": func(path string) error {
		return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o755)) //nolint:gosec // the same
	},
	// One that cannot be replaced without losing what is in it.
	"full-folder": func(path string) error {
		return errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "something"), 0o755)) //nolint:gosec // the same
	},
	// Until nothing more goes into its file system, not even a byte.
	"fill": func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		for size := 64 << 10; size > 0 && err == nil; {
			if _, err = f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
				size, err = size/2, nil
			}
		}
		return errors.Join(err, f.Close())
	},
}

func tamper(args []string) error {
	if len(args) != 2 && len(args) != 4 || tampering[args[0]] == nil {
		return errors.New("tamper wants an action, a file, and at most a program with an argument")
	}
	file := args[1]
	if len(args) == 4 {
		pids, err := processes(args[2] + "\x00" + args[3])
		if err != nil {
			return err
		}
		file = filepath.Join("/proc", strconv.Itoa(pids[0]), "root", file)
	}
	return tampering[args[0]](file)
}

func writable(path string, change func(os.FileInfo) error) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	return errors.Join(change(info), os.Chmod(path, info.Mode().Perm()))
}
