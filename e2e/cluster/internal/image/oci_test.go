package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// testLayout is an image for an architecture, as buildah would push it.
func testLayout(t *testing.T, architecture string) string {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "image.tar")
	if err := testImage(t).Write(archive); err != nil {
		t.Fatal(err)
	}
	made, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := made.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.Architecture = architecture
	if made, err = mutate.ConfigFile(made, config); err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	path, err := layout.Write(directory, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(made); err != nil {
		t.Fatal(err)
	}
	return directory
}

func TestAnIndexIsReadAsItWasWritten(t *testing.T) {
	created := time.Unix(1_700_000_000, 0)
	first, second := filepath.Join(t.TempDir(), "a.tar"), filepath.Join(t.TempDir(), "b.tar")
	for _, path := range []string{first, second} {
		if err := WriteIndex([]string{testLayout(t, "amd64"), testLayout(t, "arm64")}, "1.2.3", path, created); err != nil {
			t.Fatal(err)
		}
	}
	read, err := ReadIndex(first)
	if err != nil {
		t.Fatal(err)
	}
	if read.Tag != "1.2.3" || !strings.HasPrefix(read.Digest, "sha256:") || len(read.Images) != 2 {
		t.Fatalf("got %+v", read)
	}
	for i, architecture := range []string{"amd64", "arm64"} {
		got := read.Images[i]
		if got.Config.Platform().String() != (v1.Platform{OS: "linux", Architecture: architecture}).String() {
			t.Errorf("image %d is for %s", i, got.Config.Platform())
		}
		var program *Entry
		for n := range got.Files {
			if got.Files[n].Name == "program" {
				program = &got.Files[n]
			}
		}
		if program == nil || program.Mode.Perm() != 0o755 || string(program.Content) != "\x7fELF" {
			t.Errorf("image %d has the program %+v", i, program)
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
		t.Error("the same images gave two different archives")
	}
}

func TestADamagedIndexIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	if err := WriteIndex([]string{testLayout(t, "amd64")}, "1.2.3", path, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.ReplaceAll(content, []byte("65532:65532"), []byte("00000:00000"))
	if bytes.Equal(content, damaged) {
		t.Fatal("the archive does not have what the test wants to change")
	}
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadIndex(path); err == nil {
		t.Error("a config that is not what its digest says was accepted")
	}
}
