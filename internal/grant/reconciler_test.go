package grant

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ofVault are the rules of a grant of one audience and one lifetime.
func ofVault() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{"cart"}, Verbs: []string{"create"}},
		{APIGroups: []string{"podtoken.dev"}, Resources: []string{"tokens"}, ResourceNames: []string{"cart"}, Verbs: []string{"mint"}},
		{APIGroups: []string{"podtoken.dev"}, Resources: []string{"lifetimes"}, ResourceNames: []string{"3600"}, Verbs: []string{"mint"}},
		{APIGroups: []string{"podtoken.dev"}, Resources: []string{"audiences"}, ResourceNames: []string{"api"}, Verbs: []string{"renew"}},
		{APIGroups: []string{"podtoken.dev"}, Resources: []string{"audiences"}, ResourceNames: []string{"vault"}, Verbs: []string{"mint"}},
	}
}

// guarded returns a world with a guard, a ServiceAccount and the objects.
func guarded(t *testing.T, objects ...client.Object) *world {
	return newWorld(t, append([]client.Object{guardPolicy(), guardBinding(), cartAccount("uid-1")}, objects...)...)
}

var created = []string{"apply Role", "apply RoleBinding"}

func expect[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestCreate(t *testing.T) {
	w := guarded(t, pod("cart-1", 3600, "vault"))
	w.reconcile()
	expect(t, "writes", created, w.taken())

	meta := metav1.ObjectMeta{
		Namespace: "shop", Name: "podtoken:cart",
		Labels:          map[string]string{"app.kubernetes.io/managed-by": "podtoken", "podtoken.dev/grant": "true"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: "cart", UID: "uid-1"}},
	}
	role, binding := w.role(), w.binding()
	for _, object := range []client.Object{role, binding} {
		object.SetResourceVersion("")
		object.SetManagedFields(nil)
		object.SetUID("")
		object.SetCreationTimestamp(metav1.Time{})
	}
	expect(t, "Role", &rbacv1.Role{ObjectMeta: meta, Rules: ofVault()}, role)
	expect(t, "RoleBinding", &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "podtoken:cart"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "cart", Namespace: "shop"}},
	}, binding)

	w.reconcile()
	expect(t, "writes when nothing changed", nil, w.taken())
	expect(t, "events", nil, w.events)
	expect(t, "outcomes", map[string]float64{"Applied Created": 1, "Unchanged UpToDate": 1}, w.counts())
	values := w.values()
	expect(t, "delays", 1, values["podtoken_grant_delay_seconds"])
	expect(t, "guard", 1, values["podtoken_guard_present"])
	expect(t, "waiting pods", 0, values["podtoken_grant_waiting_pods"])
}

func TestWhatOthersDidIsPutRight(t *testing.T) {
	tests := map[string]struct {
		change func(w *world)
		writes []string
	}{
		"a Role with one more rule": {
			func(w *world) {
				role := w.role()
				w.change(role, func() {
					role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}})
				})
			},
			[]string{"force Role"},
		},
		"a Role without rules": {
			func(w *world) { role := w.role(); w.change(role, func() { role.Rules = nil }) },
			[]string{"force Role"},
		},
		"a Role without our other label": {
			func(w *world) {
				role := w.role()
				w.change(role, func() { delete(role.Labels, "app.kubernetes.io/managed-by") })
			},
			[]string{"force Role"},
		},
		"no Role": {
			func(w *world) { w.remove(w.role()) },
			[]string{"apply Role"},
		},
		"a RoleBinding with one more subject": {
			func(w *world) {
				binding := w.binding()
				w.change(binding, func() {
					binding.Subjects = append(binding.Subjects, rbacv1.Subject{Kind: "User", Name: "eve", APIGroup: "rbac.authorization.k8s.io"})
				})
			},
			[]string{"force RoleBinding"},
		},
		"a RoleBinding of another Role, which cannot be changed": {
			func(w *world) { binding := w.binding(); w.change(binding, func() { binding.RoleRef.Name = "admin" }) },
			[]string{"delete RoleBinding", "apply RoleBinding"},
		},
		"no RoleBinding": {
			func(w *world) { w.remove(w.binding()) },
			[]string{"apply RoleBinding"},
		},
		"one more owner, which applying does not remove": {
			func(w *world) {
				role := w.role()
				w.change(role, func() {
					role.OwnerReferences = append(role.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"})
				})
			},
			[]string{"delete Role", "apply Role"},
		},
		"another ServiceAccount of that name": {
			func(w *world) { w.remove(cartAccount("")); w.add(cartAccount("uid-2")) },
			[]string{"delete Role", "apply Role", "delete RoleBinding", "apply RoleBinding"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := guarded(t, pod("cart-1", 3600, "vault"))
			w.reconcile()
			w.reconcile() // sees what was written
			w.taken()
			test.change(w)
			w.reconcile()
			expect(t, "writes", test.writes, w.taken())
			expect(t, "rules", ofVault(), w.role().Rules)
			expect(t, "Role of the RoleBinding", "podtoken:cart", w.binding().RoleRef.Name)
			expect(t, "subjects", []rbacv1.Subject{{Kind: "ServiceAccount", Name: "cart", Namespace: "shop"}}, w.binding().Subjects)
			w.reconcile()
			expect(t, "writes after that", nil, w.taken())
			expect(t, "delays: a repair is none", 1, w.values()["podtoken_grant_delay_seconds"])
		})
	}
}

