package binaries

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// e2eDir is the directory of the module, seen from this package.
const e2eDir = "../../.."

func TestEveryComponentIsPinned(t *testing.T) {
	for _, c := range everyComponent(t) {
		directory, err := c.cacheDir("/cache", e2eDir, "go1.26.0")
		if err != nil {
			t.Errorf("component %q: %v", c.name, err)
			continue
		}
		if !strings.HasPrefix(directory, "/cache/components/"+c.name+"-") {
			t.Errorf("component %q is kept in %s", c.name, directory)
		}
		other, err := c.cacheDir("/cache", e2eDir, "go1.26.1")
		if err != nil || other == directory {
			t.Errorf("component %q is not built again with another version of Go (%v)", c.name, err)
		}
	}
}

// everyComponent returns the components of a cluster of the newest Kubernetes, and what is different in older ones.
func everyComponent(t *testing.T) []component {
	t.Helper()
	versions, err := Versions(e2eDir)
	if err != nil {
		t.Fatal(err)
	}
	all := components(versions[0])
	for _, version := range versions[1:] {
		for _, c := range components(version) {
			if c.dir == kubernetesDir {
				all = append(all, c)
			}
		}
	}
	return all
}

func TestVersionsOfKubernetes(t *testing.T) {
	versions, err := Versions(e2eDir)
	if err != nil {
		t.Fatal(err)
	}
	newest, err := FindVersion(e2eDir, "")
	if err != nil || newest != versions[0] || newest.modfile != "go.mod" || newest.component() != "kubernetes" {
		t.Errorf("the newest version is %+v, %v, want %+v", newest, err, versions[0])
	}
	seen := map[string]string{}
	for _, version := range versions {
		got, err := FindVersion(e2eDir, version.Minor)
		if err != nil || got != version {
			t.Errorf("version %q is %+v, %v, want %+v", version.Minor, got, err, version)
		}
		if !strings.HasPrefix(version.Release, "v"+version.Minor+".") {
			t.Errorf("version %q is release %q", version.Minor, version.Release)
		}
		for _, c := range components(version) {
			if c.dir != kubernetesDir {
				continue
			}
			directory, err := c.cacheDir("/cache", e2eDir, "go1.26.0")
			if err != nil {
				t.Fatal(err)
			}
			if other, ok := seen[directory]; ok {
				t.Errorf("versions %s and %s are kept in the same place", version.Minor, other)
			}
			seen[directory] = version.Minor
		}
	}
	if len(seen) != len(versions) {
		t.Errorf("%d places for %d versions", len(seen), len(versions))
	}
	if _, err := FindVersion(e2eDir, "1.7"); err == nil || !strings.Contains(err.Error(), `version "1.7" of Kubernetes: allowed are `+versions[0].Minor) {
		t.Errorf("a version that there is not: %v", err)
	}
}

func TestAModuleFileOfAnotherVersionIsAnError(t *testing.T) {
	directory := t.TempDir()
	modules := filepath.Join(directory, kubernetesDir)
	if err := os.MkdirAll(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(modules, "1.36.mod"), "module x\n\nrequire k8s.io/kubernetes v1.36.3\n")
	if _, err := Versions(directory); err == nil || !strings.Contains(err.Error(), "has no go.mod") {
		t.Errorf("without go.mod: %v", err)
	}
	writeFile(t, filepath.Join(modules, "go.mod"), "module x\n\nrequire k8s.io/kubernetes v1.37.2\n")
	if all, err := Versions(directory); err != nil || len(all) != 2 || all[0].Minor != "1.37" || all[1].Release != "v1.36.3" {
		t.Errorf("versions are %+v, %v", all, err)
	}
	writeFile(t, filepath.Join(modules, "1.36.mod"), "module x\n\nrequire k8s.io/kubernetes v1.35.4\n")
	if _, err := Versions(directory); err == nil || !strings.Contains(err.Error(), "call it 1.35.mod") {
		t.Errorf("with a file of a wrong name: %v", err)
	}
}

// Programs of another version are compiled with its module file.
func TestAnotherModuleFileIsUsed(t *testing.T) {
	directory := t.TempDir()
	writeFile(t, filepath.Join(directory, "go.mod"), "module x\n\ngo 1.26.0\n")
	writeFile(t, filepath.Join(directory, "other.mod"), "module x\n\ngo 1.26.0\n\nrequire example.invalid/missing v1.0.0\n")
	writeFile(t, filepath.Join(directory, "main.go"), "package main\n\nimport _ \"example.invalid/missing\"\n\nfunc main() {}\n")
	for modfile, want := range map[string]string{
		"go.mod":    "no required module provides package example.invalid/missing",
		"other.mod": "missing go.sum entry",
	} {
		err := goBuild{dir: directory, output: filepath.Join(directory, "out"), modfile: modfile, packages: []string{"."}}.run(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %s: %v, want %q", modfile, err, want)
		}
	}
}

