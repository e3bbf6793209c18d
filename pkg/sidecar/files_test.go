package sidecar

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/status"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

// header is a token that is read as a header, the token itself being hidden, with a second file of the cluster.
func header() api.TokenSpec {
	token := spec("vault", 3600)
	token.Path = ".podtoken-token-vault"
	token.Files = []api.FileSpec{
		{Path: "deep/vault", Steps: []api.Step{{Text: "Authorization: Bearer "}, {Value: &api.Expr{Get: ".token"}}}},
		{Path: "cluster", Steps: []api.Step{{Value: &api.Expr{Get: ".cluster.ca"}}, {Text: " "}, {Value: &api.Expr{Get: ".claims.jti"}}}},
	}
	return token
}

// clusterInfo is what the sidecar is told of the cluster; it may change.
type clusterInfo struct {
	mu  sync.Mutex
	ca  string
	err error
}

func (c *clusterInfo) get() (tokenfile.Cluster, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return tokenfile.Cluster{Server: "https://a", CA: c.ca}, c.err
}

func (c *clusterInfo) set(ca string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ca, c.err = ca, err
}

func (b *bench) read(path string) string {
	b.t.Helper()
	content, err := os.ReadFile(filepath.Join(b.disk.dir, path))
	must(b.t, err)
	return string(content)
}

// datedNow gives the token's file the time of the bubble, which is not that of the file system.
func (b *bench) datedNow() {
	b.t.Helper()
	must(b.t, os.Chtimes(filepath.Join(b.disk.dir, ".podtoken-token-vault"), time.Now(), time.Now()))
}

// consistent checks that all files are of the token that is hidden, and returns the inodes.
func (b *bench) consistent(ca string) (inodes []uint64) {
	b.t.Helper()
	file, content, err := status.ReadToken(b.disk.dir, ".podtoken-token-vault")
	must(b.t, err)
	if got := b.read("deep/vault"); got != "Authorization: Bearer "+string(content) {
		b.t.Errorf("the header is not of the token: %d bytes", len(got))
	}
	if got, want := b.read("cluster"), ca+" "+file.Claims.ID; got != want {
		b.t.Errorf("the other file is %q, want %q", got, want)
	}
	for _, path := range []string{".podtoken-token-vault", "deep/vault", "cluster"} {
		info, err := os.Lstat(filepath.Join(b.disk.dir, path))
		must(b.t, err)
		if info.Mode() != 0o400 {
			b.t.Errorf("%s has mode %s", path, info.Mode())
		}
		inodes = append(inodes, info.Sys().(*syscall.Stat_t).Ino)
	}
	return inodes
}

// The files that are made out of a token are those of each new token, and after a restart they stay as they are.
func TestFilesAreMadeOfEveryToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, header())
		realFiles(t, b)
		cluster := &clusterInfo{ca: "CA"}
		b.sidecar.cluster = cluster.get
		b.run()
		first := b.consistent("CA")
		b.pass(50 * time.Minute)
		second := b.consistent("CA")
		for i := range first {
			if first[i] == second[i] {
				t.Errorf("file %d was not replaced", i)
			}
		}
		want := []status.Token{{Name: "vault", Path: ".podtoken-token-vault", Audiences: []string{"aud-vault"}, Files: []string{"deep/vault", "cluster"}}}
		got := b.status().Tokens
		for i := range got {
			got[i].ExpiresAt, got[i].RefreshAt, got[i].RequestedAt, got[i].LastSuccess = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
		lines, fresh, err := status.Check(b.disk.dir, time.Now())
		if err != nil || !fresh || !strings.Contains(lines[0], "(file deep/vault cluster, audiences aud-vault") {
			t.Errorf("check: %q, %v, %v", lines, fresh, err)
		}
		must(t, b.stop())
		if strings.Contains(b.log.String(), ".podtoken-token-") || !strings.Contains(b.log.String(), `"path":"deep/vault"`) {
			t.Errorf("the log names a path that users do not know: %s", b.log)
		}

		b.datedNow()
		b.restart(header())
		realFiles(t, b)
		b.sidecar.cluster = cluster.get
		b.run()
		if diff := cmp.Diff(second, b.consistent("CA")); diff != "" {
			t.Errorf("a restart wrote files that were good:\n%s", diff)
		}
		if n := b.requests(); n != 2 {
			t.Errorf("%d requests, want no third", n)
		}
		must(t, b.stop())
	})
}

