package grant

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var roles = schema.GroupResource{Group: "rbac.authorization.k8s.io", Resource: "roles"}

// tooLarge is how etcd's refusal arrives.
func tooLarge() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: "etcdserver: request is too large",
	}}
}

func forbidden() error {
	return apierrors.NewForbidden(roles, "podtoken:cart", errors.New("exceeded quota"))
}

// onlyFewerThan refuses Roles with so many audiences or more.
func onlyFewerThan(most int, err error) func([]string) error {
	return func(audiences []string) error {
		if len(audiences) >= most {
			return err
		}
		return nil
	}
}

const anyAudiencePolicy = `
apiVersion: podtoken.dev/v1alpha1
kind: PolicyConfiguration
allow: [{name: all, namespaces: [shop], serviceAccounts: ["*"], audiences: ["*"]}]
`

// longPod declares so many audiences of 511 bytes in tokens of 8.
func longPod(name string, audiences int) *corev1.Pod {
	p := pod(name, 3600)
	for token := range audiences / 8 {
		var list []string
		for i := range 8 {
			begin := fmt.Sprintf("%s-%d-%d-", name, token, i)
			list = append(list, begin+strings.Repeat("x", 511-len(begin)))
		}
		p.Spec.InitContainers[0].Args = append(p.Spec.InitContainers[0].Args, argument(fmt.Sprintf("t%d", token), 3600, list...))
	}
	return p
}

// The review's case: 26 pods, each with 128 audiences of 511 bytes, make a Role that etcd does not take. What is not needed
// any more goes all the same, with or without the limits of the policy, and the pods get an event.
func TestAGrantCannotBeFrozen(t *testing.T) {
	for name, limits := range map[string]string{
		"within the limits of the policy":                  "",
		"with the largest limits, and a server takes less": "maxAudiencesPerServiceAccount: 1024\nmaxAudiencesPerNamespace: 16384\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := guarded(t, pod("first", 3600, "to-be-revoked"))
				w.policy = mustParse(t, anyAudiencePolicy+limits)
				w.refuse = onlyFewerThan(129, tooLarge())
				w.reconcile()
				time.Sleep(time.Second)
				for i := range 26 {
					w.add(longPod(fmt.Sprintf("hostile-%02d", i), 128))
				}
				_, _ = w.try()
				w.remove(pod("first", 3600))
				for range 4 {
					_, _ = w.try()
					time.Sleep(delay / 2)
				}
				if audiences := contentOf(w.role()).audiences; slices.Contains(audiences, "to-be-revoked") {
					t.Errorf("what is not needed is still granted, with %d other audiences", len(audiences)-1)
				}
				if len(w.events) < 25 {
					t.Errorf("%d events, want one for each pod that is granted nothing", len(w.events))
				}
			})
		})
	}
}

// A policy that takes something away takes effect although what pods declare besides cannot be written.
func TestRemovalsDoNotWaitForAdditions(t *testing.T) {
	for name, refusal := range map[string]error{
		"too large":              tooLarge(),
		"a quota":                forbidden(),
		"an overloaded server":   apierrors.NewTooManyRequestsError("slow"),
		"a webhook without life": apierrors.NewInternalError(errors.New("failed calling webhook")),
	} {
		t.Run(name, func(t *testing.T) {
			w := guarded(t, pod("a", 3600, "vault", "sts"), pod("b", 600, "vault"))
			w.policy = mustParse(t, anyAudiencePolicy)
			w.reconcile()
			w.reconcile()
			w.taken()
			w.add(pod("c", 700, "one", "two"))
			w.policy = mustParse(t, strings.Replace(anyAudiencePolicy, `["*"]}]`, `[vault, one, two]}]`, 1))
			w.refuse = onlyFewerThan(2, refusal)
			if _, err := w.try(); !errors.Is(err, refusal) {
				t.Errorf("error = %v, want %v", err, refusal)
			}
			expect(t, "writes", []string{"force Role", "force Role"}, w.taken())
			expect(t, "audiences", []string{"vault"}, contentOf(w.role()).audiences)
			expect(t, "unbound", 0, w.values()["podtoken_grant_unbound_total"])
			if w.binding() == nil {
				t.Error("the pods have lost what they need")
			}
			// It is not tried again what is done already.
			_, _ = w.try()
			expect(t, "writes when tried again", []string{"force Role"}, w.taken())
			w.refuse = nil
			w.reconcile()
			expect(t, "audiences", []string{"one", "two", "vault"}, contentOf(w.role()).audiences)
			expect(t, "writes when there is room", []string{"force Role"}, w.taken())
		})
	}
}

