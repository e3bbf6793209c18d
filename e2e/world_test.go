package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/e2e/cluster"
)

// world is a cluster with podtoken in it, and how to reach it.
type world struct {
	cluster    *cluster.Cluster
	client     kubernetes.Interface
	restConfig *rest.Config
	// probeImage holds ./cmd/probe, the application of the tests' pods.
	probeImage string
	// before is all that the cluster had before podtoken came.
	before inventory
}

// shared is the world of all tests that leave it as it was. TestMain makes it.
var shared *world

// client, restConfig, testCluster and probeImage are shared's; the image has the same name everywhere.
var (
	probeImage  string
	client      kubernetes.Interface
	restConfig  *rest.Config
	testCluster *cluster.Cluster
)

// booting holds clusters that boot: eight at a time would keep two cores so busy that nothing else gets on.
var booting = make(chan struct{}, 3)

// newWorld boots a cluster; podtoken is not installed yet.
func newWorld(ctx context.Context, name string, changes ...func(*cluster.Options)) (*world, error) {
	booting <- struct{}{}
	defer func() { <-booting }()
	root, err := filepath.Abs("..")
	if err != nil {
		return nil, err
	}
	options := cluster.Options{
		Name: name, RepoRoot: root, Log: os.Stderr, ProductImages: true,
		MaxRestartDelay: time.Second, // nobody has the time
	}
	for _, change := range changes {
		change(&options)
	}
	c, err := cluster.Up(ctx, options)
	if err != nil {
		return nil, err
	}
	w := &world{cluster: c, restConfig: c.RESTConfig()}
	w.client, err = kubernetes.NewForConfig(w.restConfig)
	if err == nil {
		w.probeImage, err = c.BuildGoImage(ctx, filepath.Join(root, "e2e"), "./cmd/probe", "podtoken.test/probe:1")
	}
	if err == nil {
		w.before, err = w.inventory(ctx)
	}
	if err != nil {
		return nil, c.GiveUp(err)
	}
	return w, nil
}

// clusterName is the name of a cluster of this package's: PODTOKEN_E2E_NAME lets several runs live side by side.
func clusterName(suffix string) string {
	name := os.Getenv("PODTOKEN_E2E_NAME")
	if name == "" {
		name = "e2e"
	}
	return name + suffix
}

// ownWorld boots a cluster of this test's own, for what the others would not survive, and installs podtoken.
func ownWorld(t *testing.T, suffix string) *world {
	t.Helper()
	w := emptyWorld(t, suffix)
	must(t, w.cluster.InstallChart(t.Context(), chartValues("--set", "webhook.replicas=1", "--set", "controller.replicas=1")...), "installing podtoken")
	return w
}

// ownWorlds is how many clusters of tests there are at a time beside the one of all: more would keep two cores busy by themselves.
var ownWorlds = make(chan struct{}, 3)

// emptyWorld boots a cluster of this test's own, without podtoken. A test must not have two: it would wait for itself.
func emptyWorld(t *testing.T, suffix string, changes ...func(*cluster.Options)) *world {
	t.Helper()
	if !testCluster.Owned() {
		t.Skip("the components of a cluster that is not ours are not stopped")
	}
	ownWorlds <- struct{}{}
	t.Cleanup(func() { <-ownWorlds })
	w, err := newWorld(t.Context(), clusterName("-"+suffix), changes...)
	must(t, err, "booting a cluster")
	t.Cleanup(func() {
		// Without the test's context, which has ended.
		if err := w.cluster.Down(context.Background()); err != nil {
			t.Error(fmt.Errorf("removing the cluster: %w", err))
		}
	})
	return w
}
