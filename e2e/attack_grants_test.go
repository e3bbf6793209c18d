package e2e

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/pkg/api"
)

const (
	grantsPolicy = "podtoken-grants"
	// heirPrefix begins the name of the namespace that the policy for grants leaves out.
	heirPrefix = allowedPrefix + "heirs-"
)

// heirs try to get more of a grant than the ServiceAccount that it was made for: mallory, the owner of the namespace, who is no administrator; and
// ServiceAccount cart, with the help of ServiceAccount shop, which has a grant and may write Roles.
type heirs struct {
	*testNamespace
	mallory, shop, cart kubernetes.Interface
}

// handedOn: writing Roles and RoleBindings gives no user and no ServiceAccount the right of a grant without its mark, or the grant of another. In the
// namespace that the policy for grants leaves out, each attempt succeeds.
func (a *arena) handedOn(t *testing.T) {
	policies := a.client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	_, err := policies.Patch(t.Context(), grantsPolicy, types.JSONPatchType, mustJSON(t, []any{map[string]any{
		"op": "add", "path": "/spec/matchConditions/0", "value": map[string]string{"name": "no-heirs", "expression": "!request.namespace.startsWith('" + heirPrefix + "')"},
	}}), metav1.PatchOptions{})
	must(t, err, "taking a namespace out of policy %q", grantsPolicy)
	guarded, control := a.heirs(t, allowedPrefix), a.heirs(t, heirPrefix)
	eventually(t, pollShort, "the policy leaves out "+control.name, func(context.Context) (bool, error) {
		_, err := control.mallory.RbacV1().Roles(control.name).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: api.GrantPrefix + "any"}},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil, err
	})
	const (
		handed = "would give others the right to"
		grant  = "has the name or the label of a grant"
		bound  = "a grant, which is for one ServiceAccount alone"
	)
	for name, row := range map[string]struct {
		want string
		do   func(h *heirs) error // until the first request that fails
		loot func(h *heirs)       // what is got by it then, if that is more than the objects
	}{
		"the right alone": {handed, func(h *heirs) error {
			return first(h.role(h.shop, "handed", rule("", "serviceaccounts/token", "create", "shop")), h.bind(h.shop, "handed", "handed", h.subject("cart")))
		}, func(h *heirs) { h.unbound(h.cart, "shop") }},
		"an audience": {handed, func(h *heirs) error {
			return first(h.role(h.shop, "audience", rule(api.RBACGroup, api.ResourceAudiences, api.VerbMint, audienceDeclared)), h.bind(h.shop, "audience", "audience", h.subject("cart")))
		}, func(h *heirs) { h.mayMintDeclared("cart") }},
		"a whole grant": {bound, func(h *heirs) error {
			return h.bind(h.shop, "lend", api.GrantPrefix+"shop", h.subject("till"))()
		}, func(h *heirs) { h.mayMintDeclared("till") }},
		"a grant to come": {grant, func(h *heirs) error {
			return first(h.role(h.mallory, api.GrantPrefix+"late"), h.bind(h.mallory, "dangling", api.GrantPrefix+"late", h.user("mallory")), func() error {
				return h.mallory.RbacV1().Roles(h.name).Delete(t.Context(), api.GrantPrefix+"late", metav1.DeleteOptions{})
			})
		}, func(h *heirs) {
			h.account("late")
			h.declares("late")
			h.granted("late", audienceDeclared)
			eventually(t, pollShort, "mallory has the grant", func(context.Context) (bool, error) {
				err := h.role(h.mallory, "mine", rule("", "serviceaccounts/token", "create", "late"))()
				return err == nil, err
			})
			must(t, h.bind(h.mallory, "mine", "mine", h.user("mallory"))(), "binding the Role")
			must(t, h.mallory.RbacV1().RoleBindings(h.name).Delete(t.Context(), "dangling", metav1.DeleteOptions{}), "deleting the other RoleBinding")
			h.unbound(h.mallory, "late")
		}},
		"a grant that is there": {bound, func(h *heirs) error {
			return h.bind(h.shop, "again", api.GrantPrefix+"shop", h.user("mallory"))()
		}, nil},
		"the label": {grant, func(h *heirs) error {
			_, err := h.mallory.RbacV1().RoleBindings(h.name).Create(t.Context(), &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "labelled", Labels: map[string]string{api.LabelGrant: "true"}},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "mallory"}}, metav1.CreateOptions{})
			return err
		}, nil},
		"a finalizer and an owner": {grant, func(h *heirs) error {
			root, err := h.client.CoreV1().ConfigMaps(h.name).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
			must(t, err, "reading a ConfigMap")
			owner := h.granted("frozen", audienceDeclared).OwnerReferences[0]
			_, err = h.mallory.RbacV1().Roles(h.name).Patch(t.Context(), api.GrantPrefix+"frozen", types.MergePatchType, mustJSON(t, map[string]any{
				"metadata": map[string]any{"finalizers": []string{"example.com/keep"}, "ownerReferences": []metav1.OwnerReference{
					owner, {APIVersion: "v1", Kind: "ConfigMap", Name: root.Name, UID: root.UID}}}}), metav1.PatchOptions{})
			return err
		}, func(h *heirs) {
			// Without the policy the controller has to get along with it: the grant grows, shrinks and goes nevertheless.
			h.create("frozen-too", annotations("audience.other", "other"), gated("frozen"))
			h.granted("frozen", "other", audienceDeclared)
			h.delete(declarer("frozen"))
			h.granted("frozen", "other")
			h.delete("frozen-too")
			eventually(t, pollShort, "the right is gone", func(context.Context) (bool, error) { return !h.mayMint("frozen"), nil })
			_, err := h.client.RbacV1().Roles(h.name).Patch(t.Context(), api.GrantPrefix+"frozen", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			if !apierrors.IsNotFound(err) {
				must(t, err, "removing the finalizer")
			}
		}},
	} {
		if err := row.do(guarded); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want a denial with %q", name, err, row.want)
		}
		if err := row.do(control); err != nil {
			t.Errorf("%s, without the policy: %v, want success", name, err)
		} else if row.loot != nil {
			row.loot(control)
		}
	}
}

