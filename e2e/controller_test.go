package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podtoken/podtoken/pkg/api"
)

const controllerName = "podtoken-controller"

// credentialOf returns a token of one of the installation's own ServiceAccounts.
func credentialOf(t *testing.T, namespace, account string) string {
	t.Helper()
	return shared.credentialOf(t, namespace, account)
}

func (w *world) credentialOf(t *testing.T, namespace, account string) string {
	t.Helper()
	answer, err := w.client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err, "getting a credential of %q", account)
	return answer.Status.Token
}

// grantRole is a Role that the controller may write; change makes it another.
func grantRole(account string, change func(*rbacv1.Role)) *rbacv1.Role {
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{
			Name: api.GrantPrefix + account, Labels: map[string]string{api.LabelGrant: "true"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: account, UID: "00000000-0000-0000-0000-000000000000"}},
		},
		Rules: []rbacv1.PolicyRule{
			rule("", "serviceaccounts/token", "create", account),
			rule(api.RBACGroup, api.ResourceTokens, "mint", account),
			rule(api.RBACGroup, api.ResourceLifetimes, "mint", "3600"),
			rule(api.RBACGroup, api.ResourceAudiences, "renew", apiAudience),
			rule(api.RBACGroup, api.ResourceAudiences, "mint", "vault"),
		},
	}
	if change != nil {
		change(role)
	}
	return role
}

func grantBinding(namespace, account string, change func(*rbacv1.RoleBinding)) *rbacv1.RoleBinding {
	binding := &rbacv1.RoleBinding{
		ObjectMeta: grantRole(account, nil).ObjectMeta,
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: api.GrantPrefix + account},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: namespace}},
	}
	if change != nil {
		change(binding)
	}
	return binding
}

