package grant

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// RBAC lets a user with "patch" change owners and finalizers of a Role or RoleBinding without holding its rights
// (k8s.io/kubernetes@v1.37.2/pkg/registry/rbac/helpers.go, IsOnlyMutatingGCFields).

// keep puts a finalizer on the object.
func (w *world) keep(object client.Object) {
	w.change(object, func() { object.SetFinalizers([]string{"example.com/keep"}) })
}

// addOwner makes a ConfigMap one more owner of the object.
func (w *world) addOwner(object client.Object) {
	w.change(object, func() {
		object.SetOwnerReferences(append(object.GetOwnerReferences(), metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "kube-root-ca.crt", UID: "x"}))
	})
}

func onlyCart(uid types.UID) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: "cart", UID: uid}}
}

// narrowing returns a world with a grant of two audiences, of which the policy allows one any more.
func narrowing(t *testing.T) *world {
	t.Helper()
	w := guarded(t, pod("cart-1", 3600, "vault"), pod("cart-2", 3600, "sts"))
	w.reconcile()
	time.Sleep(expectationLimit)
	w.reconcile()
	w.remove(pod("cart-2", 3600, "sts"))
	w.policy = mustParse(t, strings.Replace(testPolicy, "[vault, sts]", "[vault]", 1))
	return w
}

// Owners and finalizers freeze no right: what is not wanted goes, and what is stays.
func TestOwnersAndFinalizersDoNotFreezeARole(t *testing.T) {
	for name, freeze := range map[string]func(w *world) types.UID{
		"one more owner": func(w *world) types.UID { w.addOwner(w.role()); w.keep(w.role()); return "uid-1" },
		"one more owner, and deleted": func(w *world) types.UID {
			w.addOwner(w.role())
			w.keep(w.role())
			w.remove(w.role())
			return "uid-1"
		},
		"deleted alone": func(w *world) types.UID { w.keep(w.role()); w.remove(w.role()); return "uid-1" },
		"no owner": func(w *world) types.UID {
			role := w.role()
			w.change(role, func() { role.OwnerReferences, role.Finalizers = nil, []string{"example.com/keep"} })
			return "uid-1"
		},
		"another ServiceAccount of that name": func(w *world) types.UID {
			w.keep(w.role())
			w.keep(w.binding())
			w.remove(cartAccount(""))
			w.add(cartAccount("uid-2"))
			return "uid-2"
		},
		"a RoleBinding that is kept too": func(w *world) types.UID {
			for _, object := range []client.Object{w.role(), w.binding()} {
				w.addOwner(object)
				w.keep(object)
				w.remove(object)
			}
			return "uid-1"
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := narrowing(t)
				uid := freeze(w)
				w.taken()
				w.reconcile()
				if writes := w.taken(); slices.Contains(writes, "delete Role") || slices.Contains(writes, "delete RoleBinding") {
					t.Errorf("writes %q, want no deletion: finalizers prevent it", writes)
				}
				expect(t, "rules", ofVault(), w.role().Rules)
				expect(t, "owners", onlyCart(uid), w.role().OwnerReferences)
				expect(t, "owners of the RoleBinding", onlyCart(uid), w.binding().OwnerReferences)
				time.Sleep(expectationLimit)
				w.reconcile()
				expect(t, "writes after that", nil, w.taken())
				expect(t, "waiting pods", 0, w.values()["podtoken_grant_waiting_pods"])

				w.add(pod("cart-3", 3600, "vault")) // a pod that comes later
				w.reconcile()
				expect(t, "waiting pods", 0, w.values()["podtoken_grant_waiting_pods"])
				expect(t, "events", nil, w.events)
			})
		})
	}
}

