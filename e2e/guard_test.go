package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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

	"github.com/podtoken/podtoken/pkg/api"
)

const (
	guardPolicy      = "podtoken-guard"
	apiAudience      = "https://kubernetes.default.svc"
	audienceDeclared = "vault"
)

// attack is a token request that a ServiceAccount's grant does not cover.
type attack struct {
	account string // whose token is asked for; the attacker's own by default
	query   string
	spec    map[string]any
	// want is a part of the refusal.
	want string
	// unguarded is the answer without the guard: 201, unless the API server itself refuses.
	unguarded int
}

// attacks is the checklist. The pod declares the audience "vault" for 3600 s, and has a sibling of the same ServiceAccount.
func attacks(pod, sibling *corev1.Pod) map[string]attack {
	own := func(change map[string]any) map[string]any {
		reference := map[string]any{"apiVersion": "v1", "kind": "Pod", "name": pod.Name, "uid": string(pod.UID)}
		for key, value := range change {
			if reference[key] = value; value == nil {
				delete(reference, key)
			}
		}
		return reference
	}
	spec := func(reference map[string]any, seconds int, audiences ...string) map[string]any {
		s := map[string]any{"audiences": audiences, "expirationSeconds": seconds}
		if reference != nil {
			s["boundObjectRef"] = reference
		}
		return s
	}
	const (
		bound    = "may mint only tokens that are bound to the calling pod"
		audience = `may not mint tokens for audience "`
		lifetime = "may not mint tokens that last "
	)
	return map[string]attack{
		"an unbound token": {spec: spec(nil, 3600, audienceDeclared), want: bound},
		"an unbound token of the API server for ever":   {spec: spec(nil, 1<<32, apiAudience), want: bound},
		"a token of the sibling pod":                    {spec: spec(own(map[string]any{"name": sibling.Name, "uid": string(sibling.UID)}), 3600, audienceDeclared), want: bound},
		"a token of another ServiceAccount":             {account: "default", spec: spec(nil, 3600, audienceDeclared), want: `cannot create resource "serviceaccounts/token"`},
		"an audience that no pod declares":              {spec: spec(own(nil), 3600, "other"), want: audience + `other"`},
		"an undeclared audience after declared ones":    {spec: spec(own(nil), 3600, audienceDeclared, "other"), want: audience + `other"`},
		"the API server's audience mixed with another":  {spec: spec(own(nil), 3600, apiAudience, audienceDeclared), want: audience + apiAudience + `"`},
		"more audiences than a token may have":          {spec: spec(own(nil), 3600, strings.Fields(strings.Repeat(audienceDeclared+" ", 9))...), want: "may mint only tokens of 1 to 8 audiences"},
		"an empty audience":                             {spec: spec(own(nil), 3600, ""), want: "none of them empty"},
		"a longer lifetime than declared":               {spec: spec(own(nil), 3601, audienceDeclared), want: lifetime + "3601 s"},
		"a shorter lifetime than declared":              {spec: spec(own(nil), 600, audienceDeclared), want: lifetime + "600 s"},
		"the lifetime that becomes a year":              {spec: spec(own(nil), api.ForbiddenExpirationSeconds, apiAudience), want: lifetime + "3607 s"},
		"a renewal for longer than an hour":             {spec: spec(own(nil), 7200, apiAudience), want: lifetime + "7200 s"},
		"an attack as a dry run, which signs all alike": {query: "dryRun=All", spec: spec(nil, 3600, audienceDeclared), want: bound},
		"a reference of another version":                {spec: spec(own(map[string]any{"apiVersion": "v9"}), 3600, audienceDeclared), want: bound},
		"a reference without a version":                 {spec: spec(own(map[string]any{"apiVersion": ""}), 3600, audienceDeclared), want: bound},
		"a reference to a Secret":                       {spec: spec(own(map[string]any{"kind": "Secret", "name": "secret", "uid": nil}), 3600, audienceDeclared), want: bound},
		"a reference to a Node":                         {spec: spec(own(map[string]any{"kind": "Node", "name": pod.Spec.NodeName, "uid": nil}), 3600, audienceDeclared), want: bound},
		"a reference without the uid":                   {spec: spec(own(map[string]any{"uid": nil}), 3600, audienceDeclared), want: bound},
		// Without the guard the API server compares the uid, where there is one.
		"a reference with another uid": {spec: spec(own(map[string]any{"uid": string(sibling.UID)}), 3600, audienceDeclared), want: bound, unguarded: http.StatusConflict},
	}
}

