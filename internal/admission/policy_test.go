package admission

import (
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// A pod that has everything is judged as well: somebody may have written the sidecar by hand.
func TestPolicyJudgesUnchangedPods(t *testing.T) {
	h := newHarness(t)
	h.mutate = func(mutate.Input) mutate.Result {
		return mutate.Result{
			Outcome: api.OutcomeUnchanged, Reason: api.ReasonAlreadyInjected, Warnings: []string{"a warning"},
			Tokens: []api.TokenSpec{{Name: "a", Audiences: []string{"other"}, ExpirationSeconds: 3600}},
		}
	}
	answer := decodeAnswer(t, h.serve(newRequest(reviewOf(asksForVault))).Body.Bytes()).Response
	if answer.Allowed || answer.Result == nil || answer.Result.Reason != "NotAllowed" || len(answer.Warnings) > 0 || answer.AuditAnnotations["tokens"] != "" {
		t.Errorf("answer = %+v, want a denial and nothing else", answer)
	}
}

// The audiences of the API server reach the decision about the annotations, which warns of those that are mixed.
func TestMixedAudiencesGetAWarning(t *testing.T) {
	h := newHarness(t)
	answer := decodeAnswer(t, h.serve(newRequest(reviewOf(`"podtoken.dev/audience.a": "vault, https://kubernetes.default.svc"`,
		`"namespace": "shop"`, `"namespace": "roles"`))).Body.Bytes()).Response
	if !answer.Allowed || len(answer.Warnings) != 1 || !strings.Contains(answer.Warnings[0], "mixes the API server's audience") {
		t.Errorf("answer = %+v, want a warning", answer)
	}
}
