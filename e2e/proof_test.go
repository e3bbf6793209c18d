package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// proofRounds is how often the guard is taken away and restored.
	proofRounds = 6
	// proofConnections ask all the time.
	proofConnections = 6
)

// A restored guard is trusted when API servers enforce it, and not when its objects are there. Pods wait for their first grant while the
// guard is away; connections with the credential of such a pod ask for an unbound token all the time. Each of them would be answered
// in the moment between the grant and the guard. Serial: it takes the guard away.
func TestNoGrantBeforeTheGuardIsProven(t *testing.T) {
	n := newNamespace(t, nil)
	for round := range proofRounds {
		restore := removeGuard(t)
		name := fmt.Sprintf("waits-%d", round)
		n.account(name)
		spec := podSpec()
		spec.ServiceAccountName = name
		pod := n.create(name, annotations("audience.vault", audienceDeclared), spec)
		n.event(name, "GuardMissing", guardPolicy)

		minted, refused := n.askUnbound(pod, func() {
			restore()
			start := time.Now()
			n.granted(name, audienceDeclared)
			t.Logf("round %d: granted %s after the guard was restored", round, time.Since(start).Round(time.Millisecond))
			time.Sleep(2 * time.Second)
		})
		t.Logf("round %d: %d unbound tokens, %d requests refused", round, minted, refused)
		if minted != 0 || refused == 0 {
			t.Errorf("round %d: %d unbound tokens and %d refused requests with a grant that came after the guard was restored; want none, and some", round, minted, refused)
		}
		n.ready(name)
	}
}

// askUnbound asks for unbound tokens of the API server with the pod's credential, by several connections, until during returns.
func (n *testNamespace) askUnbound(pod *corev1.Pod, during func()) (minted, refused int64) {
	n.t.Helper()
	ctx, account := n.t.Context(), pod.Spec.ServiceAccountName
	// The kubelet's part: an administrator is not guarded.
	credential, err := n.client.CoreV1().ServiceAccounts(n.name).CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}, metav1.CreateOptions{})
	must(n.t, err, "getting the pod's credential")
	config := rest.AnonymousClientConfig(n.restConfig)
	config.BearerToken, config.QPS = credential.Status.Token, -1
	attacker, err := kubernetes.NewForConfig(config)
	must(n.t, err, "making a client")

	var yes, no atomic.Int64
	var asking sync.WaitGroup
	asks, stop := context.WithCancel(ctx)
	for range proofConnections {
		asking.Go(func() {
			for asks.Err() == nil {
				_, err := attacker.CoreV1().ServiceAccounts(n.name).CreateToken(asks, account, &authenticationv1.TokenRequest{
					Spec: authenticationv1.TokenRequestSpec{Audiences: []string{apiAudience}, ExpirationSeconds: ptr(int64(1 << 32))},
				}, metav1.CreateOptions{})
				switch {
				case err == nil:
					yes.Add(1)
				case apierrors.IsForbidden(err):
					no.Add(1)
				}
			}
		})
	}
	defer asking.Wait()
	defer stop()
	during()
	stop()
	asking.Wait()
	return yes.Load(), no.Load()
}

// The controller's own guard leaves one request for a token to the guard, and every property of it counts. While the guard is away
// nothing else denies, so that what is denied is denied by the controller's own. Serial: it takes the guard away.
func TestControllerSendsOneProbe(t *testing.T) {
	n := newNamespace(t, nil)
	ctx := t.Context()
	n.account(controllerName)
	pods, err := client.CoreV1().Pods(releaseNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"})
	must(t, err, "listing the controller's pods")
	stolen := as(t, credentialOf(t, releaseNamespace, controllerName))
	type request struct {
		namespace, account string
		dryRun             []string
		spec               authenticationv1.TokenRequestSpec
	}
	probe := func(change func(*request)) error {
		r := request{releaseNamespace, controllerName, []string{metav1.DryRunAll}, authenticationv1.TokenRequestSpec{
			Audiences: []string{"podtoken.dev/guard-probe"}, ExpirationSeconds: ptr(int64(600)),
		}}
		if change != nil {
			change(&r)
		}
		_, err := stolen.CoreV1().ServiceAccounts(r.namespace).CreateToken(ctx, r.account, &authenticationv1.TokenRequest{Spec: r.spec}, metav1.CreateOptions{DryRun: r.dryRun})
		return err
	}
	deniedBy := func(err error, policy string) bool {
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "is forbidden: ValidatingAdmissionPolicy '"+policy+"' ")
	}
	if err := probe(nil); !deniedBy(err, guardPolicy) {
		t.Errorf("the probe: got %v, want a denial by %s", err, guardPolicy)
	}
	_, err = stolen.RbacV1().Roles(releaseNamespace).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "podtoken-controller-guard-probe"}},
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if !deniedBy(err, controllerName+"-guard") {
		t.Errorf("the probe of the controller's own guard: got %v, want a denial by it", err)
	}

	restore := removeGuard(t)
	eventually(t, pollShort, "the guard is gone", func(context.Context) (bool, error) {
		err := probe(nil)
		return err == nil, err
	})
	for name, change := range map[string]func(*request){
		"no dry run":                func(r *request) { r.dryRun = nil },
		"another audience":          func(r *request) { r.spec.Audiences = []string{"podtoken.dev/guard-probes"} },
		"a second audience":         func(r *request) { r.spec.Audiences = append(r.spec.Audiences, apiAudience) },
		"the audience twice":        func(r *request) { r.spec.Audiences = append(r.spec.Audiences, r.spec.Audiences[0]) },
		"the default audience":      func(r *request) { r.spec.Audiences = nil },
		"a longer lifetime":         func(r *request) { r.spec.ExpirationSeconds = ptr(int64(601)) },
		"136 years":                 func(r *request) { r.spec.ExpirationSeconds = ptr(int64(1 << 32)) },
		"the default lifetime":      func(r *request) { r.spec.ExpirationSeconds = nil },
		"another ServiceAccount":    func(r *request) { r.account = webhookDeployment },
		"the name of another place": func(r *request) { r.namespace = n.name },
		"bound to a Pod": func(r *request) {
			r.spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pods.Items[0].Name, UID: pods.Items[0].UID}
		},
	} {
		if err := probe(change); !deniedBy(err, controllerName+"-guard") {
			t.Errorf("%s: got %v, want a denial by the controller's own guard", name, err)
		}
	}
	restore()
	eventually(t, pollShort, "the guard is back", func(context.Context) (bool, error) {
		err := probe(nil)
		return deniedBy(err, guardPolicy), err
	})
}
