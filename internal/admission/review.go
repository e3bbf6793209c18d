package admission

import (
	"github.com/podtoken/podtoken/pkg/jsonread"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// The only version of AdmissionReview that is understood and sent.
const (
	reviewAPIVersion = "admission.k8s.io/v1"
	reviewKind       = "AdmissionReview"
)

// review is an AdmissionReview request with the fields that are needed, and no others.
type review struct {
	APIVersion string
	Kind       string
	Request    request
}

type request struct {
	UID         string
	Kind        groupVersionKind
	Resource    groupResource
	SubResource string
	// Name is empty when the API server is going to generate it.
	Name      string
	Namespace string
	Operation string
	DryRun    bool
	Object    *mutate.Pod
}

type groupVersionKind struct{ Group, Version, Kind string }

type groupResource struct{ Group, Version, Resource string }

// isPod tells whether the request is about a pod itself, in the version that mutate.Pod has the shape of. The API server
// converts to the version in the webhook's rules, so anything else comes from a configuration that was edited.
func (r *request) isPod() bool {
	return r.Resource == groupResource{Version: "v1", Resource: "pods"} &&
		r.Kind == groupVersionKind{Version: "v1", Kind: "Pod"} &&
		r.SubResource == ""
}

// readReview reads a review. Its strings are parts of the reader's document.
func readReview(r *jsonread.Reader) (in review) {
	r.Object(func(name string) {
		switch name {
		case "apiVersion":
			in.APIVersion = r.String()
		case "kind":
			in.Kind = r.String()
		case "request":
			in.Request = readRequest(r)
		default:
			r.Skip()
		}
	})
	return in
}

func readRequest(r *jsonread.Reader) (in request) {
	r.Object(func(name string) {
		switch name {
		case "uid":
			in.UID = r.String()
		case "kind":
			in.Kind.Group, in.Kind.Version, in.Kind.Kind = readNames(r, "kind")
		case "resource":
			in.Resource.Group, in.Resource.Version, in.Resource.Resource = readNames(r, "resource")
		case "subResource":
			in.SubResource = r.String()
		case "name":
			in.Name = r.String()
		case "namespace":
			in.Namespace = r.String()
		case "operation":
			in.Operation = r.String()
		case "dryRun":
			in.DryRun = r.Bool()
		case "object":
			in.Object = mutate.ReadPod(r)
		default:
			r.Skip()
		}
	})
	return in
}

// readNames reads a GroupVersionKind or a GroupVersionResource.
func readNames(r *jsonread.Reader, thirdField string) (group, version, third string) {
	r.Object(func(name string) {
		switch name {
		case "group":
			group = r.String()
		case "version":
			version = r.String()
		case thirdField:
			third = r.String()
		default:
			r.Skip()
		}
	})
	return group, version, third
}
