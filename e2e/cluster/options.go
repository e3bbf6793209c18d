package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/podtoken/podtoken/e2e/cluster/internal/sandbox"
)

const (
	// EnvKubeconfig and EnvRegistry together name a cluster that exists, to be used instead of one of our own.
	EnvKubeconfig = "KUBECONFIG"
	EnvRegistry   = "PODTOKEN_E2E_REGISTRY"

	// EnvKubernetes is the version of Kubernetes of clusters whose options name none, such as "1.36".
	EnvKubernetes = "PODTOKEN_E2E_KUBERNETES"

	// DefaultName is the name of a cluster whose options give none.
	DefaultName = "demo"

	productModule = "github.com/podtoken/podtoken"
)

// Options says which cluster to boot. The zero value is useful.
type Options struct {
	// Name tells the clusters of one machine apart. Default: DefaultName.
	Name string
	// RepoRoot is the directory of the product's go.mod. Default: found upwards from the working directory.
	RepoRoot string
	// Log gets one line for each step, for people. Default: nothing is written.
	Log io.Writer
	// KubernetesVersion is that of the API server and all other programs of Kubernetes: "1.36". Versions returns what there is.
	// Default: the environment variable EnvKubernetes, else the newest.
	KubernetesVersion string
	// Nodes is how many nodes the cluster has, "node1" and so on. Default: 1.
	Nodes int
	// ProductImages builds the product's images and brings them into the cluster while it boots.
	ProductImages bool
	// APIServerArgs are appended to the arguments of kube-apiserver.
	APIServerArgs []string
	// NoCertManager boots neither the types of cert-manager nor its controllers.
	NoCertManager bool
	// NetworkPolicies has them enforced, by kube-router's firewall. Without it they are objects that nobody reads.
	NetworkPolicies bool
	// MaxRestartDelay is the longest that the kubelet waits before it starts a container again, at least a second.
	// Default: the kubelet's own, five minutes.
	MaxRestartDelay time.Duration

	// Kubeconfig and Registry, given together, name a cluster that exists and a registry that it pulls from. Nothing is
	// booted then. Default: the environment variables EnvKubeconfig and EnvRegistry, if both are set.
	Kubeconfig string
	Registry   string
}

// complete returns the options with defaults filled in and everything checked.
func (o Options) complete() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if err := sandbox.CheckName(o.Name); err != nil {
		return o, err
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Kubeconfig == "" && o.Registry == "" && os.Getenv(EnvRegistry) != "" {
		o.Kubeconfig, o.Registry = os.Getenv(EnvKubeconfig), os.Getenv(EnvRegistry)
	}
	if (o.Kubeconfig == "") != (o.Registry == "") {
		return o, fmt.Errorf("to use a cluster that exists, set both %s (a path, now %q) and %s (a registry that the cluster pulls from, now %q)",
			EnvKubeconfig, o.Kubeconfig, EnvRegistry, o.Registry)
	}
	if o.KubernetesVersion == "" {
		o.KubernetesVersion = os.Getenv(EnvKubernetes)
	}
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.Nodes < 1 || o.Nodes > maxNodes {
		return o, fmt.Errorf("a cluster of %d nodes: allowed are 1 to %d", o.Nodes, maxNodes)
	}
	if o.MaxRestartDelay == 0 {
		o.MaxRestartDelay = 5 * time.Minute
	}
	root, err := findRepoRoot(o.RepoRoot)
	o.RepoRoot = root
	return o, err
}

func findRepoRoot(start string) (string, error) {
	if start == "" {
		start = "."
	}
	start, err := filepath.Abs(start)
	if err != nil {
		return "", err
	}
	for directory := start; ; directory = filepath.Dir(directory) {
		content, err := os.ReadFile(filepath.Join(directory, "go.mod"))
		if err == nil && strings.HasPrefix(string(content), "module "+productModule+"\n") {
			return directory, nil
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		if directory == filepath.Dir(directory) {
			return "", fmt.Errorf("%s is not inside a checkout of %s; run this from there", start, productModule)
		}
	}
}

// progress writes lines with the time that has passed, for people.
type progress struct {
	out   io.Writer
	start time.Time
}

func newProgress(out io.Writer) *progress { return &progress{out: out, start: time.Now()} }

func (p *progress) logf(format string, arguments ...any) {
	// One call of Write per line: parts of the boot run at the same time.
	_, _ = fmt.Fprintf(p.out, "%6.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, arguments...))
}