func TestKubernetesKnowsItsVersion(t *testing.T) {
	directory := t.TempDir()
	writeFile(t, filepath.Join(directory, "go.mod"), "module x\n\nrequire (\n\tk8s.io/kubernetes v1.37.2\n)\n")
	c := component{modfile: "go.mod", stamps: map[string]string{"k8s.io/component-base/version.gitVersion": "k8s.io/kubernetes"}}
	got, err := c.ldflags(directory)
	if err != nil {
		t.Fatal(err)
	}
	const want = "-X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
	if got != want {
		t.Errorf("ldflags are %q, want %q", got, want)
	}
}

func TestAVersionThatIsNotRequiredIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "go.mod")
	writeFile(t, path, "module x\n\nrequire example.com/a v1.2.3\n")
	if got, err := requiredVersion(path, "example.com/a"); err != nil || got != "v1.2.3" {
		t.Errorf("version is %q, %v", got, err)
	}
	if _, err := requiredVersion(path, "example.com/b"); err == nil {
		t.Error("a module that is not required has a version")
	}
}

func TestHashChangesWithEverything(t *testing.T) {
	directory := t.TempDir()
	a, b := filepath.Join(directory, "a"), filepath.Join(directory, "b")
	writeFile(t, a, "one")
	writeFile(t, b, "one")
	seen := map[string]string{}
	hash := func(what string, files []string, text ...string) {
		t.Helper()
		sum, err := Hash(files, text...)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[sum]; ok {
			t.Errorf("%s and %s have the same hash", what, other)
		}
		seen[sum] = what
	}
	hash("one file", []string{a})
	hash("the same content under another name", []string{b})
	hash("two files", []string{a, b})
	hash("text", []string{a}, "x", "y")
	hash("the same letters in other words", []string{a}, "xy")
	writeFile(t, a, "two")
	hash("other content", []string{a})
}

func TestLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deeper", "lock")
	unlock, err := Lock(path, func() { t.Error("waited for a lock that nobody holds") })
	if err != nil {
		t.Fatal(err)
	}
	waiting, second := make(chan struct{}), make(chan error, 1)
	go func() {
		again, err := Lock(path, func() { close(waiting) })
		if err == nil {
			again()
		}
		second <- err
	}()
	<-waiting
	select {
	case <-second:
		t.Fatal("two hold the lock")
	default:
	}
	unlock()
	select {
	case err := <-second:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the lock was never given up")
	}
}

func TestAFailedBuildPublishesNothing(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "components")
	broken := errors.New("broken")
	err := publish(filepath.Join(parent, "x"), func(directory string) error {
		writeFile(t, filepath.Join(directory, "half"), "")
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatalf("error is %v", err)
	}
	entries, err := os.ReadDir(parent)
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

func TestCacheDirIsWhereTheUserWantsIt(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/xdg")
	t.Setenv("PODTOKEN_CACHE", "")
	if got, err := CacheDir(); err != nil || got != "/xdg/podtoken" {
		t.Errorf("without PODTOKEN_CACHE: %q, %v", got, err)
	}
	t.Setenv("PODTOKEN_CACHE", "/mine")
	if got, err := CacheDir(); err != nil || got != "/mine/podtoken" {
		t.Errorf("with PODTOKEN_CACHE: %q, %v", got, err)
	}
	t.Setenv("PODTOKEN_CACHE", "relative")
	if _, err := CacheDir(); err == nil {
		t.Error("a relative path was accepted")
	}
}

func TestAFailedCompilationShowsWhatTheCompilerSaid(t *testing.T) {
	directory := t.TempDir()
	writeFile(t, filepath.Join(directory, "go.mod"), "module x\n\ngo 1.26.0\n")
	writeFile(t, filepath.Join(directory, "main.go"), "package main\n\nfunc main() { nonsense() }\n")
	err := BuildStatic(t.Context(), directory, ".", filepath.Join(directory, "out"))
	if err == nil || !strings.Contains(err.Error(), "undefined: nonsense") {
		t.Errorf("error is %v", err)
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
