// Package atomicfile replaces files so that a reader sees the old content or the new: never a part, never an empty
// file, never a wrong mode, and never no file at all.
//
// A file is written under a temporary name in the same directory, gets its mode there, and takes its place by
// rename(2), which also makes inotify on the directory work. Nothing is synced to a disk: the directory is a tmpfs that
// ends with its pod, where fsync does nothing; a power failure leaves no file behind that could be incomplete.
//
// The package runs in every pod of podtoken's users: standard library and pkg/api only.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/podtoken/podtoken/pkg/api"
)

// folderMode is that of the folders a path needs; the setgid bit of the folder above is kept, so that fsGroup works.
const folderMode fs.FileMode = 0o755

// Dir is a directory in which files are replaced. No name leads out of it.
type Dir struct {
	root *os.Root
	// fill writes the content; a test replaces it to run out of space.
	fill func(w io.Writer, content []byte) error
}

// Open opens an existing directory.
func Open(name string) (*Dir, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("opening the token directory: %w", err)
	}
	return &Dir{root: root, fill: func(w io.Writer, content []byte) error {
		_, err := w.Write(content)
		return err
	}}, nil
}

// Close releases the directory.
func (d *Dir) Close() error { return d.root.Close() }

// Write replaces the file name, a slash-separated path below the directory, and creates the folders it needs. The mode
// is exact, whatever the umask. On any error the old file is untouched and no temporary file is left.
func (d *Dir) Write(name string, content []byte, mode fs.FileMode) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %q: %w", name, err)
		}
	}()
	folder := path.Dir(name)
	if err := d.makeFolders(folder); err != nil {
		return err
	}
	info, err := d.root.Lstat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is in the way: remove it, only a regular file is replaced", describe(info.Mode()))
	}
	temporary := path.Join(folder, api.TempPrefix+rand.Text())
	f, err := d.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.root.Remove(temporary))
		}
	}()
	err = errors.Join(d.fill(f, content), setMode(f, mode), f.Close())
	if err != nil {
		return err
	}
	return d.root.Rename(temporary, name)
}

// setMode sets the mode and looks whether the file system took it.
func setMode(f *os.File, mode fs.FileMode) error {
	if err := f.Chmod(mode); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm() != mode {
		return fmt.Errorf("the file system made mode %04o of %04o", info.Mode().Perm(), mode)
	}
	return nil
}

// makeFolders makes folder and those above it.
func (d *Dir) makeFolders(folder string) error {
	if folder == "." {
		return nil
	}
	if err := d.makeFolders(path.Dir(folder)); err != nil {
		return err
	}
	info, err := d.root.Lstat(folder)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.root.Mkdir(folder, folderMode); err != nil {
			return err
		}
		info, err = d.root.Lstat(folder)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is in the way: %q must be a folder", describe(info.Mode()), folder)
	}
	if info.Mode().Perm()&folderMode == folderMode {
		return nil
	}
	// The umask, or a run that was killed right after Mkdir.
	return d.root.Chmod(folder, folderMode|info.Mode()&fs.ModeSetgid)
}

// Clean removes the temporary files that a killed process left, in the directory and its folders.
func (d *Dir) Clean() error {
	var problems []error
	err := fs.WalkDir(d.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			problems = append(problems, err)
			return nil
		}
		if entry.Type().IsRegular() && strings.HasPrefix(entry.Name(), api.TempPrefix) {
			problems = append(problems, d.root.Remove(name))
		}
		return nil
	})
	return errors.Join(append(problems, err)...)
}

func describe(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode.IsRegular():
		return "a file"
	}
	return "a special file"
}
