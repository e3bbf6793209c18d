package admission

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/podtoken/podtoken/pkg/mutate"
)

// The only version of AdmissionReview that is understood and sent.
const (
	reviewAPIVersion = "admission.k8s.io/v1"
	reviewKind       = "AdmissionReview"
)

// review is an AdmissionReview request with the fields that are needed, and no others.
type review struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Request    request `json:"request"`
}

type request struct {
	UID         string           `json:"uid"`
	Kind        groupVersionKind `json:"kind"`
	Resource    groupResource    `json:"resource"`
	SubResource string           `json:"subResource"`
	// Name is empty when the API server is going to generate it.
	Name      string      `json:"name"`
	Namespace string      `json:"namespace"`
	Operation string      `json:"operation"`
	DryRun    bool        `json:"dryRun"`
	Object    *mutate.Pod `json:"object"`
}

type groupVersionKind struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

type groupResource struct {
	Group    string `json:"group"`
	Version  string `json:"version"`
	Resource string `json:"resource"`
}

// isPod tells whether the request is about a pod itself, in the version that mutate.Pod has the shape of. The API server
// converts to the version in the webhook's rules, so anything else comes from a configuration that was edited.
func (r *request) isPod() bool {
	return r.Resource == groupResource{Version: "v1", Resource: "pods"} &&
		r.Kind == groupVersionKind{Version: "v1", Kind: "Pod"} &&
		r.SubResource == ""
}

// describeJSON tells what is wrong with a body, and where, without repeating any of it: pods hold secrets.
func describeJSON(err error) string {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("invalid JSON at byte %d", syntax.Offset)
	}
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("field %q has a value that is not a %s", mismatch.Field, mismatch.Type)
	}
	return "a value that cannot be decoded"
}

// reviewAnswer is an AdmissionReview response.
type reviewAnswer struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Response   response `json:"response"`
}

type response struct {
	UID       string  `json:"uid"`
	Allowed   bool    `json:"allowed"`
	Status    *status `json:"status,omitempty"`
	Patch     []byte  `json:"patch,omitempty"`
	PatchType string  `json:"patchType,omitempty"`
	// AuditAnnotations end up in the API server's audit log, with the webhook's name in front.
	AuditAnnotations auditAnnotations `json:"auditAnnotations"`
	Warnings         []string         `json:"warnings,omitempty"`
}

// status of a denial. The API server puts `admission webhook "..." denied the request: ` in front of Message.
type status struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

type auditAnnotations struct {
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	// Tokens are the names of the pod's tokens, with commas between.
	Tokens string `json:"tokens,omitempty"`
}
