package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// An administrator takes the right to an audience away from a running pod, and gives it back. The file stays, whoever asks is
// told why nothing new comes, and when the right is back so is the refresh, without a restart.
func TestRightsTakenAwayAndGivenBack(t *testing.T) {
	t.Parallel()
	const role = "may-mint"
	n := newNamespaceOf(t, rbacPrefix, nil)
	mint := rule(api.RBACGroup, api.ResourceAudiences, "mint", audienceDefault)
	n.allow(serviceAccount, role, mint)
	spec := podSpec(probePath, "watch", "10m", tokenPath)
	spec.RestartPolicy = corev1.RestartPolicyNever
	eventually(t, pollShort, "the pod is admitted", func(context.Context) (bool, error) {
		_, err := n.tryCreate("pod", annotations("audience", audienceDefault), spec)
		return err == nil, err
	})
	n.ready("pod")
	before := n.token("pod", "app", tokenPath)

	must(t, client.RbacV1().Roles(n.name).Delete(t.Context(), role, metav1.DeleteOptions{}), "deleting the Role")
	must(t, client.RbacV1().RoleBindings(n.name).Delete(t.Context(), role, metav1.DeleteOptions{}), "deleting the RoleBinding")
	n.cannotRefresh("pod", `token "token" was not replaced`, "Forbidden (HTTP 403)", audienceDefault) // once RBAC knows, by a watch
	report, err := n.exec("pod", api.ContainerName, api.SidecarBinary, api.CommandCheck)
	must(t, err, "a token that is good although its refresh fails")
	if !strings.Contains(report, "but its refresh failed") || !strings.Contains(report, "Forbidden (HTTP 403)") {
		t.Errorf("check says %q", report)
	}

	n.allow(serviceAccount, role, mint)
	given := time.Now()
	eventually(t, time.Minute, "the token is replaced", func(context.Context) (bool, error) {
		return n.token("pod", "app", tokenPath) != before, nil
	})
	t.Logf("replaced %s after the right was given back", time.Since(given).Round(time.Second))
	if out, err := n.exec("pod", api.ContainerName, api.SidecarBinary, api.CommandRefresh, "--timeout=30s"); err != nil || !strings.Contains(out, "is fresh until") {
		t.Errorf("refresh says %q, %v", out, err)
	}
	_, err = n.exec("pod", "app", probePath, "stop", probePath, "watch")
	must(t, err, "ending the reader")
	n.succeeded("pod")
	reports(t, n.logs("pod", "app"))[tokenPath].clean(t, "the token whose right was taken away")
	if log := n.logs("pod", api.ContainerName); strings.Count(log, `"errorClass":"Forbidden"`) == 0 || strings.Contains(log, "eyJ") {
		t.Errorf("the sidecar's log does not tell the refusal, or shows a token:\n%s", log)
	}
}
