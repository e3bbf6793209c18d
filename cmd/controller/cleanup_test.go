package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/internal/servertest"
)

func newInstallation(t *testing.T, grants int) *fakeAPI {
	f := newFakeAPI(t)
	f.add(t, "mutatingwebhookconfigurations", `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: podtoken}}`)
	f.add(t, "mutatingwebhookconfigurations", `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: other}}`)
	f.add(t, "deployments", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: podtoken-controller, namespace: podtoken-system}}`)
	f.add(t, "leases", `{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: podtoken-controller, namespace: podtoken-system}}`)
	for resource, kind := range map[string]string{"validatingadmissionpolicies": "ValidatingAdmissionPolicy", "validatingadmissionpolicybindings": "ValidatingAdmissionPolicyBinding"} {
		for _, name := range []string{"podtoken-guard", "podtoken-grants", "other"} {
			f.add(t, resource, fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: %s, metadata: {name: %s}}`, kind, name))
		}
	}
	for resource, kind := range map[string]string{"roles": "Role", "rolebindings": "RoleBinding"} {
		text := fmt.Sprintf(`{apiVersion: rbac.authorization.k8s.io/v1, kind: %s, metadata: {labels: {podtoken.dev/grant: "true"}}}`, kind)
		f.addMany(t, resource, text, grants, func(i int, o fakeObject) {
			o.metadata()["name"], o.metadata()["namespace"] = fmt.Sprintf("podtoken:a-%d", i), fmt.Sprintf("ns-%d", i%7)
		})
	}
	f.add(t, "roles", `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: "podtoken:foreign", namespace: ns-1}}`)
	return f
}

func cleanupOf(t *testing.T, f *fakeAPI, args ...string) (string, error) {
	log := &servertest.Buffer{}
	err := run(t.Context(), append([]string{"cleanup", "--namespace=podtoken-system", "--withdrawal-delay=10ms", "--kubeconfig=" + f.kubeconfig(t)}, args...), log)
	return log.String(), err
}

func TestCleanup(t *testing.T) {
	const grants = 100*cleanupPage + 2 // more than one page, and not a multiple of it
	f := newInstallation(t, grants)
	log, err := cleanupOf(t, f)
	if err != nil {
		t.Fatalf("cleanup: %v\n%s", err, log)
	}
	if strings.Contains(log, "Trying again") {
		t.Errorf("a step was repeated although nothing was wrong:\n%s", log)
	}
	for _, resource := range []string{"deployments", "leases", "rolebindings"} {
		if left := f.names(resource); len(left) > 0 {
			t.Errorf("left: %s %q", resource, left)
		}
	}
	if diff := cmp.Diff([]string{"ns-1/podtoken:foreign"}, f.names("roles")); diff != "" {
		t.Errorf("Roles (-want +got):\n%s", diff)
	}
	for _, resource := range []string{"mutatingwebhookconfigurations", "validatingadmissionpolicies", "validatingadmissionpolicybindings"} {
		if diff := cmp.Diff([]string{"/other"}, f.names(resource)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", resource, diff)
		}
	}
	// The order in which nothing comes again, and no grant is without its guard.
	wantOrder := []string{
		"mutatingwebhookconfigurations", "deployments", "rolebindings", "roles", "leases",
		"validatingadmissionpolicybindings", "validatingadmissionpolicies",
	}
	changes := f.changes(wantOrder...)
	var order []string
	for _, change := range changes {
		if resource := strings.Fields(change)[1]; len(order) == 0 || order[len(order)-1] != resource {
			order = append(order, resource)
		}
	}
	if diff := cmp.Diff(wantOrder, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if want := 2*grants + 7; len(changes) != want {
		t.Errorf("%d changes, want %d", len(changes), want)
	}
	// The permissions that it needs, and no other.
	var verbs []string
	for request := range f.counts() {
		verbs = append(verbs, request)
	}
	slices.Sort(verbs)
	if diff := cmp.Diff([]string{
		"delete deployments", "delete leases", "delete mutatingwebhookconfigurations", "delete rolebindings", "delete roles",
		"delete validatingadmissionpolicies", "delete validatingadmissionpolicybindings",
		"get deployments", "list rolebindings", "list roles",
	}, verbs); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}

	// Once more: nothing is there, which is fine.
	if log, err := cleanupOf(t, f); err != nil {
		t.Errorf("second cleanup: %v\n%s", err, log)
	}
}

