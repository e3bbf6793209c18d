package policies

import (
	"context"
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
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

// permissions are what the authorizer answers. The keys are "verb group/resource name"; the values are reasons.
type permissions map[string]string

func (p permissions) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	resource := a.GetResource()
	if a.GetSubresource() != "" {
		resource += "/" + a.GetSubresource()
	}
	if reason, ok := p[a.GetVerb()+" "+a.GetAPIGroup()+"/"+resource+" "+a.GetName()]; ok && a.GetNamespace() == "web" {
		return authorizer.DecisionAllow, reason, nil
	}
	if reason, ok := p["everything"]; ok {
		return authorizer.DecisionAllow, reason, nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

const (
	create    = "create /serviceaccounts/token shop"
	mark      = "mint podtoken.dev/tokens shop"
	unguarded = "mint unguarded.podtoken.dev/tokens shop"
)

// grant is what the controller's Role gives: audience vault for 3600 s, and the API server's to renew.
func grant(createReason string) permissions {
	return permissions{
		create: createReason, mark: byGrant, "mint podtoken.dev/lifetimes 3600": byGrant,
		"mint podtoken.dev/audiences vault": byGrant, "renew podtoken.dev/audiences api": byGrant,
	}
}

// without returns p without keys.
func (p permissions) without(keys ...string) permissions {
	for _, key := range keys {
		delete(p, key)
	}
	return p
}

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

func (p *Policy) evaluateRequest(ctx context.Context, by user.Info, request *authenticationv1.TokenRequest, authz authorizer.UnconditionalAuthorizer) validating.ValidateResult {
	attributes := admission.NewAttributesRecord(request, nil, tokenRequestKind, "web", "shop",
		schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}, "token", admission.Create, nil, false, by)
	return p.Evaluate(ctx, attributes, tokenRequestKind, authz)
}

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
	guard, err := Load(guardFile)
	if err != nil {
		t.Fatal(err)
	}
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
		authz   permissions
		want    string // part of the denial; "" for none
	}{
		{"1 a kubelet", caller("system:node:a", "system:nodes"), unbound, permissions{}, ""},
		{"1 kube-controller-manager", caller("system:kube-controller-manager"), unbound, permissions{}, ""},
		{"1 system:masters", caller("root", "system:masters"), unbound, permissions{}, ""},
		{"1 a name like a kubelet's without its group", caller("system:node:a"), unbound, permissions{}, withdrawn},
		{"1 the group of kubelets without the name", caller("jane", "system:nodes"), unbound, permissions{}, withdrawn},
		{"2 the grant went with its mark", caller(shop), unbound, permissions{}, withdrawn},
		{"2 the same for a declared token", caller(shop), declared, permissions{}, withdrawn},
		{"2 only the mark is left", caller(shop), declared, permissions{mark: byGrant}, withdrawn},
		{"2 the rest of the grant is left", caller(shop), declared, grant(byGrant).without(create), withdrawn},
		{"2 a person whose right went", caller("jane"), unbound, permissions{}, withdrawn},
		{"2 an exempted caller whose right went", caller(shop), unbound, permissions{unguarded: byAdmin}, withdrawn},
		{"2 the holder of a copy whose copy went", caller(other), unbound, permissions{}, withdrawn},
		{"3 who may do everything", caller(shop), unbound, permissions{"everything": byAdmin}, ""},
		{"3 a person who may do everything", caller("jane"), unbound, permissions{"everything": byAdmin}, ""},
		{"3 an explicit permission beside a grant", caller(shop), unbound, permissions{create: byGrant, mark: byGrant, unguarded: byHand}, ""},
		{"4 what is declared", caller(shop), declared, grant(byGrant), ""},
		{"4 a renewal", caller(shop), tokenRequest(true, 1200, "api"), grant(byGrant), ""},
		{"4 an unbound token", caller(shop), tokenRequest(false, 3600, "vault"), grant(byGrant), bound},
		{"4 another audience", caller(shop), tokenRequest(true, 3600, "other"), grant(byGrant), audience},
		{"4 without the mark: it went and came again", caller(shop), unbound, permissions{create: byGrant}, bound},
		{"5 a Role by hand beside the grant", caller(shop), unbound, grant(byHand), bound},
		{"6 a Role by hand", caller(shop), unbound, permissions{create: byHand}, ""},
		{"7 a copied grant", caller(other), declared, grant(byGrant), copied},
		{"7 a copied grant without its mark", caller(other), declared, permissions{create: byGrant}, copied},
		{"7 a copied grant of another name", caller(other), declared, permissions{create: byCopy}, copied},
		{"7 a person with a copied grant", caller("jane"), declared, permissions{create: byGrant}, copied},
		{"8 the mark beside a Role by hand", caller(other), declared, permissions{create: byHand, mark: byHand}, copied},
		{"8 a person who holds the mark", caller("jane"), declared, permissions{create: byAdmin, mark: byAdmin}, copied},
		{"9 an operator that mints for others", caller(operator), unbound, permissions{create: byHand}, ""},
		{"9 a person", caller("jane"), unbound, permissions{create: byAdmin}, ""},
		{"10 another reason", caller(shop), unbound, permissions{create: unknown}, reason},
		{"10 no reason", caller(operator), unbound, permissions{create: ""}, reason},
		{"10 another reason, with a grant", caller(shop), declared, grant(unknown), ""},
		{"10 another reason, with a grant, unbound", caller(shop), unbound, grant(unknown), bound},
		{"10 another reason, exempted", caller(shop), unbound, permissions{create: unknown, unguarded: unknown}, ""},
		{"11 a person by another authorizer", caller("jane"), unbound, permissions{create: unknown}, ""},
		{"the probe", caller("jane"), tokenRequest(false, 600, "podtoken.dev/guard-probe"), permissions{"everything": byAdmin}, "guard revision 2 is enforced"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			got := denials(guard.evaluateRequest(t.Context(), row.by, row.request, row.authz))
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
	strict, err := Load(strictFile)
	if err != nil {
		t.Fatal(err)
	}
	unbound := tokenRequest(false, 1<<32, "anything")
	for name, row := range map[string]struct {
		by    user.Info
		authz permissions
		want  string
	}{
		"a Role by hand":             {caller(shop), permissions{create: byHand}, "not a grant of podtoken"},
		"a right that went":          {caller(shop), permissions{}, "not a grant of podtoken"},
		"an exempted caller":         {caller(shop), permissions{create: byHand, unguarded: byHand}, ""},
		"who may do everything":      {caller(shop), permissions{"everything": byAdmin}, ""},
		"a grant, which is guarded":  {caller(shop), grant(byGrant), ""},
		"an operator for another":    {caller(operator), permissions{create: byHand}, ""},
		"a kubelet":                  {caller("system:node:a", "system:nodes"), permissions{}, ""},
		"a person":                   {caller("jane"), permissions{create: byAdmin}, ""},
		"a name that begins as ours": {caller(shop + "per"), permissions{create: byHand}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := denials(strict.evaluateRequest(t.Context(), row.by, unbound, row.authz)); (row.want == "") != (got == "") || !strings.Contains(got, row.want) {
				t.Errorf("denied with %q, want %q", got, row.want)
			}
		})
	}
}
