package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/e2e/attack"
	"github.com/podtoken/podtoken/pkg/api"
)

// handMade is a pod that looks as if the webhook had injected it.
func handMade(account string, row attack.Declaration) *corev1.Pod {
	spec := gated(account)
	name := row.Container
	if name == "" {
		name = api.ContainerName
	}
	sidecar := container(name, probePath, "sleep")
	sidecar.RestartPolicy, sidecar.Args = ptr(corev1.ContainerRestartPolicyAlways), row.Args
	sidecar.Env = []corev1.EnvVar{{Name: "AUD", Value: "billing"}}
	spec.InitContainers = []corev1.Container{sidecar}
	label := row.Label
	switch label {
	case "":
		label = "true"
	case "-":
		label = ""
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: account, Labels: map[string]string{api.LabelInjected: label}, Annotations: row.Annotations}, Spec: spec,
	}
}

// Whatever an author writes into a pod's declarations, its ServiceAccount gets nothing but audiences that the policy allows, letter by
// letter, and only in the one form that the webhook writes.
func TestDeclarationsByHand(t *testing.T) {
	t.Parallel()
	policed, open := newNamespaceOf(t, policedPrefix, nil), newNamespace(t, nil)
	rows := attack.Declarations(apiAudience)
	place := func(i int) (*testNamespace, string) {
		account := fmt.Sprintf("app-%d", i) // The policy allows ServiceAccounts app-*.
		if rows[i].Open {
			return open, account
		}
		return policed, account
	}
	for i, row := range rows {
		n, account := place(i)
		n.account(account)
		_, err := client.CoreV1().Pods(n.name).Create(t.Context(), handMade(account, row), metav1.CreateOptions{})
		must(t, err, "creating a pod with %s", row.Name)
	}
	// What was made after them is granted: by then the controller has seen all of them.
	for _, n := range []*testNamespace{policed, open} {
		n.account("app-last")
		_, err := client.CoreV1().Pods(n.name).Create(t.Context(), handMade("app-last", rows[0]), metav1.CreateOptions{})
		must(t, err, "creating the last pod")
		n.granted("app-last", rows[0].Audiences...)
	}
	for i, row := range rows {
		n, account := place(i)
		t.Run(row.Name, func(t *testing.T) {
			n := n.in(t)
			switch row.Fate {
			case attack.Granted:
				n.granted(account, row.Audiences...)
			case attack.Refused:
				n.event(account, "GrantRefused", "")
			case attack.Ignored:
				events, err := client.CoreV1().Events(n.name).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + account})
				must(t, err, "listing events")
				for _, e := range events.Items {
					if strings.HasPrefix(e.Reason, "Grant") {
						t.Errorf("a pod that does not count has the event %s: %s", e.Reason, e.Message)
					}
				}
			}
			if role := n.role(account); row.Fate != attack.Granted && role != nil {
				t.Errorf("there is a grant: %v", role.Rules)
			}
			for _, audience := range []string{"billing", "anything", apiAudience} {
				if n.may(account, api.VerbMint, api.RBACGroup, api.ResourceAudiences, "", audience) {
					t.Errorf("the ServiceAccount may have audience %q", audience)
				}
			}
		})
	}
}