func TestPodsThatCount(t *testing.T) {
	ended := func(phase corev1.PodPhase) *corev1.Pod {
		p := pod("ended", 600, "sts")
		p.Status.Phase = phase
		return p
	}
	terminating := pod("terminating", 3600, "vault")
	terminating.DeletionTimestamp, terminating.Finalizers = &metav1.Time{Time: time.Now()}, []string{"x/y"}
	projected := pod("projected", 600, "sts")
	projected.Spec.InitContainers[0].Name = "other"
	unset := pod("unset", 600, "sts")
	unset.Spec.ServiceAccountName = ""
	tests := map[string]struct {
		pods []client.Object
		want []string // audiences
	}{
		"two pods of different tokens":            {[]client.Object{pod("a", 3600, "vault"), pod("b", 600, "sts")}, []string{"sts", "vault"}},
		"one that succeeded does not":             {[]client.Object{pod("a", 3600, "vault"), ended(corev1.PodSucceeded)}, []string{"vault"}},
		"one that failed does not":                {[]client.Object{pod("a", 3600, "vault"), ended(corev1.PodFailed)}, []string{"vault"}},
		"one that terminates does":                {[]client.Object{terminating}, []string{"vault"}},
		"one without a sidecar does not":          {[]client.Object{pod("a", 3600, "vault"), projected}, []string{"vault"}},
		"one of another ServiceAccount does not":  {[]client.Object{pod("a", 3600, "vault"), unset}, []string{"vault"}},
		"one with any refused token does not":     {[]client.Object{pod("a", 3600, "vault"), pod("b", 3600, "sts", "forbidden")}, []string{"vault"}},
		"one that cannot be understood does not":  {[]client.Object{pod("a", 3600, "vault"), pod("b", 3600)}, []string{"vault"}},
		"an API server's audience is not allowed": {[]client.Object{pod("a", 3600, "vault"), pod("b", 3600, "api")}, []string{"vault"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := guarded(t, test.pods...)
			w.reconcile()
			expect(t, "audiences", test.want, contentOf(w.role()).audiences)
		})
	}
}

func TestRefusal(t *testing.T) {
	w := guarded(t, pod("bad", 3600, "forbidden"), pod("broken", 3600))
	w.reconcile()
	w.reconcile()
	expect(t, "writes", nil, w.taken())
	expect(t, "refused pods", 2, w.values()["podtoken_grant_refused_pods"])
	expect(t, "outcomes", map[string]float64{"Unchanged Refused": 2}, w.counts())
	if len(w.events) != 2 {
		t.Fatalf("%d events, want one for each pod: %q", len(w.events), w.events)
	}
	for i, parts := range [][]string{
		{"GrantRefused bad: podtoken: ", `"forbidden"`, `rule "shops"`, "policy"},
		{"GrantRefused broken: podtoken: ", `container "podtoken" cannot be understood: it has no argument --token`},
	} {
		for _, part := range parts {
			if !strings.Contains(w.events[i], part) {
				t.Errorf("event %q, want %q in it", w.events[i], part)
			}
		}
		if len(w.events[i]) > 1100 {
			t.Errorf("event of %d bytes", len(w.events[i]))
		}
	}

	// The policy allows it now: the grant comes, and nothing more is said.
	w.policy = mustParse(t, strings.Replace(testPolicy, "[vault, sts]", `["*"]`, 1))
	w.reconcile()
	expect(t, "writes", created, w.taken())
	expect(t, "events", 2, len(w.events))
	expect(t, "refused pods", 1, w.values()["podtoken_grant_refused_pods"])

	w.remove(pod("broken", 3600))
	w.reconcile()
	expect(t, "refused pods", 0, w.values()["podtoken_grant_refused_pods"])
}

