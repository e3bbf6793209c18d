package grant

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
)

// keptPod is a pod in a cache.
type keptPod struct {
	s   *declarations
	pod *corev1.Pod
}

func (p *keptPod) declaration() *declaration { return p.s.get(p.pod) }

// keep is what stripPod does, with declarations of the test's own.
func keep(s *declarations, namespace string, args []string) *keptPod {
	return keepPod(s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}}, args)
}

func keepPod(s *declarations, pod *corev1.Pod, args []string) *keptPod {
	out := &corev1.Pod{ObjectMeta: pod.ObjectMeta, Spec: corev1.PodSpec{ServiceAccountName: pod.Spec.ServiceAccountName}}
	out.Spec.InitContainers, out.Spec.NodeName = s.of(pod, args)
	return &keptPod{s: s, pod: out}
}

// All pods of a Deployment have the same declaration in memory, which goes when the last of them goes.
func TestDeclarationsAreShared(t *testing.T) {
	s := newDeclarations()
	one, same := keep(s, "shop", []string{argument("a", 600, "x")}), keep(s, "shop", []string{"--notify=x", argument("a", 600, "x")})
	if one.declaration() != same.declaration() {
		t.Error("two equal declarations")
	}
	others := map[string]*keptPod{
		"lifetime":  keep(s, "shop", []string{argument("a", 601, "x")}),
		"audience":  keep(s, "shop", []string{argument("a", 600, "y")}),
		"audiences": keep(s, "shop", []string{argument("a", 600, "x", "y")}),
		"name":      keep(s, "shop", []string{argument("b", 600, "x")}),
		"namespace": keep(s, "other", []string{argument("a", 600, "x")}),
		"tokens":    keep(s, "shop", []string{argument("a", 600, "x"), argument("b", 600, "y")}),
		"problem":   keep(s, "shop", nil),
		"ServiceAccount": keepPod(s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: corev1.PodSpec{ServiceAccountName: "other"}},
			[]string{argument("a", 600, "x")}),
	}
	for name, other := range others {
		if d := other.declaration(); d == one.declaration() || d == crowded {
			t.Errorf("one declaration for two of another %s", name)
		}
	}
	runtime.KeepAlive(one)
	runtime.KeepAlive(same)
	runtime.KeepAlive(others)
	waitForNone(t, s)
}

// waitForNone waits until nothing is kept.
func waitForNone(t *testing.T, s *declarations) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		runtime.GC()
		s.mu.Lock()
		left := len(s.rooms)
		s.mu.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("declarations of %d namespaces are kept without a pod", left)
		}
	}
}

// A namespace has room for so much, other namespaces have theirs, and what is gone makes room at once.
func TestNamespacesAreLimited(t *testing.T) {
	s := &declarations{limit: 100 << 10, problems: 10 << 10}
	different := func(i int) []string {
		return []string{argument("a", 600, fmt.Sprintf("%06d%s", i, strings.Repeat("x", 500)))}
	}
	aged := func(i int) *keptPod {
		return keepPod(s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(i) * time.Second))}}, different(i))
	}
	var kept []*keptPod
	for i := range 1000 {
		p := aged(i)
		if p.declaration() == crowded {
			break
		}
		kept = append(kept, p)
	}
	if size := declarationBytes + tokenBytes + 1 + stringBytes + 506; len(kept) != s.limit/size {
		t.Errorf("%d declarations of %d bytes are kept in %d", len(kept), size, s.limit)
	}
	if got := aged(0); got.declaration() != kept[0].declaration() {
		t.Error("a pod that declares what is known finds no room")
	}
	if got := keep(s, "other", different(1000)); got.declaration() == crowded {
		t.Error("no room in another namespace")
	}
	if got := aged(1000); got.declaration() != crowded {
		t.Error("there is room although there is none")
	}
	if got := keep(s, "shop", nil); got.declaration() == crowded {
		t.Error("no room for what cannot be understood, which has its own")
	}
	s.collected = time.Time{} // ten seconds later
	runtime.KeepAlive(kept)   // and no longer
	if got := aged(1000); got.declaration() == crowded {
		t.Error("no room after all pods are gone")
	}
	waitForNone(t, s)
}