// Whatever a predecessor left, the files are made anew out of the token that it left; the API server is not asked.
func TestFilesAreMadeAnewAfterARestart(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"it was killed before the first file": func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "deep"))) },
		"it was killed after a newer one": func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "deep/vault")), os.WriteFile(filepath.Join(dir, "deep/vault"), []byte("Authorization: Bearer newer"), 0o400))
		},
		"another mode": func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "deep/vault"), 0o444)) },
		"a folder": func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "cluster")), os.Mkdir(filepath.Join(dir, "cluster"), 0o755))
		},
		"a link": func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "cluster")), os.Symlink("deep/vault", filepath.Join(dir, "cluster")))
		},
		"both are empty": func(t *testing.T, dir string) {
			must(t, os.Truncate(filepath.Join(dir, "cluster"), 0), os.Truncate(filepath.Join(dir, "deep/vault"), 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, header())
				realFiles(t, b)
				cluster := &clusterInfo{ca: "CA"}
				b.sidecar.cluster = cluster.get
				b.run()
				must(t, b.stop())
				b.datedNow()
				damage(t, b.disk.dir)
				b.restart(header())
				realFiles(t, b)
				b.sidecar.cluster = cluster.get
				b.run()
				b.consistent("CA")
				if n := b.requests(); n != 1 {
					t.Errorf("%d requests", n)
				}
				if batches := b.batches.Load(); batches == nil || len(*batches) < 2 && name != "another mode" {
					t.Errorf("the application was told of %v", batches)
				}
				must(t, b.stop())
			})
		})
	}
}

// A text that cannot be made, or a file that cannot be written, replaces nothing: what is there is of one good token, and the
// attempts go on.
func TestAFileThatCannotBeMadeReplacesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, header())
		realFiles(t, b)
		cluster := &clusterInfo{ca: "CA"}
		b.sidecar.cluster = cluster.get
		b.run()
		before := b.consistent("CA")
		cluster.set("", &Error{Class: ClassCredential, Message: "reading the cluster's CA: gone"})
		b.pass(50 * time.Minute)
		if diff := cmp.Diff(before, b.consistent("CA")); diff != "" {
			t.Errorf("files were replaced:\n%s", diff)
		}
		if got := b.status().Tokens[0]; got.LastErrorClass != "Credential" || got.LastError != "Credential: reading the cluster's CA: gone" {
			t.Errorf("status: %+v", got)
		}
		cluster.set("CA", nil)
		b.pass(10 * time.Minute)
		after := b.consistent("CA")
		if before[0] == after[0] || b.status().Tokens[0].LastErrorClass != "" {
			t.Errorf("the files were not replaced: %+v", b.status().Tokens[0])
		}
		must(t, b.stop())
	})
}

// Files that have nothing of the cluster do not depend on what is known of it.
func TestFilesWithoutTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := header()
		token.Files = token.Files[:1]
		b := newBench(t, token)
		b.sidecar.cluster = (&clusterInfo{err: errors.New("unknown")}).get
		b.run()
		if got, want := b.read("deep/vault"), "Authorization: Bearer "+b.read(".podtoken-token-vault"); got != want {
			t.Errorf("the header is not of the token: %d bytes", len(got))
		}
		must(t, b.stop())
	})
}

// A token that is too large for its file, which the check cannot know of, is such a failure too; it has no part of the text.
func TestATextThatIsTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, header())
		cluster := &clusterInfo{ca: "CA"}
		b.sidecar.cluster = cluster.get
		b.run()
		before := b.read("deep/vault")
		cluster.set(strings.Repeat("SECRET", 20_000), nil)
		b.pass(time.Hour)
		if got := b.status().Tokens[0]; got.LastError != "File: making cluster: the file would be longer than 65536 bytes" {
			t.Errorf("status: %+v", got)
		}
		if b.read("deep/vault") != before || b.read("cluster")[:3] != "CA " {
			t.Error("a file was replaced")
		}
		must(t, b.stop())
		if strings.Contains(b.log.String(), "SECRET") {
			t.Error("the text is in the log")
		}
	})
}