// The Secret that the controller made goes, when it is named, after who would make it again; no other does.
func TestCleanupOfTheServingCertificate(t *testing.T) {
	f := newInstallation(t, 1)
	for _, name := range []string{"podtoken-webhook-tls", "another"} {
		f.add(t, "secrets", `{apiVersion: v1, kind: Secret, metadata: {namespace: podtoken-system, name: `+name+`}}`)
	}
	if log, err := cleanupOf(t, f, "--serving-certificate-secret=podtoken-webhook-tls"); err != nil {
		t.Fatalf("cleanup: %v\n%s", err, log)
	}
	if diff := cmp.Diff([]string{"podtoken-system/another"}, f.names("secrets")); diff != "" {
		t.Errorf("Secrets (-want +got):\n%s", diff)
	}
	if changes := f.changes("deployments", "secrets"); len(changes) != 2 || !strings.Contains(changes[0], "deployments") {
		t.Errorf("changes %q, want the controller's end first", changes)
	}
}

// A request that was authorized by the last grant can be on its way: the guard stays for as long.
func TestCleanupKeepsTheGuardForRequestsOnTheirWay(t *testing.T) {
	const delay = 300 * time.Millisecond
	f := newInstallation(t, 1)
	var lastGrant, guard time.Time
	f.refuse = func(verb, resource, _ string) int {
		switch {
		case verb == "list" && resource == "roles": // the last of which shows that there is none
			lastGrant = time.Now()
		case verb == "delete" && strings.HasPrefix(resource, "validatingadmissionpolic") && guard.IsZero():
			guard = time.Now()
		}
		return 0
	}
	if log, err := cleanupOf(t, f, "--withdrawal-delay="+delay.String()); err != nil {
		t.Fatalf("cleanup: %v\n%s", err, log)
	}
	if got := guard.Sub(lastGrant); got < delay {
		t.Errorf("the guard went %v after the last grant, want at least %v", got, delay)
	}
	// A guard that is on the API servers' disks stays, and is not waited for.
	begin := time.Now()
	if log, err := cleanupOf(t, newInstallation(t, 1), "--withdrawal-delay=1m", "--guard=", "--grants-policy="); err != nil {
		t.Fatalf("cleanup: %v\n%s", err, log)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("cleanup without a guard took %v", took)
	}
}

// Finalizers of others keep grants, and with them the guard; the error says which.
func TestCleanupOfGrantsThatFinalizersKeep(t *testing.T) {
	f := newInstallation(t, 0)
	f.add(t, "roles", `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: "podtoken:a", namespace: ns, labels: {podtoken.dev/grant: "true"},
		finalizers: [example.com/keep], deletionTimestamp: "2026-01-01T00:00:00Z"}}`)
	f.refuse = func(verb, resource, _ string) int {
		if verb == "delete" && resource == "roles" {
			return http.StatusConflict // it stays
		}
		return 0
	}
	_, err := cleanupOf(t, f, "--timeout=2s")
	want := `finalizers keep 1 of the Roles with label podtoken.dev/grant: ns/podtoken:a ["example.com/keep"]; remove the finalizers (foregroundDeletion: or the dependents for which the deletion waits)`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error = %v\nwant    %s", err, want)
	}
	if left := f.names("validatingadmissionpolicies"); len(left) != 3 {
		t.Errorf("policies = %q, want the guard to stay with the grant", left)
	}
}

