package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/e2e/attack"
)

const (
	guardPolicy      = "podtoken-guard"
	apiAudience      = "https://kubernetes.default.svc"
	audienceDeclared = "vault"
)

// The attacker's checklist, run inside a real pod with the sidecar's real credential: each request is refused, each for
// its own reason, and each succeeds while the guard is taken away, so that it is the guard that refuses. Serial: it takes the
// guard away.
func TestGuard(t *testing.T) {
	n := newNamespace(t, nil)
	ctx := t.Context()
	_, err := client.CoreV1().Secrets(n.name).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}}, metav1.CreateOptions{})
	must(t, err, "creating a Secret")
	spec := podSpec()
	// The attacker has got as far as the sidecar's file system: /proc/PID/root is for processes of the same user and group.
	spec.ShareProcessNamespace, spec.SecurityContext.RunAsGroup = ptr(true), ptr(int64(1000))
	n.create("pod", annotations("audience.vault", audienceDeclared, "expiration", "20m"), spec)
	n.create("sibling", annotations("audience.vault", audienceDeclared, "expiration", "20m"), podSpec())
	pod, sibling := n.ready("pod"), n.ready("sibling")
	victim := attack.Victim{
		Grant: n.allowedTo(pod, 1200, audienceDeclared), Node: pod.Spec.NodeName,
		Sibling: sibling.Name, SiblingUID: string(sibling.UID), Other: "default", Webhook: "podtoken",
	}
	minor := minorVersion(t)
	rows := slices.DeleteFunc(attack.TokenRequests(victim), func(row attack.TokenRequest) bool { return row.Since > minor })
	own := map[string]any{"apiVersion": "v1", "kind": "Pod", "name": pod.Name, "uid": string(pod.UID)}

	answers := n.answers("pod", victim)
	for _, row := range rows {
		if got := answers[row.Name]; got.Code != row.Code || !strings.Contains(got.Message, row.Want) {
			t.Errorf("%s: got %d %q, want %d and %q", row.Name, got.Code, got.Message, row.Code, row.Want)
		} else if got.Token != nil && victim.Outcome(got) != attack.Allowed {
			t.Errorf("%s: got a token that the grant does not cover: %s", row.Name, got.Token)
		}
	}

	// Without the guard, and with the broad Role that people write for want of a better one.
	restore := removeGuard(t)
	n.allow(serviceAccount, "broad", rule("", "serviceaccounts/token", "create"))
	unbound := mintRequest{spec: map[string]any{"audiences": []string{audienceDeclared}, "expirationSeconds": 1200}}
	others := mintRequest{account: victim.Other, spec: unbound.spec}
	eventually(t, pollShort, "the guard is gone", func(context.Context) (bool, error) {
		got := n.mintAsSidecar(unbound)
		return got.Code == http.StatusCreated && n.mintAsSidecar(others).Code == http.StatusCreated, fmt.Errorf("got %d", got.Code)
	})
	answers = n.answers("pod", victim)
	for _, row := range rows {
		if got := answers[row.Name]; got.Code != row.Unguarded {
			t.Errorf("without the guard, %s: got %d %q, want %d: this row tests nothing", row.Name, got.Code, got.Message, row.Unguarded)
		}
	}
	loot := n.mintAsSidecar(mintRequest{spec: map[string]any{"audiences": []string{apiAudience}, "expirationSeconds": 1 << 32}}, "-show").Raw
	waitsForGuard := n.waitingForGuard()
	restore()
	eventually(t, pollShort, "the guard is back", func(context.Context) (bool, error) {
		got := n.mintAsSidecar(unbound)
		return got.Code == http.StatusForbidden, fmt.Errorf("got %d", got.Code)
	})
	n.ready(waitsForGuard)

	n.copiedCredential(pod, own, loot)
}

// copiedCredential: a credential that was copied out of the pod is worth what it is inside, and ends with the pod. The unbound
// token that could be had without the guard outlives it.
func (n *testNamespace) copiedCredential(pod *corev1.Pod, own map[string]any, loot string) {
	n.t.Helper()
	ctx := n.t.Context()
	copied := n.mintAsSidecar(mintRequest{spec: map[string]any{"audiences": []string{apiAudience}, "expirationSeconds": 3600, "boundObjectRef": own}}, "-show").Raw
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{audienceDeclared}, ExpirationSeconds: ptr(int64(1200)),
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	mint := func(token string, request *authenticationv1.TokenRequest) error {
		_, err := as(n.t, token).CoreV1().ServiceAccounts(n.name).CreateToken(ctx, serviceAccount, request, metav1.CreateOptions{})
		return err
	}
	must(n.t, mint(copied, request), "minting outside the pod with its credential")
	must(n.t, n.client.CoreV1().Pods(n.name).Delete(ctx, pod.Name, metav1.DeleteOptions{}), "deleting the pod")
	// The API server keeps the result of an authentication for ten seconds.
	eventually(n.t, time.Minute, "the copied credential is worthless", func(context.Context) (bool, error) {
		err := mint(copied, request)
		return apierrors.IsUnauthorized(err), err
	})
	if err := mint(loot, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audienceDeclared}}}); !apierrors.IsForbidden(err) {
		n.t.Errorf("the unbound token that was minted without the guard, after the pod's end: %v; want the guard's refusal, the token itself being valid", err)
	}
}

