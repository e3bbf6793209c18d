package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/internal/servertest"
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
	t.Parallel()
	f := newGuarded(t)
	p := start(t, f, "--removal-delay=0s")
	ready(t, p)
	eventually(t, "leading", 20*time.Second, func() bool { return strings.Contains(p.log.String(), "Starting workers") })
	eventually(t, "the guard is proven", 20*time.Second, func() bool { return p.metric("podtoken_guard_present") == "1" })

	f.add(t, "pods", podYAML("shop", "cart-1", "cart", "vault", 3600))
	eventually(t, "RoleBinding", 20*time.Second, func() bool { return f.get("rolebindings", "shop/podtoken:cart") != "" })
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
	eventually(t, "no grant", 20*time.Second, func() bool { return len(f.names("roles")) == 0 && len(f.names("rolebindings")) == 0 })
	if diff := cmp.Diff([]string{
		"patch roles shop/podtoken:cart", "patch rolebindings shop/podtoken:cart", "patch roles shop/podtoken:cart",
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

// Nothing waits for a timer between a pod and its grant.
func TestGrantsAreQuick(t *testing.T) {
	f := newGuarded(t)
	p := start(t, f)
	eventually(t, "the guard is proven", 20*time.Second, func() bool { return p.metric("podtoken_guard_present") == "1" })
	f.wantQuickGrant(t)
}

// wantQuickGrant fails if no grant comes within 200 ms of its pod. One of twenty is enough: the machine may be busy with something else.
func (f *fakeAPI) wantQuickGrant(t *testing.T) {
	t.Helper()
	const want = 200 * time.Millisecond
	fastest := time.Hour
	for i := 0; i < 20 && fastest > want; i++ {
		name := fmt.Sprintf("quick-%d", i)
		f.add(t, "serviceaccounts", serviceAccountYAML("shop", name))
		begin := time.Now()
		f.add(t, "pods", podYAML("shop", name, name, "vault", 600))
		eventually(t, "grant of one more", 20*time.Second, func() bool { return f.get("rolebindings", "shop/podtoken:"+name) != "" })
		fastest = min(fastest, time.Since(begin))
	}
	t.Logf("the fastest grant: %v", fastest.Round(time.Millisecond))
	if fastest > want {
		t.Errorf("each grant took %v or more, want less than %v", fastest, want)
	}
}

func TestANewPolicyIsTakenIntoUse(t *testing.T) {
	t.Parallel()
	f := newGuarded(t)
	f.add(t, "pods", podYAML("shop", "cart-1", "cart", "sts.example.com", 3600))
	p := start(t, f)
	eventually(t, "grant", 20*time.Second, func() bool { return f.get("rolebindings", "shop/podtoken:cart") != "" })

	write(t, p.policy, strings.Replace(policyYAML, `"vault", "sts.example.com"`, `"vault"`, 1))
	eventually(t, "no grant", 20*time.Second, func() bool { return f.count("roles") == 0 && f.count("rolebindings") == 0 })
	eventually(t, "event", 20*time.Second, func() bool { return f.count("events") > 0 && p.metric("podtoken_grant_refused_pods") == "1" })
	event := ""
	for _, name := range f.names("events") {
		event += f.get("events", name)
	}
	for _, want := range []string{`"reason":"GrantRefused"`, `"action":"Granting"`, `"name":"cart-1"`, `"reportingController":"podtoken-controller"`, "sts.example.com"} {
		if !strings.Contains(event, want) {
			t.Errorf("events = %s\nwant %s in it", event, want)
		}
	}

	write(t, p.policy, "apiVersion: podtoken.dev/v1alpha1\nkind: nonsense\n")
	eventually(t, "refusal of a bad policy", 20*time.Second, func() bool { return p.metric("podtoken_policy_last_reload_successful") == "0" })
	write(t, p.policy, policyYAML)
	eventually(t, "grant again", 20*time.Second, func() bool { return f.get("rolebindings", "shop/podtoken:cart") != "" })
}

// Helm creates policies after Deployments, so the controller is there before its guard.
func TestTheGuardComesLater(t *testing.T) {
	t.Parallel()
	f := newFakeAPI(t)
	f.add(t, "serviceaccounts", serviceAccountYAML("shop", "cart"))
	f.add(t, "pods", podYAML("shop", "cart-1", "cart", "vault", 3600))
	p := start(t, f)
	ready(t, p)
	eventually(t, "waiting", 20*time.Second, func() bool {
		return p.metric(`podtoken_grant_reconciles_total{outcome="Waiting",reason="GuardMissing"}`) != "0"
	})
	if got := p.metric("podtoken_guard_present"); got != "0" {
		t.Errorf("podtoken_guard_present = %s without a guard", got)
	}
	if got := f.count("roles"); got != 0 {
		t.Errorf("%d Roles without a guard", got)
	}
	f.add(t, "validatingadmissionpolicybindings", guardBindingYAML) // alone it guards nothing
	f.add(t, "validatingadmissionpolicies", guardYAML)
	begin := time.Now()
	eventually(t, "grant", 20*time.Second, func() bool { return f.get("rolebindings", "shop/podtoken:cart") != "" })
	if took := time.Since(begin); took < 3*time.Second {
		t.Errorf("the grant came %v after the guard, want the 3 seconds in which API servers may still take it up", took)
	}
	if got := p.metric("podtoken_guard_present"); got != "1" {
		t.Errorf("podtoken_guard_present = %s with a guard", got)
	}
	// The two watches tell of policy and binding in any order, so in between it may be the other one that is missing.
	said := map[string]int{}
	for line := range strings.Lines(p.log.String()) {
		if _, problem, found := strings.Cut(line, `"problem":`); found && strings.Contains(line, "Guard missing") {
			said[problem]++
		}
	}
	if len(said) == 0 {
		t.Error("the log does not say that the guard is missing")
	}
	for problem, times := range said {
		if times != 1 {
			t.Errorf("the log says %d times %s", times, problem)
		}
	}
}

// The guard's objects are there, and the API server does not enforce them yet, or never: nothing is granted until it does, and the
// token that it answers with is not written down.
func TestTheGuardIsProven(t *testing.T) {
	t.Parallel()
	f := newGuarded(t)
	f.lax = true
	f.add(t, "pods", podYAML("shop", "cart-1", "cart", "vault", 3600))
	p := start(t, f, "--log-level=debug")
	ready(t, p)
	event := ""
	eventually(t, "the event", 20*time.Second, func() bool {
		event = ""
		for _, name := range f.names("events") {
			event += f.get("events", name)
		}
		return strings.Contains(event, "GuardMissing")
	})
	for _, want := range []string{`"name":"cart-1"`, "does not enforce ValidatingAdmissionPolicy"} {
		if !strings.Contains(event, want) {
			t.Errorf("events = %s\nwant %s in it", event, want)
		}
	}
	if got := p.metric("podtoken_guard_present") + p.metric(`podtoken_guard_api_servers{state="NotEnforcing"}`) + p.metric(`podtoken_guard_api_servers{state="Unknown"}`); got != "011" {
		t.Errorf("present, not enforcing, unknown = %s, want 011", got)
	}
	if got := f.count("roles"); got != 0 {
		t.Errorf("%d Roles before the guard is proven", got)
	}
	f.mu.Lock()
	f.lax = false
	f.mu.Unlock()
	eventually(t, "grant", 20*time.Second, func() bool { return f.get("rolebindings", "shop/podtoken:cart") != "" })
	for _, part := range append(strings.Split(signedToken, "."), strings.Split(tokenFor("https://kubernetes.default.svc"), ".")...) {
		if strings.Contains(p.log.String(), part) {
			t.Errorf("the log has %q", part)
		}
	}
	if strings.Contains(event, "eyJ") {
		t.Errorf("a token in the events %s", event)
	}
}

// The second replica is ready, knows what there is, and takes over when the first one ends.
func TestHandover(t *testing.T) {
	t.Parallel()
	f := newGuarded(t)
	first := start(t, f)
	eventually(t, "leading", 20*time.Second, func() bool { return strings.Contains(first.log.String(), "Starting workers") })
	second := start(t, f)
	ready(t, second)
	f.add(t, "pods", podYAML("shop", "cart-1", "cart", "vault", 3600))
	eventually(t, "grant", 20*time.Second, func() bool { return f.get("rolebindings", "shop/podtoken:cart") != "" })
	eventually(t, "metrics of the second", 20*time.Second, func() bool {
		return second.metric("podtoken_grants") == "1" && second.metric("podtoken_guard_present") == "1"
	})
	if strings.Contains(second.log.String(), "Starting workers") {
		t.Fatal("two replicas lead")
	}
	if got := first.metric("podtoken_controller_leading") + second.metric("podtoken_controller_leading"); got != "10" {
		t.Errorf("podtoken_controller_leading of the first and the second is %s, want 1 and 0", got)
	}
	first.stop(t)
	f.delete("roles", "shop/podtoken:cart")
	eventually(t, "repair by the second", 20*time.Second, func() bool { return f.get("roles", "shop/podtoken:cart") != "" })
	if got := second.metric("podtoken_controller_leading"); got != "1" {
		t.Errorf("podtoken_controller_leading is %s after the handover", got)
	}
}

// The token that is read for its audiences appears nowhere.
func TestNoTokenInTheLog(t *testing.T) {
	t.Parallel()
	p := start(t, newGuarded(t), "--log-level=debug")
	ready(t, p)
	p.stop(t)
	for _, part := range strings.Split(tokenFor("https://kubernetes.default.svc"), ".") {
		if strings.Contains(p.log.String(), part) {
			t.Errorf("the log has %q", part)
		}
	}
}

func TestWithoutWhatItNeedsItDoesNotStart(t *testing.T) {
	f := newGuarded(t)
	directory := t.TempDir()
	policy, token := directory+"/policy.yaml", directory+"/token"
	args := []string{"--kubeconfig=" + f.kubeconfig(t), "--policy=" + policy, "--identity-token=" + token, "--leader-election-namespace=x"}
	for _, want := range []string{"loading the policy: ", "loading our own token: "} {
		err := run(t.Context(), args, &servertest.Buffer{})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("run() = %v, want %s...", err, want)
		}
		write(t, policy, policyYAML)
	}
}
