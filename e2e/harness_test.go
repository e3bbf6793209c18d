package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/podtoken/podtoken/pkg/api"
)

// serviceAccount is what the tests' pods run as; every test namespace has one that may mint for itself.
const serviceAccount = "app"

// probePath is the program in the image of ./cmd/probe.
const probePath = "/program"

// audienceDefault is the audience of tests that do not care which one it is.
const audienceDefault = "https://billing.example.com"

// pollShort is for what takes a second or two.
const pollShort = 30 * time.Second

// testNamespace is a namespace of one test, removed at its end.
type testNamespace struct {
	*world
	t    *testing.T
	name string
}

// newNamespace makes a namespace with a ServiceAccount, which is all that a user needs.
func newNamespace(t *testing.T, labels map[string]string) *testNamespace {
	t.Helper()
	return newNamespaceOf(t, allowedPrefix, labels)
}

// newNamespaceOf makes it with the prefix that the installation's policy goes by.
func newNamespaceOf(t *testing.T, prefix string, labels map[string]string) *testNamespace {
	t.Helper()
	return shared.newNamespace(t, prefix, labels)
}

func (w *world) newNamespace(t *testing.T, prefix string, labels map[string]string) *testNamespace {
	t.Helper()
	ctx := t.Context()
	created, err := w.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: prefix + slug(t.Name()) + "-", Labels: labels},
	}, metav1.CreateOptions{})
	must(t, err, "creating a namespace")
	n := &testNamespace{world: w, t: t, name: created.Name}
	t.Cleanup(func() {
		if t.Failed() {
			n.dump()
		}
		none := int64(0)
		_ = w.client.CoreV1().Namespaces().Delete(context.Background(), n.name, metav1.DeleteOptions{GracePeriodSeconds: &none})
	})
	w.waitForDefaultAccount(t, n.name)
	n.account(serviceAccount)
	return n
}

// in is the same namespace for a part of the test.
func (n *testNamespace) in(t *testing.T) *testNamespace {
	part := *n
	part.t = t
	return &part
}

// account makes a ServiceAccount.
func (n *testNamespace) account(name string) *corev1.ServiceAccount {
	n.t.Helper()
	created, err := n.client.CoreV1().ServiceAccounts(n.name).Create(n.t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(n.t, err, "creating ServiceAccount %q", name)
	return created
}

// allow gives a ServiceAccount rights as an administrator would: by a Role and a RoleBinding of the given name.
func (n *testNamespace) allow(account, name string, rules ...rbacv1.PolicyRule) {
	n.t.Helper()
	ctx := n.t.Context()
	meta := metav1.ObjectMeta{Name: name}
	_, err := n.client.RbacV1().Roles(n.name).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	must(n.t, err, "creating Role %q", name)
	_, err = n.client.RbacV1().RoleBindings(n.name).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: n.name}},
	}, metav1.CreateOptions{})
	must(n.t, err, "creating RoleBinding %q", name)
}

// rule is a rule of a Role.
func rule(group, resource, verb string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}, ResourceNames: names}
}

// block keeps the controller from giving a ServiceAccount its grant, by a foreign Role in its place.
func (n *testNamespace) block(account string) {
	n.t.Helper()
	_, err := n.client.RbacV1().Roles(n.name).Create(n.t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: api.GrantPrefix + account}}, metav1.CreateOptions{})
	must(n.t, err, "creating a Role in the way of the grant")
}

// unblock takes it away again; the controller looks after a minute.
func (n *testNamespace) unblock(account string) {
	n.t.Helper()
	must(n.t, n.client.RbacV1().Roles(n.name).Delete(n.t.Context(), api.GrantPrefix+account, metav1.DeleteOptions{}), "deleting the Role in the way")
}

// annotations turns "audience.vault", "vault", … into a pod's annotations.
func annotations(keysAndValues ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(keysAndValues); i += 2 {
		m["podtoken.dev/"+keysAndValues[i]] = keysAndValues[i+1]
	}
	return m
}