// sample is a pod of a test, and how its declaration stands.
type sample struct {
	pod              *corev1.Pod
	args             []string
	forbidden, fresh bool
}

// samples has pods of three ServiceAccounts. Some declare the same, some were made in the same second.
func samples(random *rand.Rand, count int) []sample {
	all := make([]sample, count)
	for i := range all {
		what := random.IntN(count)
		own := rand.New(rand.NewPCG(uint64(what), 0)) // what a declaration is depends on its number
		account := fmt.Sprint("account-", what%3)
		args := []string{argument(fmt.Sprint("t-", what), 600, strings.Repeat("x", own.IntN(3000)))}
		all[i] = sample{
			pod: &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: "shop", Name: fmt.Sprintf("pod-%03d", random.IntN(1000)), UID: types.UID(fmt.Sprint("uid-", i)),
					CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(random.IntN(count/2+1)) * time.Second)),
				},
				Spec: corev1.PodSpec{ServiceAccountName: account},
			},
			args: args, forbidden: own.IntN(3) == 0, fresh: own.IntN(3) != 0,
		}
	}
	return all
}

// standingsOf makes known how they stand.
func standingsOf(all []sample) *standings {
	by := map[string]sample{}
	for _, one := range all {
		d, _ := newDeclaration(types.NamespacedName{}, one.args)
		by[d.tokens[0].Name] = one
	}
	return &standings{policy: func() *policy.Policy { return nil }, of: func(_ types.NamespacedName, tokens []api.TokenSpec) (forbidden, fresh bool) {
		return by[tokens[0].Name].forbidden, by[tokens[0].Name].fresh
	}}
}

// keptOf returns the UIDs of pods with a declaration, after they were seen in this order.
func keptOf(limit int, by *standings, all []sample) string {
	s := &declarations{limit: limit, collected: time.Now()}
	s.sortBy(by)
	var pods []*keptPod
	for _, one := range all {
		pods = append(pods, keepPod(s, one.pod, one.args))
	}
	var kept []string
	for _, p := range pods {
		if p.declaration() != crowded {
			kept = append(kept, string(p.pod.UID))
		}
	}
	slices.Sort(kept)
	return strings.Join(kept, " ")
}

// shouldKeep returns the same by the definition: declarations by precedence, up to the first for which there is no room.
func shouldKeep(limit int, all []sample) string {
	type whole struct {
		precedence
		size int
		pods []string
	}
	by := map[string]*whole{}
	for _, one := range all {
		d, size := newDeclaration(types.NamespacedName{Namespace: "shop", Name: one.pod.Spec.ServiceAccountName}, one.args)
		own := precedence{forbidden: one.forbidden, rank: rank{fresh: one.fresh, created: one.pod.CreationTimestamp.Time, uid: one.pod.UID}}
		w := by[d.key]
		if w == nil {
			w = &whole{precedence: own, size: size}
			by[d.key] = w
		}
		if own.compare(w.precedence) < 0 {
			w.precedence = own
		}
		w.pods = append(w.pods, string(one.pod.UID))
	}
	var kept []string
	for _, w := range slices.SortedFunc(maps.Values(by), func(a, b *whole) int { return a.compare(b.precedence) }) {
		if limit -= w.size; limit < 0 {
			break
		}
		kept = append(kept, w.pods...)
	}
	slices.Sort(kept)
	return strings.Join(kept, " ")
}

