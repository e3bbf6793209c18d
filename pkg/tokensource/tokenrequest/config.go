package tokenrequest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podtoken/podtoken/pkg/api"
)

// DefaultExpiration is the lifetime to ask for if Config has none.
const DefaultExpiration = time.Hour

// maxExpiration is what the API server accepts at most.
const maxExpiration = api.MaxExpirationSeconds * time.Second

// Config says which tokens to ask for.
type Config struct {
	// Namespace and ServiceAccount are whose tokens these are.
	Namespace, ServiceAccount string
	// Audiences of each token, at least one, no duplicates.
	Audiences []string
	// Expiration is the lifetime to ask for, DefaultExpiration by default: 10 minutes or more, in whole seconds. The API server
	// may grant another one, which counts.
	Expiration time.Duration
	// Pod binds the tokens to a pod of the ServiceAccount: they end with it. Optional.
	Pod *Pod
}

// Pod is a pod of the namespace. Without its UID a token could be bound to another pod of the same name.
type Pod struct {
	Name string
	UID  types.UID
}

// validate checks what the API server would refuse anyway, or worse, would not.
func (c *Config) validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Namespace == "" {
		add("Namespace is empty: name the namespace of the ServiceAccount")
	}
	if c.ServiceAccount == "" {
		add("ServiceAccount is empty: name the ServiceAccount whose tokens to ask for")
	}
	if len(c.Audiences) == 0 {
		add("Audiences is empty: name who is to accept the token; without any, it would be the API server")
	}
	for i, audience := range c.Audiences {
		if audience == "" {
			add("Audiences[%d] is empty: remove it", i)
		} else if slices.Contains(c.Audiences[:i], audience) {
			add("Audiences[%d]: %q is there already: remove one", i, audience)
		}
	}
	switch e := c.Expiration; {
	case e < api.MinExpirationSeconds*time.Second || e > maxExpiration || e%time.Second != 0:
		add("Expiration: %v is not allowed, use whole seconds, at least %v", e, api.MinExpirationSeconds*time.Second)
	case e == api.ForbiddenExpirationSeconds*time.Second:
		add("Expiration: %v is not allowed, the API server can make a token of one year of it: use 1h", e)
	}
	if c.Pod != nil && (c.Pod.Name == "" || c.Pod.UID == "") {
		add("Pod has the name %q and the uid %q: both are needed", c.Pod.Name, c.Pod.UID)
	}
	return errors.Join(problems...)
}

// request is what is sent to the API server.
func (c *Config) request() *authenticationv1.TokenRequest {
	seconds := int64(c.Expiration / time.Second)
	request := &authenticationv1.TokenRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.ServiceAccount},
		Spec:       authenticationv1.TokenRequestSpec{Audiences: c.Audiences, ExpirationSeconds: &seconds},
	}
	if c.Pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: c.Pod.Name, UID: c.Pod.UID,
		}
	}
	return request
}
