package grant

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// An object that is applied keeps what others wrote beside: owner references, which are merged by uid and which
// podtoken-controller-guard rejects beside the ServiceAccount; labels and annotations, with which it can be too large to be written. An
// object that is replaced keeps nothing of others but its finalizers. That is what is left to do where a finalizer prevents deleting it,
// and where the API server rejects what is applied.

// operation is one of a JSON patch: "add" replaces a field that is there. A merge patch could remove only what it names, and the cache
// does not know the labels and annotations of others.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func add(path string, value any) operation { return operation{Op: "add", Path: path, Value: value} }

// kept reports whether finalizers keep the object, or would if it were deleted.
func kept(object metav1.Object) bool {
	return object.GetDeletionTimestamp() != nil || len(object.GetFinalizers()) > 0
}

// replaceRole makes the Role that is there one of this content; its signature is that of applyRole.
func (r *Reconciler) replaceRole(ctx context.Context, a *account, o observed, c content, current *rbacv1.Role) error {
	version, err := r.patchRole(ctx, current, append(o.metadata(nil), add("/rules", rules(o.Name, c)))...)
	if err == nil {
		a.role = expectVersion(version)
	}
	return err
}

// replaceMark makes the Role that is there the mark, since now.
func (r *Reconciler) replaceMark(ctx context.Context, o observed, now time.Time) (*string, error) {
	return r.patchRole(ctx, o.role, append(o.metadata(withdrawnAnnotation(now)), add("/rules", markRules(o.Name)))...)
}

// markRulesOnly does so with as few changes as there can be, and without the time: the owner, or podtoken-controller-guard denies it,
// and the rules.
func (r *Reconciler) markRulesOnly(ctx context.Context, o observed) error {
	_, err := r.patchRole(ctx, o.role, add("/metadata/ownerReferences", o.references()), add("/rules", markRules(o.Name)))
	return err
}

// replaceBinding makes the RoleBinding that is there the one that is wanted; its signature is that of applyBinding. roleRef is immutable, and
// has to be right.
func (r *Reconciler) replaceBinding(ctx context.Context, a *account, o observed, current *rbacv1.RoleBinding) error {
	version, err := r.patch(ctx, &rbacv1.RoleBinding{ObjectMeta: identity(current)}, "RoleBinding", append(o.metadata(nil), add("/subjects", o.subjects()))...)
	if err == nil {
		a.binding = expectVersion(version)
	}
	return err
}

func (r *Reconciler) patchRole(ctx context.Context, current *rbacv1.Role, operations ...operation) (*string, error) {
	return r.patch(ctx, &rbacv1.Role{ObjectMeta: identity(current)}, "Role", operations...)
}

// metadata is all that an object of a grant has.
func (o owner) metadata(annotations map[string]string) []operation {
	if annotations == nil {
		annotations = map[string]string{}
	}
	return []operation{
		add("/metadata/labels", grantLabels()), add("/metadata/annotations", annotations), add("/metadata/ownerReferences", o.references()),
	}
}

// identity is what says which object is meant. The client writes into what it gets, which must not be the cache's.
func identity(object metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: object.GetNamespace(), Name: object.GetName(), UID: object.GetUID()}
}

// patch changes exactly the object that was seen, and returns its version.
func (r *Reconciler) patch(ctx context.Context, object client.Object, kind string, operations ...operation) (*string, error) {
	operations = append([]operation{{Op: "replace", Path: "/metadata/uid", Value: object.GetUID()}}, operations...)
	patch, err := json.Marshal(operations)
	if err == nil {
		err = r.writer.Patch(ctx, object, client.RawPatch(types.JSONPatchType, patch), fieldManager)
	}
	if err != nil {
		return nil, fmt.Errorf("replacing %s %q: %w", kind, object.GetName(), err)
	}
	version := object.GetResourceVersion()
	return &version, nil
}