// All orders of a few pods, and many orders of more, keep the same: that of the definition. A restart sees them by name.
func TestTheOrderOfEventsDoesNotMatter(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	check := func(limit int, by *standings, all []sample, want string) {
		if got := keptOf(limit, by, all); got != want {
			order := ""
			for _, one := range all {
				order += fmt.Sprintf("%s forbidden=%v fresh=%v %v\n", one.pod.UID, one.forbidden, one.fresh, one.pod.CreationTimestamp)
			}
			t.Fatalf("limit %d: kept %s, want %s, in the order\n%s", limit, got, want, order)
		}
	}
	full := 0
	for i := range 20 {
		all := samples(random, 5+i%5/4) // 120 orders, or 720
		limit := 2000 + random.IntN(12_000)
		want, by := shouldKeep(limit, all), standingsOf(all)
		if len(strings.Fields(want)) < len(all) {
			full++
		}
		permutations(all, 0, func() { check(limit, by, all, want) })
	}
	for range 12 {
		all := samples(random, 100)
		limit := 2000 + random.IntN(150_000)
		want, by := shouldKeep(limit, all), standingsOf(all)
		for range 10 {
			random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			check(limit, by, all, want)
		}
		slices.SortStableFunc(all, func(a, b sample) int { return cmp.Compare(a.pod.Name, b.pod.Name) })
		check(limit, by, all, want)
	}
	if full < 8 {
		t.Errorf("only %d of 20 namespaces were full", full)
	}
}

func permutations[T any](all []T, from int, visit func()) {
	if from == len(all) {
		visit()
		return
	}
	for i := from; i < len(all); i++ {
		all[from], all[i] = all[i], all[from]
		permutations(all, from+1, visit)
		all[from], all[i] = all[i], all[from]
	}
}

// hostile pods of a ServiceAccount fill the namespace as it is after restart, with names that sort first.
func hostile(w *world, age time.Duration, audience string) {
	evil := cartAccount("uid-evil")
	evil.Name = "evil"
	w.add(evil)
	for i := range 10 {
		p := pod(fmt.Sprintf("a-%03d", i), 3600)
		p.CreationTimestamp = metav1.NewTime(time.Now().Add(-age))
		p.Spec.ServiceAccountName = "evil"
		for k := range 16 {
			var audiences []string
			for j := range 7 {
				audiences = append(audiences, fmt.Sprintf("%s-%03d-%02d-%d-%s", audience, i, k, j, strings.Repeat("x", 480)))
			}
			p.Spec.InitContainers[0].Args = append(p.Spec.InitContainers[0].Args, argument(fmt.Sprint("t", k), 3600, audiences...))
		}
		w.add(p)
	}
}

// restart forgets everything, and reads the pods again, by name. The pods must be kept alive. A namespace has a quarter of its room,
// which takes a quarter of the time to fill.
func (w *world) restart() *corev1.PodList {
	w.t.Helper()
	declared = newDeclarations()
	declared.limit /= 4
	declared.sortBy(w.r.standings(w.t.Context()))
	w.r.accounts, w.r.ledger, w.r.news = newAccounts(), ledger{}, news{}
	var pods corev1.PodList
	if err := w.r.cache.List(w.t.Context(), &pods); err != nil {
		w.t.Fatal(err)
	}
	return &pods
}

// A grant stays although others fill the namespace, also after a restart, whether their pods are younger or older than the
// pods that a Deployment has today.
func TestARestartTakesNoGrant(t *testing.T) {
	anything := strings.Replace(testPolicy, "[vault, sts]", `["*"]`, 1)
	for name, test := range map[string]struct {
		age    time.Duration
		policy string
	}{
		"younger":                       {age: -time.Hour, policy: anything},
		"older":                         {age: time.Hour, policy: anything},
		"older, and the policy refuses": {age: time.Hour, policy: testPolicy},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := declared
				defer func() { declared = before }()
				w := guarded(t, pod("shop-1", 3600, "vault"))
				w.policy = mustParse(t, test.policy)
				pods := w.restart()
				w.reconcile()
				runtime.KeepAlive(pods)
				hostile(w, test.age, "evil")
				for range 2 {
					pods = w.restart()
					without := 0
					for i := range pods.Items {
						if declared.get(&pods.Items[i]) == crowded {
							without++
						}
					}
					if without == 0 {
						t.Error("the namespace is not full")
					}
					w.reconcile()
					w.reconcileAccount("evil")
					time.Sleep(delay + time.Second)
					w.reconcile()
					expect(t, "audiences", []string{"vault"}, w.granted("cart"))
					for _, event := range w.events {
						if strings.Contains(event, "shop-1") {
							t.Error(event)
						}
					}
					runtime.KeepAlive(pods)
				}
			})
		})
	}
}