// podSpec is a pod of one container "app" that just runs, and passes Pod Security "restricted".
func podSpec(command ...string) corev1.PodSpec {
	if len(command) == 0 {
		command = []string{probePath, "sleep"}
	}
	grace := int64(1)
	return corev1.PodSpec{
		ServiceAccountName:            serviceAccount,
		TerminationGracePeriodSeconds: &grace,
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(1000)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{container("app", command...)},
	}
}

// gatedSpec is a pod whose gate gives up. When a container's shim has ended before containerd (v2.4.2) has noted the
// container's end, and the grace period is over, its StopContainer returns although the container counts as running: its
// second attempt finds no task. The kubelet, which kills a sidecar whose hook has failed, then takes it for initialized and
// starts the application. Under a load of dozens that takes seconds; with 30, Kubernetes' default, containerd waits.
func gatedSpec() corev1.PodSpec {
	spec := podSpec()
	spec.TerminationGracePeriodSeconds = nil
	return spec
}

func container(name string, command ...string) corev1.Container {
	return corev1.Container{
		Name: name, Image: probeImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: command,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
}

func (n *testNamespace) create(name string, annotations map[string]string, spec corev1.PodSpec) *corev1.Pod {
	n.t.Helper()
	pod, err := n.tryCreate(name, annotations, spec)
	must(n.t, err, "creating pod %q", name)
	return pod
}

func (n *testNamespace) tryCreate(name string, annotations map[string]string, spec corev1.PodSpec) (*corev1.Pod, error) {
	return n.client.CoreV1().Pods(n.name).Create(n.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Spec: spec,
	}, metav1.CreateOptions{FieldValidation: "Strict"})
}

// ready waits until the pod is Ready and returns it.
func (n *testNamespace) ready(name string) *corev1.Pod {
	n.t.Helper()
	return n.until(name, "is Ready", func(pod *corev1.Pod) bool {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	})
}

// succeeded waits until the pod has ended well.
func (n *testNamespace) succeeded(name string) *corev1.Pod {
	n.t.Helper()
	return n.until(name, "has succeeded", func(pod *corev1.Pod) bool {
		if pod.Status.Phase == corev1.PodFailed {
			n.t.Fatalf("pod %s/%s failed", n.name, name)
		}
		return pod.Status.Phase == corev1.PodSucceeded
	})
}

func (n *testNamespace) until(name, what string, done func(*corev1.Pod) bool) *corev1.Pod {
	n.t.Helper()
	return n.untilWithin(patience*4*time.Minute, name, what, done)
}

func (n *testNamespace) untilWithin(limit time.Duration, name, what string, done func(*corev1.Pod) bool) *corev1.Pod {
	n.t.Helper()
	var pod *corev1.Pod
	within(n.t, limit, fmt.Sprintf("pod %s/%s %s", n.name, name, what), func(ctx context.Context) (bool, error) {
		p, err := n.client.CoreV1().Pods(n.name).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		pod = p
		return done(p), nil
	})
	return pod
}

// exec runs a command in a container and returns its standard output.
func (n *testNamespace) exec(pod, containerName string, command ...string) (string, error) {
	return n.execWithin(time.Minute, pod, containerName, command...)
}

func (n *testNamespace) execWithin(limit time.Duration, pod, containerName string, command ...string) (string, error) {
	request := n.client.CoreV1().RESTClient().Post().Namespace(n.name).Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: containerName, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(n.restConfig, "GET", request.URL().String())
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(n.t.Context(), limit)
	defer cancel()
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		return stdout.String(), fmt.Errorf("running %q in %s/%s/%s: %w: %s", command, n.name, pod, containerName, err, stderr.String())
	}
	return stdout.String(), nil
}

// token reads a token file the way the application does: inside its container.
func (n *testNamespace) token(pod, containerName, path string) string {
	n.t.Helper()
	out, err := n.exec(pod, containerName, probePath, "cat", path)
	must(n.t, err, "reading %s", path)
	if len(strings.Split(out, ".")) != 3 {
		n.t.Fatalf("%s in %s/%s is not a token (%d bytes)", path, n.name, pod, len(out))
	}
	return out
}

