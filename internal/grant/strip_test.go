package grant

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podtoken/podtoken/internal/policy"
)

const testLimit = 256

func strip(t *testing.T, object client.Object) client.Object {
	t.Helper()
	out, err := stripGrant(func() int { return testLimit })(object)
	if err != nil {
		t.Fatal(err)
	}
	return out.(client.Object)
}

// many returns so many different texts of a length.
func many(count, length int) []string {
	list := make([]string, count)
	for i := range list {
		list[i] = fmt.Sprintf("%0*d", length, i)
	}
	return list
}

// honestMeta is the metadata of a grant.
func honestMeta(i int) metav1.ObjectMeta {
	name := fmt.Sprintf("account-%d", i)
	return metav1.ObjectMeta{
		Namespace: "shop", Name: "podtoken:" + name, UID: types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i)), ResourceVersion: fmt.Sprint(i),
		Labels:          grantLabels(),
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: name, UID: "00000000-0000-0000-0000-000000000000"}},
	}
}

// What podtoken writes is kept whole, up to the limits of the policy.
func TestWhatPodtokenWritesIsKept(t *testing.T) {
	long := strings.Repeat("a", 253)
	o := owner{NamespacedName: types.NamespacedName{Namespace: strings.Repeat("n", 63), Name: long}, uid: "00000000-0000-0000-0000-000000000000"}
	var lifetimes []int64
	for i := range testLimit {
		lifetimes = append(lifetimes, int64(1)<<32-int64(i))
	}
	meta := metav1.ObjectMeta{
		Namespace: o.Namespace, Name: nameOf(o.Name), UID: "uid", ResourceVersion: "1", Labels: grantLabels(), OwnerReferences: o.references(),
	}
	for name, c := range map[string]content{
		"the most":                  {lifetimes: set(lifetimes), own: many(2, 253), audiences: many(testLimit/policy.Weight(strings.Repeat("x", 512)), 512)},
		"the most of short":         {lifetimes: set(lifetimes), own: []string{"api"}, audiences: many(testLimit, 256)},
		"Roles of administrators":   {lifetimes: []int64{600}, own: []string{"api"}},
		"one of each, as most have": {lifetimes: []int64{3600}, own: []string{"api"}, audiences: []string{"vault"}},
	} {
		role := &rbacv1.Role{ObjectMeta: meta, Rules: rules(o.Name, c)}
		want := role.DeepCopy()
		if diff := cmp.Diff(want, strip(t, role)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got := strip(t, role).(*rbacv1.Role); !o.isRole(got, c) {
			t.Errorf("%s: not the Role that was written", name)
		}
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: o.roleRef(), Subjects: o.subjects()}
	if got := strip(t, binding.DeepCopy()).(*rbacv1.RoleBinding); !o.isBinding(got) {
		t.Error("not the RoleBinding that was written")
	}
	withdrawn := &rbacv1.Role{ObjectMeta: *meta.DeepCopy(), Rules: markRules(o.Name)}
	withdrawn.Annotations = withdrawnAnnotation(time.Unix(1e9, 0))
	if since, ok := withdrawnSince(strip(t, withdrawn).(*rbacv1.Role), o.Name, time.Now()); !ok || since.Unix() != 1e9 {
		t.Errorf("withdrawn since %v, %t", since, ok)
	}
}

// tooMuch are Roles and RoleBindings that are as large as an API server takes, or nearly, in every field. The content that podtoken
// would have written is in each that has a place for it.
func tooMuch(i int) map[string]func() client.Object {
	const size = 200_000 // some thousand times what is kept
	// What an API server sends is in memory of its own.
	text := func() string { return fmt.Sprint(i) + strings.Repeat("x", size) }
	texts := func() []string { return many(size/8, 8) }
	vault := func() []rbacv1.PolicyRule {
		return rules(fmt.Sprintf("account-%d", i), contentOf(&rbacv1.Role{Rules: ofVault()}))
	}
	all := map[string]func() client.Object{}
	both := func(name string, change func(meta *metav1.ObjectMeta)) {
		all["Role with "+name] = func() client.Object {
			role := &rbacv1.Role{ObjectMeta: honestMeta(i), Rules: vault()}
			change(&role.ObjectMeta)
			return role
		}
		all["RoleBinding with "+name] = func() client.Object {
			binding := &rbacv1.RoleBinding{ObjectMeta: honestMeta(i)}
			change(&binding.ObjectMeta)
			return binding
		}
	}
	both("labels", func(meta *metav1.ObjectMeta) {
		for _, key := range texts() {
			meta.Labels["k"+key] = ""
		}
	})
	both("annotations", func(meta *metav1.ObjectMeta) {
		meta.Annotations = map[string]string{"x": text(), "podtoken.dev/withdrawn-at": text()}
	})
	both("a long name", func(meta *metav1.ObjectMeta) { meta.Name = "podtoken:" + text() })
	both("a foreign name", func(meta *metav1.ObjectMeta) { meta.Name = text() })
	both("a name that was generated", func(meta *metav1.ObjectMeta) { meta.GenerateName = text() })
	both("finalizers", func(meta *metav1.ObjectMeta) { meta.Finalizers = append([]string{"example.com/" + text()}, texts()...) })
	both("a long owner", func(meta *metav1.ObjectMeta) {
		meta.OwnerReferences[0] = metav1.OwnerReference{APIVersion: text(), Kind: text(), Name: text(), UID: types.UID(text())}
	})
	both("owners", func(meta *metav1.ObjectMeta) {
		for _, name := range texts() {
			meta.OwnerReferences = append(meta.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: types.UID(name)})
		}
	})
	both("managed fields", func(meta *metav1.ObjectMeta) {
		meta.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "x", FieldsV1: metav1.NewFieldsV1(text())}}
	})
	for name, change := range map[string]func(binding *rbacv1.RoleBinding){
		"subjects": func(b *rbacv1.RoleBinding) {
			for _, name := range texts() {
				b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: "User", Name: name})
			}
		},
		"a long subject": func(b *rbacv1.RoleBinding) {
			b.Subjects = []rbacv1.Subject{{Kind: text(), Name: text(), Namespace: text(), APIGroup: text()}}
		},
		"a long Role": func(b *rbacv1.RoleBinding) { b.RoleRef = rbacv1.RoleRef{Kind: text(), Name: text(), APIGroup: text()} },
	} {
		all["RoleBinding with "+name] = func() client.Object {
			binding := &rbacv1.RoleBinding{ObjectMeta: honestMeta(i)}
			change(binding)
			return binding
		}
	}
	for name, rule := range map[string]func() rbacv1.PolicyRule{
		"audiences":       func() rbacv1.PolicyRule { return virtual("audiences", "mint", texts()) },
		"a long audience": func() rbacv1.PolicyRule { return virtual("audiences", "mint", []string{text()}) },
		"own audiences":   func() rbacv1.PolicyRule { return virtual("audiences", "renew", texts()) },
		"lifetimes":       func() rbacv1.PolicyRule { return virtual("lifetimes", "mint", texts()) },
		"a long lifetime": func() rbacv1.PolicyRule { return virtual("lifetimes", "mint", []string{text()}) },
		"ServiceAccounts": func() rbacv1.PolicyRule { return virtual("tokens", "mint", texts()) },
		"a long name":     func() rbacv1.PolicyRule { return virtual("tokens", "mint", []string{text()}) },
		"a long verb":     func() rbacv1.PolicyRule { return virtual("tokens", text(), nil) },
		"verbs": func() rbacv1.PolicyRule {
			return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: texts()}
		},
		"resources": func() rbacv1.PolicyRule {
			return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: texts(), Verbs: []string{"get"}}
		},
		"groups": func() rbacv1.PolicyRule {
			return rbacv1.PolicyRule{APIGroups: texts(), Resources: []string{"pods"}, Verbs: []string{"get"}}
		},
		"URLs": func() rbacv1.PolicyRule { return rbacv1.PolicyRule{NonResourceURLs: texts(), Verbs: []string{"get"}} },
	} {
		all["Role with a rule of "+name] = func() client.Object {
			return &rbacv1.Role{ObjectMeta: honestMeta(i), Rules: append(vault(), rule())}
		}
	}
	all["Role with rules"] = func() client.Object {
		role := &rbacv1.Role{ObjectMeta: honestMeta(i)}
		for range size / 100 {
			role.Rules = append(role.Rules, vault()...)
		}
		return role
	}
	return all
}

