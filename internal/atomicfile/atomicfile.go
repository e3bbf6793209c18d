// Package atomicfile replaces files so that a reader sees the old content or the new: never a part, never an empty
// file, never a wrong mode, and never no file at all.
//
// A file is written under a temporary name in the same directory, gets its mode there, and takes its place by
// rename(2), which also makes inotify on the directory work. Nothing is synced to a disk, neither the file nor the
// directory after the rename: fsync orders what reaches a disk before a power failure, and the directory is a tmpfs, where
// it does nothing (noop_fsync in the kernel's mm/shmem.c). What is in memory is complete for every reader once rename
// returns, and after a power failure, or with the pod's end, nothing is left that could be incomplete.
//
// Nothing depends on the size of a page; for a moment a file takes its space, rounded up to pages, twice.
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
	"syscall"

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
// is exact, whatever the umask; the group is the directory's when that has the setgid bit, as with an fsGroup. A link or
// an empty folder in the way is replaced, not followed; a folder with something in it is left alone. On any error the old
// file is untouched and no temporary file is left. The answer is the file at the moment before it took its place.
func (d *Dir) Write(name string, content []byte, mode fs.FileMode) (info fs.FileInfo, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %q: %w", name, err)
		}
	}()
	folder := path.Dir(name)
	if err := d.makeFolders(folder); err != nil {
		return nil, err
	}
	temporary := path.Join(folder, api.TempPrefix+rand.Text())
	f, err := d.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.root.Remove(temporary))
		}
	}()
	err = d.fill(f, content)
	if err == nil {
		info, err = setMode(f, mode)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if err := d.makeWay(name); err != nil {
		return nil, err
	}
	return info, d.root.Rename(temporary, name)
}

// makeWay removes an empty folder that lies where the file must be: rename(2) replaces everything else by itself. The
// kubelet makes such folders for a subPath that comes before its file.
func (d *Dir) makeWay(name string) error {
	info, err := d.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err == nil {
		err = d.root.Remove(name)
	}
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return errors.New("a folder with something in it is in the way: remove it")
	}
	return err
}

// setMode sets the mode and looks whether the file system took it.
func setMode(f *os.File, mode fs.FileMode) (fs.FileInfo, error) {
	if err := f.Chmod(mode); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm() != mode {
		return nil, fmt.Errorf("the file system made mode %04o of %04o", info.Mode().Perm(), mode)
	}
	return info, nil
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
