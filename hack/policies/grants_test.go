package policies

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// writer is the authorizer of who writes a Role or a RoleBinding in namespace web.
type writer struct {
	escalates bool
	edits     string            // the one Role that it may escalate
	tokens    map[string]string // create serviceaccounts/token by name, with the reason
	marks     []string          // mint tokens.podtoken.dev by name
	podtoken  map[string]string // rights of podtoken.dev as "verb resource name", with the reason
	asked     int
}

func (w *writer) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	w.asked++
	switch question := strings.Join([]string{a.GetVerb(), a.GetAPIGroup(), a.GetResource(), a.GetSubresource(), a.GetNamespace()}, " "); question {
	case "escalate rbac.authorization.k8s.io roles  web":
		if w.escalates || w.edits != "" && w.edits == a.GetName() {
			return authorizer.DecisionAllow, byAdmin, nil
		}
	case "create  serviceaccounts token web":
		for _, name := range []string{a.GetName(), "*"} {
			if reason, ok := w.tokens[name]; ok {
				return authorizer.DecisionAllow, reason, nil
			}
		}
	case "mint podtoken.dev tokens  web":
		if slices.Contains(w.marks, a.GetName()) {
			return authorizer.DecisionAllow, byGrant, nil
		}
	case "mint podtoken.dev audiences  web", "renew podtoken.dev audiences  web", "mint podtoken.dev lifetimes  web":
		if reason, ok := w.podtoken[a.GetVerb()+" "+a.GetResource()+" "+a.GetName()]; ok {
			return authorizer.DecisionAllow, reason, nil
		}
	default:
		return authorizer.DecisionDeny, "", fmt.Errorf("a question that the policy need not ask: %s", question)
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "web"}, Rules: rules}
}

func binding(name, kind, of string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "web"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: of}}
}

func labelled[T metav1.Object](object T) T {
	object.SetLabels(map[string]string{"podtoken.dev/grant": "true"})
	return object
}

func kept[T metav1.Object](object T) T {
	object.SetFinalizers([]string{"example.com/keep"})
	return object
}