// Code execution in the controller: its credential cannot request a token, write a Role of another shape, or give one to
// another subject. Each row whose refusal is the policy's succeeds while that policy is taken away. Serial: it takes it away.
func TestControllerCanOnlyGrant(t *testing.T) {
	n := newNamespace(t, nil)
	ctx := t.Context()
	n.account("victim")
	foreign := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: api.GrantPrefix + "foreign"}}
	_, err := client.RbacV1().Roles(n.name).Create(ctx, foreign, metav1.CreateOptions{})
	must(t, err, "creating a foreign Role")
	_, err = client.RbacV1().Roles(n.name).Create(ctx, grantRole("victim", func(r *rbacv1.Role) { r.Labels, r.OwnerReferences = nil, nil }), metav1.CreateOptions{})
	must(t, err, "creating a Role to bind, which the running controller leaves alone")
	stolen := as(t, credentialOf(t, releaseNamespace, controllerName))

	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	role := func(change func(*rbacv1.Role)) func() error {
		return func() error {
			_, err := stolen.RbacV1().Roles(n.name).Create(ctx, grantRole("other", change), dry)
			return err
		}
	}
	binding := func(change func(*rbacv1.RoleBinding)) func() error {
		return func() error {
			_, err := stolen.RbacV1().RoleBindings(n.name).Create(ctx, grantBinding(n.name, "victim", change), dry)
			return err
		}
	}
	mint := func(namespace, account string) func() error {
		return func() error {
			_, err := stolen.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		}
	}
	const shape = "neither of the two shapes"
	rows := map[string]struct {
		try  func() error
		want string
		// always: something else refuses too, mostly RBAC itself.
		always bool
	}{
		// The guard of the tokens refuses it too.
		"a token of its own": {mint(releaseNamespace, controllerName), "podtoken: ", true},
		// It holds the marks of all that it hands out, so that the guard takes it for the holder of a copied grant.
		"a token of a ServiceAccount":   {mint(n.name, "victim"), "podtoken: ", true},
		"a token of an administrator's": {mint("kube-system", "default"), "podtoken: ", true},
		"a mark alone for another": {role(func(r *rbacv1.Role) {
			r.Rules = []rbacv1.PolicyRule{rule(api.RBACGroup, api.ResourceTokens, "mint", "victim")}
		}), shape, false},
		"a mark alone for all":              {role(func(r *rbacv1.Role) { r.Rules = []rbacv1.PolicyRule{rule(api.RBACGroup, api.ResourceTokens, "mint")} }), shape, false},
		"one rule that is not the mark":     {role(func(r *rbacv1.Role) { r.Rules = r.Rules[4:] }), shape, false},
		"a Role without rules":              {role(func(r *rbacv1.Role) { r.Rules = nil }), shape, false},
		"a Role without the mark":           {role(func(r *rbacv1.Role) { r.Rules = r.Rules[:1] }), shape, false},
		"a mark for another ServiceAccount": {role(func(r *rbacv1.Role) { r.Rules[1].ResourceNames = []string{"victim"} }), shape, false},
		"a mark for two":                    {role(func(r *rbacv1.Role) { r.Rules[1].ResourceNames = []string{"other", "victim"} }), shape, false},
		"a mark for all":                    {role(func(r *rbacv1.Role) { r.Rules[1].ResourceNames = nil }), shape, false},
		"a right to mint for another":       {role(func(r *rbacv1.Role) { r.Rules[0].ResourceNames = []string{"victim"} }), shape, false},
		"a right to mint for two":           {role(func(r *rbacv1.Role) { r.Rules[0].ResourceNames = []string{"other", "victim"} }), shape, false},
		"a right to mint for all":           {role(func(r *rbacv1.Role) { r.Rules[0].ResourceNames = nil }), shape, false},
		"a right to mint every audience":    {role(func(r *rbacv1.Role) { r.Rules[4].ResourceNames = nil }), shape, false},
		"a second rule of the same kind":    {role(func(r *rbacv1.Role) { r.Rules[4] = r.Rules[0] }), shape, false},
		"a rule too many":                   {role(func(r *rbacv1.Role) { r.Rules = append(r.Rules, r.Rules[4]) }), shape, false},
		"a Role without the label":          {role(func(r *rbacv1.Role) { r.Labels = nil }), "have the label", false},
		"a Role of another name":            {role(func(r *rbacv1.Role) { r.Name = "innocent" }), "named podtoken:<ServiceAccount>", false},
		"a Role for no ServiceAccount":      {role(func(r *rbacv1.Role) { r.Name = api.GrantPrefix }), "named podtoken:<ServiceAccount>", false},
		"a Role whose name is generated":    {role(func(r *rbacv1.Role) { r.Name, r.GenerateName = "", api.GrantPrefix }), "", false},
		"a Role without an owner":           {role(func(r *rbacv1.Role) { r.OwnerReferences = nil }), "owned by the ServiceAccount", false},
		"a Role owned by another":           {role(func(r *rbacv1.Role) { r.OwnerReferences[0].Name = "victim" }), "owned by the ServiceAccount", false},
		"a right to read Secrets":           {role(func(r *rbacv1.Role) { r.Rules[4] = rule("", "secrets", "get") }), "", true},
		"Secrets":                           {func() error { _, err := stolen.CoreV1().Secrets(n.name).List(ctx, metav1.ListOptions{}); return err }, "", true},
		"every right":                       {role(func(r *rbacv1.Role) { r.Rules[4] = rule("*", "*", "*") }), "", true},
		"a binding for another":             {binding(func(b *rbacv1.RoleBinding) { b.Subjects[0].Name = "other" }), "and to nobody else", false},
		"a binding for a second one":        {binding(func(b *rbacv1.RoleBinding) { b.Subjects = append(b.Subjects, b.Subjects[0]) }), "and to nobody else", false},
		"a binding for a user": {binding(func(b *rbacv1.RoleBinding) {
			b.Subjects[0] = rbacv1.Subject{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: "mallory"}
		}), "and to nobody else", false},
		"a binding in another namespace":   {binding(func(b *rbacv1.RoleBinding) { b.Subjects[0].Namespace = "default" }), "and to nobody else", false},
		"a binding to cluster-admin":       {binding(func(b *rbacv1.RoleBinding) { b.RoleRef.Kind, b.RoleRef.Name = "ClusterRole", "cluster-admin" }), "", true},
		"a binding to its own ClusterRole": {binding(func(b *rbacv1.RoleBinding) { b.RoleRef.Kind, b.RoleRef.Name = "ClusterRole", controllerName }), "and to nobody else", false},
		"a foreign Role, taken over": {func() error {
			_, err := stolen.RbacV1().Roles(n.name).Patch(ctx, foreign.Name, "application/merge-patch+json",
				mustJSON(t, grantRole("foreign", nil)), metav1.PatchOptions{DryRun: dry.DryRun})
			return err
		}, "have the label podtoken.dev/grant: \"true\" already", false},
		"a foreign Role, deleted": {func() error {
			return stolen.RbacV1().Roles(n.name).Delete(ctx, foreign.Name, metav1.DeleteOptions{DryRun: dry.DryRun})
		}, "have the label", false},
		"a ClusterRole": {func() error {
			_, err := stolen.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "podtoken:x"}, Rules: grantRole("x", nil).Rules}, dry)
			return err
		}, "", true},
	}
	for name, row := range rows {
		if err := row.try(); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want a refusal with %q", name, err, row.want)
		}
	}
	for name, good := range map[string]func() error{
		"the Role of a grant": role(nil), "its RoleBinding": binding(nil),
		"the Role of a grant that was withdrawn": role(func(r *rbacv1.Role) { r.Rules = r.Rules[1:2] }),
	} {
		if err := good(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	const policy = controllerName + "-guard"
	bindings := client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	b, err := bindings.Get(ctx, policy, metav1.GetOptions{})
	must(t, err, "reading the policy's binding")
	must(t, bindings.Delete(ctx, policy, metav1.DeleteOptions{}), "deleting the policy's binding")
	b.ResourceVersion, b.UID = "", ""
	t.Cleanup(func() {
		if _, err := bindings.Create(context.Background(), b, metav1.CreateOptions{}); err != nil {
			t.Errorf("restoring the policy's binding: %v", err)
		}
	})
	eventually(t, pollShort, "the policy is gone", func(context.Context) (bool, error) {
		err := rows["a Role without the mark"].try()
		return err == nil, err
	})
	for name, row := range rows {
		switch err := row.try(); {
		case row.always && !apierrors.IsForbidden(err):
			t.Errorf("without the policy, %s: got %v, want a refusal all the same", name, err)
		case !row.always && err != nil:
			t.Errorf("without the policy, %s: %v; want no error: this row tests nothing", name, err)
		}
	}
}

// The webhook's identity has no more rights than any ServiceAccount that was given none.
func TestWebhookHasNoRights(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.account("nobody")
	rules := func(c kubernetes.Interface) authorizationv1.SubjectRulesReviewStatus {
		review, err := c.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
			Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: releaseNamespace},
		}, metav1.CreateOptions{})
		must(t, err, "listing rights")
		status := review.Status // in no particular order
		slices.SortFunc(status.ResourceRules, func(a, b authorizationv1.ResourceRule) int { return strings.Compare(a.String(), b.String()) })
		slices.SortFunc(status.NonResourceRules, func(a, b authorizationv1.NonResourceRule) int { return strings.Compare(a.String(), b.String()) })
		return status
	}
	webhook := rules(as(t, credentialOf(t, releaseNamespace, webhookDeployment)))
	nobody := rules(as(t, credentialOf(t, n.name, "nobody")))
	if diff := cmp.Diff(nobody, webhook); diff != "" || len(webhook.ResourceRules) == 0 {
		t.Errorf("rights (-of nobody +of the webhook):\n%s", diff)
	}
	out, err := testCluster.Kubectl(t.Context(), nil, "auth", "can-i", "--list", "--as=system:serviceaccount:"+releaseNamespace+":"+webhookDeployment, "-n", releaseNamespace)
	must(t, err, "running kubectl auth can-i --list")
	for _, resource := range []string{"pods", "secrets", "token", "podtoken.dev", "configmaps"} {
		for line := range strings.Lines(out) {
			if fields := strings.Fields(line); len(fields) > 0 && strings.HasPrefix(fields[0], resource) {
				t.Errorf("the webhook has a right on %s", line)
			}
		}
	}
}

