package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// certificateSecrets are cert-manager's, which leaves them.
var certificateSecrets = []string{"secrets " + releaseNamespace + "/" + servingSecret, "secrets " + releaseNamespace + "/podtoken-webhook-ca"}

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

	shared.leftovers(t, certificateSecrets...)
	assertReview(t, n.token("pod", "app", api.DefaultMountPath+"/vault"), audienceDeclared, pod)
	// The right to mint went with the grant.
	out, err := n.exec("pod", api.ContainerName, api.SidecarBinary, api.CommandRefresh, "--timeout=3s")
	if err == nil {
		t.Errorf("the sidecar still mints: %s", out)
	}
	// What comes now is no longer podtoken's business.
	n.create("later", annotations("audience.vault", audienceDeclared), gated(serviceAccount))
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

// `helm uninstall --no-hooks` leaves the grants, and their guard with them; another installation takes both over. After one with hooks,
// and after the namespace was deleted, where certificates and the namespace's own objects stay, the cluster has what it had before
// podtoken came, nothing less and nothing more.
func (w *world) uninstalledWithoutATrace(t *testing.T) {
	n := w.newNamespace(t, allowedPrefix, nil)
	n.worksFor("pod")
	w.helm(t, "uninstall", cluster.Release, "--no-hooks", "--wait", "--timeout", "3m")
	w.guarded(t, "an uninstallation without hooks")
	w.install(t, w.root(t), previousValues()...)
	n.refresh("pod")

	w.helm(t, "uninstall", cluster.Release, "--wait", "--timeout", "3m")
	w.leftovers(t, certificateSecrets...) // before the grants' namespace goes
	for _, namespace := range []string{n.name, releaseNamespace} {
		must(t, w.client.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}), "deleting namespace %q", namespace)
	}
	w.untilNothing(t, 2*time.Minute, func(now inventory) []string { return now.since(w.before) })
}