func TestAPolicyThatForbidsTakesTheGrantAtOnce(t *testing.T) {
	w := guarded(t, pod("cart-1", 3600, "vault"))
	w.reconcile()
	w.taken()
	w.policy = mustParse(t, strings.Replace(testPolicy, "[vault, sts]", "[sts]", 1))
	expect(t, "again", withdrawalDelay, w.reconcile().RequeueAfter)
	expect(t, "writes", []string{"force Role"}, w.taken())
	expect(t, "rules", onlyTheMark(), w.role().Rules)
	expect(t, "outcomes", map[string]float64{"Applied Created": 1, "Withdrawn Refused": 1}, w.counts())
}

func TestModeRBAC(t *testing.T) {
	w := guarded(t, pod("cart-1", 3600, "vault"))
	w.reconcile()
	w.taken()
	w.policy = mustParse(t, strings.Replace(testPolicy, "[prod]", "[shop]", 1))
	w.reconcile()
	expect(t, "writes", []string{"force Role"}, w.taken())
	expect(t, "rules", ofVault()[:4], w.role().Rules)
	w.reconcile()
	expect(t, "writes after that", nil, w.taken())
}

func TestNewAPIServerAudiences(t *testing.T) {
	w := guarded(t, pod("cart-1", 3600, "vault"))
	w.reconcile()
	w.taken()
	w.own = []string{"new", "api", "api"}
	w.reconcile()
	expect(t, "writes", []string{"force Role"}, w.taken())
	expect(t, "own", []string{"api", "new"}, contentOf(w.role()).own)
}

func TestRemovalAfterTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := guarded(t, pod("cart-1", 3600, "vault"))
		w.reconcile()
		w.taken()
		w.remove(pod("cart-1", 3600))
		expect(t, "again", delay, w.reconcile().RequeueAfter)
		expect(t, "writes", nil, w.taken())

		time.Sleep(delay - time.Second) // the bubble's time
		w.add(pod("cart-2", 3600, "vault"))
		expect(t, "again", 0, w.reconcile().RequeueAfter)
		w.remove(pod("cart-2", 3600))
		expect(t, "again after another pod", delay, w.reconcile().RequeueAfter)

		time.Sleep(delay)
		expect(t, "again for the second step", withdrawalDelay, w.reconcile().RequeueAfter)
		expect(t, "writes", []string{"force Role"}, w.taken())
		time.Sleep(withdrawalDelay)
		w.reconcile()
		expect(t, "writes after the withdrawal", []string{"delete RoleBinding", "delete Role"}, w.taken())
		w.reconcile()
		expect(t, "writes after that", nil, w.taken())
		expect(t, "accounts in memory", 0, len(w.r.accounts.all))
	})
}

func TestForeignObjects(t *testing.T) {
	foreign := metav1.ObjectMeta{Namespace: "shop", Name: "podtoken:cart"}
	for name, object := range map[string]client.Object{
		"Role": &rbacv1.Role{ObjectMeta: foreign, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}}},
		"RoleBinding": &rbacv1.RoleBinding{ObjectMeta: foreign, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "other"},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: "eve"}}},
	} {
		for _, code := range []string{"a conflict", "a refusal of our admission policy"} {
			t.Run(name+", "+code, func(t *testing.T) {
				w := guarded(t, pod("cart-1", 3600, "vault"), object.DeepCopyObject().(client.Object))
				w.fail = func(write string) error {
					switch {
					case write != "apply "+name:
						return nil
					case code == "a conflict":
						return apierrors.NewConflict(schema.GroupResource{Resource: name}, "podtoken:cart", errors.New("conflict"))
					}
					return apierrors.NewForbidden(schema.GroupResource{Resource: name}, "podtoken:cart", errors.New("policy"))
				}
				expect(t, "again", time.Minute, w.reconcile().RequeueAfter)
				w.reconcile()
				expect(t, "outcomes", map[string]float64{"Waiting GrantConflict": 2}, w.counts())
				expect(t, "events", []string{fmt.Sprintf(`GrantConflict cart-1: podtoken: no grant: a %s "podtoken:cart" that podtoken did not make `+
					`is in the way in namespace "shop". Delete or rename it; podtoken looks again every 1m0s`, name)}, w.events)
				expect(t, "waiting pods", 1, w.values()["podtoken_grant_waiting_pods"])

				w.fail = nil
				w.remove(object.DeepCopyObject().(client.Object))
				w.reconcile()
				expect(t, "outcomes", map[string]float64{"Waiting GrantConflict": 2, "Applied Created": 1}, w.counts())
				expect(t, "events", 1, len(w.events))
				expect(t, "waiting pods", 0, w.values()["podtoken_grant_waiting_pods"])
			})
		}
	}
}