// The controller works again after its leader was killed, and knows what it granted before.
func TestControllerRestarts(t *testing.T) {
	n := newNamespace(t, nil)
	n.account("before")
	n.create("before", annotations("audience.vault", "vault"), gated("before"))
	role := n.granted("before", "vault")
	_, err := testCluster.Kubectl(t.Context(), nil, "-n", releaseNamespace, "delete", "pod", "-l", "app.kubernetes.io/component=controller", "--wait=false", "--grace-period=0", "--force")
	must(t, err, "killing the controller")
	// While there is no leader, one grant is edited, one pod goes, and one comes.
	broken := role.DeepCopy()
	broken.Rules = broken.Rules[:4]
	_, err = client.RbacV1().Roles(n.name).Update(t.Context(), broken, metav1.UpdateOptions{})
	must(t, err, "editing the Role")
	n.account("after")
	n.create("after", annotations("audience.vault", "vault"), gated("after"))
	start := time.Now()
	n.granted("after", "vault")
	t.Logf("granted again %s after all controllers were killed", time.Since(start).Round(time.Millisecond))
	n.granted("before", "vault")
	_, err = testCluster.Kubectl(t.Context(), nil, "-n", releaseNamespace, "rollout", "status", "deployment/"+controllerName, "--timeout=2m")
	must(t, err, "waiting for the controller")
}
