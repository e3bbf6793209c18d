package policies

import (
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/version"
)

// The versions of Kubernetes that the chart supports (kubeVersion), and the one before: an API server accepts what the version before it
// could evaluate, so that it can be rolled back.
var versions = []string{"1.32", "1.33", "1.34", "1.35", "1.36", "1.37"}

// Each expression that the chart installs compiles in each supported version.
func TestExpressionsCompile(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../charts/podtoken/golden/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	policies, expressions := 0, map[string]admissionv1.ValidatingAdmissionPolicy{}
	add := func(policy *admissionv1.ValidatingAdmissionPolicy) {
		policies++
		key, err := policy.Spec.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		expressions[string(key)] = *policy
	}
	for _, file := range append(files, guardFile, strictFile) {
		documents(t, file, func(kind, _ string, document []byte) {
			switch kind {
			case "ValidatingAdmissionPolicy":
				add(decodeInto[admissionv1.ValidatingAdmissionPolicy](t, document))
			case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
				for _, webhook := range decodeInto[admissionv1.MutatingWebhookConfiguration](t, document).Webhooks {
					// Conditions of webhooks are compiled as those of policies are, without variables.
					policy := &admissionv1.ValidatingAdmissionPolicy{Spec: admissionv1.ValidatingAdmissionPolicySpec{MatchConditions: webhook.MatchConditions}}
					policy.Name = webhook.Name
					add(policy)
				}
			case "MutatingAdmissionPolicy":
				t.Errorf("%s: a MutatingAdmissionPolicy: this test does not know how it is compiled", file)
			}
		})
	}
	if len(files) < 4 || policies < 20 {
		t.Fatalf("%d files with %d policies and webhooks: the chart's golden files have more", len(files), policies)
	}
	for _, kubernetes := range versions {
		for _, policy := range expressions {
			if _, err := CompileFor(&policy, version.MustParse(kubernetes)); err != nil {
				t.Errorf("%s, Kubernetes %s: %v", policy.Name, kubernetes, err)
			}
		}
	}
}

// A function of a later version does not compile in an earlier one, wherever it stands.
func TestLaterFunctionsDoNotCompile(t *testing.T) {
	t.Parallel()
	const later = "[1, 2].reverse()[0] == 2" // Since 1.34.
	for where, spec := range map[string]admissionv1.ValidatingAdmissionPolicySpec{
		"matchConditions":  {MatchConditions: []admissionv1.MatchCondition{{Name: "x", Expression: later}}},
		"variables":        {Variables: []admissionv1.Variable{{Name: "x", Expression: later}}},
		"validations":      {Validations: []admissionv1.Validation{{Expression: later}}},
		"messages":         {Validations: []admissionv1.Validation{{Expression: "true", MessageExpression: "string(" + later + ")"}}},
		"auditAnnotations": {AuditAnnotations: []admissionv1.AuditAnnotation{{Key: "x", ValueExpression: "string(" + later + ")"}}},
	} {
		for kubernetes, want := range map[string]string{"1.33": "undeclared reference to 'reverse'", "1.34": ""} {
			_, err := CompileFor(&admissionv1.ValidatingAdmissionPolicy{Spec: spec}, version.MustParse(kubernetes))
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, Kubernetes %s: %v, want %q", where, kubernetes, err, want)
			}
		}
	}
}
