package atomicfile

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T) (*Dir, string) {
	t.Helper()
	name := t.TempDir()
	d, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d, name
}

func write(t *testing.T, d *Dir, name string, content []byte, mode fs.FileMode) {
	t.Helper()
	_, err := d.Write(name, content, mode)
	check(t, err)
}

// tree is every name below dir with its mode, and the content of files.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += " " + string(content)
		}
		relative, err := filepath.Rel(dir, name)
		found[relative] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestWrite(t *testing.T) {
	for name, c := range map[string]struct {
		umask   int
		prepare func(t *testing.T, dir string)
		path    string
		mode    fs.FileMode
		want    map[string]string
		err     string
	}{
		"a new file":                         {umask: 0o022, path: "vault", mode: 0o400, want: map[string]string{"vault": "-r-------- new"}},
		"whatever the umask":                 {umask: 0o077, path: "vault", mode: 0o444, want: map[string]string{"vault": "-r--r--r-- new"}},
		"a umask of nothing adds nothing":    {umask: 0, path: "vault", mode: 0o440, want: map[string]string{"vault": "-r--r----- new"}},
		"folders":                            {umask: 0o077, path: "a/b/c", mode: 0o400, want: map[string]string{"a": "drwxr-xr-x", "a/b": "drwxr-xr-x", "a/b/c": "-r-------- new"}},
		"an old file that nobody may write":  {prepare: file("vault", 0o400), path: "vault", mode: 0o400, want: map[string]string{"vault": "-r-------- new"}},
		"an old file with another mode":      {prepare: file("vault", 0o666), path: "vault", mode: 0o440, want: map[string]string{"vault": "-r--r----- new"}},
		"the setgid bit goes on to folders":  {umask: 0o077, prepare: setgid, path: "a/b/c", mode: 0o440, want: map[string]string{"a": "dgrwxr-xr-x", "a/b": "dgrwxr-xr-x", "a/b/c": "-r--r----- new"}},
		"a folder of a killed run is opened": {prepare: folder("a", 0o700), path: "a/c", mode: 0o440, want: map[string]string{"a": "drwxr-xr-x", "a/c": "-r--r----- new"}},
		"an empty folder in the way":         {prepare: folder("vault", 0o755), path: "vault", mode: 0o400, want: map[string]string{"vault": "-r-------- new"}},
		"a folder with something in it":      {prepare: folder("vault/x", 0o755), path: "vault", mode: 0o400, want: map[string]string{"vault": "drwxr-xr-x", "vault/x": "drwxr-xr-x"}, err: `writing "vault": a folder with something in it is in the way: remove it`},
		"a link in the way is not followed":  {prepare: link("vault"), path: "vault", mode: 0o400, want: map[string]string{"vault": "-r-------- new"}},
		"a pipe in the way is not opened":    {prepare: pipe("vault"), path: "vault", mode: 0o400, want: map[string]string{"vault": "-r-------- new"}},
		"a file where a folder must be":      {prepare: file("a", 0o400), path: "a/b", mode: 0o400, want: map[string]string{"a": "-r-------- old"}, err: `writing "a/b": a file is in the way: "a" must be a folder`},
		"a link where a folder must be":      {prepare: link("a"), path: "a/b", mode: 0o400, want: map[string]string{"a": "Lrwxrwxrwx"}, err: `writing "a/b": a symbolic link is in the way: "a" must be a folder`},
		"a path that leads out":              {path: "../vault", mode: 0o400, want: map[string]string{}, err: "path escapes from parent"},
	} {
		t.Run(name, func(t *testing.T) {
			d, dir := open(t)
			defer syscall.Umask(syscall.Umask(0)) // what is prepared has the modes that are named
			if c.prepare != nil {
				c.prepare(t, dir)
			}
			syscall.Umask(c.umask)
			_, err := d.Write(c.path, []byte("new"), c.mode)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if diff := cmp.Diff(c.want, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func file(name string, mode fs.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o600))
		check(t, os.Chmod(filepath.Join(dir, name), mode))
	}
}

func folder(name string, mode fs.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		check(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
		check(t, os.Chmod(filepath.Join(dir, name), mode))
	}
}

func link(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { check(t, os.Symlink("/tmp", filepath.Join(dir, name))) }
}

func pipe(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { check(t, syscall.Mkfifo(filepath.Join(dir, name), 0o600)) }
}

// setgid makes the directory as the kubelet does for an fsGroup.
func setgid(t *testing.T, dir string) {
	check(t, os.Chmod(dir, 0o777|fs.ModeSetgid))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAFullVolumeLeavesTheOldFileAndNoOther(t *testing.T) {
	d, dir := open(t)
	write(t, d, "vault", []byte("old"), 0o400)
	d.fill = func(w io.Writer, content []byte) error {
		_, _ = w.Write(content[:1])
		return syscall.ENOSPC
	}
	_, err := d.Write("vault", []byte("new"), 0o400)
	if err == nil || err.Error() != `writing "vault": no space left on device` {
		t.Errorf("%v", err)
	}
	if diff := cmp.Diff(map[string]string{"vault": "-r-------- old"}, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// The answer describes the very file that lies there, so that what somebody else does to it is noticed.
func TestTheAnswerIsTheFile(t *testing.T) {
	d, dir := open(t)
	wrote, err := d.Write("a/vault", []byte("new"), 0o440)
	check(t, err)
	found, err := os.Lstat(filepath.Join(dir, "a/vault"))
	check(t, err)
	if !os.SameFile(wrote, found) || wrote.Size() != found.Size() || wrote.Mode() != found.Mode() || !wrote.ModTime().Equal(found.ModTime()) {
		t.Errorf("%v and %v", wrote, found)
	}
}

// An fsGroup is the group of a directory with the setgid bit: files get it, also in folders.
func TestTheGroupIsTheDirectorys(t *testing.T) {
	d, dir := open(t)
	group := 4711
	if os.Getuid() != 0 {
		group = os.Getgid()
	}
	check(t, os.Chown(dir, -1, group))
	setgid(t, dir)
	for _, name := range []string{"vault", "a/b/vault"} {
		info, err := d.Write(name, []byte("new"), 0o440)
		check(t, err)
		if got := info.Sys().(*syscall.Stat_t).Gid; int(got) != group {
			t.Errorf("%s has group %d", name, got)
		}
	}
}

func TestCleanRemovesWhatAKilledRunLeftAndNothingElse(t *testing.T) {
	d, dir := open(t)
	write(t, d, "a/b/vault", []byte("token"), 0o400)
	write(t, d, ".podtoken-status.json", []byte("{}"), 0o444)
	file(".podtoken-tmp-ABC", 0o600)(t, dir)
	file("a/b/.podtoken-tmp-DEF", 0o400)(t, dir)
	folder("a/.podtoken-tmp-folder", 0o755)(t, dir)
	check(t, d.Clean())
	want := map[string]string{
		"a": "drwxr-xr-x", "a/b": "drwxr-xr-x", "a/b/vault": "-r-------- token", ".podtoken-status.json": "-r--r--r-- {}",
		"a/.podtoken-tmp-folder": "drwxr-xr-x",
	}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestOpenNeedsTheDirectory(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "missing")); err == nil || !strings.Contains(err.Error(), "opening the token directory") {
		t.Errorf("%v", err)
	}
}

// TestAReaderSeesTheOldOrTheNew reads without a pause while the file is replaced: it is never missing, empty, partial
// or of another mode.
func TestAReaderSeesTheOldOrTheNew(t *testing.T) {
	d, dir := open(t)
	content := func(i int) string { return strings.Repeat(fmt.Sprint(i%10), 4096) }
	write(t, d, "a/vault", []byte(content(0)), 0o440)
	var done atomic.Bool
	finished := make(chan error, 1)
	go func() {
		defer done.Store(true)
		for i := range 500 {
			if _, err := d.Write("a/vault", []byte(content(i)), 0o440); err != nil {
				finished <- err
				return
			}
		}
		finished <- nil
	}()
	reads := 0
	for ; !done.Load(); reads++ {
		f, err := os.Open(filepath.Join(dir, "a/vault"))
		check(t, err)
		info, err := f.Stat()
		check(t, err)
		got, err := io.ReadAll(f)
		check(t, err)
		f.Close()
		if len(got) != 4096 || strings.Trim(string(got), string(got[:1])) != "" || info.Mode() != 0o440 {
			t.Fatalf("read %d: %d bytes, mode %s", reads, len(got), info.Mode())
		}
	}
	check(t, <-finished)
	if reads == 0 {
		t.Error("nothing was read")
	}
}

func BenchmarkWrite(b *testing.B) {
	d, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	content := make([]byte, 1500)
	for b.Loop() {
		if _, err := d.Write("vault", content, 0o400); err != nil {
			b.Fatal(err)
		}
	}
}
