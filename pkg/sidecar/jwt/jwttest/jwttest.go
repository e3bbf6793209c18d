// Package jwttest makes tokens for tests: shaped like those of kube-apiserver, signed with nothing.
package jwttest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

// Encode makes a token with the claims. Two tokens of the same claims differ in their signature.
func Encode(c jwt.Claims) string {
	k8s := map[string]any{
		"namespace":      c.Namespace,
		"serviceaccount": map[string]any{"name": c.ServiceAccountName, "uid": c.ServiceAccountUID},
	}
	if c.PodName != "" {
		k8s["pod"] = map[string]any{"name": c.PodName, "uid": c.PodUID}
	}
	if !c.WarnAfter.IsZero() {
		k8s["warnafter"] = c.WarnAfter.Unix()
	}
	signature := make([]byte, 256)
	_, _ = rand.Read(signature) // never fails
	return EncodeJSON(map[string]any{"alg": "RS256", "kid": c.KeyID}, map[string]any{
		"iss":           "https://kubernetes.default.svc.cluster.local",
		"sub":           "system:serviceaccount:" + c.Namespace + ":" + c.ServiceAccountName,
		"aud":           c.Audiences,
		"jti":           c.ID,
		"iat":           c.IssuedAt.Unix(),
		"nbf":           c.IssuedAt.Unix(),
		"exp":           c.Expires.Unix(),
		"kubernetes.io": k8s,
	}, signature)
}

// EncodeJSON makes a token of any content.
func EncodeJSON(header, payload any, signature []byte) string {
	return segment(header) + "." + segment(payload) + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func segment(content any) string {
	encoded, err := json.Marshal(content)
	if err != nil {
		panic(err) // a mistake in a test
	}
	return base64.RawURLEncoding.EncodeToString(encoded)
}
