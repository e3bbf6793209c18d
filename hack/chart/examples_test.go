package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/mutate"
)

const examples = "manifests/examples/*.yaml"

// TestExamplesAreComplete: each is complete in itself, and grants nothing.
func TestExamplesAreComplete(t *testing.T) {
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
		if roles, bindings := all[*rbacv1.Role](objects), all[*rbacv1.RoleBinding](objects); len(roles)+len(bindings) != 0 {
			t.Errorf("there are %d Roles and %d RoleBindings: what an example needs is granted by the controller", len(roles), len(bindings))
		}

		templates := podTemplates(objects)
		if len(templates) != 1 || templates[0].Spec.ServiceAccountName != account.Name {
			t.Errorf("want one pod (template) that uses ServiceAccount %s", account.Name)
		}
	}, examples)
}

// TestExamplesAreInjected asks the webhook's own code, with the chart's default configuration.
func TestExamplesAreInjected(t *testing.T) {
	configMap := named[*corev1.ConfigMap](t, decode(t, filepath.Join(root, install)), "podtoken-webhook")
	cfg, err := mutate.ParseConfig([]byte(configMap.Data["config.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
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
		result := mutate.Mutate(mutate.Input{Pod: &pod, Namespace: "podtoken-examples", Operation: "CREATE", Config: cfg,
			APIServerAudiences: []string{"https://kubernetes.default.svc"}})
		if result.Outcome != api.OutcomeInjected || len(result.Warnings) != 0 {
			t.Errorf("got %s, %s, warnings %q", result.Outcome, result.Message, result.Warnings)
		}
		for _, token := range result.Tokens {
			if strings.HasSuffix(path, "nonroot-fsgroup.yaml") && token.Mode != "0440" {
				t.Errorf("mode of %s is %s, the comment says 0440", token.Name, token.Mode)
			}
		}
	}, examples)
}
