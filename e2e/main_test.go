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

// Namespaces of the tests, by what the installation's policy says about them.
const (
	// allowedPrefix: everything is allowed, the API server's audience by name too.
	allowedPrefix = "e2e-"
	// policedPrefix: only ServiceAccounts app-*, and only vault and https://*.example.com, or for everyone "public".
	policedPrefix = "policed-"
	// rbacPrefix: mode rbac.
	rbacPrefix = "rbac-"
)

// removalDelay of the installation: long enough to see that nothing is taken away at once, short enough to wait for.
const removalDelay = 15 * time.Second

// chartValues are the arguments with which the tests install the chart; more may follow.
func chartValues(more ...string) []string {
	return append([]string{
		"--set", "webhook.excludeNamespaces={" + unservedNamespace + "}",
		"--set", "controller.removalDelay=" + removalDelay.String(),
		"--set", "policy.rbacNamespaces={" + rbacPrefix + "*}",
		"--set-json", `policy.allow=[
			{"name":"tests","namespaces":["` + allowedPrefix + `*","podtoken-examples","kube-public"],"serviceAccounts":["*"],"audiences":["*","https://kubernetes.default.svc"]},
			{"name":"applications","namespaces":["` + policedPrefix + `*"],"serviceAccounts":["app-*"],"audiences":["vault","https://*.example.com"]},
			{"namespaces":["` + policedPrefix + `*"],"serviceAccounts":["*"],"audiences":["public"]}]`,
	}, more...)
}

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
	restConfig = c.RESTConfig()
	if client, err = kubernetes.NewForConfig(restConfig); err != nil {
		return fail(err)
	}
	if beforeInstallation, err = plainPod(ctx); err != nil {
		return fail(fmt.Errorf("creating a pod before the installation: %w", err))
	}
	if err := c.InstallChart(ctx, chartValues()...); err != nil {
		return fail(err)
	}
	fmt.Fprintf(os.Stderr, "e2e: the cluster with podtoken is ready after %s\n", time.Since(start).Round(time.Second))
	return m.Run()
}
