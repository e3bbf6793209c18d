package grant

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// exceeds reports whether the Role gives something that is not wanted: an item of a grant, a rule of another shape, or one that the cache does not keep.
func exceeds(serviceAccount string, role *rbacv1.Role, want content) bool {
	current := contentOf(role)
	if !want.gives(current) || overfull(role) {
		return true
	}
	ours := rules(serviceAccount, current)
	return slices.ContainsFunc(role.Rules, func(rule rbacv1.PolicyRule) bool {
		return !slices.ContainsFunc(ours, func(our rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(rule, our) })
	})
}

// lesser returns what both give. A Role of a grant has lifetimes and audiences of the API server, or it would be of no
// shape that the controller may write; where none is left of either, those that are wanted take their place.
func lesser(current, want content) content {
	less := narrowed(current, want)
	if len(less.lifetimes) == 0 {
		less.lifetimes = want.lifetimes
	}
	if len(less.own) == 0 {
		less.own = want.own
	}
	return less
}

// narrowingError is a Role that could not be made less.
type narrowingError struct{ err error }

func (e *narrowingError) Error() string { return "taking rights away: " + e.err.Error() }
func (e *narrowingError) Unwrap() error { return e.err }

// unbind deletes the RoleBinding where the Role gives what it must not and cannot be changed: because it is
// foreign now, or because the API server refuses it for good. The pods lose what they need too, until the Role can be written. Where
// finalizers keep the RoleBinding, the Role loses its rights instead, if the API server takes that. It returns what is to be reported.
func (r *Reconciler) unbind(ctx context.Context, a *account, o observed, err error) error {
	var foreign *foreignError
	var narrowing *narrowingError
	switch {
	case o.binding == nil:
		return err
	case errors.As(err, &foreign) && foreign.kind == "Role":
	case errors.As(err, &narrowing) && permanent(err):
		if kept(o.binding) && o.role != nil && r.markRulesOnly(ctx, o) == nil {
			r.logger.Error("Rights of the grant taken, because its Role gives more than it may and cannot be narrowed",
				"namespace", o.Namespace, "serviceAccount", o.Name, "error", cut(err.Error(), maxNoteBytes))
			return err
		}
	default:
		return err
	}
	if failed := r.delete(ctx, o.binding, "RoleBinding"); failed != nil {
		return errors.Join(err, failed)
	}
	a.binding = expectGone(o.binding.UID)
	r.metrics.unbound.Inc()
	r.logger.Error("RoleBinding deleted, because its Role gives more than it may and cannot be changed",
		"namespace", o.Namespace, "serviceAccount", o.Name, "error", cut(err.Error(), maxNoteBytes))
	return err
}

// permanent reports whether the API server refuses the request itself, so that it does no good to wait: a policy or a quota,
// what it takes for invalid, or an object that is too large. Not what passes: a conflict, a timeout, an overloaded server, an
// admission webhook that does not answer, our own token that has expired. Nor what is gone, or going with its namespace.
func permanent(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return false
	}
	switch code := status.Status().Code; code {
	case http.StatusUnauthorized, http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusGone, http.StatusTooManyRequests:
		return false
	case http.StatusInternalServerError: // as etcd's refusals arrive
		message := status.Status().Message
		return strings.Contains(message, "request is too large") || strings.Contains(message, "larger than max")
	default:
		return code >= 400 && code < 500
	}
}
