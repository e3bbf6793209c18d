package grant

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func guardPolicy() *admissionv1.ValidatingAdmissionPolicy {
	fail := admissionv1.Fail
	return &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "podtoken-guard"},
		Spec:       admissionv1.ValidatingAdmissionPolicySpec{FailurePolicy: &fail},
	}
}

func guardBinding() *admissionv1.ValidatingAdmissionPolicyBinding {
	return &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "podtoken-guard"},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "podtoken-guard", ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny, admissionv1.Audit},
		},
	}
}

func TestGuardProblem(t *testing.T) {
	type objects struct {
		policy  *admissionv1.ValidatingAdmissionPolicy
		binding *admissionv1.ValidatingAdmissionPolicyBinding
	}
	tests := map[string]struct {
		change func(*objects)
		want   string
	}{
		"as it should be": {func(*objects) {}, ""},
		"no policy":       {func(o *objects) { o.policy = nil }, `ValidatingAdmissionPolicy "podtoken-guard" does not exist`},
		"a policy on its way out": {func(o *objects) { o.policy.DeletionTimestamp = &metav1.Time{Time: epoch} },
			`ValidatingAdmissionPolicy "podtoken-guard" does not exist`},
		"a policy that fails open": {func(o *objects) { *o.policy.Spec.FailurePolicy = admissionv1.Ignore },
			`ValidatingAdmissionPolicy "podtoken-guard" has failurePolicy Ignore instead of Fail`},
		"no binding": {func(o *objects) { o.binding = nil }, `ValidatingAdmissionPolicyBinding "podtoken-guard" does not exist`},
		"a binding that does not deny": {func(o *objects) { o.binding.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Warn} },
			`ValidatingAdmissionPolicyBinding "podtoken-guard" has validationActions [Warn] without Deny`},
		"a binding of another policy": {func(o *objects) { o.binding.Spec.PolicyName = "other" },
			`ValidatingAdmissionPolicyBinding "podtoken-guard" binds policy "other" instead of "podtoken-guard"`},
		"a binding for some requests only": {func(o *objects) { o.binding.Spec.MatchResources = &admissionv1.MatchResources{} },
			`ValidatingAdmissionPolicyBinding "podtoken-guard" has matchResources, which leave requests out`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := objects{guardPolicy(), guardBinding()}
			test.change(&o)
			if got := guardProblem("podtoken-guard", o.policy, o.binding); got != test.want {
				t.Errorf("problem = %q, want %q", got, test.want)
			}
		})
	}
}

func TestGuardMissing(t *testing.T) {
	w := newWorld(t, guardBinding(), cartAccount("uid-1"), pod("cart-1", 3600, "vault"))
	w.reconcile()
	w.reconcile()
	expect(t, "writes", nil, w.taken())
	expect(t, "guard", 0, w.values()["podtoken_guard_present"])
	expect(t, "outcomes", map[string]float64{"Waiting GuardMissing": 2}, w.counts())
	expect(t, "events", []string{`GuardMissing cart-1: podtoken: no grant yet: ValidatingAdmissionPolicy "podtoken-guard" does not exist; ` +
		`restore it (it is part of podtoken's chart). Without this guard the ServiceAccount could mint any token. The grant follows automatically`}, w.events)

	w.add(guardPolicy())
	w.reconcile()
	expect(t, "writes with a guard", created, w.taken())
	expect(t, "waiting pods", 0, w.values()["podtoken_grant_waiting_pods"])

	// What is granted stays, nothing is added, less is written, and nothing is repaired.
	w.remove(&admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "podtoken-guard"}})
	w.reconcile()
	expect(t, "writes without a guard", nil, w.taken())
	expect(t, "events", 1, len(w.events))
	w.add(pod("cart-2", 600, "sts"))
	w.reconcile()
	expect(t, "writes without a guard for more", nil, w.taken())
	expect(t, "events", 2, len(w.events))
	expect(t, "waiting pods", 1, w.values()["podtoken_grant_waiting_pods"])
	role := w.role()
	w.change(role, func() {
		role.Rules[4].ResourceNames = []string{"sts", "vault"}
		role.Rules[2].ResourceNames = []string{"600", "3600"}
	})
	w.remove(pod("cart-2", 600))
	w.policy = mustParse(t, strings.Replace(testPolicy, "[vault, sts]", "[vault]", 1))
	w.reconcile()
	expect(t, "writes without a guard for less", []string{"force Role"}, w.taken())
	expect(t, "audiences", []string{"vault"}, contentOf(w.role()).audiences)
	w.remove(w.binding())
	w.reconcile()
	expect(t, "writes without a guard for a repair", nil, w.taken())
	w.remove(pod("cart-1", 3600))
	w.policy = mustParse(t, strings.Replace(testPolicy, "[vault, sts]", "[other]", 1))
	w.reconcile()
	expect(t, "writes without a guard for nothing", []string{"delete Role"}, w.taken())
}

// A guard that API servers load from disk has no objects; its proof is the same.
func TestGuardFromDisk(t *testing.T) {
	w := newWorld(t, cartAccount("uid-1"), pod("cart-1", 3600, "vault"))
	w.r.guard.name = "guard.podtoken.dev.static.k8s.io"
	w.servers = []server{answers(answerAllowed, answerDenied)}
	w.reconcile()
	expect(t, "writes while API servers do not enforce it", nil, w.taken())
	w.servers = []server{answers(answerDenied, answerDenied)}
	w.reconcile()
	expect(t, "writes", created, w.taken())
	expect(t, "guard", 1, w.values()["podtoken_guard_present"])
}