// What the policy refuses takes no room from what it allows, and neither does what cannot be understood.
func TestTheRefusedTakeNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := declared
		defer func() { declared = before }()
		w := guarded(t)
		hostile(w, time.Hour, "forbidden")
		for i := range 1000 {
			p := pod(fmt.Sprintf("b-%03d", i), 3600)
			p.Spec.InitContainers[0].Args = []string{fmt.Sprintf("--token={%d%s", i, strings.Repeat("x", 300))}
			w.add(p)
		}
		w.add(pod("shop-1", 3600, "vault"))
		pods := w.restart()
		w.reconcile()
		expect(t, "audiences", []string{"vault"}, w.granted("cart"))
		expect(t, "displaced", 0, len(declared.takeDisplaced()))
		for name, r := range declared.rooms {
			if r.bytes > r.limit {
				t.Errorf("%d bytes in room %v of %d", r.bytes, name, r.limit)
			}
		}
		runtime.KeepAlive(pods)
	})
}

// Those that give way to older ones are reconciled again; when they are gone or the policy changes, there is room.
func TestGivingWay(t *testing.T) {
	s := &declarations{limit: 3 << 10, collected: time.Now()}
	rules, forbidden := &policy.Policy{}, ""
	s.sortBy(&standings{policy: func() *policy.Policy { return rules }, of: func(_ types.NamespacedName, tokens []api.TokenSpec) (bool, bool) {
		return tokens[0].Name == forbidden, true
	}})
	add := func(name string, second int) *keptPod {
		return keepPod(s, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(second) * time.Second))},
			Spec:       corev1.PodSpec{ServiceAccountName: "of-" + name},
		}, []string{argument(name, 600, "x")})
	}
	pods := map[string]*keptPod{"c": add("c", 3), "b": add("b", 2)}
	holds := func(when, want string) {
		t.Helper()
		got := ""
		for _, name := range slices.Sorted(maps.Keys(pods)) {
			if pods[name].declaration() != crowded {
				got += name
			}
		}
		expect(t, when, want, got)
	}
	holds("two fit", "bc")
	pods["a"] = add("a", 1)
	holds("an older one came", "ab")
	expect(t, "displaced", map[types.NamespacedName]bool{{Namespace: "shop", Name: "of-c"}: true}, s.takeDisplaced())
	expect(t, "displaced since", 0, len(s.takeDisplaced()))

	rules, forbidden = &policy.Policy{}, "a"
	pods["c"] = add("c", 3) // as its next event does
	holds("the policy refuses the oldest", "bc")
	rules, forbidden = &policy.Policy{}, ""
	pods["a"] = add("a", 1)
	holds("the policy allows it again", "ab")

	forbidden = "b" // in the same policy: its Role, for instance
	s.again(pods["b"].declaration())
	s.again(crowded)
	s.gone(pods["c"].pod)
	pods["c"] = add("c", 3)
	holds("the standing of one has changed", "ac")
	runtime.KeepAlive(pods)
}

// What a pod costs that finds no room, with all that its precedence depends on.
func BenchmarkNoRoom(b *testing.B) {
	s := newDeclarations()
	s.sortBy(&standings{policy: func() *policy.Policy { return nil }, of: func(types.NamespacedName, []api.TokenSpec) (bool, bool) { return false, true }})
	var pods []*keptPod
	seen := 0
	for b.Loop() {
		for seen++; ; seen++ {
			p := keepPod(s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", UID: types.UID(fmt.Sprint("uid-", seen)), CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(seen) * time.Second)),
			}}, []string{argument("a", 600, fmt.Sprint("x", seen))})
			if p.declaration() == crowded {
				break
			}
			pods = append(pods, p)
		}
	}
	runtime.KeepAlive(pods)
}
