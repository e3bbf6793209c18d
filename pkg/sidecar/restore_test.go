package sidecar

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/internal/atomicfile"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/status"
)

// realFiles replaces the bench's disk by the real thing.
func realFiles(t *testing.T, b *bench) {
	files, err := atomicfile.Open(b.disk.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = files.Close() })
	b.sidecar.writer = files
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFileThatSomebodyElseChangedIsRestoredFromMemory(t *testing.T) {
	for problem, damage := range map[string]func(t *testing.T, name string){
		"it was deleted": func(t *testing.T, name string) { must(t, os.Remove(name)) },
		"it was overwritten": func(t *testing.T, name string) {
			must(t, os.Chmod(name, 0o600), os.WriteFile(name, []byte("x"), 0o600), os.Chmod(name, 0o400))
		},
		"it was overwritten, at the same length": func(t *testing.T, name string) {
			info, err := os.Stat(name)
			must(t, err, os.Chmod(name, 0o600), os.WriteFile(name, []byte(strings.Repeat("x", int(info.Size()))), 0o600), os.Chmod(name, 0o400))
			// The file system's clock is too coarse for a test that damages what was written a millisecond ago.
			must(t, os.Chtimes(name, time.Now(), time.Now()))
		},
		"it was replaced": func(t *testing.T, name string) {
			must(t, os.WriteFile(name+".x", []byte("x"), 0o400), os.Rename(name+".x", name))
		},
		"its mode was changed":                     func(t *testing.T, name string) { must(t, os.Chmod(name, 0o444)) },
		"a folder is in its place":                 func(t *testing.T, name string) { must(t, os.Remove(name), os.Mkdir(name, 0o755)) },
		"a link or a special file is in its place": func(t *testing.T, name string) { must(t, os.Remove(name), os.Symlink("elsewhere", name)) },
		"it was deleted with its folder":           func(t *testing.T, name string) { must(t, os.RemoveAll(filepath.Dir(name))) },
	} {
		t.Run(problem, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				token := spec("vault", 3600)
				token.Path = "deep/vault"
				b := newBench(t, token)
				realFiles(t, b)
				b.run()
				name := filepath.Join(b.disk.dir, "deep/vault")
				before, err := os.ReadFile(name)
				must(t, err)
				b.pass(10 * time.Minute)
				damage(t, name)
				b.pass(time.Minute)
				after, err := os.ReadFile(name)
				must(t, err)
				info, err := os.Lstat(name)
				must(t, err)
				if string(after) != string(before) || info.Mode() != 0o400 {
					t.Errorf("mode %s, %d bytes of %d", info.Mode(), len(after), len(before))
				}
				b.pass(10 * time.Minute)
				_ = b.stop()
				if n := b.requests(); n != 1 {
					t.Errorf("%d requests", n)
				}
				if one := b.snapshot.Load().Tokens[0]; one.Restored != 1 || one.Refreshes[CauseMissing] != 1 {
					t.Errorf("%+v", one)
				}
				if diff := cmp.Diff([]string{"vault"}, *b.batches.Load()); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff([]string{"INFO Starting", "INFO Token written", "WARN Token file restored"}, b.messages()); diff != "" {
					t.Error(diff)
				}
				problem, _, _ := strings.Cut(strings.TrimSuffix(problem, " with its folder"), ",")
				if !strings.Contains(b.log.String(), problem) || strings.Contains(b.log.String(), "eyJ") {
					t.Error(b.log)
				}
			})
		})
	}
}

func TestAFileThatCannotBeRestoredIsTriedAgainUntilItCan(t *testing.T) {
	for name, reason := range map[string]error{
		"the disk is full":           syscall.ENOSPC,
		"the directory is read-only": syscall.EROFS,
		"no permission":              syscall.EACCES,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, spec("vault", 3600)).run()
				path := filepath.Join(b.disk.dir, "vault")
				b.disk.err.Store(&reason)
				must(t, os.Remove(path))
				b.pass(5 * time.Minute)
				one := b.status().Tokens[0]
				if one.LastErrorClass != "File" || !strings.Contains(one.LastError, reason.Error()) || one.Failures < 2 {
					t.Errorf("%+v", one)
				}
				b.disk.err.Store(nil)
				b.pass(15 * time.Second)
				if b.left("vault") < 54*time.Minute || b.requests() != 1 {
					t.Errorf("%d requests", b.requests())
				}
				if one := b.status().Tokens[0]; one.LastError != "" || one.Failures != 0 {
					t.Errorf("%+v", one)
				}
				_ = b.stop()
				want := []string{"INFO Starting", "INFO Token written", "WARN Token file not restored", "WARN Token file restored"}
				if diff := cmp.Diff(want, b.messages()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestTheStatusFileIsRestoredToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600)).run()
		must(t, os.Remove(filepath.Join(b.disk.dir, ".podtoken-status.json")))
		b.pass(time.Minute)
		if got := b.status().Tokens[0].Name; got != "vault" {
			t.Error(got)
		}
		_ = b.stop()
	})
}

