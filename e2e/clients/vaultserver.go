package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"

	"github.com/go-jose/go-jose/v4"
	jwtauth "github.com/hashicorp/vault-plugin-auth-jwt"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	vaultAudience = "vault"
	vaultRole     = "billing"
)

// vaultMethod is Vault's own auth method jwt, the plugin that its server is built with. The rest of that server is not here: it takes
// too long to build.
type vaultMethod struct {
	backend logical.Backend
	storage logical.Storage
}

// newVaultMethod sets the method up as an administrator does: developer.hashicorp.com/vault/docs/auth/jwt#configuration.
func newVaultMethod(ctx context.Context, issuer *issuer, subject string) (*vaultMethod, error) {
	keys, err := issuer.publicKeys(ctx)
	if err != nil {
		return nil, err
	}
	storage := &logical.InmemStorage{}
	backend, err := jwtauth.Factory(ctx, &logical.BackendConfig{StorageView: storage, System: &logical.StaticSystemView{}})
	if err != nil {
		return nil, err
	}
	method := &vaultMethod{backend, storage}
	_, err = method.do(ctx, logical.UpdateOperation, "config", map[string]any{"jwt_validation_pubkeys": keys, "bound_issuer": issuer.name})
	if err != nil {
		return nil, fmt.Errorf("configuring Vault's auth method: %w", err)
	}
	_, err = method.do(ctx, logical.CreateOperation, "role/"+vaultRole, map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{vaultAudience}, "bound_subject": subject,
		"claim_mappings": map[string]any{"jti": "jti"}, "token_ttl": lifetime.String(),
	})
	if err != nil {
		return nil, fmt.Errorf("making a role of Vault's auth method: %w", err)
	}
	return method, nil
}

// do is what Vault does with a request for the method's path.
func (m *vaultMethod) do(ctx context.Context, operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	response, err := m.backend.HandleRequest(ctx, &logical.Request{Operation: operation, Path: path, Data: data, Storage: m.storage})
	if err == nil && response.IsError() {
		err = response.Error()
	}
	return response, err
}

// publicKeys are the keys that the cluster publishes, in PEM. Vault cannot fetch them from an API server that asks who it is.
func (i *issuer) publicKeys(ctx context.Context) ([]string, error) {
	var set jose.JSONWebKeySet
	if err := i.get(ctx, keysPath, &set); err != nil {
		return nil, err
	}
	var keys []string
	for _, key := range set.Keys {
		text, err := x509.MarshalPKIXPublicKey(key.Key)
		if err != nil {
			return nil, err
		}
		keys = append(keys, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: text})))
	}
	return keys, nil
}

// vault is what a client needs to log in and to ask who it is: developer.hashicorp.com/vault/api-docs/auth/jwt#jwt-login.
func (s *server) vault(mux *http.ServeMux, method *vaultMethod) {
	refuse := func(w http.ResponseWriter, status int, message string) {
		answer(w, status, map[string][]string{"errors": {message}})
	}
	mux.HandleFunc("/v1/auth/jwt/login", func(w http.ResponseWriter, r *http.Request) {
		var login map[string]any
		if err := json.NewDecoder(r.Body).Decode(&login); err != nil {
			refuse(w, http.StatusBadRequest, "failed to parse JSON input: "+err.Error())
			return
		}
		response, err := method.do(r.Context(), logical.UpdateOperation, "login", login)
		if err == nil && (response == nil || response.Auth == nil || response.Auth.Metadata["jti"] == "") {
			err = errors.New("the method gave nothing")
		}
		if err != nil {
			s.log(r, "", err)
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		id := response.Auth.Metadata["jti"]
		s.log(r, id, nil)
		answer(w, http.StatusOK, map[string]any{"auth": map[string]any{
			"client_token": s.give(id), "lease_duration": int(response.Auth.TTL.Seconds()), "renewable": false,
			"policies": []string{"default"}, "metadata": response.Auth.Metadata,
		}})
	})
	mux.HandleFunc("GET /v1/auth/token/lookup-self", func(w http.ResponseWriter, r *http.Request) {
		id, ok := s.whose(r.Header.Get("X-Vault-Token"))
		if !ok {
			refuse(w, http.StatusForbidden, "permission denied")
			return
		}
		answer(w, http.StatusOK, map[string]any{"data": map[string]any{"meta": map[string]string{"jti": id}}})
	})
}
