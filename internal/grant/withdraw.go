package grant

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podtoken/podtoken/pkg/api"
)

// withdraw takes a grant away in two steps: the rights at once, the mark when every request has ended that an API server authorized
// before. An API server authorizes a request when its headers are there, and asks the guard after the body has arrived, up to its
// --request-timeout later. The state is in the Role itself, so that a controller that starts in between goes on with it.
//
//	Role on the server                            written
//	none, or not bound to the ServiceAccount      what is there is deleted: no caller holds the mark
//	with another owner                            both deleted; if a finalizer keeps it, mark only, with the right owner
//	any other than mark only, since a time        mark only, since now
//	mark only, for less than the delay            nothing
//	mark only, for the delay or longer            both deleted
//
// Deletions by others take right and mark in one step. There, and here where the Role cannot be written, the guard alone rejects what
// is on its way: it asks the authorizer again.
func (r *Reconciler) withdraw(ctx context.Context, a *account, o observed) (result, content, error) {
	if o.role == nil || o.binding == nil {
		return r.remove(ctx, a, o)
	}
	if !o.owns(o.role) {
		if o.role.DeletionTimestamp == nil {
			return r.remove(ctx, a, o)
		}
		return r.takeRights(ctx, a, o, r.replaceRole)
	}
	since, ok := withdrawnSince(o.role, o.NamespacedName.Name, time.Now())
	if !ok {
		return r.takeRights(ctx, a, o, r.applyMark)
	}
	if left := r.withdrawalDelay - time.Since(since); left > 0 {
		return result{outcome: outcomeWaiting, reason: reasonWithdrawing, again: left}, content{}, nil
	}
	return r.remove(ctx, a, o)
}

// takeRights leaves nothing in the Role but the mark.
func (r *Reconciler) takeRights(ctx context.Context, a *account, o observed, write func(context.Context, observed, time.Time) (*string, error)) (result, content, error) {
	version, err := write(ctx, o, time.Now())
	switch {
	case err == nil:
	case permanent(err):
		// A foreign policy, or podtoken-controller-guard of an earlier version after a rollback. A right that stays would be worse.
		r.logger.Warn("Grant cannot be withdrawn in two steps; removing it at once", "namespace", o.Namespace, "serviceAccount", o.Name, "error", err)
		return r.remove(ctx, a, o)
	default:
		return result{}, content{}, err
	}
	a.role = expectVersion(version)
	r.logger.Info("Grant withdrawn", "namespace", o.Namespace, "serviceAccount", o.Name, "removedAfter", r.withdrawalDelay.String())
	return result{outcome: outcomeWithdrawn, reason: reasonNotNeeded, again: r.withdrawalDelay}, content{}, nil
}

// applyMark writes the Role that is ours, and returns its version.
func (r *Reconciler) applyMark(ctx context.Context, o observed, now time.Time) (*string, error) {
	role := o.owner.withRules(markRules(o.Name)).WithAnnotations(withdrawnAnnotation(now)).WithUID(o.role.UID)
	if err := r.writer.Apply(ctx, role, fieldManager, client.ForceOwnership); err != nil {
		return nil, fmt.Errorf("changing Role %q: %w", nameOf(o.Name), err)
	}
	return role.ResourceVersion, nil
}

// replaceRole does the same to a Role that is being deleted and has another owner, that of an earlier ServiceAccount for instance: a
// finalizer keeps it, and its rights with it. Lists of owners are merged when they are applied; a merge patch replaces them.
func (r *Reconciler) replaceRole(ctx context.Context, o observed, now time.Time) (*string, error) {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{
			"uid": o.role.UID, "annotations": withdrawnAnnotation(now), "ownerReferences": o.references(),
		},
		"rules": markRules(o.Name),
	})
	if err != nil {
		return nil, fmt.Errorf("encoding a patch of Role %q: %w", nameOf(o.Name), err)
	}
	role := &rbacv1.Role{}
	role.Namespace, role.Name = o.Namespace, nameOf(o.Name)
	if err := r.writer.Patch(ctx, role, client.RawPatch(types.MergePatchType, patch), fieldManager); err != nil {
		return nil, fmt.Errorf("changing Role %q: %w", nameOf(o.Name), err)
	}
	return &role.ResourceVersion, nil
}

// markRules are the rules of a grant that was withdrawn.
func markRules(serviceAccount string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{virtual(api.ResourceTokens, api.VerbMint, []string{serviceAccount})}
}

func withdrawnAnnotation(now time.Time) map[string]string {
	return map[string]string{api.AnnotationWithdrawn: now.UTC().Format(time.RFC3339)}
}

// withdrawnSince returns since when a Role has nothing but the mark; false if it has more, or if its annotation names no time
// that has passed.
func withdrawnSince(role *rbacv1.Role, serviceAccount string, now time.Time) (time.Time, bool) {
	if !hasRules(role, markRules(serviceAccount)) {
		return time.Time{}, false
	}
	// The annotation has whole seconds.
	since, err := time.Parse(time.RFC3339, role.Annotations[api.AnnotationWithdrawn])
	return since, err == nil && !since.After(now)
}
