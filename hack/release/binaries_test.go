// Package release has the tests of how podtoken is released. hack/release/release.sh makes a release, reproducible.sh shows
// that the same sources give the same images.
package release

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const root = "../.."

// sources are what `make build` needs.
var sources = []string{"Makefile", "go.mod", "go.sum", "cmd", "internal", "pkg"}

// TestBinariesAreReproducible builds the binaries in two directories, and holds that neither is in them. It uses one cache
// of compiled packages, to be quick; `make reproducible` compiles everything twice, and looks at the images too.
func TestBinariesAreReproducible(t *testing.T) {
	first, second := buildIn(t, "a"), buildIn(t, filepath.Join("b", "another directory"))
	for _, program := range []string{"podtoken-webhook", "podtoken-controller", "podtoken-sidecar", "kubectl-podtoken"} {
		a, b := read(t, filepath.Join(first, "bin", program)), read(t, filepath.Join(second, "bin", program))
		if !bytes.Equal(a, b) {
			t.Errorf("the same sources gave two different binaries %s", program)
		}
		for _, directory := range []string{first, second} {
			if bytes.Contains(a, []byte(directory)) || bytes.Contains(b, []byte(directory)) {
				t.Errorf("%s has the directory in it that it was built in", program)
			}
		}
		if !bytes.Contains(a, []byte("v9.8.7-test")) {
			t.Errorf("%s does not have its version in it", program)
		}
		info, err := buildinfo.Read(bytes.NewReader(a))
		if err != nil {
			t.Fatal(err)
		}
		settings := map[string]string{}
		for _, setting := range info.Settings {
			settings[setting.Key] = setting.Value
		}
		if settings["-trimpath"] != "true" || settings["CGO_ENABLED"] != "0" || settings["vcs"] != "" {
			t.Errorf("%s was built with %v", program, settings)
		}
	}
}

func buildIn(t *testing.T, name string) string {
	t.Helper()
	directory := filepath.Join(t.TempDir(), name)
	for _, source := range sources {
		from, to := filepath.Join(root, source), filepath.Join(directory, source)
		info, err := os.Stat(from)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			err = os.CopyFS(to, os.DirFS(from))
		} else if err = os.MkdirAll(filepath.Dir(to), 0o750); err == nil {
			err = os.WriteFile(to, read(t, from), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "make", "-s", "-C", directory, "build", "VERSION=v9.8.7-test")
	cmd.Env = append(os.Environ(), "MAKEFLAGS=") // what another make, which runs this test, was told is not for this one
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	return directory
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