// The attacker's checklist, run inside a real pod with the sidecar's real credential: each request is refused, each for
// its own reason, and each succeeds while the guard is taken away, so that it is the guard that refuses. Serial: it takes the
// guard away.
func TestGuard(t *testing.T) {
	n := newNamespace(t, nil)
	ctx := t.Context()
	_, err := client.CoreV1().Secrets(n.name).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}}, metav1.CreateOptions{})
	must(t, err, "creating a Secret")
	spec := podSpec()
	spec.ShareProcessNamespace = ptr(true) // The attacker has got as far as the sidecar's file system.
	n.create("pod", annotations("audience.vault", audienceDeclared), spec)
	n.create("sibling", annotations("audience.vault", audienceDeclared), podSpec())
	pod, sibling := n.ready("pod"), n.ready("sibling")
	rows := attacks(pod, sibling)

	for name, a := range rows {
		if got := n.attack(a); got.Code != http.StatusForbidden || !strings.Contains(got.Message, a.want) {
			t.Errorf("%s: got %d %q, want 403 and %q", name, got.Code, got.Message, a.want)
		}
	}
	// What the sidecar is for, with the same credential.
	own := map[string]any{"apiVersion": "v1", "kind": "Pod", "name": pod.Name, "uid": string(pod.UID)}
	for name, spec := range map[string]map[string]any{
		"the declared token":              {"audiences": []string{audienceDeclared}, "expirationSeconds": 3600, "boundObjectRef": own},
		"a renewal":                       {"audiences": []string{apiAudience}, "expirationSeconds": 3600, "boundObjectRef": own},
		"a renewal without any audiences": {"audiences": []string{}, "expirationSeconds": 1200, "boundObjectRef": own},
	} {
		if got := n.attack(attack{spec: spec}); got.Code != http.StatusCreated {
			t.Errorf("%s: got %d %q, want 201", name, got.Code, got.Message)
		}
	}

	// Without the guard, and with the broad Role that people write for want of a better one.
	restore := removeGuard(t)
	n.allow(serviceAccount, "broad", rule("", "serviceaccounts/token", "create"))
	eventually(t, pollShort, "the guard is gone", func(context.Context) (bool, error) {
		got := n.attack(rows["an unbound token"])
		return got.Code == http.StatusCreated && n.attack(rows["a token of another ServiceAccount"]).Code == http.StatusCreated, fmt.Errorf("got %d", got.Code)
	})
	for name, a := range rows {
		want := max(a.unguarded, http.StatusCreated)
		if got := n.attack(a); got.Code != want {
			t.Errorf("without the guard, %s: got %d %q, want %d: this row tests nothing", name, got.Code, got.Message, want)
		}
	}
	loot := n.attackFor(attack{spec: map[string]any{"audiences": []string{apiAudience}, "expirationSeconds": 1 << 32}}, "-show").Token
	waitsForGuard := n.waitingForGuard()
	restore()
	eventually(t, pollShort, "the guard is back", func(context.Context) (bool, error) {
		got := n.attack(rows["an unbound token"])
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
	copied := n.attackFor(attack{spec: map[string]any{"audiences": []string{apiAudience}, "expirationSeconds": 3600, "boundObjectRef": own}}, "-show").Token
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{audienceDeclared}, ExpirationSeconds: ptr(int64(3600)),
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

// attack sends a token request from inside the pod "pod", with the sidecar's credential.
func (n *testNamespace) attack(a attack) mintAnswer {
	n.t.Helper()
	return n.attackFor(a)
}

// mintAnswer is what `probe mint` prints.
type mintAnswer struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Token   string `json:"token"`
}

func (n *testNamespace) attackFor(a attack, flags ...string) mintAnswer {
	n.t.Helper()
	return n.mintIn("pod", a, append(flags, "-sidecar")...)
}

func (n *testNamespace) mintIn(pod string, a attack, flags ...string) mintAnswer {
	n.t.Helper()
	account := a.account
	if account == "" {
		account = serviceAccount
	}
	spec, err := json.Marshal(a.spec)
	must(n.t, err, "encoding a request")
	command := append([]string{probePath, "mint", "-account", n.name + "/" + account, "-query", a.query}, flags...)
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
// nothing then, and says so.
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
	for name, row := range map[string]struct{ account, group, want string }{
		"a grant":       {serviceAccount, "", fmt.Sprintf(`RBAC: allowed by RoleBinding "podtoken:%s/%s" of Role "podtoken:%[1]s" to ServiceAccount "%[1]s/%[2]s"`, serviceAccount, n.name)},
		"a Role":        {"operator", "", fmt.Sprintf(`RBAC: allowed by RoleBinding "by-hand/%s" of Role "by-hand" to ServiceAccount "operator/%[1]s"`, n.name)},
		"a ClusterRole": {"operator", "system:masters", `RBAC: allowed by ClusterRoleBinding "cluster-admin" of ClusterRole "cluster-admin" to Group "system:masters"`},
	} {
		spec := authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:" + n.name + ":" + row.account,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: n.name, Verb: "create", Resource: "serviceaccounts", Subresource: "token", Name: row.account,
			},
		}
		if row.group != "" {
			spec.Groups = []string{row.group}
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

// Who mints without podtoken is left alone: kubelets (every pod of these tests has projected tokens), administrators, and other
// ServiceAccounts that were given the right to.
func TestGuardLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.account("operator")
	n.allow("operator", "mints-for-itself", rule("", "serviceaccounts/token", "create", "operator"))
	spec := podSpec()
	spec.ServiceAccountName = "operator"
	n.create("operator", nil, spec)
	n.create("pod", annotations("audience.vault", audienceDeclared), podSpec())
	n.ready("operator")
	n.ready("pod")
	for name, spec := range map[string]map[string]any{
		"unbound, any audience": {"audiences": []string{"anything"}, "expirationSeconds": 86400},
		"of the API server":     {"audiences": []string{}, "expirationSeconds": 600},
	} {
		if got := n.mintIn("operator", attack{account: "operator", spec: spec}); got.Code != http.StatusCreated {
			t.Errorf("an operator mints for itself, %s: got %d %q, want 201", name, got.Code, got.Message)
		}
	}
	if out, err := testCluster.Kubectl(t.Context(), nil, "-n", n.name, "create", "token", serviceAccount, "--duration=2h", "--audience=anything"); err != nil {
		t.Errorf("kubectl create token by an administrator: %v %s", err, out)
	}
}
