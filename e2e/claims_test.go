package e2e

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tokenClaims are the claims that the tests look at.
type tokenClaims struct {
	Issuer     string   `json:"iss"`
	Subject    string   `json:"sub"`
	Audiences  []string `json:"aud"`
	IssuedAt   int64    `json:"iat"`
	Expires    int64    `json:"exp"`
	ID         string   `json:"jti"`
	Kubernetes struct {
		Namespace string `json:"namespace"`
		Pod       struct {
			Name string `json:"name"`
			UID  string `json:"uid"`
		} `json:"pod"`
	} `json:"kubernetes.io"`
}

func claimsOf(t *testing.T, token string) tokenClaims {
	t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(t, err, "decoding the claims")
	var c tokenClaims
	must(t, json.Unmarshal(payload, &c), "decoding the claims")
	return c
}

// review asks the API server what it thinks of a token.
func review(t *testing.T, token string, audiences ...string) authenticationv1.TokenReviewStatus {
	t.Helper()
	return shared.review(t, token, audiences...)
}

func (w *world) review(t *testing.T, token string, audiences ...string) authenticationv1.TokenReviewStatus {
	t.Helper()
	answer, err := w.client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences},
	}, metav1.CreateOptions{})
	must(t, err, "reviewing a token")
	return answer.Status
}

// assertReview checks that the API server takes the token for this pod's, with that audience.
func assertReview(t *testing.T, token, audience string, pod *corev1.Pod) {
	t.Helper()
	shared.assertReview(t, token, audience, pod)
}

func (w *world) assertReview(t *testing.T, token, audience string, pod *corev1.Pod) {
	t.Helper()
	status := w.review(t, token, audience)
	if !status.Authenticated || status.Error != "" {
		t.Fatalf("TokenReview for audience %q: authenticated=%v error=%q", audience, status.Authenticated, status.Error)
	}
	if want := "system:serviceaccount:" + pod.Namespace + ":" + pod.Spec.ServiceAccountName; status.User.Username != want {
		t.Errorf("TokenReview's user is %q, want %q", status.User.Username, want)
	}
	for key, want := range map[string]string{
		"authentication.kubernetes.io/pod-name": pod.Name, "authentication.kubernetes.io/pod-uid": string(pod.UID),
	} {
		if got := status.User.Extra[key]; len(got) != 1 || got[0] != want {
			t.Errorf("TokenReview's %s is %q, want %q", key, got, want)
		}
	}
	if len(status.Audiences) != 1 || status.Audiences[0] != audience {
		t.Errorf("TokenReview's audiences are %q, want %q", status.Audiences, audience)
	}
}