// A Snapshot comes with every change and every minute: it is the loop's beat.
func TestSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 7200))
		b.api.err = &Error{Class: ClassForbidden, Status: 403, Message: "no"}
		b.run()
		b.api.set(func(a *apiServer) { a.err = nil })
		b.pass(10 * time.Second)
		failed, refreshed := map[Class]uint64{}, map[Cause]uint64{}
		for _, class := range Classes() {
			failed[class] = 0
		}
		for _, cause := range Causes() {
			refreshed[cause] = 0
		}
		failed[ClassForbidden], refreshed[CauseMissing] = 1, 1
		asked := b.start.Add(50 * time.Millisecond)
		want := TokenSnapshot{
			Name: "vault", Expires: asked.Add(time.Hour), Ends: asked.Add(time.Hour), LastSuccess: asked,
			AskedSeconds: 7200, GrantedSeconds: 3600, Failures: failed, Refreshes: refreshed,
		}
		first := b.snapshot.Load()
		if diff := cmp.Diff(&Snapshot{Tokens: []TokenSnapshot{want}}, first); diff != "" {
			t.Error(diff)
		}
		b.pass(time.Minute)
		if b.snapshot.Load() == first {
			t.Error("no beat within a minute")
		}
		_ = b.stop()
	})
}

// Everything that changes together is in place before anybody is told.
func TestABatchIsToldWhenAllItsFilesAreInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("a", 3600), spec("b", 3600), spec("c", 3600), spec("d", 3600), spec("e", 3600), spec("f", 3600))
		b.sidecar.minter = slowMinter{b.api}
		b.run()
		b.pass(48*time.Minute + time.Minute)
		if diff := cmp.Diff([]string{"a+b+c+d+e+f", "a+b+c+d+e+f"}, *b.batches.Load()); diff != "" {
			t.Error(diff)
		}
		for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
			f, err := status.ReadFile(b.disk.dir, name)
			if err != nil || time.Until(f.Claims.Expires) < 58*time.Minute {
				t.Errorf("%s: %v", name, err)
			}
		}
		_ = b.stop()
		if slices.Contains(b.messages(), "WARN Token not refreshed") {
			t.Error(b.messages())
		}
	})
}

// Requests that get no answer do not keep the application from what the others brought.
func TestABatchDoesNotWaitForThoseThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		specs := []api.TokenSpec{spec("a", 3600)}
		for _, name := range []string{"hangs-1", "hangs-2", "hangs-3", "hangs-4", "hangs-5", "hangs-6"} {
			specs = append(specs, spec(name, 3600))
		}
		b := newBench(t, specs...)
		b.sidecar.minter = hangingMinter{b.api}
		b.run()
		b.pass(9 * time.Second)
		if got := b.batches.Load(); got != nil {
			t.Errorf("told of %q while more may come", *got)
		}
		b.pass(2 * time.Second)
		if got := b.batches.Load(); got == nil || !slices.Equal(*got, []string{"a"}) {
			t.Fatalf("told of %v, want a", got)
		}
		b.pass(time.Hour)
		if diff := cmp.Diff([]string{"a", "a"}, *b.batches.Load()); diff != "" {
			t.Error(diff)
		}
		_ = b.stop()
	})
}

type hangingMinter struct{ *apiServer }

func (h hangingMinter) Mint(ctx context.Context, spec api.TokenSpec) (Token, error) {
	if spec.Name == "a" {
		return h.apiServer.Mint(ctx, spec)
	}
	select {
	case <-time.After(35 * time.Second):
	case <-ctx.Done():
	}
	return Token{}, &Error{Class: ClassNetwork, Message: "no answer"}
}

// On a full volume a new status has the room of the old one: who asks must not be told that all is well.
func TestTheStatusIsTrueOnAFullVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.sidecar.writer = &fullDisk{disk: b.disk}
		b.run()
		full := error(&os.PathError{Op: "write", Path: "vault", Err: syscall.ENOSPC})
		b.disk.err.Store(&full)
		b.pass(49 * time.Minute)
		b.pass(statusPause) // If it is being written just now.
		if got := b.status().Tokens[0]; got.LastErrorClass != "File" || !strings.Contains(got.LastError, "no space left on device") {
			t.Errorf("%+v", got)
		}
		_ = b.stop()
	})
}

// fullDisk has room for the status while there is no other, and while nobody reads the other.
type fullDisk struct {
	*disk
	held bool
}

func (f *fullDisk) Write(path string, content []byte, mode fs.FileMode) (fs.FileInfo, error) {
	if path != api.StatusFile {
		return f.disk.Write(path, content, mode)
	}
	full := &os.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
	if _, err := os.Stat(filepath.Join(f.dir, path)); err == nil {
		f.held = true
		return nil, full
	}
	if f.held { // The old one is gone, but a reader still has it open.
		f.held = false
		return nil, full
	}
	return f.disk.Write(path, content, mode)
}