// What is tried with pods besides declarations: the API server or podtoken denies it, or it gives nothing.
func TestPodsThatAreForged(t *testing.T) {
	t.Parallel()
	n := newNamespaceOf(t, policedPrefix, nil)
	n.account("app-forger")
	rows := attack.Declarations(apiAudience)
	allowed, wanted := rows[0], rows[1]
	create := func(n *testNamespace, change func(*corev1.Pod)) error {
		pod := handMade("app-forger", allowed)
		change(pod)
		_, err := client.CoreV1().Pods(n.name).Create(t.Context(), pod, metav1.CreateOptions{})
		return err
	}
	annotate := func(pod *corev1.Pod, keysAndValues ...string) { pod.Annotations = annotations(keysAndValues...) }
	for name, test := range map[string]struct {
		change func(*corev1.Pod)
		want   func(error) bool
		text   string
	}{
		"two sidecars": {func(p *corev1.Pod) { p.Spec.InitContainers = append(p.Spec.InitContainers, p.Spec.InitContainers[0]) }, apierrors.IsInvalid, "Duplicate value"},
		"a sidecar of its own in an annotated pod": {func(p *corev1.Pod) {
			annotate(p, "audience.mine", "vault")
			p.Spec.InitContainers[0].Env = append(p.Spec.InitContainers[0].Env, corev1.EnvVar{Name: "EVIL", Value: "x"})
		}, rejected, `the init container "podtoken" is not what podtoken injects`},
		"a forged status in an annotated pod": {func(p *corev1.Pod) {
			annotate(p, "audience.mine", "vault", "status", `{"version":"v9","tokens":["mine"],"hash":"0"}`)
		}, rejected, `the init container "podtoken" differs from what podtoken injected`},
		"a forged status of other tokens": {func(p *corev1.Pod) {
			p.Spec.InitContainers = nil
			annotate(p, "audience.mine", "vault", "status", `{"version":"v9","tokens":["other"],"hash":"0"}`)
		}, rejected, "podtoken.dev/status is set on a pod that is not injected"},
		"a mirror pod with a ServiceAccount": {func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		}, apierrors.IsForbidden, "mirror pod"},
	} {
		if err := create(n, test.change); !test.want(err) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v; want a denial with %q", name, err, test.text)
		}
	}
	if role := n.role("app-forger"); role != nil {
		t.Errorf("a pod that does not exist has the grant %v", role.Rules)
	}

	// The arguments of a pod do not change.
	must(t, create(n, func(*corev1.Pod) {}), "creating a pod that looks injected")
	n.granted("app-forger", allowed.Audiences...)
	_, err := client.CoreV1().Pods(n.name).Patch(t.Context(), "app-forger", types.StrategicMergePatchType, mustJSON(t, map[string]any{
		"spec": map[string]any{"initContainers": []any{map[string]any{"name": api.ContainerName, "args": wanted.Args}}},
	}), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("changing the arguments of a pod: %v; want it to be invalid", err)
	}

	n.mirrorPod(t)
	// In a namespace that the policy excludes nothing is granted to a pod that no policy has denied.
	system := &testNamespace{shared, t, "kube-system"}
	pod := handMade("default", allowed)
	pod.Name, pod.GenerateName = "", "forged-"
	created, err := client.CoreV1().Pods(system.name).Create(t.Context(), pod, metav1.CreateOptions{})
	must(t, err, "creating a pod in kube-system that looks injected")
	t.Cleanup(func() {
		if err := client.CoreV1().Pods(system.name).Delete(context.Background(), created.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))}); err != nil {
			t.Errorf("deleting the pod in kube-system: %v", err)
		}
	})
	system.event(created.Name, "GrantRefused", "")
	if role := system.role("default"); role != nil {
		t.Errorf("a pod in kube-system has the grant %v", role.Rules)
	}
}

// rejected reports whether the webhook has denied a request, which has a reason of its own.
func rejected(err error) bool {
	status, ok := err.(apierrors.APIStatus)
	return ok && status.Status().Code == http.StatusForbidden
}