// What is not wanted goes first also where the Role is replaced: what pods add may be refused.
func TestAKeptRoleIsNarrowedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := narrowing(t)
		w.addOwner(w.role())
		w.keep(w.role())
		w.taken()
		w.add(pod("cart-3", 3600, "new"))
		w.policy = mustParse(t, strings.Replace(testPolicy, "[vault, sts]", "[vault, new]", 1))
		w.refuse = onlyFewerThan(2, forbidden())
		if _, err := w.try(); err == nil {
			t.Error("no error, so that it is not tried again")
		}
		expect(t, "writes", []string{"replace Role", "replace Role"}, w.taken())
		expect(t, "rules", ofVault(), w.role().Rules)
		if w.binding() == nil {
			t.Error("the pods have lost what they need")
		}
	})
}

// A Role that is kept with more than is wanted and that cannot be replaced gives nothing: its RoleBinding goes, and where finalizers keep
// that too, the Role becomes the mark.
func TestAKeptRoleThatCannotBeReplaced(t *testing.T) {
	for name, test := range map[string]struct {
		freeze func(w *world)
		writes []string
	}{
		"alone":             {func(*world) {}, []string{"replace Role", "delete RoleBinding"}},
		"and a RoleBinding": {func(w *world) { w.keep(w.binding()) }, []string{"replace Role", "replace Role"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := narrowing(t)
				w.addOwner(w.role())
				w.keep(w.role())
				test.freeze(w)
				w.taken()
				w.refuse = func(audiences []string) error {
					if len(audiences) > 0 {
						return forbidden()
					}
					return nil
				}
				if _, err := w.try(); err == nil {
					t.Error("no error, so that it is not tried again")
				}
				expect(t, "writes", test.writes, w.taken())
				if binding := w.binding(); binding != nil {
					expect(t, "rules", onlyTheMark(), w.role().Rules)
				}
				w.refuse = nil
				time.Sleep(expectationLimit)
				w.reconcile()
				expect(t, "rules", ofVault(), w.role().Rules)
				if w.binding() == nil {
					t.Error("no RoleBinding after the Role could be changed")
				}
			})
		})
	}
}

func TestOwnersAndFinalizersDoNotFreezeARoleBinding(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(binding *rbacv1.RoleBinding)
		writes  []string
		outcome string
	}{
		"one more owner": {
			func(b *rbacv1.RoleBinding) {
				b.OwnerReferences = append(b.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "x", UID: "x"})
			},
			[]string{"replace RoleBinding"}, "Applied Changed",
		},
		"one more owner and subject": {
			func(b *rbacv1.RoleBinding) {
				b.OwnerReferences = nil
				b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: "User", Name: "eve"})
			},
			[]string{"replace RoleBinding"}, "Applied Changed",
		},
		"another Role, which cannot be changed": {
			func(b *rbacv1.RoleBinding) { b.RoleRef.Name = "admin" },
			[]string{"delete RoleBinding"}, "Waiting GrantConflict",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := guarded(t, pod("cart-1", 3600, "vault"))
				w.reconcile()
				time.Sleep(expectationLimit)
				binding := w.binding()
				w.change(binding, func() { test.change(binding) })
				w.keep(binding)
				w.taken()
				w.reconcile()
				expect(t, "writes", test.writes, w.taken())
				expect(t, test.outcome, 1, w.counts()[test.outcome])
				if test.outcome == "Applied Changed" {
					expect(t, "owners", onlyCart("uid-1"), w.binding().OwnerReferences)
					expect(t, "subjects", 1, len(w.binding().Subjects))
					expect(t, "finalizers", []string{"example.com/keep"}, w.binding().Finalizers)
				}
			})
		})
	}
}

// fill gives the object as many annotations as it can have.
func (w *world) fill(object client.Object) {
	w.change(object, func() {
		object.SetAnnotations(map[string]string{"x": strings.Repeat("a", maxAnnotations-1)})
	})
}