// Of no Role or RoleBinding more is kept than podtoken could have written, and of what is too much something is left that is not equal.
func TestLargeRolesAndRoleBindingsCostNoMemory(t *testing.T) {
	const copies = 4
	kept := map[string][]client.Object{}
	used := map[string]int64{}
	var all []map[string]func() client.Object
	for i := range copies {
		all = append(all, tooMuch(i))
	}
	for name := range all[0] {
		begin := liveHeap()
		for i := range copies {
			kept[name] = append(kept[name], strip(t, all[i][name]()))
		}
		used[name] = (liveHeap() - begin) / copies
	}
	for name, objects := range kept {
		if used[name] > 12<<10 {
			t.Errorf("%s: %d bytes of live heap, want less than 12 KiB", name, used[name])
		}
		again := strip(t, objects[0].DeepCopyObject().(client.Object))
		if diff := cmp.Diff(objects[0], again); diff != "" {
			t.Errorf("%s: stripped once more (-want +got):\n%s", name, diff)
		}
		role, ok := objects[0].(*rbacv1.Role)
		if !ok || !strings.Contains(name, "rule") {
			continue
		}
		o := owner{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "account-0"}, uid: role.OwnerReferences[0].UID}
		if c := contentOf(&rbacv1.Role{Rules: ofVault()}); o.isRole(role, c) || !exceeds(o.Name, role, c) {
			t.Errorf("%s: taken for the Role that is wanted", name)
		}
	}
	runtime.KeepAlive(kept)
}

