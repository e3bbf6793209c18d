package policy

import (
	"fmt"
	"slices"

	"github.com/podtoken/podtoken/pkg/api"
)

// Policy is what an installation allows. It comes out of Parse.
type Policy struct {
	rules      []rule
	rbac       globs
	excluded   map[string]bool
	maxSeconds int64
	maxPerPod  int

	maxPerAccount, maxPerNamespace int
}

// rule allows the audiences to the ServiceAccounts in the namespaces.
type rule struct {
	// label is the rule in a message: `rule "payments"`, `rule 2`.
	label                                  string
	namespaces, serviceAccounts, audiences globs
}

// Request is one pod: the tokens that it asks for, and for whom.
type Request struct {
	Namespace, ServiceAccount string
	Tokens                    []api.TokenSpec
	// APIServerAudiences are the audiences that the API server itself accepts. While they are not known (empty), any
	// audience could be one of them, and is treated so.
	APIServerAudiences []string
}

// Rules is the number of rules, to recognise a policy by.
func (p *Policy) Rules() int { return len(p.rules) }

// RBAC reports whether Roles of administrators decide about audiences in the namespace, instead of the policy's rules.
func (p *Policy) RBAC(namespace string) bool { return p.rbac.match(namespace) }

// Check tells why the policy does not allow the pod's tokens; nil when it allows all of them.
//
//	condition                                                    reason
//	the namespace is excluded                                    NotAllowed
//	more tokens than maxPerPod                                   LimitExceeded
//	no matching rule has an audience (not asked in mode rbac)    NotAllowed
//	an audience of the API server that no matching rule has
//	literally, that is, by a pattern without '*' (the same)      NotAllowed
//	a lifetime or audience that no token may have                LimitExceeded
//
// The first two come alone; the others are reported together, with the reason of the first.
func (p *Policy) Check(r Request) *Refusal {
	if p.excluded[r.Namespace] {
		return r.refuse(api.ReasonNotAllowed, []string{"there are no tokens in this namespace, which the policy excludes: use another one, " +
			"or ask an administrator (excludeNamespaces of the policy; webhook.excludeNamespaces in the Helm chart's values)"})
	}
	if n := len(r.Tokens); n > p.maxPerPod {
		return r.refuse(api.ReasonLimitExceeded, []string{fmt.Sprintf("the pod has %d tokens, and at most %d are allowed: use fewer, "+
			"or ask an administrator (maxPerPod of the policy; tokens.maxPerPod in the Helm chart's values)", n, p.maxPerPod)})
	}
	reason := api.ReasonLimitExceeded
	var found []string
	if !p.RBAC(r.Namespace) {
		if text := p.notAllowed(r); text != "" {
			reason, found = api.ReasonNotAllowed, []string{text}
		}
	}
	for i := range r.Tokens {
		found = append(found, p.exceeded(&r.Tokens[i])...)
	}
	if len(found) == 0 {
		return nil
	}
	return r.refuse(reason, found)
}

// refused is an audience that no rule allows.
type refused struct {
	audience, token string
	// api is set for an audience of the API server.
	api bool
}

// notAllowed looks for audiences that no rule allows; empty when there is none.
func (p *Policy) notAllowed(r Request) string {
	matching := make([]*rule, 0, 8)
	for i := range p.rules {
		if rule := &p.rules[i]; rule.namespaces.match(r.Namespace) && rule.serviceAccounts.match(r.ServiceAccount) {
			matching = append(matching, rule)
		}
	}
	var found []refused
	for i := range r.Tokens {
		token := &r.Tokens[i]
		if len(token.Audiences) > api.MaxAudiences {
			continue // exceeded has it, and a million of them need not be listed
		}
		for _, audience := range token.Audiences {
			isAPI := len(r.APIServerAudiences) == 0 || slices.Contains(r.APIServerAudiences, audience)
			if audienceProblem(audience) == "" && !allowed(matching, audience, isAPI) {
				found = append(found, refused{audience, token.Name, isAPI})
			}
		}
	}
	if len(found) == 0 {
		return ""
	}
	return explain(found, matching, len(r.APIServerAudiences) > 0)
}

func allowed(matching []*rule, audience string, literally bool) bool {
	for _, rule := range matching {
		if literally && rule.audiences.name(audience) || !literally && rule.audiences.match(audience) {
			return true
		}
	}
	return false
}

// exceeded tells what of a token is outside of the limits.
func (p *Policy) exceeded(t *api.TokenSpec) (found []string) {
	add := func(format string, args ...any) {
		found = append(found, fmt.Sprintf("the token %s %s", quote(t.Name), fmt.Sprintf(format, args...)))
	}
	switch seconds := t.ExpirationSeconds; {
	case seconds < api.MinExpirationSeconds:
		add("has a lifetime of %d s, and it must be at least %d s", seconds, api.MinExpirationSeconds)
	case seconds > p.maxSeconds:
		add("has a lifetime of %d s, and at most %d s (%s) are allowed: use less, or ask an administrator "+
			"(maxExpiration of the policy; tokens.maxExpiration in the Helm chart's values)", seconds, p.maxSeconds, shortDuration(p.maxSeconds))
	case seconds == api.ForbiddenExpirationSeconds:
		add("has a lifetime of exactly %d s, out of which kube-apiserver makes a token of one year: use 1h", seconds)
	}
	if n := len(t.Audiences); n < 1 || n > api.MaxAudiences {
		add("has %d audiences, and it must have 1 to %d", n, api.MaxAudiences)
		return found
	}
	for _, audience := range t.Audiences {
		if text := audienceProblem(audience); text != "" {
			add("has the audience %s, which %s", quote(audience), text)
		}
	}
	return found
}
