// Package decide runs the webhook's code on a pod that is at hand: what it would answer, and the pod as it would be then. It
// is the only package of the plugin that knows pkg/mutate.
package decide

import (
	"cmp"
	"encoding/json"
	"fmt"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// Rules are those of an installation.
type Rules struct {
	Config *mutate.Config
	// Policy is not asked when it is nil.
	Policy *policy.Policy
	// APIServerAudiences are the audiences that the API server accepts; empty if they are not known.
	APIServerAudiences []string
	// Version of the webhook, for the pod's status annotation.
	Version string
}

// Default is the configuration of a new installation that runs the sidecar's image.
func Default(image string) (*mutate.Config, error) {
	return mutate.ParseConfig(fmt.Appendf(nil, "apiVersion: %s\nkind: %s\nsidecar:\n  image: %q\n", mutate.ConfigAPIVersion, mutate.ConfigKind, image))
}

// Decision is the webhook's answer.
type Decision struct {
	Outcome  api.Outcome
	Reason   api.Reason
	Message  string
	Warnings []string
	Tokens   []api.TokenSpec
	// Pod is the pod after the patch; set unless it is denied or cannot be understood.
	Pod []byte
}

// Allowed tells whether the webhook admits the pod.
func (d *Decision) Allowed() bool {
	return d.Outcome != api.OutcomeDenied && d.Outcome != api.OutcomeError
}

// Pod decides about the creation of a pod, given in JSON, as internal/admission does.
func (r Rules) Pod(pod []byte, namespace string) (Decision, error) {
	var decoded mutate.Pod
	if err := json.Unmarshal(pod, &decoded); err != nil {
		return Decision{}, fmt.Errorf("this is not a pod: %w", err)
	}
	result := mutate.Mutate(mutate.Input{
		Pod: &decoded, Namespace: namespace, Operation: "CREATE",
		Config: r.Config, APIServerAudiences: r.APIServerAudiences, Version: r.Version,
	})
	decision := Decision{Outcome: result.Outcome, Reason: result.Reason, Message: result.Message, Warnings: result.Warnings, Tokens: result.Tokens}
	asks := result.Outcome == api.OutcomeInjected || result.Outcome == api.OutcomeUnchanged
	if asks && r.Policy != nil {
		refusal := r.Policy.Check(policy.Request{
			Namespace: namespace, ServiceAccount: cmp.Or(decoded.Spec.ServiceAccountName, "default"),
			Tokens: result.Tokens, APIServerAudiences: r.APIServerAudiences,
		})
		if refusal != nil {
			decision = Decision{Outcome: api.OutcomeDenied, Reason: refusal.Reason, Message: "podtoken: " + refusal.Message, Tokens: result.Tokens}
		}
	}
	if !decision.Allowed() {
		return decision, nil
	}
	patched, err := apply(pod, result)
	if err != nil {
		return Decision{}, err
	}
	decision.Pod = patched
	return decision, nil
}

// apply is the pod with the patch of a result.
func apply(pod []byte, result mutate.Result) ([]byte, error) {
	if len(result.Patch) == 0 {
		return pod, nil
	}
	patch, err := jsonpatch.DecodePatch(result.Patch)
	if err != nil {
		return nil, err
	}
	return patch.Apply(pod)
}
