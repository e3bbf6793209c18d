package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testImage(t *testing.T) Image {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("\x7fELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	made := Program(program, "podtoken.test/probe:1")
	made.Files = append(made.Files,
		File{Path: "tmp", Dir: true, Mode: 0o777 | fs.ModeSticky},
		File{Path: "bin/sh", Link: "busybox"},
		File{Path: "etc/group", Mode: 0o644, Text: "root:x:0:\n"})
	return made
}

func TestArchiveIsWhatContainerdReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := testImage(t).Write(path); err != nil {
		t.Fatal(err)
	}
	members := readTar(t, path)
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(members["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || len(manifest[0].Layers) != 1 {
		t.Fatalf("manifest.json is %s", members["manifest.json"])
	}
	if diff := cmp.Diff([]string{"podtoken.test/probe:1"}, manifest[0].RepoTags); diff != "" {
		t.Error(diff)
	}
	var config struct {
		Architecture, OS string
		Config           struct {
			User       string
			Entrypoint []string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(members[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Architecture != runtime.GOARCH {
		t.Errorf("platform is %s/%s", config.OS, config.Architecture)
	}
	if config.Config.User != "65532:65532" || !cmp.Equal(config.Config.Entrypoint, []string{"/program"}) {
		t.Errorf("config is %+v", config.Config)
	}
	sum := sha256.Sum256(members[manifest[0].Layers[0]])
	if want := []string{"sha256:" + hex.EncodeToString(sum[:])}; !cmp.Equal(config.RootFS.DiffIDs, want) {
		t.Errorf("diff_ids are %q, want %q", config.RootFS.DiffIDs, want)
	}

	type entry struct {
		Name, Link string
		Mode       int64
		Kind       byte
	}
	var got []entry
	for layer := tar.NewReader(bytes.NewReader(members[manifest[0].Layers[0]])); ; {
		header, err := layer.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry{header.Name, header.Linkname, header.Mode, header.Typeflag})
	}
	want := []entry{
		{"program", "", 0o755, tar.TypeReg},
		{"tmp/", "", 0o1777, tar.TypeDir},
		{"bin/sh", "busybox", 0o777, tar.TypeSymlink},
		{"etc/group", "", 0o644, tar.TypeReg},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestArchiveIsReproducible(t *testing.T) {
	made := testImage(t)
	first, second := filepath.Join(t.TempDir(), "a.tar"), filepath.Join(t.TempDir(), "b.tar")
	for _, path := range []string{first, second} {
		if err := made.Write(path); err != nil {
			t.Fatal(err)
		}
	}
	a, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the same image gave two different archives")
	}
}

func TestAFailedArchiveLeavesNoFile(t *testing.T) {
	directory := t.TempDir()
	broken := Image{Names: []string{"podtoken.test/broken:1"}, Files: []File{{Path: "program", Source: filepath.Join(directory, "absent")}}}
	if err := broken.Write(filepath.Join(directory, "image.tar")); err == nil {
		t.Fatal("an image with an absent file was written")
	}
	entries, err := os.ReadDir(directory)
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

func readTar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	members := map[string][]byte{}
	for archive := tar.NewReader(file); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return members
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		members[header.Name] = content
	}
}