// What goes soon goes in time, although what is declared besides fails again and again, and is tried more and more rarely: beside an error,
// RequeueAfter has no effect.
func TestRemovalsDoNotWaitForRetries(t *testing.T) {
	for removal, inTime := range map[time.Duration]bool{lastRetry / 2: true, delay: false} {
		t.Run(removal.String(), func(t *testing.T) {
			w := guarded(t, pod("a", 3600, "vault", "sts"), pod("b", 3600, "vault"))
			w.policy, w.r.removalDelay = mustParse(t, anyAudiencePolicy), removal
			w.reconcile()
			w.reconcile()
			w.remove(pod("a", 3600, "vault", "sts"))
			w.add(pod("c", 3600, "one", "two"))
			w.refuse = onlyFewerThan(3, tooLarge())
			result, err := w.try()
			switch {
			case inTime && (err != nil || result.RequeueAfter <= 0 || result.RequeueAfter > removal):
				t.Errorf("reconciled again after %s (%v), want at most %s", result.RequeueAfter, err, removal)
			case !inTime && err == nil:
				t.Errorf("reconciled again after %s, want an error, which is tried again after at most %s", result.RequeueAfter, lastRetry)
			}
		})
	}
}

// What can be written in one is written in one.
func TestNarrowingIsOneWrite(t *testing.T) {
	w := guarded(t, pod("a", 3600, "vault"), pod("b", 600, "sts"))
	w.reconcile()
	w.reconcile()
	w.taken()
	w.policy = mustParse(t, strings.Replace(testPolicy, "[vault, sts]", "[vault]", 1))
	w.reconcile()
	expect(t, "writes", []string{"force Role"}, w.taken())
	expect(t, "audiences", []string{"vault"}, contentOf(w.role()).audiences)
}

// Where no audience stays, and where no lifetime does, the Role between is of a shape that the controller may write.
func TestTheRoleBetween(t *testing.T) {
	tests := map[string]struct {
		next *corev1.Pod
		deny string
		want content
	}{
		"other audiences": {pod("b", 3600, "new"), "vault", content{lifetimes: []int64{3600}, own: []string{"api"}}},
		"all others":      {pod("b", 600, "new"), "vault", content{lifetimes: []int64{600}, own: []string{"api"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := guarded(t, pod("a", 3600, "vault"))
			w.r.removalDelay = 0
			w.reconcile()
			w.reconcile()
			w.remove(pod("a", 3600))
			w.add(test.next)
			w.policy = mustParse(t, strings.Replace(testPolicy, "[vault, sts]", "[new]", 1))
			w.refuse = onlyFewerThan(1, forbidden())
			_, _ = w.try()
			if got := contentOf(w.role()); !got.gives(test.want) || !test.want.gives(got) {
				t.Errorf("between: %+v, want %+v", got, test.want)
			}
			expect(t, "shape", true, len(w.role().Rules) == 4)
			expect(t, "events", 1, len(w.events))
			if !strings.HasPrefix(w.events[0], "GrantFailed b: podtoken: no grant: the API server does not take it: changing Role") {
				t.Errorf("event %q", w.events[0])
			}
		})
	}
}

// A Role that gives too much and cannot be changed gives nothing without its RoleBinding, which can always be deleted.
func TestUnbind(t *testing.T) {
	conflict := apierrors.NewConflict(roles, "podtoken:cart", errors.New("changed"))
	terminating := apierrors.NewForbidden(roles, "podtoken:cart", errors.New("terminating"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	tests := map[string]struct {
		refusal error
		unbound bool
	}{
		"too large":               {tooLarge(), true},
		"forbidden":               {forbidden(), true},
		"invalid":                 {apierrors.NewInvalid(schema.GroupKind{Kind: "Role"}, "podtoken:cart", nil), true},
		"a request too large":     {apierrors.NewRequestEntityTooLargeError("limit"), true},
		"conflict":                {conflict, false},
		"timeout":                 {apierrors.NewTimeoutError("slow", 1), false},
		"an overloaded server":    {apierrors.NewTooManyRequestsError("slow"), false},
		"unavailable":             {apierrors.NewServiceUnavailable("down"), false},
		"an internal error":       {apierrors.NewInternalError(errors.New("failed calling webhook")), false},
		"our token has expired":   {apierrors.NewUnauthorized("expired"), false},
		"a terminating namespace": {terminating, false},
		"no answer":               {errors.New("connection refused"), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testUnbind(t, test.refusal, test.unbound) })
		})
	}
	t.Run("an addition that is refused takes nothing away", func(t *testing.T) {
		w := guarded(t, pod("a", 3600, "vault"))
		w.reconcile()
		w.reconcile()
		w.taken()
		w.add(pod("b", 3600, "sts"))
		w.refuse = func([]string) error { return forbidden() }
		_, _ = w.try()
		expect(t, "writes", []string{"force Role"}, w.taken())
	})
}

