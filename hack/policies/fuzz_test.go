package policies

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// tokenCase is one request: who asks for a token of which ServiceAccount, and what the authorizer says of it.
type tokenCase struct {
	by              user.Info
	namespace, name string
	spec            authenticationv1.TokenRequestSpec
	now             rights
}

// forShop is a request for a token of ServiceAccount web/shop.
func forShop(by user.Info, request *authenticationv1.TokenRequest, now rights) *tokenCase {
	return &tokenCase{by: by, namespace: "web", name: "shop", spec: request.Spec, now: now}
}

func (c *tokenCase) String() string {
	return fmt.Sprintf("by %.100q groups %.100q extra %.100q for %s/%s, audiences %.100q, seconds %v, ref %.200v, %.100v", c.by.GetName(), c.by.GetGroups(), c.by.GetExtra(), c.namespace, c.name,
		c.spec.Audiences, deref(c.spec.ExpirationSeconds), c.spec.BoundObjectRef, c.now)
}

func deref(seconds *int64) any {
	if seconds == nil {
		return nil
	}
	return *seconds
}

// evaluate asks a guard, through the admission attributes that the API server makes of the request.
func (c *tokenCase) evaluate(ctx context.Context, guard *Policy, authz authorizer.UnconditionalAuthorizer) validating.ValidateResult {
	request := newRequest(&authenticationv1.TokenRequest{Spec: c.spec}, nil, tokenRequestKind, c.namespace, c.name, accounts, "token", c.by)
	return guard.Evaluate(ctx, request, authz)
}

// answer of an authorizer for the guard's questions; known is false for a question that no guard has to ask.
func (r *rights) answer(namespace, name string, by user.Info, a authorizer.Attributes) (allowed bool, reason string, known bool) {
	if a.GetNamespace() != namespace || a.GetUser().GetName() != by.GetName() || !a.IsResourceRequest() {
		return false, "", false
	}
	account := a.GetName() == name
	switch question := a.GetVerb() + " " + a.GetAPIGroup() + "/" + a.GetResource() + "/" + a.GetSubresource(); question {
	case "create /serviceaccounts/token":
		return r.create || r.everything, r.reason, account
	case "mint podtoken.dev/tokens/":
		return r.mark || r.everything, byGrant, account
	case "mint unguarded.podtoken.dev/tokens/":
		return r.unguarded || r.everything, byHand, account
	case "mint wildcard.podtoken.dev/tokens/": // of guards before
		return r.everything, byAdmin, account
	case "mint podtoken.dev/lifetimes/":
		seconds, err := strconv.ParseInt(a.GetName(), 10, 64)
		return r.lifetimes[seconds] || r.mintsAnything || r.everything, byGrant, err == nil
	case "mint podtoken.dev/audiences/":
		return r.audiences[a.GetName()] || r.mintsAnything || r.everything, byGrant, true
	case "renew podtoken.dev/audiences/":
		return r.renewals[a.GetName()] || r.everything, byGrant, true
	}
	return false, "", false
}

// at is an authorizer that answers all of a case's questions at one moment.
type at struct {
	*tokenCase
	t testing.TB
}

func (s at) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	allowed, reason, known := s.now.answer(s.namespace, s.name, s.by, a)
	if !known {
		s.t.Errorf("a question that no guard has to ask: %s %s/%s/%s %s/%s of %s", a.GetVerb(), a.GetAPIGroup(), a.GetResource(), a.GetSubresource(), a.GetNamespace(), a.GetName(), a.GetUser().GetName())
	}
	if !allowed {
		return authorizer.DecisionNoOpinion, "", nil
	}
	return authorizer.DecisionAllow, reason, nil
}

// script makes choices of a fuzzer's bytes; there are always more: zeros.
type script struct {
	bytes         []byte
	text, another string // of the fuzzer
	calm          bool   // most choices are the first, that of a request for what a grant declares
}

