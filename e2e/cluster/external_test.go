package cluster_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/e2e/cluster/internal/sandbox"
)

// envExternal makes this test program a run that is given a cluster and a registry by the environment.
const envExternal = "PODTOKEN_TEST_EXTERNAL"

// external is what such a run does: install podtoken into the given cluster, and use it.
func external(ctx context.Context) error {
	c, err := cluster.Up(ctx, cluster.Options{Log: os.Stderr, ProductImages: true})
	if err != nil {
		return err
	}
	if c.Owned() {
		return fmt.Errorf("a cluster was booted, although one was given")
	}
	if err := c.InstallChart(ctx, "--set", "webhook.replicas=1"); err != nil {
		return err
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, nil, "apply", "-f", filepath.Join(root, "manifests", "examples", "quickstart.yaml")); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, nil, "--namespace=podtoken-examples", "wait", "--for=condition=Ready", "pod/quickstart", "--timeout=2m")
	if err != nil {
		return err
	}
	return c.Down(ctx)
}

// KUBECONFIG and PODTOKEN_E2E_REGISTRY name a cluster that exists: images are pushed there and pulled from there, and
// nothing is booted. The existing cluster is one of ours here, and the registry lives in its network; the run that is
// given both is a process in that network.
func TestAnExistingClusterWithARegistry(t *testing.T) {
	c := up(t, cluster.Options{Name: "existing"})
	var listener net.Listener
	if err := c.InNamespace(func() (err error) {
		listener, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: time.Minute}
	defer server.Close()
	go func() { _ = server.Serve(listener) }()

	run := exec.CommandContext(t.Context(), os.Args[0])
	run.Env = append(os.Environ(), envExternal+"=1", cluster.EnvKubeconfig+"="+kubeconfigInside(t, c), cluster.EnvRegistry+"="+listener.Addr().String())
	run.Stdout, run.Stderr = t.Output(), t.Output()
	if err := c.InNamespace(run.Run); err != nil {
		t.Fatalf("the run that was given a cluster: %v", err)
	}
	out, err := c.Kubectl(t.Context(), nil, "--namespace="+cluster.Namespace, "get", "pods", "-o", "jsonpath={.items[*].spec.containers[*].image}")
	if err != nil || !strings.Contains(out, "/podtoken/webhook:") || !strings.Contains(out, "/podtoken/controller:") {
		t.Errorf("the installation's images are %q (%v), want the webhook's and the controller's", out, err)
	}
	for image := range strings.FieldsSeq(out) {
		if !strings.HasPrefix(image, listener.Addr().String()+"/podtoken/") {
			t.Errorf("image %q is not of the given registry", image)
		}
	}
}

// kubeconfigInside is the administrator's kubeconfig with the address that the API server has in the cluster's network.
func kubeconfigInside(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range config.Clusters {
		// Not the address of the Service, which is there when kube-proxy has come so far.
		one.Server = "https://" + sandbox.NodeIP(sandbox.FirstNode) + ":6443"
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}