// The token's own file is written last: where it is, the others are, which is what `wait` and `check` rely on.
func TestTheTokenItselfIsWrittenLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, header())
		cluster := &clusterInfo{ca: "CA"}
		b.sidecar.cluster = cluster.get
		order := &writeOrder{Writer: b.disk}
		b.sidecar.writer = order
		b.run()
		must(t, b.stop())
		if diff := cmp.Diff([]string{"deep/vault", "cluster", ".podtoken-token-vault"}, order.paths); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// writeOrder notes the order of writes, and fails for one path.
type writeOrder struct {
	Writer

	mu    sync.Mutex
	paths []string
	fail  string
}

func (w *writeOrder) failFor(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = path
}

func (w *writeOrder) Write(path string, content []byte, mode fs.FileMode) (fs.FileInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if path == w.fail {
		return nil, errors.New("not now")
	}
	if path != api.StatusFile {
		w.paths = append(w.paths, path)
	}
	return w.Writer.Write(path, content, mode)
}

// When only the second of three files can be written late, the others are written once more with it, and nobody is asked.
func TestOneFileThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, header())
		cluster := &clusterInfo{ca: "CA"}
		b.sidecar.cluster = cluster.get
		order := &writeOrder{Writer: b.disk, fail: "cluster"}
		b.sidecar.writer = order
		b.run()
		if _, err := os.Lstat(filepath.Join(b.disk.dir, ".podtoken-token-vault")); err == nil {
			t.Error("the token is there before its files")
		}
		order.failFor("")
		b.pass(time.Minute)
		b.consistent("CA")
		if n := b.requests(); n != 1 {
			t.Errorf("%d requests", n)
		}
		must(t, b.stop())
	})
}

// Files that are made out of a token are guarded as the token's own.
func TestMadeFilesAreRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, header())
		realFiles(t, b)
		cluster := &clusterInfo{ca: "CA"}
		b.sidecar.cluster = cluster.get
		b.run()
		must(t, os.RemoveAll(filepath.Join(b.disk.dir, "deep")), os.Remove(filepath.Join(b.disk.dir, ".podtoken-token-vault")),
			os.Chmod(filepath.Join(b.disk.dir, "cluster"), 0o444))
		b.pass(time.Minute)
		b.consistent("CA")
		if got := b.snapshot.Load().Tokens[0].Restored; got != 3 || b.requests() != 1 {
			t.Errorf("%d files were restored, %d requests", got, b.requests())
		}
		must(t, b.stop())
	})
}

// A cluster that gets another authority has it in the files within a minute, not with the next token, and applications are told.
func TestFilesFollowTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, header())
		realFiles(t, b)
		cluster := &clusterInfo{ca: "CA"}
		b.sidecar.cluster = cluster.get
		b.run()
		before := b.consistent("CA")
		cluster.set("CA and a second one", nil)
		b.pass(time.Minute)
		after := b.consistent("CA and a second one")
		if before[0] != after[0] || before[1] != after[1] || before[2] == after[2] {
			t.Errorf("another file than that of the cluster was written: %v, %v", before, after)
		}
		b.pass(time.Minute)
		if diff := cmp.Diff([]string{"vault", "vault"}, *b.batches.Load()); diff != "" || b.requests() != 1 {
			t.Errorf("the application was told (-want +got):\n%s%d requests", diff, b.requests())
		}
		must(t, b.stop())
	})
}

func TestUsesCluster(t *testing.T) {
	get := func(name string) []api.Step { return []api.Step{{Value: &api.Expr{Get: name}}} }
	for name, c := range map[string]struct {
		steps []api.Step
		want  bool
	}{
		"a text":               {[]api.Step{{Text: ".cluster"}}, false},
		"another value":        {get(".token"), false},
		"the server":           {get(".cluster.server"), true},
		"everything":           {get("."), true},
		"a variable":           {get("$.cluster.ca"), true},
		"an argument":          {[]api.Step{{Value: &api.Expr{Call: "base64", Args: []api.Expr{{Get: ".cluster.ca"}}}}}, true},
		"a branch":             {[]api.Step{{Do: "if", Value: &api.Expr{Get: ".token"}, Then: get(".token"), Else: get(".cluster.ca")}}, true},
		"a branch without any": {[]api.Step{{Do: "if", Value: &api.Expr{Get: ".token"}, Then: get(".token"), Else: get(".pod.name")}}, false},
	} {
		if got := usesCluster(c.steps); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
