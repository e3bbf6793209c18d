package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/coreos/go-oidc/v3/oidc"
	"k8s.io/client-go/rest"
)

// keysPath is where the API server has the keys, whatever the issuer's URL.
const keysPath = "/openid/v1/jwks"

// issuer knows the cluster's tokens as a service outside does: by the name and the keys that the cluster publishes.
type issuer struct {
	apiServer string
	client    *http.Client

	name       string
	keys       oidc.KeySet
	algorithms []string
}

// discover reads the cluster's discovery document. A service outside would find it below the issuer's URL, which leads nowhere here:
// the API server has the same under its own address.
func discover(ctx context.Context) (*issuer, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	i := &issuer{apiServer: config.Host, client: client}
	var document struct {
		Issuer     string   `json:"issuer"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := i.get(ctx, "/.well-known/openid-configuration", &document); err != nil {
		return nil, err
	}
	i.name, i.algorithms = document.Issuer, document.Algorithms
	i.keys = oidc.NewRemoteKeySet(oidc.ClientContext(ctx, client), config.Host+keysPath)
	return i, nil
}

// get reads a document of the API server.
func (i *issuer) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, i.apiServer+path, nil)
	if err != nil {
		return err
	}
	response, err := i.client.Do(request)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("reading %s: HTTP %d", path, response.StatusCode)
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// verify checks signature, issuer, audience, expiry and subject, and returns the token's ID.
func (i *issuer) verify(ctx context.Context, token, audience, subject string) (string, error) {
	verifier := oidc.NewVerifier(i.name, i.keys, &oidc.Config{ClientID: audience, SupportedSigningAlgs: i.algorithms})
	verified, err := verifier.Verify(ctx, token)
	if err != nil {
		return "", err
	}
	if verified.Subject != subject {
		return "", fmt.Errorf("the subject is %q, but %q is trusted", verified.Subject, subject)
	}
	var claims struct {
		ID string `json:"jti"`
	}
	if err := verified.Claims(&claims); err != nil {
		return "", err
	}
	if claims.ID == "" {
		return "", fmt.Errorf("the token has no ID")
	}
	return claims.ID, nil
}
