package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// `helm uninstall` leaves nothing that gives rights or stands in the way: no grant, no policy, no registration. At no moment is
// there a grant without its guard. Pods that run keep their tokens until those end. Serial: it takes everything away.
func TestUninstall(t *testing.T) {
	n := newNamespace(t, nil)
	ctx := context.Background()
	n.create("pod", annotations("audience.vault", audienceDeclared), podSpec())
	pod := n.ready("pod")
	t.Cleanup(func() { must(t, testCluster.InstallChart(ctx, chartValues()...), "installing the chart again") })

	watching, stop := context.WithCancel(ctx)
	unguarded := make(chan error, 1)
	go func() { unguarded <- grantsWithoutGuard(watching) }()
	_, err := testCluster.Helm(ctx, "uninstall", cluster.Release, "--namespace", cluster.Namespace, "--wait", "--timeout", "3m")
	stop()
	must(t, err, "uninstalling the chart")
	if err := <-unguarded; err != nil {
		t.Error(err)
	}

	shared.leftovers(t)
	namespaces, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	must(t, err, "listing namespaces")
	for _, namespace := range namespaces.Items {
		for key := range namespace.Labels {
			if strings.HasPrefix(key, api.Prefix) {
				t.Errorf("namespace %q has the label %q", namespace.Name, key)
			}
		}
	}
	assertReview(t, n.token("pod", "app", api.DefaultMountPath+"/vault"), audienceDeclared, pod)
	// The right to mint went with the grant.
	out, err := n.exec("pod", api.ContainerName, api.SidecarBinary, api.CommandRefresh, "--timeout=3s")
	if err == nil {
		t.Errorf("the sidecar still mints: %s", out)
	}
	// What comes now is no longer podtoken's business.
	n.create("later", annotations("audience.vault", audienceDeclared), gated(serviceAccount))
}

// leftovers complains about everything that an uninstallation should have taken away; more kinds may be named.
func (w *world) leftovers(t *testing.T, more ...string) {
	t.Helper()
	for _, kinds := range append([]string{
		"roles,rolebindings,leases,serviceaccounts,jobs,deployments,configmaps,services",
		"clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingwebhookconfigurations",
	}, more...) {
		out, err := w.cluster.Kubectl(context.Background(), nil, "get", kinds, "--all-namespaces", "-o", "name")
		must(t, err, "listing what is left")
		for line := range strings.Lines(out) {
			if strings.Contains(line, "podtoken") {
				t.Errorf("%s is left", strings.TrimSpace(line))
			}
		}
	}
}

// grantsWithoutGuard looks until ctx is done for a moment with a grant and no guard.
func grantsWithoutGuard(ctx context.Context) error {
	for ctx.Err() == nil {
		// In this order: a grant that is deleted between the two questions is no finding.
		_, guardErr := client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Get(ctx, guardPolicy, metav1.GetOptions{})
		grants, err := client.RbacV1().Roles("").List(ctx, metav1.ListOptions{LabelSelector: api.LabelGrant})
		if guardErr != nil && err == nil && len(grants.Items) > 0 && ctx.Err() == nil {
			return fmt.Errorf("%d grants, the first %s/%s, and no guard: %w", len(grants.Items), grants.Items[0].Namespace, grants.Items[0].Name, guardErr)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}
