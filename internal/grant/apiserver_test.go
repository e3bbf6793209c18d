package grant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What an API server does with what the controller writes, and the client in memory does not.

// maxAnnotations is how many bytes annotations may have (k8s.io/apimachinery@v0.37.2/pkg/api/validation/objectmeta.go).
const maxAnnotations = 256 << 10

// apply merges owners and annotations with those that are there, as podtoken-controller-guard and the API server's validation see them.
// An object that is being deleted is changed, and not removed.
func (w *world) apply(ctx context.Context, c client.WithWatch, kind string, applied runtime.ApplyConfiguration, options ...client.ApplyOption) error {
	data, err := json.Marshal(applied)
	if err != nil {
		return err
	}
	var sent metav1.PartialObjectMetadata
	if err := json.Unmarshal(data, &sent); err != nil {
		return err
	}
	there := empty(kind)
	if err := c.Get(ctx, client.ObjectKeyFromObject(&sent), there); err != nil {
		return c.Apply(ctx, applied, options...)
	}
	if sent.UID != "" && sent.UID != there.GetUID() {
		return apierrors.NewConflict(resource(kind), sent.Name, errors.New("another uid"))
	}
	owners := there.GetOwnerReferences()
	for _, one := range sent.OwnerReferences {
		if !slices.ContainsFunc(owners, func(other metav1.OwnerReference) bool { return other.UID == one.UID }) {
			owners = append(owners, one)
		}
	}
	if len(owners) > 1 {
		return deniedByGuard(kind)
	}
	size := 0
	for _, annotations := range []map[string]string{there.GetAnnotations(), sent.Annotations} {
		for name, value := range annotations {
			size += len(name) + len(value)
		}
	}
	if size > maxAnnotations {
		return apierrors.NewInvalid(schema.GroupKind{Kind: kind}, sent.Name, field.ErrorList{field.TooLong(field.NewPath("metadata", "annotations"), "", maxAnnotations)})
	}
	if there.GetDeletionTimestamp() == nil {
		return c.Apply(ctx, applied, options...)
	}
	return c.Patch(ctx, there, client.RawPatch(types.MergePatchType, data))
}

func deniedByGuard(kind string) error {
	return apierrors.NewForbidden(resource(kind), "podtoken:cart", errors.New("ValidatingAdmissionPolicy 'podtoken-controller-guard' denied request"))
}

func resource(kind string) schema.GroupResource {
	return schema.GroupResource{Group: "rbac.authorization.k8s.io", Resource: strings.ToLower(kind) + "s"}
}

func empty(kind string) client.Object {
	if kind == "Role" {
		return &rbacv1.Role{}
	}
	return &rbacv1.RoleBinding{}
}

// replacedAudiences returns those that a patch of a Role grants.
func replacedAudiences(patch []byte) ([]string, error) {
	var operations []struct {
		Path  string          `json:"path"`
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(patch, &operations); err != nil {
		return nil, fmt.Errorf("not a JSON patch: %w", err)
	}
	role := &rbacv1.Role{}
	for _, one := range operations {
		if one.Path == "/rules" {
			if err := json.Unmarshal(one.Value, &role.Rules); err != nil {
				return nil, err
			}
		}
	}
	return contentOf(role).audiences, nil
}
