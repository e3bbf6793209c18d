package binaries

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bareMachine makes the machine look like one that has nothing but a package manager. The packages that it installs are
// the given commands.
func bareMachine(t *testing.T, installs ...string) (calls string) {
	t.Helper()
	directory := t.TempDir()
	writeFile(t, filepath.Join(directory, "go.mod"), "module x\n\ngo 1.26.0\n")
	writeFile(t, filepath.Join(directory, "main.go"), "package main\n\nfunc main() {}\n")
	static := filepath.Join(directory, "static")
	if err := BuildStatic(t.Context(), directory, ".", static); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(directory, "bin")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	calls = filepath.Join(directory, "calls")
	script := "#!/bin/sh\necho \"$*\" >>'" + calls + "'\n[ \"$1\" = install ] || exit 0\n"
	for _, name := range installs {
		script += "/bin/ln -sf '" + static + "' '" + filepath.Join(path, name) + "'\n"
	}
	writeFile(t, filepath.Join(path, "apt-get"), script)
	if err := os.Chmod(filepath.Join(path, "apt-get"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path)
	return calls
}

var everyCommand = []string{
	"buildah", "busybox", "nft", "iptables", "iptables-save", "iptables-restore", "ipset",
	"mount", "unshare", "findmnt", "curl", "gcc", "pkg-config",
}

func discard(string, ...any) {}

func TestABareMachineIsSetUp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test installs packages by a stand-in, as root would: run it as root")
	}
	calls := bareMachine(t, everyCommand...)
	for range 2 {
		if err := EnsureSystem(t.Context(), true, discard); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	const want = "update -q\n" +
		"install -q -y --no-install-recommends --no-remove buildah busybox-static nftables iptables ipset " +
		"mount util-linux curl gcc libc6-dev pkg-config libseccomp-dev\n"
	if string(got) != want {
		t.Errorf("the package manager was called with\n%s\nwant\n%s", got, want)
	}
}

func TestWhatCannotBeInstalledIsSaidInOneMessage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test installs packages by a stand-in, as root would: run it as root")
	}
	var installs []string
	for _, name := range everyCommand {
		if name != "nft" && name != "buildah" {
			installs = append(installs, name)
		}
	}
	bareMachine(t, installs...)
	err := EnsureSystem(t.Context(), true, discard)
	if err == nil {
		t.Fatal("a machine without buildah and nft is good enough")
	}
	for _, want := range []string{"(Debian package buildah)", "(Debian package nftables)", "apt-get install --no-install-recommends buildah nftables"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the message does not say %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "gcc") {
		t.Errorf("the message names what is there:\n%v", err)
	}
}

func TestADynamicBusyboxIsNotEnough(t *testing.T) {
	directory := t.TempDir()
	shell, err := filepath.EvalSymlinks("/bin/sh") // linked dynamically everywhere
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(shell, filepath.Join(directory, "busybox")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", directory)
	if path, err := StaticBusybox(); err == nil {
		t.Errorf("%s was accepted", path)
	}
}