// mirrorPod: without a ServiceAccount the API server takes it, and the kubelet, whose it is not, deletes it. It is not counted as one
// of the ServiceAccount "default".
func (n *testNamespace) mirrorPod(t *testing.T) {
	t.Helper()
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	must(t, err, "listing nodes")
	pod := handMade("mirror", attack.Declarations(apiAudience)[0])
	pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	pod.Spec.SchedulingGates, pod.Spec.ServiceAccountName, pod.Spec.NodeName = nil, "", nodes.Items[0].Name
	_, err = client.CoreV1().Pods(n.name).Create(t.Context(), pod, metav1.CreateOptions{})
	must(t, err, "creating a mirror pod")
	eventually(t, time.Minute, "the kubelet has deleted the mirror pod", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Pods(n.name).Get(ctx, pod.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
	if role := n.role("default"); role != nil {
		eventually(t, time.Minute, "what the mirror pod declared is gone", func(context.Context) (bool, error) { return n.role("default") == nil, nil })
		t.Log("while the mirror pod was there, ServiceAccount default had a grant")
	}
}

// A user who may patch Roles and RoleBindings and holds nothing that is in them widens no grant. The label, without which the
// controller would leave a grant alone, stays as well.
func TestPatchersWidenNoGrant(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	ctx := t.Context()
	n.account("widened")
	n.create("pod", annotations("audience.vault", "vault"), gated("widened"))
	before := n.granted("widened", "vault")
	const user = "peter"
	_, err := client.RbacV1().Roles(n.name).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}, Verbs: []string{"get", "patch"}},
	}}, metav1.CreateOptions{})
	must(t, err, "creating a Role")
	_, err = client.RbacV1().RoleBindings(n.name).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
	}, metav1.CreateOptions{})
	must(t, err, "creating a RoleBinding")
	peter := shared.impersonating(t, rest.ImpersonationConfig{UserName: user})
	role := func(patch string) func() error {
		return func() error {
			_, err := peter.RbacV1().Roles(n.name).Patch(ctx, before.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
			return err
		}
	}
	binding := func(patch string) func() error {
		return func() error {
			_, err := peter.RbacV1().RoleBindings(n.name).Patch(ctx, before.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
			return err
		}
	}
	eventually(t, pollShort, user+" may patch", func(context.Context) (bool, error) {
		_, err := peter.RbacV1().Roles(n.name).Get(ctx, before.Name, metav1.GetOptions{})
		return err == nil, err
	})
	eventually(t, pollShort, "the RoleBinding is there", func(ctx context.Context) (bool, error) {
		_, err := client.RbacV1().RoleBindings(n.name).Get(ctx, before.Name, metav1.GetOptions{})
		return err == nil, err
	})
	for name, try := range map[string]func() error{
		"another audience":        role(`[{"op":"add","path":"/rules/4/resourceNames/-","value":"stolen"}]`),
		"every audience":          role(`[{"op":"remove","path":"/rules/4/resourceNames"}]`),
		"the mark taken away":     role(`[{"op":"remove","path":"/rules/1"}]`),
		"another ServiceAccount":  role(`[{"op":"add","path":"/rules/0/resourceNames/-","value":"app"}]`),
		"a Role without label":    role(`[{"op":"remove","path":"/metadata/labels/podtoken.dev~1grant"}]`),
		"another subject":         binding(`[{"op":"add","path":"/subjects/-","value":{"kind":"ServiceAccount","name":"app","namespace":"` + n.name + `"}}]`),
		"a binding without label": binding(`[{"op":"remove","path":"/metadata/labels/podtoken.dev~1grant"}]`),
	} {
		if err := try(); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "attempting to grant RBAC permissions not currently held") {
			t.Errorf("%s: %v; want RBAC's refusal of an escalation", name, err)
		}
	}
	if after := n.role("widened"); after == nil || !slices.EqualFunc(before.Rules, after.Rules, func(a, b rbacv1.PolicyRule) bool { return a.String() == b.String() }) {
		t.Errorf("the Role has become %v", after)
	}
}

// impersonating returns a client of an administrator who impersonates another user.
func (w *world) impersonating(t *testing.T, who rest.ImpersonationConfig) kubernetes.Interface {
	t.Helper()
	config := rest.CopyConfig(w.restConfig)
	config.Impersonate = who
	c, err := kubernetes.NewForConfig(config)
	must(t, err, "making a client")
	return c
}
