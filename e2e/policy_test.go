package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

func mustJSON(t *testing.T, value any) []byte {
	t.Helper()
	data, err := json.Marshal(value)
	must(t, err, "encoding")
	return data
}

// What the policy does not allow is refused when the pod is created, with a sentence that names everything that a person has to
// know: token, audience, ServiceAccount, namespace, the rules, and what an administrator would change.
func TestPolicyDenials(t *testing.T) {
	t.Parallel()
	n := newNamespaceOf(t, policedPrefix, nil)
	n.account("app-shop")
	for name, test := range map[string]struct {
		account, audiences string
		want               []string
	}{
		"an audience that no rule allows": {"app-shop", "billing", []string{
			`"billing"`, `"app-shop"`, `"` + n.name + `"`, `"applications"`, "vault", "https://*.example.com", "policy.allow",
		}},
		"a ServiceAccount that no rule allows it": {"app", "vault", []string{`"vault"`, `ServiceAccount "app"`, "rule 3", "policy.allow"}},
		"the API server's audience by a glob":     {"app-shop", apiAudience, []string{apiAudience, "API server", "policy.allow"}},
		"one of several":                          {"app-shop", "vault, https://x.example.com, nope", []string{`"nope"`}},
	} {
		spec := gated(test.account)
		_, err := n.tryCreate("denied", annotations("audience.mine", test.audiences), spec)
		message := denial(t, err)
		for _, want := range test.want {
			if !strings.Contains(message, want) {
				t.Errorf("%s: the refusal says nothing of %q:\n%s", name, want, message)
			}
		}
	}
	n.create("allowed", annotations("audience.mine", "vault, https://x.example.com", "audience.all", "public"), gated("app-shop"))
	n.granted("app-shop", "https://x.example.com", "public", "vault")
}

// A pod that is made by hand to look injected gains nothing that the policy does not allow, and what it may have is what any
// annotated pod may have.
func TestForgedPodGainsNothing(t *testing.T) {
	t.Parallel()
	n := newNamespaceOf(t, policedPrefix, nil)
	n.account("app-forger")
	forge := func(name, audience string) *corev1.Pod {
		spec := gated("app-forger")
		spec.InitContainers = []corev1.Container{container(api.ContainerName, probePath, "sleep")}
		spec.InitContainers[0].RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
		spec.InitContainers[0].Args = []string{"--token=" + string(mustJSON(t, api.TokenSpec{
			Name: "mine", Audiences: []string{audience}, ExpirationSeconds: 3600, Path: "mine", Mode: "0400", RefreshAtPercent: 80,
		}))}
		pod, err := client.CoreV1().Pods(n.name).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{api.LabelInjected: "true"},
				Annotations: map[string]string{api.AnnotationStatus: `{"version":"v9","tokens":["mine"],"hash":"0"}`}},
			Spec: spec,
		}, metav1.CreateOptions{})
		must(t, err, "creating a pod that looks injected")
		return pod
	}
	forge("forged", "billing")
	n.event("forged", "GrantRefused", `"billing"`)
	if role := n.role("app-forger"); role != nil {
		t.Errorf("the forged pod got %v", role.Rules)
	}
	forge("honest", "vault")
	n.granted("app-forger", "vault")

	// In a namespace that the installation leaves alone there is nothing at all.
	_, err := client.CoreV1().Pods("kube-system").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "forged", Annotations: annotations("audience", "vault")}, Spec: gated("default"),
	}, metav1.CreateOptions{})
	if message := denial(t, err); !strings.Contains(message, `namespace "kube-system" never are`) {
		t.Errorf("an annotated pod in kube-system is refused with %q", message)
	}
}

// Mode rbac: without an administrator's Role a pod is refused when it is created, with the Role that is missing; with it, it
// gets its token. The controller grants everything but audiences.
func TestRBACNamespace(t *testing.T) {
	t.Parallel()
	n := newNamespaceOf(t, rbacPrefix, nil)
	_, err := n.tryCreate("pod", annotations("audience", audienceDefault), podSpec())
	message := denial(t, err)
	for _, want := range []string{
		`ServiceAccount "app"`, `audience "` + audienceDefault + `"`, `namespace "` + n.name + `"`, "mode rbac",
		`Missing is a Role with apiGroups ["podtoken.dev"], resources ["audiences"], resourceNames ["` + audienceDefault + `"], verbs ["mint"]`,
	} {
		if !strings.Contains(message, want) {
			t.Errorf("the refusal says nothing of %q:\n%s", want, message)
		}
	}
	n.allow(serviceAccount, "billing-tokens", rule(api.RBACGroup, api.ResourceAudiences, "mint", audienceDefault))
	// The API server's authorizer hears of the Role a moment later.
	eventually(t, pollShort, "the pod is admitted", func(context.Context) (bool, error) {
		_, err := n.tryCreate("pod", annotations("audience", audienceDefault), podSpec())
		return err == nil, err
	})
	pod := n.ready("pod")
	assertReview(t, n.token("pod", "app", tokenPath), audienceDefault, pod)
	if role := n.role(serviceAccount); len(role.Rules) != 4 {
		t.Errorf("the controller granted %v, want no audiences", role.Rules)
	}
	// Time and again: the order of annotations is a matter of chance.
	for range 20 {
		if _, err := n.tryCreate("more", annotations("audience.a", audienceDefault, "audience.b", "other", "audience.c", audienceDefault), podSpec()); err == nil || !strings.Contains(err.Error(), `audience "other"`) {
			t.Fatalf("a second audience, without a Role: %v", err)
		}
	}
}