// Every row of the table above the template (charts/podtoken/templates/grants.yaml).
func TestGrantsStay(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t, "podtoken-grants")
	const (
		named  = "has the name or the label of a grant"
		binds  = "a grant, which is for one ServiceAccount alone"
		handed = "would give others the right to create tokens"
		minted = `would give others the right to "mint" `
		large  = "more than 8 rules or names"
	)
	reader := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}
	mixed := creates("shop")
	mixed.Resources, mixed.Verbs, mixed.APIGroups = []string{"pods", "serviceaccounts/token"}, []string{"get", "create"}, []string{"apps", ""}
	seven := make([]rbacv1.PolicyRule, 7)
	for i := range seven {
		seven[i] = creates("mine")
	}
	granted := func() writer { return writer{tokens: map[string]string{"shop": byGrant}, marks: []string{"shop"}} }
	byHandAll := func() writer { return writer{tokens: map[string]string{"*": byHand}} }
	jane, account := caller("jane"), caller(shop)
	rows := []struct {
		name        string
		by          user.Info
		now         writer
		object, old runtime.Object
		want        string
	}{
		{"1 the controller", caller(controllerUser), writer{}, role("podtoken:shop", creates("shop")), nil, ""},
		{"1 the garbage collector", caller("system:serviceaccount:kube-system:generic-garbage-collector"), writer{}, kept(role("podtoken:shop")), role("podtoken:shop"), ""},
		{"1 system:masters", caller("root", "system:masters"), writer{}, binding("a", "Role", "podtoken:shop"), nil, ""},
		{"2 who may escalate", jane, writer{escalates: true}, role("podtoken:shop", creates("shop")), nil, ""},
		{"2 who may escalate binds", jane, writer{escalates: true}, binding("a", "Role", "podtoken:shop"), nil, ""},
		{"2 who may escalate, many names", jane, writer{escalates: true}, role("a", creates(strings.Split("abcdefghij", "")...)), nil, ""},
		{"2 who may escalate hands on", jane, writer{escalates: true}, role("a", creates("shop")), nil, ""},
		{"2 who may escalate this Role", jane, writer{edits: "a"}, role("a", creates("shop")), role("a", reader), ""},
		{"2 who may escalate this Role creates it", jane, writer{edits: "a"}, role("a", creates("shop")), nil, handed},
		{"2 who may escalate another Role", jane, writer{edits: "b"}, role("a", creates("shop")), role("a", reader), handed},
		{"2 who may escalate a Role of the RoleBinding's name", jane, writer{edits: "lend"}, binding("lend", "Role", "podtoken:shop"), binding("lend", "Role", "podtoken:shop"), binds},
		{"3 a Role in the place of a grant", jane, writer{}, role("podtoken:shop"), nil, named},
		{"3 a RoleBinding in the place of a grant", jane, writer{}, binding("podtoken:shop", "ClusterRole", "view"), nil, named},
		{"3 the label", account, granted(), labelled(role("a", reader)), nil, named},
		{"3 the label of a RoleBinding", account, granted(), labelled(binding("a", "Role", "a")), nil, named},
		{"3 a finalizer", jane, writer{}, kept(role("podtoken:shop", creates("shop"))), role("podtoken:shop", creates("shop")), named},
		{"3 a finalizer of a RoleBinding", jane, writer{}, kept(binding("podtoken:shop", "Role", "podtoken:shop")), binding("podtoken:shop", "Role", "podtoken:shop"), named},
		{"4 a Role of a grant", account, granted(), binding("lend", "Role", "podtoken:shop"), nil, binds},
		{"4 before there is a grant", jane, writer{}, binding("dangling", "Role", "podtoken:cart"), nil, binds},
		{"4 a ClusterRole of that name is no grant", jane, writer{}, binding("a", "ClusterRole", "podtoken:x"), nil, ""},
		{"3 a name of control characters", jane, writer{}, role("podtoken:" + strings.Repeat("\n", 5000)), nil, named},
		{"4 a Role of control characters", jane, writer{}, binding("a", "Role", "podtoken:"+strings.Repeat("\n", 5000)), nil, binds},
		{"5 for itself", account, granted(), role("handed", creates("shop")), nil, handed},
		{"5 the mark went", account, writer{tokens: map[string]string{"shop": byGrant}}, role("handed", creates("shop")), nil, handed},
		{"5 the right went, too", account, writer{}, role("handed", creates("shop")), nil, handed},
		{"5 by a dangling RoleBinding", jane, writer{tokens: map[string]string{"shop": byCopy}}, role("handed", creates("shop")), nil, handed},
		{"5 among other rules", account, granted(), role("handed", reader, mixed), nil, handed},
		{"5 the second of two names", account, writer{tokens: map[string]string{"mine": byHand, "shop": byGrant}}, role("handed", creates("mine", "shop")), nil, handed},
		{"5 the eighth rule", account, writer{tokens: map[string]string{"mine": byHand, "shop": byGrant}}, role("handed", append(slices.Clone(seven), creates("shop"))...), nil, handed},
		{"5 by an update", account, granted(), role("a", reader, creates("shop")), role("a", reader), handed},
		{"5 an update of a Role without rules", account, granted(), role("a", creates("shop")), role("a"), handed},
		{"5 nine names", account, granted(), role("a", creates(strings.Split("abcdefghi", "")...)), nil, large},
		{"5 nine rules", account, granted(), role("a", append(slices.Clone(seven), creates("mine"), creates("shop"))...), nil, large},
		{"5 an audience", account, writer{podtoken: map[string]string{"mint audiences vault": byGrant}}, role("a", virtual("audiences", "mint", "vault")), nil, minted + `"audiences" "vault"`},
		{"5 the second of two audiences", account, writer{podtoken: map[string]string{"mint audiences a": byHand, "mint audiences b": byGrant}}, role("a", virtual("audiences", "mint", "a", "b")), nil, minted + `"audiences" "b"`},
		{"5 an audience, the right went", account, writer{}, role("a", virtual("audiences", "mint", "vault")), nil, minted},
		{"5 a lifetime", account, writer{podtoken: map[string]string{"mint lifetimes 86400": byGrant}}, role("a", virtual("audiences", "mint"), virtual("lifetimes", "mint", "86400")), nil, minted + `"lifetimes" "86400"`},
		{"5 a long audience", account, writer{}, role("a", virtual("audiences", "mint", strings.Repeat("\n", 5000))), nil, minted},
		{"5 the mark", account, granted(), role("a", virtual("tokens", "mint", "shop")), nil, minted},
		{"5 two resources in a rule", account, granted(), role("a", rbacv1.PolicyRule{APIGroups: []string{"podtoken.dev"}, Resources: []string{"audiences", "lifetimes"}, Verbs: []string{"mint"}, ResourceNames: []string{"3600"}}), nil, large},
		{"5 nine audiences", account, granted(), role("a", virtual("audiences", "mint", strings.Split("abcdefghi", "")...)), nil, large},
		{"6 the mark beside a Role by hand", account, writer{tokens: map[string]string{"shop": byHand}, marks: []string{"shop"}}, role("a", creates("shop")), nil, handed},
		{"7 another reason", account, writer{tokens: map[string]string{"shop": unknown}}, role("a", creates("shop")), nil, handed},
		{"7 another reason, a person", jane, writer{tokens: map[string]string{"shop": unknown}}, role("a", creates("shop")), nil, ""},
		{"8 a right by hand", account, byHandAll(), role("a", creates("shop")), nil, ""},
		{"8 for all", jane, writer{tokens: map[string]string{"*": byAdmin}}, role("a", creates()), nil, ""},
		{"8 eight names", jane, byHandAll(), role("a", creates(strings.Split("abcdefgh", "")...)), nil, ""},
		{"8 an audience by hand", account, writer{podtoken: map[string]string{"mint audiences vault": byHand}}, role("a", virtual("audiences", "mint", "vault")), nil, ""},
		{"8 all audiences", jane, writer{}, role("a", virtual("audiences", "mint")), nil, ""},
		{
			"8 eight of each", jane, writer{tokens: map[string]string{"*": byAdmin}, podtoken: map[string]string{"mint audiences a": byAdmin, "mint lifetimes 3600": byAdmin}},
			role("a", creates(strings.Split("abcdefgh", "")...), virtual("audiences", "mint", slices.Repeat([]string{"a"}, 7)...), virtual("lifetimes", "mint", "3600")), nil, "",
		},
		{"8 another verb of podtoken.dev", account, granted(), role("a", rbacv1.PolicyRule{APIGroups: []string{"podtoken.dev"}, Resources: []string{"audiences"}, Verbs: []string{"get"}, ResourceNames: []string{"vault"}}), nil, ""},
		{"8 a resource of that name in another API group", account, granted(), role("a", rbacv1.PolicyRule{APIGroups: []string{"example.com"}, Resources: []string{"serviceaccounts/token"}, Verbs: []string{"create"}}), nil, ""},
		{"8 another verb", account, granted(), role("a", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, Verbs: []string{"get"}}), nil, ""},
		{"8 rules that are not changed", caller(operator), writer{}, kept(role("a", creates("shop"))), role("a", creates("shop")), ""},
		{"8 rules that are taken away", caller(operator), writer{}, role("a"), role("a", creates("shop")), ""},
		{"other Roles", jane, writer{}, role("a", reader), nil, ""},
		{"no rules", jane, writer{}, role("a"), nil, ""},
		{"other RoleBindings", jane, writer{}, binding("a", "ClusterRole", "edit"), nil, ""},
		{"a generated name", jane, writer{}, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{GenerateName: "a-"}}, nil, ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			got := denials(policy.Evaluate(t.Context(), writing(t, row.object, row.old, row.by), &row.now))
			if (row.want == "") != (got == "") || !strings.Contains(got, row.want) {
				t.Errorf("denied with %q, want %q", got, row.want)
			}
			if strings.Contains(got, "failed expression") || strings.Contains(got, "no such") || strings.Contains(got, "cost") {
				t.Errorf("a message could not be made: %q", got)
			}
			if row.now.asked > 25 {
				t.Errorf("%d questions to the authorizer", row.now.asked)
			}
		})
	}
}

