package policy

import (
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
)

func TestWeight(t *testing.T) {
	for size, want := range map[int]int{0: 1, 1: 1, 256: 1, 257: 2, 512: 2} {
		if got := Weight(strings.Repeat("a", size)); got != want {
			t.Errorf("an audience of %d bytes counts %d times, want %d", size, got, want)
		}
	}
}

func TestSum(t *testing.T) {
	audiences, lifetimes := Sum([]api.TokenSpec{
		{Audiences: []string{"a", "b"}, ExpirationSeconds: 600},
		{Audiences: []string{"b", strings.Repeat("c", 257)}, ExpirationSeconds: 600},
		{Audiences: []string{"a"}, ExpirationSeconds: 601},
	})
	if audiences != 4 || lifetimes != 2 {
		t.Errorf("Sum() = %d, %d, want 4, 2", audiences, lifetimes)
	}
}

func TestExplain(t *testing.T) {
	p := mustParse(t, header)
	r := Request{Namespace: "shop", ServiceAccount: "cart", Tokens: []api.TokenSpec{{Audiences: []string{"a", "b"}, ExpirationSeconds: 600}}}
	const begin = `ServiceAccount "cart" in namespace "shop": `
	for limit, want := range map[Exceeded]string{
		AudiencesOfServiceAccount: begin + "its audiences (2; one of more than 256 bytes counts as two) and those of older pods are more than the 256 different ones " +
			"that all pods of a ServiceAccount may have together: use fewer, delete pods that need theirs no more, or ask an administrator " +
			"(maxAudiencesPerServiceAccount of the policy; tokens.maxAudiencesPerServiceAccount in the Helm chart's values)",
		LifetimesOfServiceAccount: begin + "its lifetimes (1) and those of older pods are more than the 256 different ones " +
			"that all pods of a ServiceAccount may have together: use fewer, delete pods that need theirs no more, or ask an administrator " +
			"(maxAudiencesPerServiceAccount of the policy; tokens.maxAudiencesPerServiceAccount in the Helm chart's values)",
		AudiencesOfNamespace: begin + "its audiences (2; one of more than 256 bytes counts as two) and those of older pods are more than the 4096 different ones " +
			"that all pods of a namespace may have together: use fewer, delete pods that need theirs no more, or ask an administrator " +
			"(maxAudiencesPerNamespace of the policy; tokens.maxAudiencesPerNamespace in the Helm chart's values)",
	} {
		if got := p.Explain(limit, r); got.Reason != api.ReasonLimitExceeded || got.Message != want {
			t.Errorf("Explain(%d) = %s %q, want %q", limit, got.Reason, got.Message, want)
		}
	}
}
