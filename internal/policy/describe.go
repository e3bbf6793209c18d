package policy

import "slices"

// Rule is a rule of the policy, for people to look at.
type Rule struct {
	// Label is the rule in messages: `rule "payments"`, `rule 2`.
	Label           string   `json:"rule"`
	Namespaces      []string `json:"namespaces"`
	ServiceAccounts []string `json:"serviceAccounts"`
	Audiences       []string `json:"audiences"`
}

// List returns the rules in their order.
func (p *Policy) List() []Rule {
	rules := make([]Rule, 0, len(p.rules))
	for i := range p.rules {
		r := &p.rules[i]
		rules = append(rules, Rule{r.label, r.namespaces.texts(), r.serviceAccounts.texts(), r.audiences.texts()})
	}
	return rules
}

func (gs globs) texts() []string {
	texts := make([]string, 0, len(gs))
	for _, glob := range gs {
		texts = append(texts, glob.text)
	}
	return texts
}

// AllowedBy is the label of the first rule that allows an audience; empty if none does. Limits and excluded namespaces are
// Check's to look at.
func (p *Policy) AllowedBy(namespace, serviceAccount, audience string, apiServerAudiences []string) string {
	literally := len(apiServerAudiences) == 0 || slices.Contains(apiServerAudiences, audience)
	for i := range p.rules {
		r := &p.rules[i]
		if r.namespaces.match(namespace) && r.serviceAccounts.match(serviceAccount) && allowed([]*rule{r}, audience, literally) {
			return r.label
		}
	}
	return ""
}

// Names tells whether a rule names the audience literally: then it is meant, also if it is the API server's.
func (p *Policy) Names(audience string) string {
	for i := range p.rules {
		if p.rules[i].audiences.name(audience) {
			return p.rules[i].label
		}
	}
	return ""
}

// Excluded returns the namespaces without any tokens, sorted.
func (p *Policy) Excluded() []string {
	names := make([]string, 0, len(p.excluded))
	for name := range p.excluded {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
