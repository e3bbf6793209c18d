package grant

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// limited is a policy that allows everything within the limits.
func limited(t *testing.T, account, namespace int) *world {
	w := guarded(t)
	w.policy = mustParse(t, fmt.Sprintf("%smaxAudiencesPerServiceAccount: %d\nmaxAudiencesPerNamespace: %d\n", anyAudiencePolicy, account, namespace))
	return w
}

// aged is a pod of an account that was made so many seconds ago.
func aged(account string, age int, seconds int64, audiences ...string) *corev1.Pod {
	p := pod(fmt.Sprintf("%s-%d", account, age), seconds, audiences...)
	p.Spec.ServiceAccountName = account
	p.CreationTimestamp = metav1.NewTime(epoch.Add(-time.Duration(age) * time.Second))
	return p
}

func (w *world) reconcileAccount(account string) {
	w.t.Helper()
	if _, err := w.tryAccount(account); err != nil {
		w.t.Fatal(err)
	}
}

// granted returns the audiences of an account's grant.
func (w *world) granted(account string) []string {
	w.t.Helper()
	role := &rbacv1.Role{}
	err := w.cluster.Get(w.t.Context(), client.ObjectKey{Namespace: "shop", Name: "podtoken:" + account}, role)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		w.t.Fatal(err)
	}
	return contentOf(role).audiences
}

func TestLimitOfAServiceAccount(t *testing.T) {
	long := strings.Repeat("l", 257)
	tests := map[string]struct {
		pods   []*corev1.Pod
		want   []string
		events []string // their pods
	}{
		"up to the limit": {
			pods: []*corev1.Pod{aged("cart", 9, 3600, "a", "b"), aged("cart", 8, 3600, "c")},
			want: []string{"a", "b", "c"},
		},
		"one more: the newest pod is granted nothing": {
			pods:   []*corev1.Pod{aged("cart", 9, 3600, "a", "b"), aged("cart", 8, 3600, "c", "d")},
			want:   []string{"a", "b"},
			events: []string{"cart-8"},
		},
		"an audience that two pods declare counts once": {
			pods: []*corev1.Pod{aged("cart", 9, 3600, "a", "b"), aged("cart", 8, 3600, "a", "b", "c"), aged("cart", 7, 3600, "b", "c")},
			want: []string{"a", "b", "c"},
		},
		"one for which there is room is not the victim of one for which there is none": {
			pods:   []*corev1.Pod{aged("cart", 9, 3600, "a", "b"), aged("cart", 8, 3600, "c", "d"), aged("cart", 7, 3600, "e")},
			want:   []string{"a", "b", "e"},
			events: []string{"cart-8"},
		},
		"a long audience counts twice": {
			pods:   []*corev1.Pod{aged("cart", 9, 3600, "a", "b"), aged("cart", 8, 3600, long)},
			want:   []string{"a", "b"},
			events: []string{"cart-8"},
		},
		"alone it is too much": {
			pods:   []*corev1.Pod{aged("cart", 9, 3600, "a", "b", "c", "d")},
			events: []string{"cart-9"},
		},
		"as many lifetimes as audiences": {
			pods: []*corev1.Pod{aged("cart", 9, 600, "a"), aged("cart", 8, 601, "a"), aged("cart", 7, 602, "a"),
				aged("cart", 6, 603, "a"), aged("cart", 5, 602, "a")},
			want:   []string{"a"},
			events: []string{"cart-6"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := limited(t, 3, 100)
			for _, p := range test.pods {
				w.add(p)
			}
			w.reconcile()
			expect(t, "audiences", test.want, w.granted("cart"))
			expect(t, "events", len(test.events), len(w.events))
			for i, pod := range test.events {
				if !strings.HasPrefix(w.events[i], "GrantRefused "+pod+": podtoken: ") || !strings.Contains(w.events[i], "maxAudiencesPerServiceAccount") {
					t.Errorf("event %q, want one of pod %s", w.events[i], pod)
				}
			}
			expect(t, "refused pods", float64(len(test.events)), w.values()["podtoken_grant_refused_pods"])
			w.reconcile()
			expect(t, "events when nothing has changed", len(test.events), len(w.events))
		})
	}
}