func TestNamespaceTerminating(t *testing.T) {
	w := guarded(t, pod("cart-1", 3600, "vault"))
	w.fail = func(string) error {
		err := apierrors.NewForbidden(schema.GroupResource{Resource: "roles"}, "podtoken:cart", errors.New("namespace is being terminated"))
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
		return err
	}
	expect(t, "again", 0, w.reconcile().RequeueAfter)
	expect(t, "outcomes", map[string]float64{"Waiting NamespaceTerminating": 1}, w.counts())
	expect(t, "events", nil, w.events)
}

func TestServiceAccountMissing(t *testing.T) {
	w := newWorld(t, guardPolicy(), guardBinding(), pod("cart-1", 3600, "vault"))
	w.reconcile()
	expect(t, "writes", nil, w.taken())
	expect(t, "outcomes", map[string]float64{"Waiting ServiceAccountMissing": 1}, w.counts())
	expect(t, "waiting pods", 1, w.values()["podtoken_grant_waiting_pods"])
	w.add(cartAccount("uid-1"))
	w.reconcile()
	expect(t, "writes", created, w.taken())
	expect(t, "waiting pods", 0, w.values()["podtoken_grant_waiting_pods"])
}

func TestErrorsAreReturned(t *testing.T) {
	w := guarded(t, pod("cart-1", 3600, "vault"))
	w.fail = func(string) error { return apierrors.NewInternalError(errors.New("etcd")) }
	_, err := w.try()
	want := `reconciling the grant of ServiceAccount "cart" in namespace "shop": creating Role "podtoken:cart": Internal error occurred: etcd`
	if err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
	expect(t, "outcomes", map[string]float64{"Error APIServer": 1}, w.counts())
	expect(t, "waiting pods", 1, w.values()["podtoken_grant_waiting_pods"])

	// A refusal is one too, when there is no object that explains it.
	w.fail = func(string) error { return apierrors.NewForbidden(schema.GroupResource{}, "x", errors.New("rbac")) }
	if _, err := w.try(); !apierrors.IsForbidden(err) {
		t.Errorf("error = %v, want forbidden", err)
	}

	// A repair that fails takes nothing from a pod that has its grant.
	w.fail = nil
	w.reconcile()
	w.reconcile() // sees what was written
	w.remove(w.binding())
	w.fail = func(string) error { return apierrors.NewInternalError(errors.New("etcd")) }
	if _, err := w.try(); err == nil {
		t.Error("no error")
	}
	expect(t, "waiting pods", 0, w.values()["podtoken_grant_waiting_pods"])

	// What waits no more because it is gone is not counted for ever.
	w.fail = nil
	w.remove(cartAccount("uid-1"))
	w.reconcile()
	expect(t, "waiting pods", 1, w.values()["podtoken_grant_waiting_pods"])
	w.remove(w.role())
	w.remove(pod("cart-1", 3600))
	w.reconcile()
	expect(t, "waiting pods", 0, w.values()["podtoken_grant_waiting_pods"])
}

// Until the cache shows what was written nothing is decided, and not for long.
func TestALateCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := guarded(t, pod("cart-1", 3600, "vault"))
		w.reconcile()
		w.taken()
		a := w.r.accounts.get(client.ObjectKey{Namespace: "shop", Name: "cart"})
		next := "99999999"
		a.role = expectVersion(&next)
		role := w.role()
		w.change(role, func() { role.Rules = nil })
		expect(t, "again", time.Second, w.reconcile().RequeueAfter)
		expect(t, "writes", nil, w.taken())
		time.Sleep(time.Second) // the bubble's time
		w.reconcile()
		expect(t, "writes", []string{"force Role"}, w.taken())
	})
}

// Many pods with the same problem do not flood the API server with events.
func TestEventsAreLimited(t *testing.T) {
	w := guarded(t)
	for i := range maxTold + 20 {
		w.add(pod(fmt.Sprintf("bad-%d", i), 3600, "forbidden"))
	}
	w.reconcile()
	expect(t, "events", maxTold, len(w.events))
	expect(t, "refused pods", maxTold+20, w.values()["podtoken_grant_refused_pods"])
}