// mintRequest is a token request.
type mintRequest struct {
	account string // whose token is asked for; the pod's own by default
	spec    map[string]any
}

// mintAnswer is what `probe mint` prints.
type mintAnswer struct {
	attack.Answer
	// Raw is the token itself, with -show.
	Raw string `json:"raw"`
}

// mintAsSidecar sends a token request from inside the pod "pod", with the sidecar's credential.
func (n *testNamespace) mintAsSidecar(request mintRequest, flags ...string) mintAnswer {
	n.t.Helper()
	return n.mintIn("pod", request, append(flags, "-sidecar")...)
}

func (n *testNamespace) mintIn(pod string, a mintRequest, flags ...string) mintAnswer {
	n.t.Helper()
	account := a.account
	if account == "" {
		account = serviceAccount
	}
	spec, err := json.Marshal(a.spec)
	must(n.t, err, "encoding a request")
	command := append([]string{probePath, "mint", "-account", n.name + "/" + account}, flags...)
	out, err := n.exec(pod, "app", append(command, string(spec))...)
	must(n.t, err, "asking for a token inside pod %q", pod)
	var answer mintAnswer
	must(n.t, json.Unmarshal([]byte(out), &answer), "decoding the answer")
	return answer
}

// removeGuard takes the guard's binding away until restore is called.
func removeGuard(t *testing.T) (restore func()) {
	t.Helper()
	bindings := client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	binding, err := bindings.Get(t.Context(), guardPolicy, metav1.GetOptions{})
	must(t, err, "reading the guard's binding")
	must(t, bindings.Delete(t.Context(), guardPolicy, metav1.DeleteOptions{}), "deleting the guard's binding")
	binding.ResourceVersion, binding.UID = "", ""
	restore = func() {
		if _, err := bindings.Create(context.Background(), binding, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Errorf("restoring the guard's binding: %v", err)
		}
	}
	t.Cleanup(restore)
	return restore
}

// waitingForGuard creates a pod of a new ServiceAccount while the guard is away, and returns its name: the controller grants
// nothing then, and an event reports it.
func (n *testNamespace) waitingForGuard() (pod string) {
	n.t.Helper()
	const name = "without-guard"
	n.account(name)
	spec := podSpec()
	spec.ServiceAccountName = name
	n.create(name, annotations("audience.vault", audienceDeclared), spec)
	n.event(name, "GuardMissing", guardPolicy)
	if role := n.role(name); role != nil {
		n.t.Errorf("the controller granted %v while there was no guard", role.Rules)
	}
	return name
}

// event waits for an event of a pod.
func (n *testNamespace) event(pod, reason, text string) {
	n.t.Helper()
	eventually(n.t, pollShort, fmt.Sprintf("pod %s/%s has the event %s with %q", n.name, pod, reason, text), func(ctx context.Context) (bool, error) {
		list, err := n.client.CoreV1().Events(n.name).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return false, err
		}
		var seen []string
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return true, nil
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return false, fmt.Errorf("events: %q", seen)
	})
}

// as returns a client with a token for its only credential.
func as(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	return shared.as(t, token)
}

func (w *world) as(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	config := rest.AnonymousClientConfig(w.restConfig)
	config.BearerToken = token
	c, err := kubernetes.NewForConfig(config)
	must(t, err, "making a client")
	return c
}

// The guard reads from the authorizer's reason which binding allows a request. That is no API of Kubernetes: here it is compared
// on whatever version the suite runs.
func TestReasons(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience.vault", audienceDeclared), gated(serviceAccount))
	n.granted(serviceAccount, audienceDeclared)
	n.account("operator")
	n.allow("operator", "by-hand", rule("", "serviceaccounts/token", "create", "operator"))
	for name, row := range map[string]struct{ account, user, want string }{
		"a grant": {serviceAccount, "", fmt.Sprintf(`RBAC: allowed by RoleBinding "podtoken:%s/%s" of Role "podtoken:%[1]s" to ServiceAccount "%[1]s/%[2]s"`, serviceAccount, n.name)},
		"a Role":  {"operator", "", fmt.Sprintf(`RBAC: allowed by RoleBinding "by-hand/%s" of Role "by-hand" to ServiceAccount "operator/%[1]s"`, n.name)},
		"a ClusterRole": {"operator", "system:kube-controller-manager", `RBAC: allowed by ClusterRoleBinding "system:kube-controller-manager" ` +
			`of ClusterRole "system:kube-controller-manager" to User "system:kube-controller-manager"`},
	} {
		spec := authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:" + n.name + ":" + row.account,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: n.name, Verb: "create", Resource: "serviceaccounts", Subresource: "token", Name: row.account,
			},
		}
		if row.user != "" {
			spec.User = row.user
		}
		var reason string
		eventually(t, pollShort, name+" is seen by the authorizer", func(ctx context.Context) (bool, error) {
			review, err := n.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
			if err != nil {
				return false, err
			}
			reason = review.Status.Reason
			return review.Status.Allowed, fmt.Errorf("reason %q", reason)
		})
		if reason != row.want {
			t.Errorf("%s: the authorizer's reason is\n     %s\nwant %s", name, reason, row.want)
		}
	}
}