// Roles as large as the API server takes them are not denied for their size, nor asked about, unless they may be about the rights of grants: of more than
// a thousand rules only the text is searched.
func TestLargeRoles(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t, "podtoken-grants")
	const large = "has more than 1000 rules, and may be for serviceaccounts/token or the API group podtoken.dev"
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods", "services", "configmaps"}, Verbs: []string{"get", "list"}}
	thousand := slices.Repeat([]rbacv1.PolicyRule{rule}, 1000)
	rules := slices.Repeat(thousand, 12)
	byHand := func() writer { return writer{tokens: map[string]string{"shop": byHand}} }
	for name, row := range map[string]struct {
		object, old *rbacv1.Role
		now         writer
		asked       int
		want        string
	}{
		"twelve thousand rules":                                  {role("a", rules...), nil, writer{}, 0, ""},
		"a thousand of them, and the last creates":               {role("a", append(slices.Clone(thousand[1:]), creates("shop"))...), nil, byHand(), 3, ""},
		"a thousand and one, and the last creates":               {role("a", append(slices.Clone(thousand), creates("shop"))...), nil, byHand(), 1, large},
		"twelve thousand, and the last mints":                    {role("a", append(slices.Clone(rules), virtual("tokens", "mint"))...), nil, byHand(), 1, large},
		"who may escalate":                                       {role("a", append(slices.Clone(rules), creates("shop"))...), nil, writer{escalates: true}, 1, ""},
		"rules that are not changed":                             {kept(role("a", append(slices.Clone(rules), creates("shop"))...)), role("a", append(slices.Clone(rules), creates("shop"))...), writer{}, 0, ""},
		"a rule of ten thousand resources":                       {role("a", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: make([]string, 10_000), Verbs: []string{"get"}}), nil, writer{}, 0, ""},
		"a name that has the text in it among twelve thousand":   {role("a", append(slices.Clone(rules), virtual("x", "mint", `"podtoken.dev`))...), nil, writer{}, 1, large},
		"twelve thousand with the text as a part of another one": {role("a", append(slices.Clone(rules), rbacv1.PolicyRule{Resources: []string{`serviceaccounts/tokens`}})...), nil, writer{}, 0, ""},
		"twenty thousand":                                        {role("a", slices.Repeat(thousand, 20)...), nil, writer{}, 0, ""},
		"more":                                                   {role("a", append(slices.Repeat(thousand, 20), rule)...), nil, writer{}, 1, large},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var old runtime.Object
			if row.old != nil {
				old = row.old
			}
			got := denials(policy.Evaluate(t.Context(), writing(t, row.object, old, caller("jane")), &row.now))
			if (row.want == "") != (got == "") || !strings.Contains(got, row.want) || row.now.asked != row.asked {
				t.Errorf("denied with %q after %d questions, want %q after %d", got, row.now.asked, row.want, row.asked)
			}
		})
	}
}