// The red team's case: RoleBindings with 62,000 labels each, and Roles with as much in their finalizers, do not have the Job killed for want of
// memory, of which it has 256 MiB in the chart.
func TestCleanupOfHostileObjectsNeedsLittleMemory(t *testing.T) {
	f := newInstallation(t, 0)
	labels, finalizers := map[string]any{"podtoken.dev/grant": "true"}, []any{}
	for i := range 62_000 {
		labels[fmt.Sprintf("%04x", i)] = ""
		finalizers = append(finalizers, fmt.Sprintf("example.com/%04x", i))
	}
	manyLabels, manyFinalizers := &encoded{value: labels}, &encoded{value: finalizers}
	f.mu.Lock()
	for i := range 20 {
		name := fmt.Sprintf("fat-%02d", i)
		f.put("rolebindings", fakeObject{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{
			"namespace": "ns", "name": name, "labels": manyLabels,
		}})
		if i >= 6 {
			continue // The fake API server takes long to make a list of them.
		}
		f.put("roles", fakeObject{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": map[string]any{
			"namespace": "ns", "name": name, "labels": map[string]any{"podtoken.dev/grant": "true"}, "finalizers": manyFinalizers,
			"deletionTimestamp": "2026-01-01T00:00:00Z",
		}})
	}
	f.mu.Unlock()
	refused := map[string]bool{}
	f.refuse = func(verb, resource, key string) int {
		if first := !refused[key]; verb == "delete" && resource == "roles" && first {
			refused[key] = true
			return http.StatusConflict // Finalizers keep it, until it is seen once.
		}
		return 0
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(path, "cleanup", "--namespace=podtoken-system", "--withdrawal-delay=10ms", "--timeout=5m", "--kubeconfig="+f.kubeconfig(t))
	command.Env = append(os.Environ(), "GOMEMLIMIT=96MiB") // When garbage is collected does not matter: on a busy machine it is late.
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("cleanup: %v\n%.2000s", err, output)
	}
	if left := len(f.names("rolebindings")) + len(f.names("roles")); left != 1 {
		t.Errorf("%d RoleBindings and Roles are left, want the foreign Role alone", left)
	}
	if len(output) > 64<<10 {
		t.Errorf("log of %d bytes", len(output))
	}
	rss := command.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	t.Logf("memory: %.1f MiB at most", float64(rss)/(1<<20))
	if rss > 128<<20 {
		t.Errorf("peak memory = %d bytes, want less than 128 MiB", rss)
	}
}

// While the controller's pods are there, they would make again what was deleted.
func TestCleanupWaitsForTheController(t *testing.T) {
	f := newInstallation(t, 1)
	deployment := f.get("deployments", "podtoken-system/podtoken-controller")
	var looks atomic.Int32
	f.refuse = func(verb, resource, _ string) int {
		if verb == "get" && resource == "deployments" {
			switch looks.Add(1) {
			case 1:
				f.add(t, "deployments", deployment) // It ends, but is not gone yet.
			case 2:
				if left := f.names("rolebindings"); len(left) != 1 {
					t.Errorf("RoleBindings = %q while there is a controller", left)
				}
				return http.StatusInternalServerError // One look fails.
			case 3:
				f.delete("deployments", "podtoken-system/podtoken-controller")
			}
		}
		return 0
	}
	if log, err := cleanupOf(t, f); err != nil {
		t.Errorf("cleanup: %v\n%s", err, log)
	}
	if got := looks.Load(); got != 3 {
		t.Errorf("%d looks at the Deployment, want 3", got)
	}
	if left := f.names("rolebindings"); len(left) != 0 {
		t.Errorf("left: RoleBindings %q", left)
	}
}

func TestCleanupGivesUp(t *testing.T) {
	f := newInstallation(t, 1)
	f.refuse = func(verb, resource, _ string) int {
		if verb == "delete" && resource == "deployments" {
			return http.StatusInternalServerError
		}
		return 0
	}
	_, err := cleanupOf(t, f, "--timeout=1s")
	want := `cleaning up, left are Deployment "podtoken-controller" in namespace "podtoken-system" and every grant: ` +
		`not done after 1s, the value of --timeout: deleting Deployment "podtoken-controller": `
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error = %v\nwant    %s...", err, want)
	}
	if left := f.names("rolebindings"); len(left) != 1 {
		t.Errorf("RoleBindings = %q, want the one that the controller would make again", left)
	}
}

func TestCleanupThatMayNot(t *testing.T) {
	f := newInstallation(t, 1)
	f.refuse = func(verb, resource, _ string) int {
		if verb == "delete" && resource == "roles" {
			return http.StatusForbidden
		}
		return 0
	}
	begin := time.Now()
	_, err := cleanupOf(t, f)
	want := `cleaning up, left are Roles with the label podtoken.dev/grant: deleting Role "podtoken:a-0" in namespace "ns-0": Forbidden (fake)`
	if err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant    %s", err, want)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v to find that it is forbidden", took)
	}
}

func TestCleanupThatIsStopped(t *testing.T) {
	f := newInstallation(t, 1)
	f.refuse = func(string, string, string) int { return http.StatusInternalServerError }
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	err := run(ctx, []string{"cleanup", "--namespace=podtoken-system", "--kubeconfig=" + f.kubeconfig(t)}, &servertest.Buffer{})
	if err == nil || !strings.Contains(err.Error(), `left are MutatingWebhookConfiguration "podtoken" and everything after it`) {
		t.Errorf("error = %v", err)
	}
}