func (n *testNamespace) logs(pod, containerName string) string {
	n.t.Helper()
	out, err := n.client.CoreV1().Pods(n.name).GetLogs(pod, &corev1.PodLogOptions{Container: containerName}).DoRaw(n.t.Context())
	must(n.t, err, "reading the log of %s/%s", pod, containerName)
	return string(out)
}

// followLog reads the log of a container until it ends, which the returned function waits for.
func (n *testNamespace) followLog(pod, containerName string) func() string {
	n.t.Helper()
	stream, err := n.client.CoreV1().Pods(n.name).GetLogs(pod, &corev1.PodLogOptions{Container: containerName, Follow: true}).Stream(n.t.Context())
	must(n.t, err, "following the log of %s/%s", pod, containerName)
	return sync.OnceValue(func() string {
		defer func() { _ = stream.Close() }()
		out, err := io.ReadAll(stream)
		must(n.t, err, "following the log of %s/%s", pod, containerName)
		return string(out)
	})
}

// dump prints what a person would look at first when a test has failed.
func (n *testNamespace) dump() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	events, err := n.client.CoreV1().Events(n.name).List(ctx, metav1.ListOptions{})
	if err == nil {
		for _, e := range events.Items {
			n.t.Logf("event %s/%s: %s: %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
	pods, err := n.client.CoreV1().Pods(n.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		n.t.Logf("listing pods: %v", err)
		return
	}
	for _, p := range pods.Items {
		status, _ := json.Marshal(p.Status)
		n.t.Logf("pod %s: %s", p.Name, status)
		for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
			out, err := n.client.CoreV1().Pods(n.name).GetLogs(p.Name, &corev1.PodLogOptions{Container: c.Name}).DoRaw(ctx)
			n.t.Logf("log of %s/%s (%v):\n%s", p.Name, c.Name, err, out)
		}
	}
}

// patience is how many times longer than on a quiet machine things may take: the suite itself, or other builds, may keep all cores busy.
const patience = 3

// eventually waits for what takes at most the given time on a quiet machine.
func eventually(t *testing.T, timeout time.Duration, what string, condition wait.ConditionWithContextFunc) {
	t.Helper()
	within(t, patience*timeout, what, condition)
}

// within waits for what podtoken or Kubernetes promises within that time, however busy the machine is.
func within(t *testing.T, timeout time.Duration, what string, condition wait.ConditionWithContextFunc) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 200*time.Millisecond, timeout, true, func(ctx context.Context) (bool, error) {
		ok, err := condition(ctx)
		last = err
		return ok, nil
	})
	if err != nil {
		t.Fatalf("waited %s in vain until %s (last error: %v)", timeout, what, last)
	}
}

func must(t *testing.T, err error, format string, args ...any) {
	t.Helper()
	if err != nil {
		t.Fatalf(format+": %v", append(args, err)...)
	}
}

// denial returns the message of a request that admission refused.
func denial(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		t.Fatal("the request was admitted; want a denial")
	}
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		t.Fatalf("want a denial of the API server, got: %v", err)
	}
	return status.Status().Message
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

func slug(name string) string {
	s := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(strings.TrimPrefix(name, "Test")), "-"), "-")
	return strings.TrimRight(s[:min(len(s), 40)], "-")
}

func ptr[T any](v T) *T { return &v }

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

// restartSidecar ends the sidecar's process for the first time, from outside, as the kernel would, and waits until it runs again;
// the pod must share its process namespace.
func (n *testNamespace) restartSidecar(pod string) {
	n.t.Helper()
	_, err := n.exec(pod, "app", probePath, "kill", api.SidecarBinary)
	must(n.t, err, "killing the sidecar")
	n.until(pod, "has restarted its sidecar", func(p *corev1.Pod) bool {
		return p.Status.InitContainerStatuses[0].RestartCount > 0 && p.Status.InitContainerStatuses[0].State.Running != nil
	})
}
