package policies

import (
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authentication/user"
)

// The policies as API servers load them from disk; the chart's are the same text (hack/chart/render.sh).
const (
	guardFile  = "../../manifests/guard-static.yaml"
	strictFile = "../../manifests/guard-strict-static.yaml"
)

// Reasons of RBAC's decisions (k8s.io/kubernetes@v1.37.2/pkg/registry/rbac/validation/rule.go).
const (
	byGrant  = `RBAC: allowed by RoleBinding "podtoken:shop/web" of Role "podtoken:shop" to ServiceAccount "shop/web"`
	byCopy   = `RBAC: allowed by RoleBinding "copy/web" of Role "podtoken:shop" to ServiceAccount "other/web"`
	byHand   = `RBAC: allowed by RoleBinding "mints/web" of Role "mints" to ServiceAccount "shop/web"`
	byAdmin  = `RBAC: allowed by ClusterRoleBinding "admins" of ClusterRole "cluster-admin" to User "jane"`
	unknown  = `access granted by IAM`
	shop     = "system:serviceaccount:web:shop"
	other    = "system:serviceaccount:web:other"
	operator = "system:serviceaccount:operators:minter"
)

// caller returns a user; a ServiceAccount has a credential that is bound to Pod "pod" with uid "uid".
func caller(name string, groups ...string) user.Info {
	info := &user.DefaultInfo{Name: name, Groups: groups}
	if strings.HasPrefix(name, "system:serviceaccount:") {
		info.Extra = map[string][]string{"authentication.kubernetes.io/pod-name": {"pod"}, "authentication.kubernetes.io/pod-uid": {"uid"}}
	}
	return info
}

// tokenRequest of ServiceAccount web/shop, bound to the caller's Pod if bound is set.
func tokenRequest(bound bool, seconds int64, audiences ...string) *authenticationv1.TokenRequest {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: &seconds}}
	if bound {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "pod", UID: types.UID("uid")}
	}
	return request
}

var tokenRequestKind = schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest"}

// denials of a result; also that of an error.
func denials(result validating.ValidateResult) string {
	var all []string
	for _, decision := range result.Decisions {
		if decision.Action == validating.ActionDeny {
			all = append(all, decision.Message)
		}
	}
	for _, annotation := range result.AuditAnnotations {
		if annotation.Action == validating.AuditAnnotationActionError {
			all = append(all, fmt.Sprintf("audit annotation %s: %s", annotation.Key, annotation.Error))
		}
	}
	return strings.Join(all, "\n")
}

