package grant

import (
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
