package grant

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fieldManager owns what the controller applies.
const fieldManager = client.FieldOwner("podtoken-controller")

// foreignError is an object in the place of one of podtoken's that is not podtoken's.
type foreignError struct{ kind, namespace, name string }

func (e *foreignError) Error() string {
	return fmt.Sprintf("%s %q in namespace %q is not podtoken's", e.kind, e.name, e.namespace)
}

// held returns what the server's objects give now, empty if they are not exactly a grant.
func (o observed) held() content {
	if o.role == nil || !o.isBinding(o.binding) {
		return content{}
	}
	if c := contentOf(o.role); o.isRole(o.role, c) {
		return c
	}
	return content{}
}

// current returns what the Role on the server gives, if it is of this ServiceAccount.
func (o observed) current() content {
	if o.role != nil && o.owns(o.role) {
		return contentOf(o.role)
	}
	return content{}
}

// withoutGuard returns what may be written while there is no guard: what is held and still wanted. Nothing new and
// nothing repaired, because it cannot be known what a repair would newly give. Empty means that nothing can be written.
func withoutGuard(want, held content) content {
	less := narrowed(want, held)
	if len(less.lifetimes) == 0 || len(less.own) == 0 || (len(less.audiences) == 0 && len(want.audiences) > 0) {
		return content{}
	}
	return less
}

// enforce makes the server's objects what is wanted, and returns what they give then. problem is that of the guard.
func (r *Reconciler) enforce(ctx context.Context, a *account, o observed, want content, problem string) (result, content, error) {
	if want.empty() {
		return r.withdraw(ctx, a, o)
	}
	waiting := result{outcome: outcomeWaiting, reason: reasonGuardMissing}
	if problem != "" {
		held := o.held()
		less := withoutGuard(want, held)
		if less.empty() {
			if !want.gives(held) {
				return r.withdraw(ctx, a, o) // Nothing of it can be kept without what is not wanted any more.
			}
			return waiting, held, nil
		}
		if less.gives(want) {
			problem = "" // Nothing is missing.
		}
		want = less
	}
	done := result{outcome: outcomeUnchanged, reason: reasonUpToDate}
	for _, write := range []func(context.Context, *account, observed, content) (bool, error){r.writeRole, r.writeBinding} {
		wrote, err := write(ctx, a, o, want)
		switch {
		case err != nil:
			return result{}, content{}, r.unbind(ctx, a, o, err)
		case wrote && (o.role == nil || o.binding == nil):
			done = result{outcome: outcomeApplied, reason: reasonCreated}
		case wrote:
			done = result{outcome: outcomeApplied, reason: reasonChanged}
		}
	}
	if done.outcome == outcomeApplied {
		r.logger.Info("Grant applied", "reason", string(done.reason), "namespace", o.Namespace, "serviceAccount", o.Name,
			"audiences", logged(want.audiences), "audienceCount", len(want.audiences), "lifetimes", want.lifetimes[:min(len(want.lifetimes), maxLogged)])
	}
	if problem != "" {
		done = waiting
	}
	return done, want, nil
}

// remove deletes what there is: the RoleBinding first, so that nothing is bound to a Role that could be re-created. What
// finalizers keep stays, and is not called removed. rights is why the Role still has more than the mark, nil if it has not.
func (r *Reconciler) remove(ctx context.Context, a *account, o observed, rights error) (result, content, error) {
	done := result{outcome: outcomeUnchanged, reason: reasonNotNeeded}
	var keepers []string
	if o.binding != nil {
		keepers = append(keepers, o.binding.Finalizers...)
		if err := r.delete(ctx, o.binding, "RoleBinding"); err != nil {
			return result{}, content{}, err
		}
		a.binding = expectGone(o.binding.UID)
		done.outcome = outcomeRemoved
	}
	if o.role != nil {
		keepers = append(keepers, o.role.Finalizers...)
		if err := r.delete(ctx, o.role, "Role"); err != nil {
			return result{}, content{}, err
		}
		a.role = expectGone(o.role.UID)
		done.outcome = outcomeRemoved
	}
	switch {
	case rights != nil && o.role != nil && len(o.role.Finalizers) > 0:
		r.logger.Error("Finalizers keep the Role of a grant, and its rights cannot be taken", "namespace", o.Namespace, "serviceAccount", o.Name,
			"finalizers", set(o.role.Finalizers), "error", cut(rights.Error(), maxNoteBytes))
		return result{}, content{}, rights
	case len(keepers) > 0:
		r.logger.Warn("Grant withdrawn, but finalizers keep its Role or RoleBinding", "namespace", o.Namespace, "serviceAccount", o.Name,
			"finalizers", set(keepers))
		done = result{outcome: outcomeWaiting, reason: reasonFinalizers}
	case done.outcome == outcomeRemoved:
		r.logger.Info("Grant removed", "namespace", o.Namespace, "serviceAccount", o.Name)
	}
	return done, content{}, nil
}

