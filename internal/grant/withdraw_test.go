package grant

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// withdrawalDelay of the tests' reconcilers.
const withdrawalDelay = 65 * time.Second

// onlyTheMark are the rules of a grant that was withdrawn.
func onlyTheMark() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{APIGroups: []string{"podtoken.dev"}, Resources: []string{"tokens"}, ResourceNames: []string{"cart"}, Verbs: []string{"mint"}}}
}

// forgotten returns a world with a grant of a pod that is gone, and whose audience the policy does not allow any more.
func forgotten(t *testing.T) *world {
	t.Helper()
	w := guarded(t, pod("cart-1", 3600, "vault"))
	w.reconcile()
	w.remove(pod("cart-1", 3600, "vault"))
	time.Sleep(expectationLimit)
	w.policy = mustParse(t, "{apiVersion: podtoken.dev/v1alpha1, kind: PolicyConfiguration}")
	return w
}

func TestWithdrawalHasTwoSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := forgotten(t)
		if again := w.reconcile().RequeueAfter; again != withdrawalDelay {
			t.Errorf("again after %v, want %v", again, withdrawalDelay)
		}
		expect(t, "writes of the first step", []string{"force Role"}, w.taken())
		expect(t, "rules after the first step", onlyTheMark(), w.role().Rules)
		if w.binding() == nil {
			t.Error("the RoleBinding is gone, and the mark with it")
		}

		// A controller that starts in between reads the state from the Role.
		time.Sleep(withdrawalDelay - 3*time.Second)
		w.r.accounts = newAccounts()
		if again := w.reconcile().RequeueAfter; again <= 0 || again > 4*time.Second {
			t.Errorf("again after %v, want what is left: 3 s", again)
		}
		expect(t, "writes before the delay is over", nil, w.taken())

		time.Sleep(4 * time.Second)
		w.reconcile()
		expect(t, "writes of the second step", []string{"delete RoleBinding", "delete Role"}, w.taken())
		expect(t, "outcomes", map[string]float64{
			"Applied Created": 1, "Withdrawn NotNeeded": 1, "Waiting Withdrawing": 1, "Removed NotNeeded": 1,
		}, w.counts())
	})
}

// A grant that is needed again before it is gone is whole at once, and the next withdrawal has its own time.
func TestWithdrawalThatIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := forgotten(t)
		w.reconcile()
		time.Sleep(withdrawalDelay - time.Second)
		allowed, none := mustParse(t, testPolicy), w.policy
		w.policy = allowed
		again := pod("cart-2", 3600, "vault")
		w.add(again)
		w.reconcile()
		expect(t, "rules", ofVault(), w.role().Rules)
		if value, ok := w.role().Annotations["podtoken.dev/withdrawn-at"]; ok {
			t.Errorf("the Role is still annotated as withdrawn at %s", value)
		}
		w.policy = none
		w.remove(again)
		time.Sleep(2 * time.Second)
		if left := w.reconcile().RequeueAfter; left != withdrawalDelay {
			t.Errorf("again after %v, want %v", left, withdrawalDelay)
		}
		expect(t, "rules", onlyTheMark(), w.role().Rules)
	})
}

// Others can change the Role of a withdrawn grant. None of it brings a right back, or takes the mark early by more than its edit.
func TestWithdrawnRoleThatOthersChange(t *testing.T) {
	for name, change := range map[string]func(role *rbacv1.Role){
		"no time":            func(role *rbacv1.Role) { role.Annotations = nil },
		"not a time":         func(role *rbacv1.Role) { role.Annotations["podtoken.dev/withdrawn-at"] = "yesterday" },
		"a time to come":     func(role *rbacv1.Role) { role.Annotations["podtoken.dev/withdrawn-at"] = "2199-01-01T00:00:00Z" },
		"rights put back":    func(role *rbacv1.Role) { role.Rules = ofVault() },
		"no rules":           func(role *rbacv1.Role) { role.Rules = nil },
		"another rule added": func(role *rbacv1.Role) { role.Rules = append(role.Rules, ofVault()[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := forgotten(t)
				w.reconcile()
				time.Sleep(10 * time.Second)
				role := w.role()
				w.change(role, func() { change(role) })
				w.taken()
				if again := w.reconcile().RequeueAfter; again != withdrawalDelay {
					t.Errorf("again after %v, want %v: the withdrawal begins again", again, withdrawalDelay)
				}
				expect(t, "writes", []string{"force Role"}, w.taken())
				expect(t, "rules", onlyTheMark(), w.role().Rules)
			})
		})
	}
}

// What is not bound has no mark to wait for.
func TestWithdrawalOfHalfAGrant(t *testing.T) {
	for name, remove := range map[string]func(w *world) client.Object{
		"no RoleBinding": func(w *world) client.Object { return w.binding() },
		"no Role":        func(w *world) client.Object { return w.role() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := forgotten(t)
				w.remove(remove(w))
				w.reconcile()
				if w.role() != nil || w.binding() != nil {
					t.Error("something is left")
				}
			})
		})
	}
}

// A finalizer keeps objects, but no right: not that of a grant that is not needed, and not that of an earlier ServiceAccount.
func TestFinalizersKeepNoRight(t *testing.T) {
	finalize := func(w *world) {
		for _, object := range []client.Object{w.role(), w.binding()} {
			w.change(object, func() { object.SetFinalizers([]string{"example.com/keep"}) })
		}
	}
	t.Run("of a grant that is not needed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := forgotten(t)
			finalize(w)
			w.reconcile()
			time.Sleep(withdrawalDelay + time.Second)
			w.reconcile()
			time.Sleep(expectationLimit)
			w.reconcile()
			expect(t, "rules", onlyTheMark(), w.role().Rules)
			expect(t, "outcomes", map[string]float64{"Applied Created": 1, "Withdrawn NotNeeded": 1, "Waiting Finalizers": 2}, w.counts())
		})
	})
	t.Run("of an earlier ServiceAccount", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := forgotten(t)
			finalize(w)
			w.remove(cartAccount(""))
			w.add(cartAccount("uid-2"))
			w.reconcile() // deletes both, which finalizers keep
			time.Sleep(expectationLimit)
			w.reconcile()
			role := w.role()
			expect(t, "rules", onlyTheMark(), role.Rules)
			expect(t, "owner", []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: "cart", UID: "uid-2"}}, role.OwnerReferences)
		})
	})
}

// Where the Role cannot be written, its rights go with the objects.
func TestWithdrawalThatIsDenied(t *testing.T) {
	denied := map[string]error{
		"by a policy":   apierrors.NewForbidden(schema.GroupResource{Resource: "roles"}, "podtoken:cart", errors.New("denied by a policy")),
		"by validation": apierrors.NewInvalid(schema.GroupKind{Kind: "Role"}, "podtoken:cart", nil),
	}
	for name, answer := range denied {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := forgotten(t)
				w.fail = func(write string) error {
					if write == "force Role" || write == "replace Role" {
						return answer
					}
					return nil
				}
				w.reconcile()
				expect(t, "writes", []string{"force Role", "replace Role", "replace Role", "delete RoleBinding", "delete Role"}, w.taken())
			})
		})
	}
	t.Run("for a moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := forgotten(t)
			w.fail = func(string) error { return apierrors.NewServiceUnavailable("not now") }
			if _, err := w.try(); err == nil {
				t.Error("no error, so that it is not tried again")
			}
			expect(t, "writes", []string{"force Role"}, w.taken())
		})
	})
}
