package mutate

import "github.com/podtoken/podtoken/pkg/api"

// Input is one admission request for a pod.
type Input struct {
	// Pod is the object of the request.
	Pod *Pod
	// Namespace of the request; the object's own may be empty (kubernetes/kubernetes#88282). No decision depends on it:
	// it is here for policies by namespace, which must not trust the object.
	Namespace string
	// Operation of the request, as the API server spells it: "CREATE", "UPDATE", ...
	Operation string
	// Config of the installation; it is read, never changed.
	Config *Config
	// APIServerAudiences are the audiences that the API server itself accepts. Mixing one with others in a token gets a
	// warning, because each of those others could then call the API server with it. Read, never changed.
	APIServerAudiences []string
	// Version of the webhook, for the status annotation.
	Version string
}

// Result is the answer to an Input.
type Result struct {
	Outcome api.Outcome
	Reason  api.Reason
	// Message explains the outcome to the pod's author: the whole text of a denial, a short sentence otherwise.
	Message string
	// Warnings are for the pod's author, one sentence each, without duplicates. Denials have none.
	Warnings []string
	// Patch is the JSON Patch (RFC 6902); empty unless the outcome is Injected.
	Patch []byte
	// Tokens of the pod, sorted by name; set when the outcome is Injected or Unchanged.
	Tokens []api.TokenSpec
}
