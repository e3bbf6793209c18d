package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/pkg/api"
)

// Who mints without podtoken is left alone: kubelets (every pod of these tests has projected tokens), administrators, people, and
// ServiceAccounts that were given the right to, for themselves or for others, with podtoken's grant besides or without.
func TestGuardLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	tokens := func(names ...string) rbacv1.PolicyRule { return rule("", "serviceaccounts/token", "create", names...) }
	give := map[string]func(){
		"operator": func() { n.allow("operator", "mints-for-itself", tokens("operator")) },
		"minter":   func() { n.allow("minter", "mints-for-app", tokens(serviceAccount, "operator")) },
		"any":      func() { n.allowEverywhere("any", tokens()) },
		"admin":    func() { n.allowEverywhere("admin", rule("*", "*", "*")) },
		"unguarded": func() {
			n.allow("unguarded", "unguarded", rule("unguarded."+api.RBACGroup, api.ResourceTokens, api.VerbMint, "unguarded"))
		},
		"extended": func() {
			n.allow("extended", "more-audiences", rule(api.RBACGroup, api.ResourceAudiences, api.VerbMint, "extra"), rule(api.RBACGroup, api.ResourceLifetimes, api.VerbMint, "900"))
		},
	}
	for name, give := range give {
		n.account(name)
		give()
		spec := podSpec()
		spec.ServiceAccountName = name
		if name == "unguarded" || name == "extended" {
			n.create("declares-"+name, annotations("audience.vault", audienceDeclared), gated(name))
		}
		n.create(name, nil, spec)
	}
	n.create("pod", annotations("audience.vault", audienceDeclared), podSpec())
	n.ready("pod")
	n.granted("unguarded", audienceDeclared)
	n.granted("extended", audienceDeclared)
	extended := n.ready("extended")

	anything := map[string]any{"audiences": []string{"anything"}, "expirationSeconds": 86400}
	ofTheAPI := map[string]any{"audiences": []string{}, "expirationSeconds": 600}
	own := map[string]any{"apiVersion": "v1", "kind": "Pod", "name": extended.Name, "uid": string(extended.UID)}
	for name, row := range map[string]struct {
		pod, account string
		spec         map[string]any
		code         int
	}{
		"an operator, for itself":                              {"operator", "operator", anything, http.StatusCreated},
		"an operator, for itself, of the API server":           {"operator", "operator", ofTheAPI, http.StatusCreated},
		"an operator, for others":                              {"minter", serviceAccount, anything, http.StatusCreated},
		"an operator, for others, of the API server":           {"minter", serviceAccount, ofTheAPI, http.StatusCreated},
		"an operator, for another operator":                    {"minter", "operator", anything, http.StatusCreated},
		"an operator, for all others":                          {"any", serviceAccount, anything, http.StatusCreated},
		"an operator, for all others and itself":               {"any", "any", ofTheAPI, http.StatusCreated},
		"who may do everything, for itself":                    {"admin", "admin", anything, http.StatusCreated},
		"who may do everything, for others":                    {"admin", serviceAccount, anything, http.StatusCreated},
		"who has a grant and is exempt":                        {"unguarded", "unguarded", anything, http.StatusCreated},
		"who has a grant, an audience of an administrator's":   {"extended", "extended", map[string]any{"audiences": []string{"extra"}, "expirationSeconds": 900, "boundObjectRef": own}, http.StatusCreated},
		"who has a grant, both":                                {"extended", "extended", map[string]any{"audiences": []string{"extra", audienceDeclared}, "expirationSeconds": 3600, "boundObjectRef": own}, http.StatusCreated},
		"who has a grant and no exemption":                     {"extended", "extended", anything, http.StatusForbidden},
		"who has a grant, an audience that it has no Role for": {"extended", "extended", map[string]any{"audiences": []string{"other"}, "expirationSeconds": 900, "boundObjectRef": own}, http.StatusForbidden},
	} {
		n.ready(row.pod)
		// RBAC hears of Roles a moment later.
		var got mintAnswer
		eventually(t, pollShort, fmt.Sprintf("%s: the answer is %d", name, row.code), func(context.Context) (bool, error) {
			got = n.mintIn(row.pod, mintRequest{account: row.account, spec: row.spec})
			return got.Code == row.code, fmt.Errorf("got %d %q", got.Code, got.Message)
		})
	}

	if out, err := testCluster.Kubectl(t.Context(), nil, "-n", n.name, "create", "token", serviceAccount, "--duration=2h", "--audience=anything"); err != nil {
		t.Errorf("kubectl create token by an administrator: %v %s", err, out)
	}
	// People, and administrators who impersonate another user.
	const user = "alice"
	_, err := client.RbacV1().RoleBindings(n.name).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "mints-for-app"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
	}, metav1.CreateOptions{})
	must(t, err, "creating a RoleBinding")
	for who, account := range map[string]string{
		user: serviceAccount,
		"system:serviceaccount:" + n.name + ":operator": "operator",
		"system:serviceaccount:" + n.name + ":minter":   serviceAccount,
	} {
		c := shared.impersonating(t, rest.ImpersonationConfig{UserName: who})
		eventually(t, pollShort, who+" gets a token of "+account, func(ctx context.Context) (bool, error) {
			_, err := c.CoreV1().ServiceAccounts(n.name).CreateToken(ctx, account, &authenticationv1.TokenRequest{
				Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"anything"}},
			}, metav1.CreateOptions{})
			return err == nil, err
		})
	}
}

// allowEverywhere gives a ServiceAccount rights in every namespace.
func (n *testNamespace) allowEverywhere(account string, rules ...rbacv1.PolicyRule) {
	n.t.Helper()
	ctx, meta := n.t.Context(), metav1.ObjectMeta{Name: n.name + "-" + account}
	_, err := n.client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	must(n.t, err, "creating ClusterRole %q", meta.Name)
	n.t.Cleanup(func() {
		_ = n.client.RbacV1().ClusterRoles().Delete(context.Background(), meta.Name, metav1.DeleteOptions{})
		_ = n.client.RbacV1().ClusterRoleBindings().Delete(context.Background(), meta.Name, metav1.DeleteOptions{})
	})
	_, err = n.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: n.name}},
	}, metav1.CreateOptions{})
	must(n.t, err, "creating ClusterRoleBinding %q", meta.Name)
}
