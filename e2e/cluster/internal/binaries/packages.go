package binaries

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// requirement is something of the operating system that cannot be built from Go modules.
type requirement struct {
	debian string // the package of Debian and Ubuntu that has it
	what   string
	met    func(ctx context.Context) bool
}

func requirements() []requirement {
	return []requirement{
		{"buildah", "buildah, which builds the product's images from the Dockerfile", command("buildah")},
		{"busybox-static", "a statically linked busybox, the shell of test images", func(context.Context) bool { _, err := StaticBusybox(); return err == nil }},
		{"nftables", "nft, which kube-proxy calls", command("nft")},
		{"iptables", "iptables, which kube-router calls", command("iptables", "iptables-save", "iptables-restore")},
		{"ipset", "ipset, which kube-router calls", command("ipset")},
		{"mount", "mount, which the kubelet calls", command("mount")},
		{"util-linux", "unshare and findmnt, with which the kubelet is started", command("unshare", "findmnt")},
		{"curl", "curl, one of the clients in test images", command("curl")},
		{"gcc", "a C compiler, for runc", command("gcc")},
		{"libc6-dev", "the headers of the C library, for runc", compiles("#include <stdio.h>\n")},
		{"pkg-config", "pkg-config, for runc", command("pkg-config")},
		{"libseccomp-dev", "the headers of libseccomp, for runc", compiles("#include <seccomp.h>\n")},
	}
}

// EnsureSystem makes sure that the machine can build what a cluster needs and, if asRoot is set, that it can run one. As
// root it installs what Debian's package manager can install; otherwise it says what is missing, in one message.
func EnsureSystem(ctx context.Context, asRoot bool, logf func(format string, arguments ...any)) error {
	root := os.Geteuid() == 0
	missing := unmet(ctx)
	if len(missing) > 0 && root && command("apt-get")(ctx) {
		if err := install(ctx, missing, logf); err != nil {
			return err
		}
		missing = unmet(ctx)
	}
	var problems, names []string
	if asRoot && !root {
		problems = append(problems, "\n  - run this as root: a node mounts file systems and makes network namespaces; or set "+
			"KUBECONFIG and PODTOKEN_E2E_REGISTRY to use a cluster that exists")
	}
	for _, r := range missing {
		problems = append(problems, fmt.Sprintf("\n  - missing: %s (Debian package %s)", r.what, r.debian))
		names = append(names, r.debian)
	}
	if len(names) > 0 {
		problems = append(problems, "\non Debian and Ubuntu: apt-get install --no-install-recommends "+strings.Join(names, " "))
	}
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("a real Kubernetes cannot run here yet:%s", strings.Join(problems, ""))
}

func unmet(ctx context.Context) []requirement {
	var missing []requirement
	for _, r := range requirements() {
		if !r.met(ctx) {
			missing = append(missing, r)
		}
	}
	return missing
}

func install(ctx context.Context, missing []requirement, logf func(string, ...any)) error {
	var names []string
	for _, r := range missing {
		names = append(names, r.debian)
	}
	logf("installing Debian packages: %s", strings.Join(names, " "))
	// The package lists may be old or, in images of containers, absent. What is installed already is never removed.
	for _, arguments := range [][]string{
		{"update", "-q"},
		append([]string{"install", "-q", "-y", "--no-install-recommends", "--no-remove"}, names...),
	} {
		cmd := exec.CommandContext(ctx, "apt-get", arguments...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("running \"apt-get %s\": %w\n%s", strings.Join(arguments, " "), err, Tail(output.String(), 15))
		}
	}
	return nil
}

// StaticBusybox returns the path of a busybox that needs no files beside it.
func StaticBusybox() (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	file, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is linked dynamically", path)
		}
	}
	return path, nil
}

func command(names ...string) func(context.Context) bool {
	return func(context.Context) bool {
		for _, name := range names {
			if _, err := exec.LookPath(name); err != nil {
				return false
			}
		}
		return true
	}
}

func compiles(source string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		cmd := exec.CommandContext(ctx, "gcc", "-E", "-x", "c", "-")
		cmd.Stdin = strings.NewReader(source)
		return cmd.Run() == nil
	}
}
