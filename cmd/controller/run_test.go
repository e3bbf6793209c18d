package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// newGuarded returns a fake API server with the guard and one ServiceAccount.
func newGuarded(t *testing.T) *fakeAPI {
	f := newFakeAPI(t)
	f.add(t, "validatingadmissionpolicies", guardYAML)
	f.add(t, "validatingadmissionpolicybindings", guardBindingYAML)
	f.add(t, "serviceaccounts", serviceAccountYAML("shop", "cart"))
	return f
}

func ready(t *testing.T, p *process) {
	t.Helper()
	eventually(t, "ready", 20*time.Second, func() bool {
		code, _ := p.fetch("/readyz")
		return code == http.StatusOK
	})
}

// The whole way: a pod comes, its grant is there at once; the pod ends, its grant goes; the controller ends, its Lease is free.
func TestGrantComesAndGoes(t *testing.T) {
	f := newGuarded(t)
	p := start(t, f, "--removal-delay=0s")
	ready(t, p)
	eventually(t, "leading", 20*time.Second, func() bool { return strings.Contains(p.log.String(), "Starting workers") })

	begin := time.Now()
	f.add(t, "pods", podYAML("shop", "cart-1", "cart", "vault", 3600))
	eventually(t, "RoleBinding", 5*time.Second, func() bool { return f.get("rolebindings", "shop/podtoken:cart") != "" })
	if took := time.Since(begin); took > 200*time.Millisecond {
		t.Errorf("the grant took %v, want less than 200ms", took)
	}
	var role rbacv1.Role
	if err := json.Unmarshal([]byte(f.get("roles", "shop/podtoken:cart")), &role); err != nil {
		t.Fatal(err)
	}
	role.ResourceVersion, role.UID, role.ManagedFields = "", "", nil
	want := rbacv1.Role{
		TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "podtoken:cart",
			Labels:          map[string]string{"app.kubernetes.io/managed-by": "podtoken", "podtoken.dev/grant": "true"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: "cart", UID: f.uid("serviceaccounts", "shop/cart")}},
		},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{"cart"}, Verbs: []string{"create"}},
			{APIGroups: []string{"podtoken.dev"}, Resources: []string{"tokens"}, ResourceNames: []string{"cart"}, Verbs: []string{"mint"}},
			{APIGroups: []string{"podtoken.dev"}, Resources: []string{"lifetimes"}, ResourceNames: []string{"3600"}, Verbs: []string{"mint"}},
			{APIGroups: []string{"podtoken.dev"}, Resources: []string{"audiences"}, ResourceNames: []string{"https://kubernetes.default.svc"}, Verbs: []string{"renew"}},
			{APIGroups: []string{"podtoken.dev"}, Resources: []string{"audiences"}, ResourceNames: []string{"vault"}, Verbs: []string{"mint"}},
		},
	}
	if diff := cmp.Diff(want, role); diff != "" {
		t.Errorf("role (-want +got):\n%s", diff)
	}

	f.delete("pods", "shop/cart-1")
	eventually(t, "no grant", 5*time.Second, func() bool { return len(f.names("roles")) == 0 && len(f.names("rolebindings")) == 0 })
	if diff := cmp.Diff([]string{
		"patch roles shop/podtoken:cart", "patch rolebindings shop/podtoken:cart",
		"delete rolebindings shop/podtoken:cart", "delete roles shop/podtoken:cart",
	}, f.changes("roles", "rolebindings")); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}

	p.stop(t)
	if code := p.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code = %d, want 0", code)
	}
	if lease := f.get("leases", "podtoken-system/podtoken-controller"); !strings.Contains(lease, `"holderIdentity":""`) {
		t.Errorf("the Lease is not free: %s", lease)
	}
}
