// Package access asks the API server's authorizer what a ServiceAccount may mint: the questions that podtoken's guard asks.
//
// Do not add: answers of our own. Who may not ask gets Unknown.
package access

import (
	"context"
	"fmt"
	"strconv"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podtoken/podtoken/pkg/api"
)

// Answer of the authorizer.
type Answer string

// Answers.
const (
	Yes Answer = "yes"
	No  Answer = "no"
	// Unknown: the caller may not ask.
	Unknown Answer = "unknown"
)

// Account is a ServiceAccount.
type Account struct{ Namespace, Name string }

// String is the account as NAMESPACE/NAME.
func (a Account) String() string { return a.Namespace + "/" + a.Name }

// User is the account's user name.
func (a Account) User() string { return "system:serviceaccount:" + a.Namespace + ":" + a.Name }

// MayCreateTokens tells whether the account may call TokenRequest for itself.
func (a Account) MayCreateTokens(ctx context.Context, client kubernetes.Interface) (Answer, error) {
	return a.may(ctx, client, authorizationv1.ResourceAttributes{Verb: "create", Version: "v1", Resource: "serviceaccounts", Subresource: "token", Name: a.Name})
}

// MayMint tells whether the account has the verb mint for an audience.
func (a Account) MayMint(ctx context.Context, client kubernetes.Interface, audience string) (Answer, error) {
	return a.may(ctx, client, authorizationv1.ResourceAttributes{Verb: api.VerbMint, Group: api.RBACGroup, Version: "*", Resource: api.ResourceAudiences, Name: audience})
}

// MayMintLifetime reports whether the account has the verb mint for a lifetime.
func (a Account) MayMintLifetime(ctx context.Context, client kubernetes.Interface, seconds int64) (Answer, error) {
	return a.may(ctx, client, authorizationv1.ResourceAttributes{
		Verb: api.VerbMint, Group: api.RBACGroup, Version: "*", Resource: api.ResourceLifetimes, Name: strconv.FormatInt(seconds, 10),
	})
}

// Held tells whether the account has the mark by which the guard holds it to what it may mint.
func (a Account) Held(ctx context.Context, client kubernetes.Interface) (Answer, error) {
	return a.may(ctx, client, authorizationv1.ResourceAttributes{Verb: api.VerbMint, Group: api.RBACGroup, Version: "*", Resource: api.ResourceTokens, Name: a.Name})
}

func (a Account) may(ctx context.Context, client kubernetes.Interface, attributes authorizationv1.ResourceAttributes) (Answer, error) {
	attributes.Namespace = a.Namespace
	review, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               a.User(),
			Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + a.Namespace, "system:authenticated"},
			ResourceAttributes: &attributes,
		},
	}, metav1.CreateOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return Unknown, nil
	case err != nil:
		return Unknown, fmt.Errorf("asking what ServiceAccount %s may: %w", a, err)
	case review.Status.Allowed:
		return Yes, nil
	}
	return No, nil
}