// delete deletes exactly the object that was seen.
func (r *Reconciler) delete(ctx context.Context, object client.Object, kind string) error {
	uid := object.GetUID()
	// A copy, because the client writes into what it gets, and this is the cache's.
	name := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: object.GetNamespace(), Name: object.GetName()}}
	name.SetGroupVersionKind(rbacv1.SchemeGroupVersion.WithKind(kind))
	err := r.writer.Delete(ctx, name, client.Preconditions{UID: &uid})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting %s %q: %w", kind, object.GetName(), err)
	}
	return nil
}

// writeRole reports whether it wrote.
func (r *Reconciler) writeRole(ctx context.Context, a *account, o observed, want content) (bool, error) {
	current, write := o.role, r.applyRole
	if o.isRole(current, want) {
		return false, nil
	}
	if current != nil && !o.owns(current) {
		if kept(current) {
			write = r.replaceRole // Deleting it would leave it as it is.
		} else {
			if err := r.delete(ctx, current, "Role"); err != nil {
				return false, &narrowingError{err}
			}
			current = nil
		}
	}
	if current != nil && exceeds(o.Name, current, want) {
		// What is not wanted any more goes first: the second write has what pods add, which may be refused.
		less := lesser(contentOf(current), want)
		all := less.gives(want)
		if all {
			less = want
		}
		err := write(ctx, a, o, less, current)
		if err != nil && permanent(err) && o.owns(current) {
			err = r.replaceRole(ctx, a, o, less, current) // What others wrote into it may be the reason.
		}
		if err != nil {
			return false, &narrowingError{err}
		}
		if all {
			return true, nil
		}
		r.logger.Info("Grant narrowed", "namespace", o.Namespace, "serviceAccount", o.Name,
			"audienceCount", len(less.audiences), "before", len(contentOf(current).audiences))
	}
	return true, write(ctx, a, o, want, current)
}

// applyRole writes the Role; current is the one that is there, or nil.
func (r *Reconciler) applyRole(ctx context.Context, a *account, o observed, c content, current *rbacv1.Role) error {
	role := o.owner.role(c)
	if current != nil {
		role.WithUID(current.UID)
	}
	if err := r.apply(ctx, o, role, current != nil, "Role"); err != nil {
		return err
	}
	a.role = expectVersion(role.ResourceVersion)
	return nil
}

// writeBinding reports whether it wrote.
func (r *Reconciler) writeBinding(ctx context.Context, a *account, o observed, _ content) (bool, error) {
	current, write := o.binding, r.applyBinding
	if o.isBinding(current) {
		return false, nil
	}
	if current != nil && (!o.owns(current) || current.RoleRef != o.roleRef()) { // roleRef is immutable
		if kept(current) && current.RoleRef == o.roleRef() {
			write = r.replaceBinding // Deleting it would leave it as it is.
		} else {
			if err := r.delete(ctx, current, "RoleBinding"); err != nil {
				return false, err
			}
			if kept(current) {
				return false, &foreignError{kind: "RoleBinding", namespace: o.Namespace, name: nameOf(o.Name)} // It is in the way until its finalizers are gone.
			}
			current = nil
		}
	}
	err := write(ctx, a, o, current)
	if err != nil && permanent(err) && current != nil && o.owns(current) {
		err = r.replaceBinding(ctx, a, o, current) // What others wrote into it may be the reason.
	}
	return err == nil, err
}

// applyBinding writes the RoleBinding; current is the one that is there, or nil.
func (r *Reconciler) applyBinding(ctx context.Context, a *account, o observed, current *rbacv1.RoleBinding) error {
	binding := o.owner.binding()
	if current != nil {
		binding.WithUID(current.UID)
	}
	if err := r.apply(ctx, o, binding, current != nil, "RoleBinding"); err != nil {
		return err
	}
	a.binding = expectVersion(binding.ResourceVersion)
	return nil
}

// apply writes one of podtoken's objects.
//
// One that exists is written whatever others did to it; the uid in it makes sure that it is the one that was seen. One
// that the cache does not have is written without force: that takes nothing from another field manager, and our own
// admission policy refuses it where there is an object without our label. Then the object that is there tells why.
func (r *Reconciler) apply(ctx context.Context, o observed, object runtime.ApplyConfiguration, exists bool, kind string) error {
	if exists {
		if err := r.writer.Apply(ctx, object, fieldManager, client.ForceOwnership); err != nil {
			return fmt.Errorf("changing %s %q: %w", kind, nameOf(o.Name), err)
		}
		return nil
	}
	err := r.writer.Apply(ctx, object, fieldManager)
	if err == nil {
		return nil
	}
	wrapped := fmt.Errorf("creating %s %q: %w", kind, nameOf(o.Name), err)
	if !apierrors.IsConflict(err) && !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) && !apierrors.IsAlreadyExists(err) {
		return wrapped
	}
	there := &metav1.PartialObjectMetadata{}
	there.SetGroupVersionKind(rbacv1.SchemeGroupVersion.WithKind(kind))
	if err := r.live.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: nameOf(o.Name)}, there); err != nil || labelled(there) {
		return wrapped // Not there, or ours and not in the cache yet: the next attempt knows more.
	}
	return &foreignError{kind: kind, namespace: o.Namespace, name: nameOf(o.Name)}
}