// heirs makes a namespace with its owner, and ServiceAccounts: shop and frozen with a grant, cart and till without.
func (a *arena) heirs(t *testing.T, prefix string) *heirs {
	t.Helper()
	n := a.newNamespace(t, prefix, nil)
	h := &heirs{testNamespace: n, mallory: a.impersonating(t, rest.ImpersonationConfig{UserName: "mallory"})}
	writes := rbacv1.PolicyRule{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}, Verbs: []string{"get", "create", "patch", "delete"}}
	n.account("shop")
	n.allow("shop", "mallory", writes)
	must(t, h.bind(n.client, "mallory-too", "mallory", h.user("mallory"))(), "binding a Role")
	for _, account := range []string{"cart", "till", "frozen"} {
		n.account(account)
	}
	for _, account := range []string{"shop", "frozen"} {
		n.declares(account)
		n.granted(account, audienceDeclared)
		eventually(t, pollShort, account+" has its grant", func(context.Context) (bool, error) { return n.mayMint(account), nil })
	}
	h.shop = a.impersonating(t, rest.ImpersonationConfig{UserName: "system:serviceaccount:" + n.name + ":shop"})
	h.cart = a.impersonating(t, rest.ImpersonationConfig{UserName: "system:serviceaccount:" + n.name + ":cart"})
	eventually(t, pollShort, "mallory may write Roles", func(context.Context) (bool, error) {
		_, err := h.mallory.RbacV1().Roles(n.name).Get(t.Context(), "mallory", metav1.GetOptions{})
		return err == nil, err
	})
	return h
}

func (h *heirs) role(by kubernetes.Interface, name string, rules ...rbacv1.PolicyRule) func() error {
	return func() error {
		_, err := by.RbacV1().Roles(h.name).Create(h.t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{})
		return err
	}
}

func (h *heirs) bind(by kubernetes.Interface, name, role string, subject rbacv1.Subject) func() error {
	return func() error {
		_, err := by.RbacV1().RoleBindings(h.name).Create(h.t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role}, Subjects: []rbacv1.Subject{subject}}, metav1.CreateOptions{})
		return err
	}
}

func (h *heirs) subject(account string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "ServiceAccount", Name: account, Namespace: h.name}
}

func (h *heirs) user(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}
}

// unbound requests a token of the ServiceAccount that is bound to nothing, for an audience that no Pod declares.
func (h *heirs) unbound(by kubernetes.Interface, account string) {
	const seconds = 1 << 32 // 136 years
	eventually(h.t, pollShort, "an unbound token of "+account, func(ctx context.Context) (bool, error) {
		got, err := by.CoreV1().ServiceAccounts(h.name).CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{"https://undeclared.example.com"}, ExpirationSeconds: ptr(int64(seconds))}}, metav1.CreateOptions{})
		return err == nil && got.Status.Token != "", err
	})
}

// mayMintDeclared waits until the ServiceAccount has the right to the audience that the Pods of shop declare.
func (h *heirs) mayMintDeclared(account string) {
	eventually(h.t, pollShort, account+" may mint for the audience of another", func(context.Context) (bool, error) {
		return h.may(account, api.VerbMint, api.RBACGroup, api.ResourceAudiences, "", audienceDeclared), nil
	})
}

// first returns the first error of some steps.
func first(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
