package atomicfile

import (
	"bytes"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// writeForever names the directory in which a process of TestKilledAtAnyMoment writes until it is killed.
const writeForever = "PODTOKEN_TEST_WRITE_FOREVER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writeForever); dir != "" {
		d, err := Open(dir)
		if err != nil {
			os.Exit(3)
		}
		plain := d.fill
		d.fill = func(w io.Writer, content []byte) error {
			// In two parts, so that a kill between them is likely.
			if err := plain(w, content[:len(content)/2]); err != nil {
				return err
			}
			return plain(w, content[len(content)/2:])
		}
		for i := 0; ; i++ {
			if _, err := d.Write("a/vault", bytes.Repeat([]byte{byte('0' + i%10)}, 64<<10), 0o440); err != nil {
				os.Exit(4)
			}
		}
	}
	os.Exit(m.Run())
}

// SIGKILL, as of the kernel that is out of memory, comes between any two steps of a write: what lies there is whole, what
// is left over is cleaned up, and the next process writes on.
func TestKilledAtAnyMoment(t *testing.T) {
	d, dir := open(t)
	leftovers := 0
	write(t, d, "a/vault", bytes.Repeat([]byte{'x'}, 64<<10), 0o440)
	for range 40 {
		writer := exec.Command(os.Args[0])
		writer.Env = append(os.Environ(), writeForever+"="+dir)
		check(t, writer.Start())
		before, err := os.Stat(filepath.Join(dir, "a/vault"))
		check(t, err)
		// Until it writes, and then some writes more.
		for deadline := time.Now().Add(10 * time.Second); ; {
			info, err := os.Stat(filepath.Join(dir, "a/vault"))
			check(t, err)
			if !os.SameFile(info, before) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the writer does not write")
			}
		}
		for range rand.IntN(2000) {
			_, _ = os.Lstat(dir)
		}
		check(t, writer.Process.Signal(syscall.SIGKILL))
		_ = writer.Wait()
		if state := writer.ProcessState.Sys().(syscall.WaitStatus); !state.Signaled() {
			t.Fatalf("the writer ended by itself: %v", writer.ProcessState)
		}
		info, err := os.Lstat(filepath.Join(dir, "a/vault"))
		check(t, err)
		content, err := os.ReadFile(filepath.Join(dir, "a/vault"))
		check(t, err)
		if len(content) != 64<<10 || strings.Trim(string(content), string(content[:1])) != "" || info.Mode() != 0o440 {
			t.Fatalf("%d bytes, mode %s", len(content), info.Mode())
		}
		leftovers += temporaries(t, dir)
		check(t, d.Clean())
		if n := temporaries(t, dir); n != 0 {
			t.Fatalf("%d temporary files are left", n)
		}
	}
	if leftovers == 0 {
		t.Error("no kill came in the middle of a write")
	}
	t.Logf("%d of 40 kills came in the middle of a write", leftovers)
}

func temporaries(t *testing.T, dir string) (n int) {
	check(t, filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(entry.Name(), ".podtoken-tmp-") {
			n++
		}
		return err
	}))
	return n
}
