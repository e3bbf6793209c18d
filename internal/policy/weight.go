package policy

import (
	"fmt"

	"github.com/podtoken/podtoken/pkg/api"
)

// weightBytes is the length up to which an audience counts once.
const weightBytes = 256

// Weight is how much an audience counts among those of a ServiceAccount and of a namespace: once, or twice when it has more
// than 256 bytes. So the limits of their number are limits of their bytes too.
func Weight(audience string) int {
	return 1 + (max(len(audience), 1)-1)/weightBytes
}

// MaxPerServiceAccount is the most that the audiences of a ServiceAccount's grant may weigh, and the most lifetimes in it.
func (p *Policy) MaxPerServiceAccount() int { return p.maxPerAccount }

// MaxPerNamespace is the most that the audiences of all grants in a namespace may weigh.
func (p *Policy) MaxPerNamespace() int { return p.maxPerNamespace }

// Exceeded is a limit of what is granted together.
type Exceeded int

const (
	// AudiencesOfServiceAccount and LifetimesOfServiceAccount are what MaxPerServiceAccount limits.
	AudiencesOfServiceAccount Exceeded = iota + 1
	LifetimesOfServiceAccount
	// AudiencesOfNamespace is what MaxPerNamespace limits.
	AudiencesOfNamespace
)

// Explain tells that a pod with so many different audiences and lifetimes is granted nothing, because older pods have what
// the limit allows. The text depends on the pod and the policy only: it does not change whenever another pod does.
func (p *Policy) Explain(limit Exceeded, r Request) *Refusal {
	audiences, lifetimes := Sum(r.Tokens)
	how := fmt.Sprintf("its audiences (%d; one of more than %d bytes counts as two)", audiences, weightBytes)
	whose, field, most := "all pods of a ServiceAccount", "maxAudiencesPerServiceAccount", p.maxPerAccount
	switch limit {
	case LifetimesOfServiceAccount:
		how = fmt.Sprintf("its lifetimes (%d)", lifetimes)
	case AudiencesOfNamespace:
		whose, field, most = "all pods of a namespace", "maxAudiencesPerNamespace", p.maxPerNamespace
	case AudiencesOfServiceAccount:
	}
	return r.refuse(api.ReasonLimitExceeded, []string{fmt.Sprintf("%s and those of older pods are more than the %d different ones that "+
		"%s may have together: use fewer, delete pods that need theirs no more, or ask an administrator "+
		"(%s of the policy; tokens.%s in the Helm chart's values)", how, most, whose, field, field)})
}

// Sum returns what the different audiences of the tokens weigh, and how many different lifetimes there are.
func Sum(tokens []api.TokenSpec) (audiences, lifetimes int) {
	names, seconds := map[string]bool{}, map[int64]bool{}
	for i := range tokens {
		seconds[tokens[i].ExpirationSeconds] = true
		for _, audience := range tokens[i].Audiences {
			if !names[audience] {
				names[audience] = true
				audiences += Weight(audience)
			}
		}
	}
	return audiences, len(seconds)
}