// The red team's case: RoleBindings of 62,000 labels cost as much as honest ones.
func TestHostileRoleBindingsCostNoMoreMemory(t *testing.T) {
	bytesPerBinding := func(labels int) int64 {
		var all []client.Object
		begin := liveHeap()
		for i := range 47 {
			binding := &rbacv1.RoleBinding{ObjectMeta: honestMeta(i)}
			for j := range labels {
				binding.Labels[fmt.Sprintf("%04x", j)] = ""
			}
			all = append(all, strip(t, binding))
		}
		used := (liveHeap() - begin) / 47
		runtime.KeepAlive(all)
		return used
	}
	honest, hostile := bytesPerBinding(0), bytesPerBinding(62_000)
	t.Logf("bytes of live heap for each RoleBinding: honest %d, hostile %d", honest, hostile)
	if hostile > honest+1<<10 {
		t.Errorf("a hostile RoleBinding costs %d bytes, an honest one %d", hostile, honest)
	}
}

// A Role that is not kept whole is not taken for what it would be without the rest.
func TestAnOverfullRoleIsRepaired(t *testing.T) {
	surplus := map[string]func(role *rbacv1.Role){
		"one rule more, of another shape": func(role *rbacv1.Role) {
			role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"*"}, Verbs: []string{"*"}})
		},
		"more audiences than a grant has": func(role *rbacv1.Role) { role.Rules = append(role.Rules, virtual("audiences", "mint", many(300, 300))) },
		"a rule twice":                    func(role *rbacv1.Role) { role.Rules = append(role.Rules, role.Rules...) },
	}
	for name, change := range surplus {
		t.Run(name, func(t *testing.T) {
			w := guarded(t, pod("cart-1", 3600, "vault"))
			w.reconcile()
			w.reconcile()
			role := w.role()
			w.change(role, func() { change(role) })
			w.taken()
			w.reconcile()
			expect(t, "writes", []string{"force Role"}, w.taken())
			expect(t, "rules", ofVault(), w.role().Rules)
		})
		t.Run(name+", of a withdrawn grant", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := forgotten(t)
				w.reconcile()
				time.Sleep(withdrawalDelay)
				role := w.role()
				w.change(role, func() { change(role) })
				w.taken()
				if again := w.reconcile().RequeueAfter; again != withdrawalDelay {
					t.Errorf("again after %v, want %v: the withdrawal begins again", again, withdrawalDelay)
				}
				expect(t, "rules", onlyTheMark(), w.role().Rules)
			})
		})
	}
}
