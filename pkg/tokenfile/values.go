package tokenfile

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// Values are what a template is executed with.
type Values struct {
	Token     string
	Audiences []string
	Expiry    time.Time
	Pod       Pod
	Cluster   Cluster
}

// Pod is the one that the token is bound to.
type Pod struct {
	Name, Namespace, UID, ServiceAccount string
}

// Cluster is the pod's own: the address of its API server, and the PEM of the authorities that sign for it.
type Cluster struct {
	Server, CA string
}

// root is the dot of a template. Values in it are nil, bool, int64, string, time.Time, []any and map[string]any.
func (v Values) root() (map[string]any, error) {
	claims, err := claimsOf(v.Token)
	if err != nil {
		return nil, err
	}
	// One audience may be a text instead of a list (RFC 7519), and templates should not have to care.
	if one, ok := claims["aud"].(string); ok {
		claims["aud"] = []any{one}
	}
	return map[string]any{
		"token":     v.Token,
		"audiences": list(v.Audiences),
		"expiry":    v.Expiry.UTC(),
		"claims":    claims,
		"pod": map[string]any{
			"name": v.Pod.Name, "namespace": v.Pod.Namespace, "uid": v.Pod.UID, "serviceAccount": v.Pod.ServiceAccount,
		},
		"cluster": map[string]any{"server": v.Cluster.Server, "ca": v.Cluster.CA},
	}, nil
}

// claimsOf decodes the payload of a JWT. The signature is nobody's business here: see pkg/sidecar/jwt.
func claimsOf(token string) (map[string]any, error) {
	segments := strings.Split(token, ".")
	if len(segments) != 3 {
		return nil, errors.New("the token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(segments[1])
	if err != nil {
		return nil, errors.New("the token's claims are not base64url")
	}
	var decoded map[string]any
	if err := json.Unmarshal(payload, &decoded); err != nil {
		return nil, errors.New("the token's claims are not a JSON object") // the decoder's own error may quote what it read
	}
	plain, _ := normal(decoded).(map[string]any)
	return plain, nil
}

// normal has whole numbers instead of floats: dates are, and there are no others.
func normal(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, element := range value {
			value[key] = normal(element)
		}
	case []any:
		for i, element := range value {
			value[i] = normal(element)
		}
	case float64:
		return int64(value)
	case int:
		return int64(value)
	}
	return value
}

func list(texts []string) []any {
	all := make([]any, len(texts))
	for i, text := range texts {
		all[i] = text
	}
	return all
}

// Lengths of the sample's values: none can be longer.
const (
	maxName, maxNamespace, uidBytes = 253, 63, 36
	maxURL                          = 1024
	// maxAuthorities is longer than any that was seen; a real one that is longer still may fit.
	maxAuthorities = 16 << 10
	// maxSignature is the signature of an RSA key of 8192 bits, and a header.
	maxSignature = 2048
)

// sample has a value of every kind and name that a token of the audiences can have, each of the greatest length: the claims
// are those of k8s.io/kubernetes@v1.37.2/pkg/serviceaccount/claims.go.
func sample(audiences []string) map[string]any {
	text := func(n int) any { return strings.Repeat("x", n) }
	object := func() map[string]any { return map[string]any{"name": text(maxName), "uid": text(uidBytes)} }
	date := int64(4102444800)
	claims := map[string]any{
		"aud": list(audiences), "exp": date, "iat": date, "nbf": date, "iss": text(maxURL), "jti": text(uidBytes),
		"sub": text(len("system:serviceaccount::") + maxNamespace + maxName),
		"kubernetes.io": map[string]any{
			"namespace": text(maxNamespace), "serviceaccount": object(), "pod": object(), "node": object(), "warnafter": date,
		},
	}
	return map[string]any{
		"token":     text(len(encode(claims))*4/3 + maxSignature),
		"audiences": list(audiences),
		"expiry":    time.Unix(date, 0).UTC(),
		"claims":    claims,
		"pod": map[string]any{
			"name": text(maxName), "namespace": text(maxNamespace), "uid": text(uidBytes), "serviceAccount": text(maxName),
		},
		"cluster": map[string]any{"server": text(maxURL), "ca": text(maxAuthorities)},
	}
}