func testUnbind(t *testing.T, refusal error, unbind bool) {
	w := guarded(t, pod("a", 3600, "vault"), pod("b", 3600, "sts"))
	w.reconcile()
	w.reconcile()
	w.taken()
	w.policy = mustParse(t, strings.Replace(testPolicy, "[vault, sts]", "[vault]", 1))
	w.refuse = func([]string) error { return refusal }
	_, _ = w.try()
	want, unbound := []string{"force Role"}, 0.0
	if unbind {
		want, unbound = append(want, "replace Role", "delete RoleBinding"), 1
	}
	expect(t, "writes", want, w.taken())
	expect(t, "unbound", unbound, w.values()["podtoken_grant_unbound_total"])
	time.Sleep(expectationLimit)
	_, _ = w.try()
	expect(t, "unbound when tried again", unbound, w.values()["podtoken_grant_unbound_total"])

	w.taken()
	w.refuse = nil
	w.reconcile()
	expect(t, "audiences", []string{"vault"}, contentOf(w.role()).audiences)
	if w.binding() == nil {
		t.Error("no RoleBinding after the Role could be changed")
	}
}

// A Role without our label is not changed, and not bound by us.
func TestAForeignRoleIsNotBound(t *testing.T) {
	w := guarded(t, pod("cart-1", 3600, "vault"))
	w.reconcile()
	w.reconcile()
	w.taken()
	role := w.role()
	w.change(role, func() {
		role.Labels = nil
		role.Rules = []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}}}
	})
	w.fail = func(write string) error {
		if write == "apply Role" {
			return forbidden()
		}
		return nil
	}
	w.reconcile()
	time.Sleep(expectationLimit)
	w.reconcile()
	expect(t, "writes", []string{"apply Role", "delete RoleBinding", "apply Role"}, w.taken())
	expect(t, "unbound", 1, w.values()["podtoken_grant_unbound_total"])
	expect(t, "rules of the foreign Role", 1, len(w.role().Rules))
	expect(t, "outcomes", map[string]float64{"Applied Created": 1, "Unchanged UpToDate": 1, "Waiting GrantConflict": 2}, w.counts())
}

// Without a guard nothing is granted that was not, and what is not wanted any more goes all the same.
func TestRemovalsDoNotWaitForTheGuard(t *testing.T) {
	w := guarded(t, pod("a", 3600, "vault"))
	w.reconcile()
	w.reconcile()
	w.remove(guardBinding())
	w.add(pod("b", 3600, "sts"))
	w.policy = mustParse(t, strings.Replace(testPolicy, "[vault, sts]", "[sts]", 1))
	w.taken()
	w.reconcile()
	expect(t, "writes", []string{"force Role"}, w.taken())
	expect(t, "rules", onlyTheMark(), w.role().Rules)
}