func (s *script) pick(n int) int {
	if len(s.bytes) == 0 {
		return 0
	}
	b := int(s.bytes[0])
	s.bytes = s.bytes[1:]
	if s.calm && b < 224 {
		return 0
	}
	return b % n
}

func (s *script) yes() bool { return s.pick(2) == 1 }

func oneOf[T any](s *script, values ...T) T { return values[s.pick(len(values))] }

// subset keeps some of the values.
func subset[T comparable](s *script, values ...T) map[T]bool {
	kept := map[T]bool{}
	for _, value := range values {
		if s.yes() {
			kept[value] = true
		}
	}
	return kept
}

// decode makes a request of a fuzzer's input: near misses of everything that the guard compares.
func decode(s *script) *tokenCase {
	s.calm = s.yes()
	c := &tokenCase{namespace: oneOf(s, "web", "web", "we", "kube-system"), name: oneOf(s, "shop", "shop", "shop.v1", "b:shop", "shop:shop")}
	self := "system:serviceaccount:" + c.namespace + ":" + c.name
	by := &user.DefaultInfo{
		Name: oneOf(s, self, self, self, self, shop, other, operator, "system:serviceaccount:"+c.namespace+":"+c.name+".", "system:serviceaccount:"+c.namespace+".x:"+c.name,
			"system:serviceaccount:"+c.namespace+":"+c.name+":x", "system:serviceaccounts:"+c.namespace+":"+c.name, "System:serviceaccount:"+c.namespace+":"+c.name,
			"system:serviceaccount:", c.name, "jane", "system:node:a", "system:node:", "system:nodes:a", "system:kube-controller-manager", "system:kube-scheduler",
			"system:kube-controller-manager ", s.text),
		Groups: slices.Sorted(maps.Keys(subset(s, "system:nodes", "system:masters", "system:node", "system:masters ", "system:serviceaccounts", "system:authenticated", s.another))),
	}
	for _, group := range []string{"system:nodes", "system:masters"} { // Most callers have neither.
		if i := slices.Index(by.Groups, group); i >= 0 && s.pick(8) != 7 {
			by.Groups = slices.Delete(by.Groups, i, i+1)
		}
	}
	if by.Name == "" { // The API server authenticates none without a name; TestUnusualRequests has it.
		by.Name = "x"
	}
	by.Extra = map[string][]string{}
	for _, value := range []string{"pod", "uid"} {
		key := map[string]string{"pod": "authentication.kubernetes.io/pod-name", "uid": "authentication.kubernetes.io/pod-uid"}[value]
		by.Extra[key] = oneOf(s, []string{value}, []string{value}, []string{value}, []string{value}, []string{}, []string{""}, []string{value, "b"}, []string{"", value}, []string{s.text})
	}
	switch s.pick(8) {
	case 5:
		delete(by.Extra, "authentication.kubernetes.io/pod-name")
	case 6:
		delete(by.Extra, "authentication.kubernetes.io/pod-uid")
	case 7:
		by.Extra = nil
	}
	c.by = by

	audience := func() string {
		return oneOf(s, "vault", "vault", "vault", "api", "other", "podtoken.dev/guard-probe", "", "*", "Vault", " vault", s.text, s.another)
	}
	for range oneOf(s, 1, 1, 1, 2, 3, 8, 9, 0, 40) {
		c.spec.Audiences = append(c.spec.Audiences, audience())
	}
	if c.spec.Audiences == nil {
		c.spec.Audiences = []string{} // The API server puts its own audiences there before admission.
	}
	seconds := oneOf[int64](s, 3600, 3600, 3600, 1200, 600, 3601, 3607, 0, -1, -1<<63, 1<<32, 1<<63-1, int64(len(s.text)))
	c.spec.ExpirationSeconds = &seconds
	if s.pick(5) != 4 {
		c.spec.BoundObjectRef = &authenticationv1.BoundObjectReference{
			APIVersion: oneOf(s, "v1", "v1", "v1", "v1", "", "/v1", "V1"), Kind: oneOf(s, "Pod", "Pod", "Pod", "Pod", "", "pod", "Node", "Secret"),
			// No Pod has a comma in its name or uid: the guard joins several values with it, and the API server finds no such Pod.
			Name: strings.ReplaceAll(oneOf(s, "pod", "pod", "pod", "pod", "", "b", s.text), ",", ""),
			UID:  types.UID(strings.ReplaceAll(oneOf(s, "uid", "uid", "uid", "uid", "", "b", s.text), ",", "")),
		}
	}

	c.now = rights{
		create: s.pick(6) != 5, mark: !s.yes(), unguarded: s.pick(5) == 4, everything: s.pick(12) == 11, mintsAnything: s.pick(12) == 11,
		lifetimes: subset[int64](s, 3600, 600, 1<<32, -1), audiences: subset(s, "vault", "other", "", s.text), renewals: subset(s, "api", "vault", "", s.another),
	}
	if !s.yes() { // Most grants have the common ones.
		c.now.lifetimes[3600], c.now.audiences["vault"], c.now.renewals["api"] = true, true, true
	}
	kinds := func() string {
		return oneOf(s, "RoleBinding", "RoleBinding", "ClusterRoleBinding", "Rolebinding", "AClusterRoleBinding")
	}
	roles := func() string { return oneOf(s, "Role", "Role", "ClusterRole", "role") }
	quoted := func() string {
		return strconv.Quote(oneOf(s, "mints/web", "podtoken:shop/web", "podtoken:shop", "mints", " podtoken:shop", "Podtoken:shop", `a" of Role "podtoken:x`, `a\`, `a\" of Role \"podtoken:x`, "a\nb", "\x00", "\u202e", s.text, s.another))
	}
	c.now.reason = oneOf(s, byGrant, byGrant, byHand, byHand, byAdmin, byCopy, unknown, "",
		"RBAC: allowed by "+kinds()+" "+quoted()+" of "+roles()+" "+quoted()+" to ServiceAccount "+quoted(),
		"RBAC: allowed by "+kinds()+" "+quoted()+" of "+roles()+" "+quoted()+" to User "+quoted(),
		"RBAC: allowed by "+s.text, `RBAC: allowed by RoleBinding "`+s.text, s.another+byGrant, s.text)
	return c
}

// guards are the two, compiled once.
type guards struct{ guard, strict *Policy }

func loadGuards(tb testing.TB) guards {
	tb.Helper()
	return guards{load(tb, guardFile), load(tb, strictFile)}
}

// compare evaluates both guards, and reports how they differ from the model. It returns the table's row.
func (g guards) compare(t testing.TB, c *tokenCase) verdict {
	t.Helper()
	want := modelOf(c.by, c.namespace, c.name, &c.spec, &c.now)
	check(t, "guard", c, want, c.evaluate(t.Context(), g.guard, at{c, t}))
	check(t, "strict guard", c, strictModelOf(c.by, c.namespace, c.name, &c.now), c.evaluate(t.Context(), g.strict, at{c, t}))
	return want
}

func check(t testing.TB, which string, c *tokenCase, want verdict, got validating.ValidateResult) {
	t.Helper()
	first, denied := "", false
	for _, decision := range got.Decisions {
		if decision.Evaluation == validating.EvalError {
			t.Errorf("%s: an error, where there must be none: %s\n%s", which, decision.Message, c)
		}
		if decision.Action != validating.ActionDeny {
			continue
		}
		if !denied {
			first, denied = decision.Message, true
		}
		if !strings.HasPrefix(decision.Message, "podtoken: ") && !unprintable(c) {
			t.Errorf("%s: a message that could not be made: %s\n%s", which, decision.Message, c)
		}
	}
	for _, annotation := range got.AuditAnnotations {
		if annotation.Action == validating.AuditAnnotationActionError {
			t.Errorf("%s: audit annotation %s: %s\n%s", which, annotation.Key, annotation.Error, c)
		}
	}
	if denied == want.allowed || denied && !strings.Contains(first, want.message) && !unprintable(c) {
		t.Errorf("%s: denied: %v with %q, want row %d, denied: %v with %q\n%s", which, denied, first, want.row, !want.allowed, want.message, c)
	}
}

// unprintable reports whether the credential's Pod has a name, which only who impersonates chooses, that is too long for a message: the API
// server replaces messages of more than 5 KiB.
func unprintable(c *tokenCase) bool {
	for _, values := range c.by.GetExtra() {
		if len(strings.Join(values, ",")) > 1024 {
			return true
		}
	}
	return false
}

// FuzzGuard: for any caller, request and rights, the guards decide as the table does, and none of their expressions fails.
func FuzzGuard(f *testing.F) {
	for seed := range uint64(64) {
		bytes, text, another := randomScript(seed)
		f.Add(bytes, text, another)
	}
	g := loadGuards(f)
	f.Fuzz(func(t *testing.T, bytes []byte, text, another string) {
		g.compare(t, decode(&script{bytes: bytes, text: text, another: another}))
	})
}

var hostileTexts = []string{
	"vault", "", "\n", `"`, `\`, `a" of Role "podtoken:x" to`, `podtoken:`, "\u202eabc", "\xff", "system:serviceaccount:web:shop", "system:node:x", "ü", "podtoken.dev/guard-probe",
	strings.Repeat("x", 512), strings.Repeat("ü", 6000), `RBAC: allowed by RoleBinding "podtoken:x"`, `ClusterRoleBinding "a\\" of ClusterRole "podtoken:x"`, "\x00", "*", ",",
}

func randomScript(seed uint64) ([]byte, string, string) {
	random := rand.New(rand.NewPCG(seed, 1))
	bytes := make([]byte, 128)
	for i := range bytes {
		bytes[i] = byte(random.Uint32())
	}
	return bytes, hostileTexts[random.IntN(len(hostileTexts))], hostileTexts[random.IntN(len(hostileTexts))]
}

// The same with random inputs, for every run of the tests. They must reach each row, and rows 4 and 5 with both answers.
func TestGuardAndModel(t *testing.T) {
	t.Parallel()
	g := loadGuards(t)
	seen := map[string]int{}
	for seed := range uint64(2000) {
		bytes, text, another := randomScript(seed)
		got := g.compare(t, decode(&script{bytes: bytes, text: text, another: another}))
		seen[fmt.Sprintf("row %d allowed %v", got.row, got.allowed)]++
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	for row := range 12 {
		allowed := []bool{row == 1 || row == 3 || row == 6 || row == 9 || row == 11}
		if row == 4 || row == 5 {
			allowed = []bool{true, false}
		}
		for _, allowed := range allowed {
			if what := fmt.Sprintf("row %d allowed %v", row, allowed); seen[what] < 5 {
				t.Errorf("%s: %d random inputs reach it: %v", what, seen[what], seen)
			}
		}
	}
}

// Limits that random inputs seldom hit: lifetimes and numbers of audiences on both sides of them, for the holder of a grant.
func TestGuardAndModelAtLimits(t *testing.T) {
	t.Parallel()
	g := loadGuards(t)
	answers := map[bool]int{}
	for _, seconds := range []int64{599, 600, 3599, 3600, 3601, 3607, 1 << 32} {
		for n := range 10 {
			for _, audience := range []string{"vault", "api", "other"} {
				for _, first := range []string{"vault", "api"} {
					audiences := slices.Repeat([]string{audience}, n)
					if n > 0 {
						audiences[0] = first
					}
					c := forShop(caller(shop), tokenRequest(true, seconds, audiences...), full.rights)
					if c.spec.Audiences == nil {
						c.spec.Audiences = []string{}
					}
					answers[g.compare(t, c).allowed]++
				}
			}
		}
	}
	if answers[true] < 20 || answers[false] < 20 {
		t.Errorf("allowed and denied: %v", answers)
	}
}
