package policies

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// grantObject returns the metadata of a grant of ServiceAccount web/shop, changed.
func grantObject(changes ...func(*metav1.ObjectMeta)) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{
		Namespace: "web", Name: "podtoken:shop", UID: "uid",
		Labels:          map[string]string{"app.kubernetes.io/managed-by": "podtoken", "podtoken.dev/grant": "true"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: "shop", UID: "account"}},
	}
	for _, change := range changes {
		change(&meta)
	}
	return meta
}

// creates is the rule of a grant that the guard limits.
func creates(names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, Verbs: []string{"create"}, ResourceNames: names}
}

// virtual is another rule of a grant.
func virtual(resource, verb string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{"podtoken.dev"}, Resources: []string{resource}, Verbs: []string{verb}, ResourceNames: names}
}

// grantRules are the rules of a grant, in their order: the mark is the second.
func grantRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		creates("shop"),
		virtual("tokens", "mint", "shop"), virtual("lifetimes", "mint", "3600"), virtual("audiences", "renew", "api"), virtual("audiences", "mint", "vault"),
	}
}

// Every write that the controller makes of an object that others changed is of a shape that its guard allows, and what applying would
// make of such an object is not. internal/grant/replace.go has these writes.
func TestControllerGuardOnObjectsThatOthersChanged(t *testing.T) {
	var (
		finalizer = func(m *metav1.ObjectMeta) { m.Finalizers = []string{"example.com/keep"} }
		deleted   = func(m *metav1.ObjectMeta) { m.DeletionTimestamp = &metav1.Time{} }
		withdrawn = func(m *metav1.ObjectMeta) {
			m.Annotations = map[string]string{"podtoken.dev/withdrawn-at": "2026-01-01T00:00:00Z"}
		}
		labels    = func(m *metav1.ObjectMeta) { m.Labels["x"] = "y"; m.Annotations = map[string]string{"x": "y"} }
		unlabeled = func(m *metav1.ObjectMeta) { delete(m.Labels, "podtoken.dev/grant") }
		earlier   = func(m *metav1.ObjectMeta) { m.OwnerReferences[0].UID = "earlier" }
		ownerless = func(m *metav1.ObjectMeta) { m.OwnerReferences = nil }
		owner     = func(m *metav1.ObjectMeta) {
			m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: types.UID("x")})
		}
	)
	role := func(rules []rbacv1.PolicyRule, changes ...func(*metav1.ObjectMeta)) runtime.Object {
		return &rbacv1.Role{ObjectMeta: grantObject(changes...), Rules: rules}
	}
	binding := func(to string, subjects int, changes ...func(*metav1.ObjectMeta)) runtime.Object {
		return &rbacv1.RoleBinding{
			ObjectMeta: grantObject(changes...), RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: to},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "shop", Namespace: "web"}, {Kind: "User", Name: "eve"}}[:subjects],
		}
	}
	mark := grantRules()[1:2]
	const (
		owned  = "what the controller writes is owned by the ServiceAccount that it is for"
		marked = "the controller changes only objects that have the label"
	)
	for name, test := range map[string]struct {
		old, new runtime.Object
		want     string // part of the denial, "" for none
	}{
		"a Role with one more owner, replaced":       {role(grantRules(), finalizer, deleted, owner), role(grantRules(), finalizer, deleted), ""},
		"a Role of an earlier ServiceAccount":        {role(grantRules(), finalizer, deleted, earlier), role(grantRules(), finalizer, deleted), ""},
		"a Role without owner":                       {role(grantRules(), finalizer, ownerless), role(grantRules(), finalizer), ""},
		"narrowed, with no audience left":            {role(grantRules(), finalizer, owner), role(grantRules()[:4], finalizer), ""},
		"the mark, replaced":                         {role(grantRules(), finalizer, labels, owner), role(mark, finalizer, withdrawn), ""},
		"the mark, in rules alone":                   {role(grantRules(), finalizer, labels, owner), role(mark, finalizer, labels), ""},
		"the mark again, with rights for a new Pod":  {role(mark, finalizer, deleted, withdrawn), role(grantRules(), finalizer, deleted, withdrawn), ""},
		"rules of any shape before":                  {role([]rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}}, finalizer), role(mark, finalizer, withdrawn), ""},
		"a RoleBinding, replaced":                    {binding("podtoken:shop", 2, finalizer, deleted, owner), binding("podtoken:shop", 1, finalizer, deleted), ""},
		"what applying makes of a second owner":      {role(grantRules(), finalizer, owner), role(mark, finalizer, withdrawn, owner), owned},
		"the same of a RoleBinding":                  {binding("podtoken:shop", 1, owner), binding("podtoken:shop", 1, owner), owned},
		"no owner":                                   {role(grantRules(), finalizer), role(mark, finalizer, ownerless), owned},
		"a Role that is not podtoken's":              {role(grantRules(), finalizer, unlabeled), role(mark, finalizer, withdrawn), marked},
		"no rules":                                   {role(grantRules(), finalizer), role(nil, finalizer), "neither of the two shapes"},
		"the mark of another ServiceAccount":         {role(grantRules(), finalizer), role([]rbacv1.PolicyRule{virtual("tokens", "mint", "cart")}, finalizer), "neither of the two shapes"},
		"a RoleBinding with subjects of others":      {binding("podtoken:shop", 2, finalizer), binding("podtoken:shop", 2, finalizer), "and to nobody else"},
		"a RoleBinding without subjects":             {binding("podtoken:shop", 1, finalizer), binding("podtoken:shop", 0, finalizer), "and to nobody else"},
		"a RoleBinding of a Role of another name":    {binding("admin", 1, finalizer, owner), binding("admin", 1, finalizer), "must bind the Role of its own name"},
		"the deletion of an object with more owners": {role(grantRules(), finalizer, owner), nil, ""},
		"the deletion of one that is not podtoken's": {role(grantRules(), unlabeled), nil, "the controller writes only objects that are named"},
	} {
		t.Run(name, func(t *testing.T) {
			got := newPolicy(t, "podtoken-controller-guard").verdict(t, writing(t, test.new, test.old, caller(controllerUser)))
			if (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("denied with %q, want %q", got, test.want)
			}
		})
	}
}
