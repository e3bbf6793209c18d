package policies

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// recorder writes down the questions that an authorizer gets.
type recorder struct {
	authorizer.UnconditionalAuthorizer
	questions []string
}

func (r *recorder) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	group, _, _ := strings.Cut(a.GetAPIGroup(), ".podtoken.dev")
	question := strings.Join(slices.DeleteFunc([]string{a.GetVerb(), group, a.GetResource(), a.GetSubresource()}, func(s string) bool { return s == "" }), " ")
	if a.GetResource() == "audiences" || a.GetResource() == "lifetimes" {
		question += " " + a.GetName()
	}
	r.questions = append(r.questions, question)
	return r.UnconditionalAuthorizer.Authorize(ctx, a)
}

// What the guard asks the authorizer, and in which order: a webhook authorizer answers each question by a request.
func TestQuestions(t *testing.T) {
	t.Parallel()
	guard, strict := load(t, guardFile), load(t, strictFile)
	const (
		mark      = "mint podtoken.dev tokens"
		create    = "create serviceaccounts token"
		unguarded = "mint unguarded tokens"
	)
	eight, all := []string{}, []string{mark, create, unguarded}
	for i := range 8 {
		eight = append(eight, fmt.Sprintf("a%d", i))
	}
	all = append(all, "renew podtoken.dev audiences a0", "mint podtoken.dev lifetimes 3600")
	for i := range 8 {
		all = append(all, fmt.Sprintf("mint podtoken.dev audiences a%d", i))
	}
	renewable := rights{create: true, reason: byGrant, mark: true, renewals: set(eight[:7]...)} // all but the last: the most questions
	most := []string{mark, create, unguarded}
	for i := range 8 {
		most = append(most, fmt.Sprintf("renew podtoken.dev audiences a%d", i))
	}
	most = append(most, all[4:]...)
	for name, row := range map[string]struct {
		by                user.Info
		audiences         []string
		now               rights
		ofGuard, ofStrict []string
	}{
		"a kubelet":                         {caller("system:node:a", "system:nodes"), eight, rights{}, nil, nil},
		"kube-controller-manager":           {caller("system:kube-controller-manager"), eight, rights{}, nil, nil},
		"system:masters":                    {caller("root", "system:masters"), eight, rights{}, nil, nil},
		"an operator that mints for others": {caller(operator), eight, byHands.rights, []string{mark, create}, nil},
		"an operator with an exemption":     {caller(operator), eight, rights{create: true, reason: unknown, unguarded: true}, []string{mark, create, unguarded}, nil},
		"who may do everything":             {caller("jane"), eight, wildcard.rights, []string{mark, create, unguarded}, nil},
		"a person":                          {caller("jane"), eight, rights{create: true, reason: byAdmin}, []string{mark, create}, nil},
		"a Role by hand":                    {caller(shop), eight, byHands.rights, []string{mark, create}, []string{mark, unguarded}},
		"one audience":                      {caller(shop), []string{"vault"}, full.rights, []string{mark, create, unguarded, "renew podtoken.dev audiences vault", "mint podtoken.dev lifetimes 3600", "mint podtoken.dev audiences vault"}, []string{mark}},
		"a renewal":                         {caller(shop), []string{"api"}, full.rights, []string{mark, create, unguarded, "renew podtoken.dev audiences api"}, []string{mark}},
		"eight audiences":                   {caller(shop), eight, full.rights, all, []string{mark}},
		"eight, and most can be renewed":    {caller(shop), eight, renewable, most, []string{mark}},
		"nine audiences":                    {caller(shop), append([]string{"a8"}, eight...), full.rights, nil, []string{mark}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := forShop(row.by, tokenRequest(true, 3600, row.audiences...), row.now)
			for policy, want := range map[*Policy][]string{guard: row.ofGuard, strict: row.ofStrict} {
				asked := &recorder{UnconditionalAuthorizer: at{c, t}}
				c.evaluate(t.Context(), policy, asked)
				if len(row.audiences) <= 8 && !slices.Equal(asked.questions, want) {
					t.Errorf("%s asks\n%s, want\n%s", policy.Name, strings.Join(asked.questions, "\n"), strings.Join(want, "\n"))
				}
				if len(asked.questions) > 20 {
					t.Errorf("%s asks %d questions, want at most 20", policy.Name, len(asked.questions))
				}
			}
		})
	}
}

// For any request: the mark before the right, each question once, at most 20.
func TestOrderOfQuestions(t *testing.T) {
	t.Parallel()
	guard := load(t, guardFile)
	most := 0
	for seed := range uint64(500) {
		bytes, text, another := randomScript(seed + 9000)
		c := decode(&script{bytes: bytes, text: text, another: another})
		asked := &recorder{UnconditionalAuthorizer: at{c, t}}
		c.evaluate(t.Context(), guard, asked)
		most = max(most, len(asked.questions))
		switch {
		case len(asked.questions) > 20:
			t.Errorf("%d questions: %s", len(asked.questions), c)
		case notLookedAt(c.by) != (len(asked.questions) == 0) && !slices.Equal(c.spec.Audiences, []string{"podtoken.dev/guard-probe"}):
			t.Errorf("asks %q of %s", asked.questions, c)
		case len(asked.questions) > 0 && asked.questions[0] != "mint podtoken.dev tokens":
			t.Errorf("asks %q first", asked.questions[0])
		case len(asked.questions) > 1 && asked.questions[1] != "create serviceaccounts token":
			t.Errorf("asks %q second", asked.questions[1])
		}
	}
	if most < 10 {
		t.Errorf("no random input needs more than %d questions", most)
	}
}

