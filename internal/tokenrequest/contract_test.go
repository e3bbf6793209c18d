package tokenrequest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

// TestRequestIsAKubernetesTokenRequest decodes what we send into the type of k8s.io/api, strictly.
func TestRequestIsAKubernetesTokenRequest(t *testing.T) {
	c, err := New(Config{Host: "h", Port: "1", Pod: config.Pod{Namespace: "shop", Name: "cart-1", UID: "u-p", ServiceAccount: "cart"}})
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(c.request(api.TokenSpec{Audiences: []string{"b", "a"}, ExpirationSeconds: 600}))
	if err != nil {
		t.Fatal(err)
	}
	var got authenticationv1.TokenRequest
	strict, err := kjson.UnmarshalStrict(encoded, &got)
	if err != nil || len(strict) > 0 {
		t.Fatal(err, strict)
	}
	seconds := int64(600)
	want := authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
		Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{"b", "a"}, ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "cart-1", UID: "u-p"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestAnswersOfKubernetesAreUnderstood encodes the types of k8s.io and decodes them into ours.
func TestAnswersOfKubernetesAreUnderstood(t *testing.T) {
	end := time.Unix(1790003600, 0).UTC()
	seconds := int64(3600)
	encoded, err := json.Marshal(authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "cart", Namespace: "shop", UID: types.UID("u-sa"), CreationTimestamp: metav1.NewTime(end),
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "podtoken"}},
		},
		Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{"a"}, ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "cart-1", UID: "u-p"},
		},
		Status: authenticationv1.TokenRequestStatus{Token: "x.y.z", ExpirationTimestamp: metav1.NewTime(end)},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got tokenRequest
	if err := json.Unmarshal(encoded, &got); err != nil {
		t.Fatal(err)
	}
	want := tokenRequest{
		APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest",
		Spec: tokenRequestSpec{
			Audiences: []string{"a"}, ExpirationSeconds: 3600,
			BoundObjectRef: &boundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "cart-1", UID: "u-p"},
		},
		Status: tokenRequestStatus{Token: "x.y.z", ExpirationTimestamp: end},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	encoded, err = json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: 429, Reason: "TooManyRequests",
		Message: "later", Details: &metav1.StatusDetails{
			RetryAfterSeconds: 7, Causes: []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause, Message: "m", Field: "metadata.namespace"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var gotStatus status
	if err := json.Unmarshal(encoded, &gotStatus); err != nil {
		t.Fatal(err)
	}
	wantStatus := status{Kind: "Status", Message: "later", Reason: "TooManyRequests"}
	wantStatus.Details.RetryAfterSeconds = 7
	wantStatus.Details.Causes = []cause{{causeNamespaceTerminating}}
	if diff := cmp.Diff(wantStatus, gotStatus); diff != "" {
		t.Error(diff)
	}
}
