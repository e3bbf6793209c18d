package binaries

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// component is a set of programs that are built together, from one Go module that pins their versions.
type component struct {
	name string
	// dir is the module, below the directory e2e of the repository.
	dir string
	// modfile is the module's file below dir, go.mod unless the same programs exist in several versions.
	modfile string
	// sources are the files that decide about the result, as patterns below dir.
	sources []string
	// programs maps the file name of each program to its package.
	programs map[string]string
	// links are other names of a program that looks at the name it was called by.
	links map[string]string
	tags  string
	cgo   bool
	// stamps maps variables of packages to module paths: each variable is set to the version of its module.
	stamps map[string]string
	// more adds files that are not programs.
	more func(ctx context.Context, moduleDir, output string) error
}

const componentsDir = "cluster/components"

// components are those of a cluster of the given version of Kubernetes.
func components(kubernetes Version) []component {
	all := []component{
		{
			name:     "relay",
			programs: map[string]string{"relay": "./cluster/relay"},
			dir:      ".",
			sources:  []string{"cluster/relay/*.go"},
		},
		{
			name:     "pause",
			programs: map[string]string{"pause": "./cluster/pause"},
			dir:      ".",
			sources:  []string{"cluster/pause/*.go"},
		},
		{
			name: "cni",
			programs: map[string]string{
				"bridge":     "github.com/containernetworking/plugins/plugins/main/bridge",
				"loopback":   "github.com/containernetworking/plugins/plugins/main/loopback",
				"host-local": "github.com/containernetworking/plugins/plugins/ipam/host-local",
				"portmap":    "github.com/containernetworking/plugins/plugins/meta/portmap",
			},
		},
		{
			name:     "runc",
			programs: map[string]string{"runc": "github.com/opencontainers/runc"},
			// Without seccomp runc refuses every pod with a RuntimeDefault profile, and seccomp needs a C library.
			tags: "seccomp",
			cgo:  true,
		},
		{
			name:     "etcd",
			programs: map[string]string{"etcd": "go.etcd.io/etcd/server/v3"},
		},
		{
			name: "containerd",
			programs: map[string]string{
				"containerd":              "github.com/containerd/containerd/v2/cmd/containerd",
				"containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
				"ctr":                     "github.com/containerd/containerd/v2/cmd/ctr",
			},
			stamps: map[string]string{"github.com/containerd/containerd/v2/version.Version": "github.com/containerd/containerd/v2"},
		},
		{
			name:     "kube-router",
			programs: map[string]string{"kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"},
		},
		{
			name:     "helm",
			programs: map[string]string{"helm": "helm.sh/helm/v4/cmd/helm"},
			stamps:   map[string]string{"helm.sh/helm/v4/internal/version.version": "helm.sh/helm/v4"},
		},
		{
			name:     "cert-manager",
			programs: map[string]string{"cert-manager": "."},
			more:     copyCertManagerCRDs,
		},
		{
			name:     kubernetes.component(),
			dir:      kubernetesDir,
			modfile:  kubernetes.modfile,
			programs: map[string]string{"kubernetes": "."},
			links: map[string]string{
				"kube-apiserver":          "kubernetes",
				"kube-controller-manager": "kubernetes",
				"kube-scheduler":          "kubernetes",
				"kube-proxy":              "kubernetes",
				"kubelet":                 "kubernetes",
				"kubectl":                 "kubernetes",
			},
			// Without it the server calls itself v0.0.0-master, which clients and charts misread.
			stamps: map[string]string{"k8s.io/component-base/version.gitVersion": "k8s.io/kubernetes"},
		},
	}
	for i := range all {
		if all[i].dir == "" {
			all[i].dir = filepath.Join(componentsDir, all[i].name)
		}
		if all[i].modfile == "" {
			all[i].modfile = defaultModfile
		}
		if all[i].sources == nil {
			all[i].sources = []string{all[i].modfile, strings.TrimSuffix(all[i].modfile, ".mod") + ".sum", "*.go"}
		}
	}
	return all
}

// packages are the component's packages, sorted by the name of the program.
func (c component) packages() []string {
	var packages []string
	for _, name := range sortedKeys(c.programs) {
		packages = append(packages, c.programs[name])
	}
	return packages
}

// ldflags stamps the versions that the module file pins.
func (c component) ldflags(moduleDir string) (string, error) {
	var flags []string
	for _, variable := range sortedKeys(c.stamps) {
		version, err := requiredVersion(filepath.Join(moduleDir, c.modfile), c.stamps[variable])
		if err != nil {
			return "", err
		}
		flags = append(flags, "-X", variable+"="+version)
		if pkg, ok := strings.CutSuffix(variable, ".gitVersion"); ok {
			major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
			minor, _, _ := strings.Cut(rest, ".")
			flags = append(flags, "-X", pkg+".gitMajor="+major, "-X", pkg+".gitMinor="+minor)
		}
	}
	return strings.Join(flags, " "), nil
}

// requiredVersion finds a module's version in a go.mod.
func requiredVersion(goMod, module string) (string, error) {
	file, err := os.Open(goMod)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(lines.Text()), "require "))
		if len(fields) >= 2 && fields[0] == module && strings.HasPrefix(fields[1], "v") {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("%s does not require module %q", goMod, module)
}

// CRDsFile is the file of the cert-manager component with its CustomResourceDefinitions.
const CRDsFile = "cert-manager-crds.yaml"

func copyCertManagerCRDs(ctx context.Context, moduleDir, output string) error {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager")
	cmd.Dir = moduleDir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("finding the module of cert-manager: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "deploy", "crds", "*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("the module of cert-manager has no file deploy/crds/*.yaml")
	}
	var all []byte
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all = append(append(all, "---\n"...), content...)
	}
	return os.WriteFile(filepath.Join(output, CRDsFile), all, 0o600)
}