// Every row of the table above the guard's template (charts/podtoken/templates/_guard.tpl).
func TestGuardTable(t *testing.T) {
	t.Parallel()
	guard := load(t, guardFile)
	unbound, declared := tokenRequest(false, 1<<32, "anything"), tokenRequest(true, 3600, "vault")
	const (
		withdrawn = "is not allowed to create tokens of"
		copied    = "which is for that ServiceAccount alone"
		reason    = "does not know the reason"
		bound     = "may mint only tokens that are bound to the calling pod"
		audience  = `may not mint tokens for audience "other"`
	)
	rows := []struct {
		name    string
		by      user.Info
		request *authenticationv1.TokenRequest
		now     rights
		want    string // part of the denial; "" for none
	}{
		{"1 a kubelet", caller("system:node:a", "system:nodes"), unbound, rights{}, ""},
		{"1 kube-controller-manager", caller("system:kube-controller-manager"), unbound, rights{}, ""},
		{"1 system:masters", caller("root", "system:masters"), unbound, rights{}, ""},
		{"1 a name like a kubelet's without its group", caller("system:node:a"), unbound, rights{}, withdrawn},
		{"1 the group of kubelets without the name", caller("jane", "system:nodes"), unbound, rights{}, withdrawn},
		{"2 the grant went with its mark", caller(shop), unbound, rights{}, withdrawn},
		{"2 the same for a declared token", caller(shop), declared, rights{}, withdrawn},
		{"2 only the mark is left", caller(shop), declared, rights{mark: true}, withdrawn},
		{"2 the rest of the grant is left", caller(shop), declared, granted(false, byGrant, true), withdrawn},
		{"2 a person whose right went", caller("jane"), unbound, rights{}, withdrawn},
		{"2 an exempted caller whose right went", caller(shop), unbound, rights{unguarded: true}, withdrawn},
		{"2 the holder of a copy whose copy went", caller(other), unbound, rights{}, withdrawn},
		{"3 who may do everything", caller(shop), unbound, wildcard.rights, ""},
		{"3 a person who may do everything", caller("jane"), unbound, wildcard.rights, ""},
		{"3 an explicit permission beside a grant", caller(shop), unbound, exempted.rights, ""},
		{"4 what is declared", caller(shop), declared, granted(true, byGrant, true), ""},
		{"4 a renewal", caller(shop), tokenRequest(true, 1200, "api"), granted(true, byGrant, true), ""},
		{"4 an unbound token", caller(shop), tokenRequest(false, 3600, "vault"), granted(true, byGrant, true), bound},
		{"4 another audience", caller(shop), tokenRequest(true, 3600, "other"), granted(true, byGrant, true), audience},
		{"4 without the mark: it went and came again", caller(shop), unbound, rights{create: true, reason: byGrant}, bound},
		{"5 a Role by hand beside the grant", caller(shop), unbound, granted(true, byHand, true), bound},
		{"6 a Role by hand", caller(shop), unbound, rights{create: true, reason: byHand}, ""},
		{"7 a copied grant", caller(other), declared, granted(true, byGrant, true), copied},
		{"7 a copied grant without its mark", caller(other), declared, rights{create: true, reason: byGrant}, copied},
		{"7 a copied grant of another name", caller(other), declared, rights{create: true, reason: byCopy}, copied},
		{"7 a person with a copied grant", caller("jane"), declared, rights{create: true, reason: byGrant}, copied},
		{"8 the mark beside a Role by hand", caller(other), declared, rights{create: true, reason: byHand, mark: true}, copied},
		{"8 a person who holds the mark", caller("jane"), declared, rights{create: true, reason: byAdmin, mark: true}, copied},
		{"9 an operator that mints for others", caller(operator), unbound, rights{create: true, reason: byHand}, ""},
		{"9 a person", caller("jane"), unbound, rights{create: true, reason: byAdmin}, ""},
		{"10 another reason", caller(shop), unbound, rights{create: true, reason: unknown}, reason},
		{"10 no reason", caller(operator), unbound, rights{create: true, reason: ""}, reason},
		{"10 another reason, with a grant", caller(shop), declared, granted(true, unknown, true), ""},
		{"10 another reason, with a grant, unbound", caller(shop), unbound, granted(true, unknown, true), bound},
		{"10 another reason, exempted", caller(shop), unbound, rights{create: true, reason: unknown, unguarded: true}, ""},
		{"11 a person by another authorizer", caller("jane"), unbound, rights{create: true, reason: unknown}, ""},
		{"the probe", caller("jane"), tokenRequest(false, 600, "podtoken.dev/guard-probe"), wildcard.rights, "guard revision 2 is enforced"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := forShop(row.by, row.request, row.now)
			got := denials(c.evaluate(t.Context(), guard, at{c, t}))
			if (row.want == "") != (got == "") || !strings.Contains(got, row.want) {
				t.Errorf("denied with %q, want %q", got, row.want)
			}
			if strings.Contains(got, "failed expression") || strings.Contains(got, "no such") {
				t.Errorf("a message could not be made: %q", got)
			}
		})
	}
}

// Rows 5 and 6 under the strict guard; it leaves everything else to the guard.
func TestStrictGuard(t *testing.T) {
	t.Parallel()
	strict := load(t, strictFile)
	unbound := tokenRequest(false, 1<<32, "anything")
	for name, row := range map[string]struct {
		by   user.Info
		now  rights
		want string
	}{
		"a Role by hand":             {caller(shop), rights{create: true, reason: byHand}, "not a grant of podtoken"},
		"a right that went":          {caller(shop), rights{}, "not a grant of podtoken"},
		"an exempted caller":         {caller(shop), rights{create: true, reason: byHand, unguarded: true}, ""},
		"who may do everything":      {caller(shop), wildcard.rights, ""},
		"a grant, which is guarded":  {caller(shop), granted(true, byGrant, true), ""},
		"an operator for another":    {caller(operator), rights{create: true, reason: byHand}, ""},
		"a kubelet":                  {caller("system:node:a", "system:nodes"), rights{}, ""},
		"a person":                   {caller("jane"), rights{create: true, reason: byAdmin}, ""},
		"a name that begins as ours": {caller(shop + "per"), rights{create: true, reason: byHand}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := forShop(row.by, unbound, row.now)
			if got := denials(c.evaluate(t.Context(), strict, at{c, t})); (row.want == "") != (got == "") || !strings.Contains(got, row.want) {
				t.Errorf("denied with %q, want %q", got, row.want)
			}
		})
	}
}
