package tokenrequest

import "time"

// The part of authentication.k8s.io/v1 TokenRequest and meta/v1 Status that is used. A test holds these against
// k8s.io/api; linking that would add two million bytes to every pod's sidecar.

const (
	apiVersion = "authentication.k8s.io/v1"
	kind       = "TokenRequest"
)

type tokenRequest struct {
	APIVersion string             `json:"apiVersion"`
	Kind       string             `json:"kind"`
	Spec       tokenRequestSpec   `json:"spec"`
	Status     tokenRequestStatus `json:"status,omitzero"`
}

type tokenRequestSpec struct {
	Audiences         []string              `json:"audiences"`
	ExpirationSeconds int64                 `json:"expirationSeconds"`
	BoundObjectRef    *boundObjectReference `json:"boundObjectRef,omitempty"`
}

type boundObjectReference struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
}

type tokenRequestStatus struct {
	Token               string    `json:"token"`
	ExpirationTimestamp time.Time `json:"expirationTimestamp"`
}

type status struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Reason  string `json:"reason"`
	Details struct {
		RetryAfterSeconds int     `json:"retryAfterSeconds"`
		Causes            []cause `json:"causes"`
	} `json:"details"`
}

type cause struct {
	Reason string `json:"reason"`
}

// causeNamespaceTerminating is k8s.io/api/core/v1 NamespaceTerminatingCause.
const causeNamespaceTerminating = "NamespaceTerminating"
