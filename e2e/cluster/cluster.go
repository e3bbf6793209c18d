// Package cluster boots a real Kubernetes on this machine, for tests and for a look at the product: etcd, the API server
// with NodeRestriction, the controller manager, the scheduler, containerd with runc, a kubelet, kube-proxy and the
// controllers of cert-manager. It needs root, Go and a Debian-like Linux; it needs no container engine, no registry and
// no downloads but Go modules and a few packages of the distribution.
//
// Every cluster has a network namespace of its own that has no way to the outside. The host reaches the API server at
// the loopback address in the kubeconfig, and nothing else. Clusters with different names run side by side. A cluster of
// several nodes has a network namespace for each, with a kubelet, a containerd and a kube-proxy in it.
//
// There is no cluster DNS: pods reach the API server by the address in their environment.
package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/podtoken/podtoken/e2e/cluster/internal/binaries"
	"github.com/podtoken/podtoken/e2e/cluster/internal/sandbox"
)

// Cluster is a running Kubernetes.
type Cluster struct {
	options    Options
	progress   *progress
	binaries   *binaries.Set
	kubeconfig string
	restConfig *rest.Config
	product    map[string][]ProductImage // by the checkout that they were built from

	// The rest is only set for a cluster of our own.
	sandbox  *sandbox.Sandbox
	port     string   // on the host's loopback
	listener *os.File // of that port
}

// Up boots a cluster and returns when its nodes are ready. If a process was killed before it could call Down, what it has
// left is removed first, and so is an earlier cluster of the same name, unless a process still uses it.
func Up(ctx context.Context, options Options) (*Cluster, error) {
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	c := &Cluster{options: options, progress: newProgress(options.Log), product: map[string][]ProductImage{}}
	if options.Registry != "" {
		return c, c.useExisting(ctx)
	}
	if err := binaries.EnsureSystem(ctx, true, c.progress.logf); err != nil {
		return nil, err
	}
	if c.binaries, err = binaries.Build(ctx, filepath.Join(options.RepoRoot, "e2e"), options.KubernetesVersion, c.progress.logf); err != nil {
		return nil, err
	}
	swept, err := sandbox.Sweep()
	if err != nil {
		return nil, err
	}
	for _, name := range swept {
		c.progress.logf("removed cluster %q, which a killed run had left", name)
	}
	if c.sandbox, err = sandbox.Create(options.Name); err != nil {
		return nil, err
	}
	c.kubeconfig = KubeconfigPath(options.Name)
	c.progress.logf("booting Kubernetes in %s", c.sandbox.Path())
	if err := c.boot(ctx); err != nil {
		return nil, c.GiveUp(err)
	}
	c.progress.logf("the cluster is up")
	return c, nil
}

// Keep lets the cluster outlive this process, until someone calls Remove. Without it, a cluster whose process has ended is
// a leftover. Nothing else can be done with c afterwards.
func (c *Cluster) Keep() error {
	if c.sandbox == nil {
		return nil
	}
	_ = c.listener.Close()
	return c.sandbox.Keep()
}

// GiveUp ends a cluster in which something has failed, but leaves its logs to the person who has to find out why. It
// returns the failure, with the place of the logs.
func (c *Cluster) GiveUp(failure error) error {
	if c.sandbox == nil {
		return failure
	}
	logs := filepath.Join(os.TempDir(), "podtoken-"+c.options.Name+"-logs")
	_ = os.RemoveAll(logs)
	if err := os.CopyFS(logs, os.DirFS(c.sandbox.Path("log"))); err == nil {
		failure = fmt.Errorf("%w\n(all logs were copied to %s)", failure, logs)
	}
	if err := c.remove(); err != nil {
		failure = fmt.Errorf("%w\nbesides, cleaning up failed: %w", failure, err)
	}
	return failure
}

// Binaries returns all programs for a cluster, after building those that are missing: minutes the first time, no time
// later. Of the options it heeds RepoRoot, Log and KubernetesVersion.
func Binaries(ctx context.Context, options Options) (*binaries.Set, error) {
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	p := newProgress(options.Log)
	if err := binaries.EnsureSystem(ctx, false, p.logf); err != nil {
		return nil, err
	}
	return binaries.Build(ctx, filepath.Join(options.RepoRoot, "e2e"), options.KubernetesVersion, p.logf)
}

