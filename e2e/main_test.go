package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"testing"
	"time"
)

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

// withdrawalDelay of the installation: the guard rejects what is on its way whether the mark is still there or not.
const withdrawalDelay = 5 * time.Second

// chartValues are the arguments with which the tests install the chart; more may follow.
func chartValues(more ...string) []string {
	return append([]string{
		"--set", "webhook.excludeNamespaces={" + unservedNamespace + "}",
		"--set", "controller.removalDelay=" + removalDelay.String(),
		"--set", fmt.Sprintf("controller.withdrawalDelaySeconds=%d", withdrawalDelay/time.Second),
		"--set", "test.namespace=kube-public",
		"--set", "policy.rbacNamespaces={" + rbacPrefix + "*}",
		"--set-json", `policy.allow=[
			{"name":"tests","namespaces":["` + allowedPrefix + `*","podtoken-examples","kube-public"],"serviceAccounts":["*"],"audiences":["*","https://kubernetes.default.svc"]},
			{"name":"applications","namespaces":["` + policedPrefix + `*"],"serviceAccounts":["app-*"],"audiences":["vault","https://*.example.com"]},
			{"namespaces":["` + policedPrefix + `*"],"serviceAccounts":["*"],"audiences":["public"]}]`,
		"--set-json", `profiles={
			"team-vault":{"vault-role.vault":"team","vault-addr.vault":"https://vault.example.com","expiration.vault":"15m"},
			"cloud":{"azure-client-id.x":"00000000-0000-0000-0000-000000000000","azure-tenant-id.x":"11111111-1111-1111-1111-111111111111"},
			"slow":{"refresh-at":"90%","expiration":7200}}`,
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
	start := time.Now()
	w, err := newWorld(ctx, clusterName(""))
	if err != nil {
		return fail(err)
	}
	defer func() {
		// Without the caller's context: what was started goes away also after Ctrl-C.
		if err := w.cluster.Down(context.Background()); err != nil {
			code = fail(err)
		}
	}()
	shared, testCluster, client, restConfig, probeImage = w, w.cluster, w.client, w.restConfig, w.probeImage
	if beforeInstallation, err = plainPod(ctx); err != nil {
		return fail(fmt.Errorf("creating a pod before the installation: %w", err))
	}
	if err := w.cluster.InstallChart(ctx, chartValues()...); err != nil {
		return fail(err)
	}
	fmt.Fprintf(os.Stderr, "e2e: the cluster with podtoken is ready after %s\n", time.Since(start).Round(time.Second))
	return m.Run()
}
