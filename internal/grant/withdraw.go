package grant

import (
	"context"
	"fmt"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podtoken/podtoken/pkg/api"
)

// withdraw takes a grant away in two steps: the rights at once, the mark when every request has ended that an API server authorized
// before. An API server authorizes a request when its headers are there, and asks the guard after the body has arrived, up to its
// --request-timeout later. The state is in the Role itself, so that a controller that starts in between goes on with it.
//
//	Role on the server                                             written
//	none                                                           the RoleBinding is deleted
//	not bound to the ServiceAccount, or with another owner         both deleted: no caller holds the mark
//	the same, and finalizers keep it with more than the mark       mark only, with the right owner
//	any other than mark only, since a time                         mark only, since now
//	mark only, for less than the delay                             nothing
//	mark only, for the delay or longer                             both deleted
//
// Deletions by others take right and mark in one step. There, and here where the Role cannot be written with the time, the guard alone
// rejects what is on its way: it asks the authorizer again.
func (r *Reconciler) withdraw(ctx context.Context, a *account, o observed) (result, content, error) {
	if o.role == nil {
		return r.remove(ctx, a, o, nil)
	}
	if o.binding == nil || !o.owns(o.role) {
		if !kept(o.role) || o.binding == nil && hasRules(o.role, markRules(o.Name)) {
			return r.remove(ctx, a, o, nil)
		}
		return r.takeRights(ctx, a, o)
	}
	since, ok := withdrawnSince(o.role, o.NamespacedName.Name, time.Now())
	if !ok {
		return r.takeRights(ctx, a, o)
	}
	if left := r.withdrawalDelay - time.Since(since); left > 0 {
		return result{outcome: outcomeWaiting, reason: reasonWithdrawing, again: left}, content{}, nil
	}
	return r.remove(ctx, a, o, nil)
}

// takeRights leaves nothing in the Role but the mark. Where the API server rejects that for good, it tries with less of what may be the
// reason: what others wrote into the Role, then the time.
func (r *Reconciler) takeRights(ctx context.Context, a *account, o observed) (result, content, error) {
	now, write := time.Now(), r.applyMark
	if !o.owns(o.role) {
		write = r.replaceMark
	}
	version, err := write(ctx, o, now)
	if err != nil && permanent(err) && o.owns(o.role) {
		version, err = r.replaceMark(ctx, o, now)
	}
	switch {
	case err == nil:
	case permanent(err):
		// A foreign policy, or podtoken-controller-guard of an earlier version after a rollback. A right that stays would be worse.
		r.logger.Warn("Grant cannot be withdrawn in two steps; removing it at once", "namespace", o.Namespace, "serviceAccount", o.Name,
			"error", cut(err.Error(), maxNoteBytes))
		return r.remove(ctx, a, o, r.markRulesOnly(ctx, o))
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