// Version is a version of Kubernetes that a cluster can have.
type Version = binaries.Version

// Versions returns those that there are, the newest first.
func Versions(repoRoot string) ([]Version, error) {
	root, err := findRepoRoot(repoRoot)
	if err != nil {
		return nil, err
	}
	return binaries.Versions(filepath.Join(root, "e2e"))
}

// Images makes sure that the product's images are built from the sources as they are now, and returns them.
func Images(ctx context.Context, repoRoot string, log io.Writer) ([]ProductImage, error) {
	p := newProgress(log)
	if err := binaries.EnsureSystem(ctx, false, p.logf); err != nil {
		return nil, err
	}
	return buildProductImages(ctx, repoRoot, p.logf)
}

// KubeconfigPath returns the file for administrators of the cluster of that name.
func KubeconfigPath(name string) string { return sandbox.Path(name, "kubeconfig") }

// Summary describes a cluster of this machine to people.
type Summary = sandbox.Summary

// List returns the clusters of this machine.
func List() ([]Summary, error) { return sandbox.List() }

// Remove ends the cluster of that name, whoever has booted it, and removes all it has. It says whether there was one.
func Remove(name string) (bool, error) {
	return sandbox.Remove(name)
}

// Down ends the cluster and removes everything that it has. On a cluster that is not ours it does nothing.
func (c *Cluster) Down(context.Context) error {
	if c.sandbox == nil {
		return nil
	}
	return c.remove()
}

func (c *Cluster) remove() error {
	if c.listener != nil {
		_ = c.listener.Close()
	}
	if err := c.sandbox.Destroy(); err != nil {
		return fmt.Errorf("removing cluster %q: %w", c.options.Name, err)
	}
	return nil
}

// Kubeconfig returns the path of a kubeconfig for an administrator. It works from the host.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig }

// RESTConfig returns the same as a configuration for client-go, for the caller to change.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.restConfig) }

// Owned says whether the cluster was booted by this package, so that its components and its network can be reached.
func (c *Cluster) Owned() bool { return c.sandbox != nil }

// Path returns a path in the directory of the cluster: "pki/sa.key", "log/kubelet.log", "etcd".
func (c *Cluster) Path(elements ...string) string { return c.sandbox.Path(elements...) }

// Log returns the path of the log of a component.
func (c *Cluster) Log(component string) string { return c.sandbox.LogPath(component) }

// InNamespace calls the function on a thread inside the network of the first node, where Services and pods have their addresses.
// Sockets that the function itself makes stay there; goroutines that it starts are outside.
func (c *Cluster) InNamespace(call func() error) error {
	if c.sandbox == nil {
		return errNotOurs
	}
	return c.sandbox.InNetwork(int(firstNode), call)
}

// Kubectl runs kubectl as an administrator and returns what it writes to its standard output.
func (c *Cluster) Kubectl(ctx context.Context, stdin io.Reader, arguments ...string) (string, error) {
	return c.tool(ctx, stdin, "kubectl", arguments...)
}

// Helm runs helm as an administrator and returns what it writes to its standard output.
func (c *Cluster) Helm(ctx context.Context, arguments ...string) (string, error) {
	return c.tool(ctx, nil, "helm", arguments...)
}

func (c *Cluster) tool(ctx context.Context, stdin io.Reader, name string, arguments ...string) (string, error) {
	env := []string{"KUBECONFIG=" + c.kubeconfig, "LC_ALL=C"} // kubectl speaks several languages
	if c.Owned() {
		home := c.Path("helm")
		env = append(env, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	}
	return run(ctx, stdin, env, c.binaries.Path(name), arguments...)
}

// run returns the standard output of a program, and its standard error as a part of the error. It has none of a person's settings of
// kubectl and helm.
func run(ctx context.Context, stdin io.Reader, env []string, program string, arguments ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, arguments...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "HELM_") || strings.HasPrefix(variable, "KUBE")
	}), env...)
	cmd.Stdin = stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return stdout.String(), fmt.Errorf("running \"%s %s\": %w\n%s", filepath.Base(program), strings.Join(arguments, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func loadRESTConfig(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig %s: %w", kubeconfig, err)
	}
	// Tests ask often; the limits of the client are for well-behaved controllers.
	config.QPS, config.Burst = 200, 400
	return config, nil
}