// Requests that are strange, legal, and as large as the API server takes (3 MiB): the guard may deny one of a grant's holder, and must not
// fail for anybody else by what its expressions cost.
func TestUnusualRequests(t *testing.T) {
	t.Parallel()
	guard, strict := load(t, guardFile), load(t, strictFile)
	many := func(n, bytes int) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("%0*d", bytes, i)
		}
		return list
	}
	requests := map[string][]string{
		"eight of 512 bytes":    many(8, 512),
		"eight of 4 KiB":        many(8, 4096),
		"eight of 300 KB":       many(8, 300_000),
		"one of 2.5 MB":         many(1, 2_500_000),
		"ten thousand":          many(10_000, 8),
		"a hundred thousand":    many(100_000, 12),
		"empty and very many":   make([]string, 700_000),
		"one, in other scripts": {strings.Repeat("\u202eü€😀", 50)},
	}
	granter := rights{create: true, reason: byGrant, mark: true, mintsAnything: true}
	callers := map[string]struct {
		by    user.Info
		now   rights
		holds bool // a grant, for these audiences
	}{
		"an operator that mints for others": {caller(operator), byHands.rights, false},
		"an operator that mints for itself": {caller(shop), byHands.rights, false},
		"an exempted operator":              {caller(shop), exempted.rights, false},
		"a person":                          {caller("jane"), rights{create: true, reason: byAdmin}, false},
		"who may do everything":             {caller("jane"), wildcard.rights, false},
		"a kubelet":                         {caller("system:node:a", "system:nodes"), rights{}, false},
		"the holder of a grant":             {caller(shop), granter, true},
		"the holder of a copy":              {caller(other), granter, true},
		"a right that went":                 {caller(shop), rights{}, true},
	}
	for size, audiences := range requests {
		for who, row := range callers {
			t.Run(who+", "+size, func(t *testing.T) {
				t.Parallel()
				c := forShop(row.by, tokenRequest(true, 3600, audiences...), row.now)
				want := modelOf(c.by, c.namespace, c.name, &c.spec, &c.now)
				got := denials(c.evaluate(t.Context(), guard, at{c, t}))
				if (got == "") != want.allowed {
					t.Errorf("denied: %.300q, want allowed: %v", got, want.allowed)
				}
				// Only the holder of a grant may see what the expressions cost.
				if !row.holds && got != "" || strings.Contains(got, "cost") && len(audiences) <= 8 {
					t.Errorf("denied: %.300q", got)
				}
				if got := denials(c.evaluate(t.Context(), strict, at{c, t})); (got == "") != strictModelOf(c.by, c.namespace, c.name, &c.now).allowed || strings.Contains(got, "cost") {
					t.Errorf("the strict guard: %.300q", got)
				}
			})
		}
	}
}

// What API servers do not make: the guard fails, closed.
func TestImpossibleRequests(t *testing.T) {
	t.Parallel()
	guard := load(t, guardFile)
	spec := tokenRequest(true, 3600, "vault").Spec
	noLifetime, noAudiences := spec, authenticationv1.TokenRequestSpec{ExpirationSeconds: spec.ExpirationSeconds, BoundObjectRef: spec.BoundObjectRef}
	noLifetime.ExpirationSeconds = nil // Decoding sets 3600, and conversion to v1 never leaves it out.
	longReason := full.rights
	longReason.reason = `RBAC: allowed by RoleBinding "` + strings.Repeat("x", 2<<20) + `/web" of Role "podtoken:x" to ServiceAccount "shop/web"`
	for name, c := range map[string]*tokenCase{
		"a caller without a name":                    {by: caller(""), spec: spec, now: full.rights},
		"no audiences, which storage fills in":       {by: caller(shop), spec: noAudiences, now: full.rights},
		"no lifetime, which decoding sets":           {by: caller(shop), spec: noLifetime, now: rights{create: true, reason: byGrant, mark: true, audiences: set("vault")}},
		"a null in the credential":                   {by: &user.DefaultInfo{Name: shop, Extra: map[string][]string{"authentication.kubernetes.io/pod-name": nil}}, spec: spec, now: full.rights},
		"a RoleBinding with a name of 2 MiB":         {by: caller(other), spec: spec, now: longReason},
		"the probe, by the holder of a grant for it": {by: caller(shop), spec: tokenRequest(true, 3600, "podtoken.dev/guard-probe").Spec, now: rights{create: true, reason: byGrant, mark: true, mintsAnything: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.namespace, c.name = "web", "shop"
			if got := denials(c.evaluate(t.Context(), guard, at{c, t})); got == "" {
				t.Error("let through")
			} else {
				t.Logf("%.200s", got)
			}
		})
	}
}