// Annotations of the largest size leave no room for the time of a withdrawal: they go.
func TestAnnotationsDoNotFreezeAGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := forgotten(t)
		w.keep(w.role())
		w.fill(w.role())
		w.taken()
		if again := w.reconcile().RequeueAfter; again != withdrawalDelay {
			t.Errorf("again after %v, want %v", again, withdrawalDelay)
		}
		expect(t, "writes", []string{"force Role", "replace Role"}, w.taken())
		expect(t, "rules", onlyTheMark(), w.role().Rules)
		if annotations := w.role().Annotations; len(annotations) != 1 || annotations["podtoken.dev/withdrawn-at"] == "" {
			t.Errorf("%d annotations, want withdrawn-at alone", len(annotations))
		}
		time.Sleep(withdrawalDelay)
		w.reconcile()
		expect(t, "writes after the delay", []string{"delete RoleBinding", "delete Role"}, w.taken())
		expect(t, "finalizers", []string{"example.com/keep"}, w.role().Finalizers)
	})
}

// Where no annotation is taken, the rules go without one; where no write of the Role is, the log does not report that they went.
func TestRightsThatCannotBeTaken(t *testing.T) {
	for name, test := range map[string]struct {
		takes int // the write that the API server takes
		rules []rbacv1.PolicyRule
		says  string
	}{
		"the rules alone": {3, onlyTheMark(), "Grant withdrawn, but finalizers keep its Role or RoleBinding"},
		"nothing":         {4, ofVault(), "Finalizers keep the Role of a grant, and its rights cannot be taken"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := forgotten(t)
				w.keep(w.role())
				log := &bytes.Buffer{}
				w.r.logger = slog.New(slog.NewTextHandler(log, nil))
				w.taken()
				w.fail = func(write string) error {
					if strings.HasSuffix(write, " Role") && write != "delete Role" && len(w.writes) < test.takes {
						return forbidden()
					}
					return nil
				}
				_, err := w.try()
				if (err != nil) != (test.takes == 4) {
					t.Errorf("error = %v", err)
				}
				expect(t, "writes", []string{"force Role", "replace Role", "replace Role", "delete RoleBinding", "delete Role"}, w.taken())
				expect(t, "rules", test.rules, w.role().Rules)
				for _, message := range []string{"Grant withdrawn", "Grant removed", "Finalizers keep the Role of a grant, and its rights cannot be taken"} {
					said := strings.Contains(log.String(), fmt.Sprintf("msg=%q", message))
					if said != (message == test.says) {
						t.Errorf("log says %q: %t\n%s", message, said, log)
					}
				}
				if !strings.Contains(log.String(), test.says) {
					t.Errorf("log has no %q:\n%s", test.says, log)
				}

				// What could not be taken is taken as soon as it can be, although there is no RoleBinding any more.
				w.fail = nil
				time.Sleep(expectationLimit)
				w.reconcile()
				expect(t, "rules", onlyTheMark(), w.role().Rules)
			})
		})
	}
}

// A Role that finalizers keep gives nothing to other RoleBindings either.
func TestAKeptRoleWithoutARoleBinding(t *testing.T) {
	for name, freeze := range map[string]func(w *world){
		"its own":             func(*world) {},
		"of another owner":    func(w *world) { w.addOwner(w.role()) },
		"with all of it":      func(w *world) { w.addOwner(w.role()); w.fill(w.role()) },
		"deleted by another":  func(w *world) { w.remove(w.role()) },
		"with the most rules": func(w *world) { w.fillRules(maxRules + 1) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := forgotten(t)
				w.keep(w.role())
				freeze(w)
				w.remove(w.binding())
				w.reconcile()
				expect(t, "rules", onlyTheMark(), w.role().Rules)
				time.Sleep(expectationLimit)
				w.reconcile()
				if w.role().DeletionTimestamp == nil {
					t.Error("the Role is not deleted, although no caller holds its mark")
				}
				expect(t, "outcomes", 1, w.counts()["Waiting Finalizers"])
			})
		})
	}
}

// fillRules puts the mark alone, and so many rules of others behind it, into the Role.
func (w *world) fillRules(others int) {
	role := w.role()
	w.change(role, func() {
		role.Rules = onlyTheMark()
		for range others {
			role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"pods"}, Verbs: []string{"get"}})
		}
	})
}
