package doctor

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/access"
	"github.com/podtoken/podtoken/pkg/api"
)

// proof reads whether API servers have proven to the controller that they enforce the guard: from the metrics of the replica that leads.
func (d *doctor) proof(ctx context.Context) {
	const check = "guard"
	leader := d.leading
	if leader == "" {
		return // There is a finding about that already.
	}
	text, err := d.plain(ctx, d.found.Namespace, leader, "/metrics", maxMetricsBytes)
	if err != nil {
		d.Add(plugin.Note, check, "whether API servers enforce it is unknown: you may not read the metrics of %s: %v", leader, err)
		return
	}
	values := map[string]int{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if number, err := strconv.ParseFloat(value, 64); err == nil && strings.HasPrefix(name, "podtoken_guard_") {
			values[name] = int(number)
		}
	}
	servers := func(state string) int { return values[`podtoken_guard_api_servers{state="`+state+`"}`] }
	present, known := values["podtoken_guard_present"]
	switch {
	case !known:
		d.Add(plugin.Note, check, "whether API servers enforce it is unknown: %s does not say", leader)
		return
	case present == 0:
		d.Add(plugin.Problem, check, "nothing new is granted: %d API servers do not enforce it, %d have proven it; the log of %s says why (\"Guard missing\", \"API servers probed\")",
			servers("NotEnforcing"), servers("Enforcing"), leader)
		return
	}
	d.Add(plugin.OK, check, "%s has proven it: each API server that it reaches denies what it must", leader)
	if unknown := servers("Unknown"); unknown > 0 {
		d.Add(plugin.Note, check, "%d API servers cannot be reached by %s, so that it is unknown whether they enforce it: compare their flags "+
			"(--disable-admission-plugins must not name ValidatingAdmissionPolicy); the log names them (\"API servers probed\")", unknown, leader)
	}
}

// maxMetricsBytes is many times what the controller has to say.
const maxMetricsBytes = 1 << 20

// mark looks at whether the authorizers tell the guard of the mark, of a ServiceAccount that has it: of a grant, else of the controller. An
// authorizer that denies groups which it does not know turns it off, and the guard with it.
func (d *doctor) mark(ctx context.Context) {
	const check = "guard's mark"
	account, from := access.Account{Namespace: d.found.Namespace, Name: d.found.Name + "-controller"}, "its ClusterRole"
	roles, err := d.cluster.Client.RbacV1().Roles(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: api.LabelGrant + "=true", Limit: 1})
	if err == nil && len(roles.Items) > 0 {
		role := roles.Items[0]
		account, from = access.Account{Namespace: role.Namespace, Name: strings.TrimPrefix(role.Name, api.GrantPrefix)}, "Role "+role.Name
	}
	held, err := d.review(ctx, account.User(), []string{"system:serviceaccounts", "system:serviceaccounts:" + account.Namespace, "system:authenticated"}, account)
	switch {
	case apierrors.IsForbidden(err):
		d.Add(plugin.Note, check, "you may not create SubjectAccessReviews: %v", err)
		return
	case err != nil:
		d.Add(plugin.Problem, check, "API servers cannot tell whether ServiceAccount %s has it: %v", account, err)
		return
	case !held.Allowed:
		d.Add(plugin.Problem, check, "ServiceAccount %s has it by %s, and the authorizers say no%s: the guard does not see it; let each authorizer that "+
			"comes before RBAC have no opinion about the API groups podtoken.dev and wildcard.podtoken.dev", account, from, because(held))
	default:
		d.Add(plugin.OK, check, "the authorizers tell the guard of that of ServiceAccount %s", account)
	}
	kubelet, err := d.review(ctx, "system:node:podtoken-doctor", []string{"system:nodes", "system:authenticated"}, account)
	switch {
	case err != nil:
		d.Add(plugin.Problem, check, "API servers cannot tell whether a kubelet has it: %v", err)
	case kubelet.Allowed:
		d.Add(plugin.Warning, check, "kubelets have it%s, and need no right of group podtoken.dev: take it away", because(kubelet))
	case kubelet.EvaluationError != "":
		d.Add(plugin.Warning, check, "an authorizer fails for kubelets%s", because(kubelet))
	default:
		d.Add(plugin.OK, check, "kubelets do not have it, nor need it")
	}
}

// review asks whether a user has the mark for an account.
func (d *doctor) review(ctx context.Context, user string, groups []string, account access.Account) (authorizationv1.SubjectAccessReviewStatus, error) {
	review, err := d.cluster.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: user, Groups: groups, ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: account.Namespace, Verb: api.VerbMint, Group: api.RBACGroup, Version: "*", Resource: api.ResourceTokens, Name: account.Name,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return authorizationv1.SubjectAccessReviewStatus{}, err
	}
	return review.Status, nil
}

// because is what the authorizers say about their answer.
func because(status authorizationv1.SubjectAccessReviewStatus) string {
	var parts []string
	for _, part := range []string{status.Reason, status.EvaluationError} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", strings.Join(parts, "; "))
}