func TestTheEventAtTheLimit(t *testing.T) {
	w := limited(t, 2, 100)
	w.add(aged("cart", 9, 3600, "a", "b"), aged("cart", 8, 3600, "c"))
	w.reconcile()
	expect(t, "events", []string{`GrantRefused cart-8: podtoken: ServiceAccount "cart" in namespace "shop": its audiences (1; one of more than 256 bytes ` +
		`counts as two) and those of older pods are more than the 2 different ones that all pods of a ServiceAccount may have together: use fewer, ` +
		`delete pods that need theirs no more, or ask an administrator (maxAudiencesPerServiceAccount of the policy; ` +
		`tokens.maxAudiencesPerServiceAccount in the Helm chart's values)`}, w.events)

	// The oldest goes: there is room at once, not after the delay.
	w.remove(aged("cart", 9, 3600))
	w.reconcile()
	expect(t, "audiences", []string{"c", "b"}[0], w.granted("cart")[len(w.granted("cart"))-1])
	expect(t, "number of audiences", 2, len(w.granted("cart")))
	expect(t, "events", 1, len(w.events))
	expect(t, "refused pods", 0, w.values()["podtoken_grant_refused_pods"])
}

// What is granted stays with the pods that have it, although an older one comes to need more, or a Deployment replaces them.
func TestNobodyIsPushedOut(t *testing.T) {
	w := limited(t, 2, 100)
	w.add(aged("cart", 5, 3600, "a", "b"))
	w.reconcile()
	w.add(aged("cart", 9, 3600, "c"))
	w.reconcile()
	expect(t, "audiences", []string{"a", "b"}, w.granted("cart"))
	w.add(aged("cart", 1, 3600, "a", "b")) // the Deployment's next pod
	w.remove(aged("cart", 5, 3600))
	w.reconcile()
	expect(t, "audiences after the rollout", []string{"a", "b"}, w.granted("cart"))
}

// A lower limit takes from the newest, whatever order pods are listed in, and in whatever order ServiceAccounts are looked at.
func TestTheOrderDoesNotMatter(t *testing.T) {
	var pods []*corev1.Pod
	accounts := []string{"cart", "a", "b", "c"}
	for i := range 40 {
		pods = append(pods, aged(accounts[i%4], i/3, int64(600+i%5), fmt.Sprint("x", i*7%30), fmt.Sprint("y", i*11%40)))
		pods[i].Name = fmt.Sprintf("pod-%02d", rand.IntN(1000000)) // lists are by name
		pods[i].UID = types.UID(fmt.Sprintf("uid-%02d", i))
	}
	var want string
	for range 10 {
		rand.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
		rand.Shuffle(len(accounts), func(i, j int) { accounts[i], accounts[j] = accounts[j], accounts[i] })
		w := limited(t, 15, 30)
		for _, account := range accounts {
			if account != "cart" {
				sa := cartAccount(types.UID("uid-" + account))
				sa.Name = account
				w.add(sa)
			}
		}
		for i, p := range pods {
			p = p.DeepCopy()
			p.Name = fmt.Sprintf("pod-%02d", i)
			w.add(p)
		}
		got := ""
		for _, account := range accounts {
			w.reconcileAccount(account)
		}
		total := 0
		for _, account := range []string{"a", "b", "c", "cart"} {
			got += fmt.Sprintln(account, w.granted(account))
			total += len(w.granted(account))
		}
		if total < 20 || total > 30 {
			t.Fatalf("%d audiences are granted, want at most 30, and most of them", total)
		}
		if want == "" {
			want = got
		}
		expect(t, "grants", want, got)
	}
}

func TestLimitOfANamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t, 3, 4)
		other := cartAccount("uid-2")
		other.Name = "other"
		w.add(other, aged("cart", 9, 3600, "a", "b", "c"), aged("other", 8, 3600, "a"))
		w.reconcile()
		w.reconcileAccount("other")
		expect(t, "audiences up to the limit", 4, len(w.granted("cart"))+len(w.granted("other")))

		w.add(aged("other", 7, 3600, "a"), aged("other", 6, 3600, "a", "x"))
		w.reconcileAccount("other")
		expect(t, "audiences at the limit", []string{"a"}, w.granted("other"))
		expect(t, "events", 1, len(w.events))
		if !strings.Contains(w.events[0], "other-6") || !strings.Contains(w.events[0], "4 different ones that all pods of a namespace may have together") ||
			!strings.Contains(w.events[0], "tokens.maxAudiencesPerNamespace") {
			t.Errorf("event %q", w.events[0])
		}

		// Another ServiceAccount's pod makes room. Nothing of this one tells of it: it is looked at again.
		w.remove(aged("cart", 9, 3600))
		w.reconcile()
		expect(t, "retained where there is room for", 2, len(w.granted("cart")))
		w.reconcileAccount("other")
		expect(t, "audiences, while others are retained", []string{"a", "x"}, w.granted("other"))
		time.Sleep(delay)
		w.reconcile()
		expect(t, "retained after the delay", 0, len(w.granted("cart")))
		w.reconcileAccount("other")
		w.remove(aged("other", 8, 3600))
		w.remove(aged("other", 7, 3600))
		w.remove(aged("other", 6, 3600))
		w.reconcileAccount("other")
		time.Sleep(delay)
		w.reconcileAccount("other")
		for range 3 { // the withdrawal, the removal, and what sees that all is gone
			time.Sleep(delay + withdrawalDelay)
			w.reconcile()
			w.reconcileAccount("other")
		}
		expect(t, "namespaces in memory", 0, len(w.r.ledger.namespaces))
	})
}

// A pod that is granted nothing for want of room in the namespace is looked at again without an event.
func TestTheNamespaceIsLookedAtAgain(t *testing.T) {
	w := limited(t, 3, 1)
	w.add(aged("cart", 9, 3600, "a", "b"))
	expect(t, "again", conflictInterval, w.reconcile().RequeueAfter)
	expect(t, "writes", nil, w.taken())
}

// Where Roles of administrators decide, a grant has no audiences, and no limit of them.
func TestNoAudiencesInModeRBAC(t *testing.T) {
	w := limited(t, 1, 1)
	w.policy = mustParse(t, anyAudiencePolicy+"maxAudiencesPerServiceAccount: 1\nrbacNamespaces: [shop]\n")
	w.add(aged("cart", 9, 3600, "a", "b"), aged("cart", 8, 3600, "c"), aged("cart", 7, 600, "c"))
	w.reconcile()
	expect(t, "rules", 4, len(w.role().Rules))
	expect(t, "lifetimes", []int64{3600}, contentOf(w.role()).lifetimes)
	expect(t, "events", 1, len(w.events))
}

// What pod authors can make the log and the events say is limited for each namespace; honest pods get their events in turn.
func TestNewsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := guarded(t)
		said := 0
		for i := range 1000 { // pods come and go
			p := pod(fmt.Sprintf("bad-%d", i), 3600, "forbidden")
			w.add(p)
			w.reconcile()
			w.remove(p)
		}
		said = len(w.events)
		expect(t, "events about a thousand pods in no time", newsBurst, said)
		w.add(pod("honest", 3600, "typo"))
		if again := w.reconcile().RequeueAfter; again != conflictInterval {
			t.Errorf("again after %v, want %v", again, conflictInterval)
		}
		expect(t, "events", newsBurst, len(w.events))
		time.Sleep(conflictInterval)
		w.reconcile()
		expect(t, "events in its turn", newsBurst+1, len(w.events))
		if last := w.events[len(w.events)-1]; !strings.HasPrefix(last, "GrantRefused honest: ") {
			t.Errorf("last event %q", last)
		}
	})
}

// A pod for whose declaration there is no room gets an event, and the others of its namespace have their grants.
func TestCrowded(t *testing.T) {
	before := declared
	t.Cleanup(func() { declared = before })
	w := limited(t, 100, 1000)
	declared = &declarations{limit: 3 << 10}
	kept := []any{}
	for i := range 5 { // in the order in which the cache sees them
		p := aged("cart", 9-i, 3600, fmt.Sprint("audience-", i))
		stripped, err := stripPod(p.DeepCopy())
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, stripped)
		w.add(p)
	}
	w.reconcile()
	expect(t, "audiences", []string{"audience-0", "audience-1"}, w.granted("cart"))
	expect(t, "events", 3, len(w.events))
	want := "GrantRefused cart-7: podtoken: the pods of its namespace declare too many different tokens"
	for _, event := range w.events {
		if strings.HasPrefix(event, want) {
			want = ""
		}
	}
	if want != "" {
		t.Errorf("no event %s... in %q", want, w.events)
	}
	expect(t, "pods", 5, len(kept))
}
