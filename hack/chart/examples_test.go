package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/mutate"
)

const examples = "manifests/examples/*.yaml"

// TestExamplesBringTheirRights: each is complete in itself, and grants nothing but what its pods need.
func TestExamplesBringTheirRights(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		namespace := one[*corev1.Namespace](t, objects)
		if namespace.Name != "podtoken-examples" || namespace.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
			t.Errorf("namespace %s has labels %v", namespace.Name, namespace.Labels)
		}
		for _, object := range objects[1:] {
			if object.GetNamespace() != namespace.Name {
				t.Errorf("%T %s is in namespace %q", object, object.GetName(), object.GetNamespace())
			}
		}

		account := one[*corev1.ServiceAccount](t, objects)
		role := one[*rbacv1.Role](t, objects)
		binding := one[*rbacv1.RoleBinding](t, objects)
		wantRules := []rbacv1.PolicyRule{{
			APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{account.Name},
			Verbs: []string{"create"},
		}}
		if diff := cmp.Diff(wantRules, role.Rules); diff != "" {
			t.Errorf("rules (-want +got):\n%s", diff)
		}
		wantRef := rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: role.Name}
		if diff := cmp.Diff(wantRef, binding.RoleRef); diff != "" {
			t.Errorf("roleRef (-want +got):\n%s", diff)
		}
		wantSubjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account.Name, Namespace: account.Namespace}}
		if diff := cmp.Diff(wantSubjects, binding.Subjects); diff != "" {
			t.Errorf("subjects (-want +got):\n%s", diff)
		}

		templates := podTemplates(objects)
		if len(templates) != 1 || templates[0].Spec.ServiceAccountName != account.Name {
			t.Errorf("want one pod (template) that uses ServiceAccount %s", account.Name)
		}
	}, examples)
}

// TestExamplesAreInjected asks the webhook's own code, with the chart's default configuration.
func TestExamplesAreInjected(t *testing.T) {
	configMap := one[*corev1.ConfigMap](t, decode(t, filepath.Join(root, install)))
	cfg, err := mutate.ParseConfig([]byte(configMap.Data["config.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	wantWarnings := map[string]int{"several-tokens.yaml": 1} // the API server's audience is mixed with another
	eachFile(t, func(t *testing.T, path string) {
		template := podTemplates(decode(t, path))[0]
		encoded, err := json.Marshal(corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec})
		if err != nil {
			t.Fatal(err)
		}
		var pod mutate.Pod
		if err := json.Unmarshal(encoded, &pod); err != nil {
			t.Fatal(err)
		}
		result := mutate.Mutate(mutate.Input{Pod: &pod, Namespace: "podtoken-examples", Operation: "CREATE", Config: cfg})
		if result.Outcome != api.OutcomeInjected || len(result.Warnings) != wantWarnings[filepath.Base(path)] {
			t.Errorf("got %s, %s, warnings %q", result.Outcome, result.Message, result.Warnings)
		}
		for _, token := range result.Tokens {
			if strings.HasSuffix(path, "nonroot-fsgroup.yaml") && token.Mode != "0440" {
				t.Errorf("mode of %s is %s, the comment says 0440", token.Name, token.Mode)
			}
		}
	}, examples)
}
