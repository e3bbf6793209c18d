package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/podtoken/podtoken/e2e/cluster"
)

// probeImage holds ./cmd/probe, the application of the tests' pods.
var probeImage string

// testCluster is the one cluster of this package's tests.
var testCluster *cluster.Cluster

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	root, err := filepath.Abs("..")
	if err != nil {
		return fail(err)
	}
	start := time.Now()
	c, err := cluster.Up(ctx, cluster.Options{Name: "e2e", RepoRoot: root, Log: os.Stderr, ProductImages: true})
	if err != nil {
		return fail(err)
	}
	testCluster = c
	defer func() {
		// Without the caller's context: what was started goes away also after Ctrl-C.
		if err := c.Down(context.Background()); err != nil {
			code = fail(err)
		}
	}()
	if probeImage, err = c.BuildGoImage(ctx, filepath.Join(root, "e2e"), "./cmd/probe", "podtoken.test/probe:1"); err != nil {
		return fail(err)
	}
	if err := c.InstallChart(ctx, "--set", "webhook.excludeNamespaces={"+unservedNamespace+"}"); err != nil {
		return fail(err)
	}
	restConfig = c.RESTConfig()
	if client, err = kubernetes.NewForConfig(restConfig); err != nil {
		return fail(err)
	}
	fmt.Fprintf(os.Stderr, "e2e: the cluster with podtoken is ready after %s\n", time.Since(start).Round(time.Second))
	return m.Run()
}
