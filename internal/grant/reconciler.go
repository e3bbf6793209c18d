package grant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
)

// conflictInterval is how often to look whether a foreign object is still in the way: the cache does not see it.
const conflictInterval = time.Minute

// Reconciler makes the grant of one ServiceAccount what it should be.
type Reconciler struct {
	// cache reads what CacheOptions describes; live reads from the API server; writer writes.
	cache  client.Reader
	live   client.Reader
	writer client.Writer

	policy       func() *policy.Policy
	audiences    func() []string
	removalDelay time.Duration
	// withdrawalDelay is how long the mark of a grant stays after its rights.
	withdrawalDelay time.Duration

	guard    *guard
	accounts *accounts
	ledger   ledger
	news     news
	recorder Recorder
	metrics  *metrics
	logger   *slog.Logger
}

// observed is what the caches know about one ServiceAccount.
type observed struct {
	owner
	// exists: there is a ServiceAccount, so that uid is known.
	exists  bool
	pods    []corev1.Pod
	role    *rbacv1.Role
	binding *rbacv1.RoleBinding
}

// result of a reconciliation.
type result struct {
	outcome outcome
	reason  reason
	again   time.Duration
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	done, err := r.reconcile(ctx, request.NamespacedName)
	if err != nil {
		done = result{outcome: outcomeError, reason: reasonAPI, again: done.again}
		err = fmt.Errorf("reconciling the grant of ServiceAccount %q in namespace %q: %w", request.Name, request.Namespace, err)
	}
	r.metrics.reconciles.WithLabelValues(string(done.outcome), string(done.reason)).Inc()
	r.logger.Debug("ServiceAccount looked at", "outcome", string(done.outcome), "reason", string(done.reason),
		"namespace", request.Namespace, "serviceAccount", request.Name)
	// Beside an error controller-runtime ignores RequeueAfter, and waits for its backoff, up to lastRetry. What has to be taken away before
	// must not wait for what cannot be given.
	if err != nil && 0 < done.again && done.again < lastRetry {
		r.logger.Error("Reconciler error", "namespace", request.Namespace, "serviceAccount", request.Name, "error", err, "tryingAgainAfter", done.again.String())
		err = nil
	}
	return reconcile.Result{RequeueAfter: done.again}, err
}

func (r *Reconciler) reconcile(ctx context.Context, name types.NamespacedName) (result, error) {
	o, err := r.observe(ctx, name)
	if err != nil {
		return result{}, err
	}
	if len(o.pods) == 0 && o.role == nil && o.binding == nil {
		r.accounts.forget(name)
		r.ledger.forget(name)
		return result{outcome: outcomeUnchanged, reason: reasonNotNeeded}, nil
	}
	if !o.exists {
		// Its grant goes with it, and its coming is an event.
		r.ledger.forget(name)
		r.accounts.setWaiting(r.accounts.get(name), running(o.pods))
		return result{outcome: outcomeWaiting, reason: reasonServiceAccountMissing}, nil
	}
	a := r.accounts.get(name)
	if now := time.Now(); !a.role.met(o.role, o.role != nil, now) || !a.binding.met(o.binding, o.binding != nil, now) {
		// The event that shows it comes in a moment, and makes us look again.
		return result{outcome: outcomeWaiting, reason: reasonCache, again: expectationLimit}, nil
	}
	a.role, a.binding = expectation{}, expectation{}
	a.keepOnly(o.pods)

	rules := check{policy: r.policy(), own: set(r.audiences()), owner: o.owner}
	current := o.current()
	claims, room, err := r.judge(ctx, a, o, current, rules)
	if err != nil {
		return result{}, err
	}
	s := situation{
		declared: claims.tokens(),
		current:  current,
		own:      rules.own,
		rbac:     rules.policy.RBAC(o.Namespace),
		allowed:  rules.allowed,
		delay:    r.removalDelay,
		now:      time.Now(),
		limit:    rules.policy.MaxPerServiceAccount(),
		room:     room,
	}
	want, again := a.unneeded.desired(s)
	r.ledger.retain(name, max(weigh(want.audiences)-claims.weight(s.rbac), 0))
	if a.later {
		again = sooner(again, conflictInterval)
	}

	problem := r.guard.problem(ctx)
	done, granted, err := r.enforce(ctx, a, o, want, problem)
	var foreign *foreignError
	switch {
	case errors.As(err, &foreign):
		for _, claim := range claims {
			r.tell(a, claim.pod, EventGrantConflict, conflictText(foreign))
		}
		r.accounts.setWaiting(a, len(claims))
		return result{outcome: outcomeWaiting, reason: reasonConflict, again: conflictInterval}, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return result{outcome: outcomeWaiting, reason: reasonNamespaceTerminating}, nil
	case err != nil:
		if permanent(err) {
			for _, claim := range claims {
				if !a.state(claim.pod).granted {
					r.tell(a, claim.pod, EventGrantFailed, failedText(err))
				}
			}
		}
		r.accounts.setWaiting(a, claims.without(a))
		return result{again: again}, err
	}
	if a.refused > 0 && len(claims) == 0 && done.reason == reasonNotNeeded {
		done.reason = reasonRefused
	}
	waiting := 0
	for _, claim := range claims {
		state := a.state(claim.pod)
		switch {
		case granted.covers(claim.tokens, s.rbac):
			if done.outcome == outcomeApplied && !state.granted {
				r.metrics.delay.Observe(time.Since(claim.pod.CreationTimestamp.Time).Seconds())
			}
			state.granted = true
			a.forgive(state)
			continue
		case problem != "" && problem != proving:
			r.tell(a, claim.pod, EventGuardMissing, guardText(problem))
		}
		waiting++
	}
	r.accounts.setWaiting(a, waiting)
	if done.again == 0 {
		done.again = again
	}
	return done, nil
}

// observe reads the caches.
func (r *Reconciler) observe(ctx context.Context, name types.NamespacedName) (observed, error) {
	o, err := r.observeGrant(ctx, name)
	if err != nil {
		return o, err
	}
	var pods corev1.PodList
	if err := r.cache.List(ctx, &pods, client.InNamespace(name.Namespace), client.MatchingFields{podsByServiceAccount: name.Name}); err != nil {
		return o, fmt.Errorf("listing pods: %w", err)
	}
	o.pods = pods.Items
	return o, nil
}

// observeGrant reads all but the pods.
func (r *Reconciler) observeGrant(ctx context.Context, name types.NamespacedName) (observed, error) {
	o := observed{owner: owner{NamespacedName: name}}
	key := client.ObjectKey{Namespace: name.Namespace, Name: nameOf(name.Name)}
	role, binding := &rbacv1.Role{}, &rbacv1.RoleBinding{}
	switch err := r.cache.Get(ctx, key, role); {
	case err == nil:
		o.role = role
	case !apierrors.IsNotFound(err):
		return o, fmt.Errorf("reading Role %q: %w", key.Name, err)
	}
	switch err := r.cache.Get(ctx, key, binding); {
	case err == nil:
		o.binding = binding
	case !apierrors.IsNotFound(err):
		return o, fmt.Errorf("reading RoleBinding %q: %w", key.Name, err)
	}
	account := serviceAccount()
	switch err := r.cache.Get(ctx, name, account); {
	case err == nil:
		o.exists, o.uid = true, account.UID
	case !apierrors.IsNotFound(err):
		return o, fmt.Errorf("reading the ServiceAccount: %w", err)
	}
	return o, nil
}

// check asks the policy on behalf of one ServiceAccount.
type check struct {
	owner
	policy *policy.Policy
	own    []string
}

func (c check) request(tokens []api.TokenSpec) policy.Request {
	return policy.Request{Namespace: c.Namespace, ServiceAccount: c.Name, Tokens: tokens, APIServerAudiences: c.own}
}

func (c check) refusal(tokens []api.TokenSpec) *policy.Refusal {
	return c.policy.Check(c.request(tokens))
}

// allowed asks about one audience and one lifetime.
func (c check) allowed(audience string, lifetime int64) bool {
	return c.refusal([]api.TokenSpec{{
		Name: api.DefaultTokenName, Audiences: []string{audience}, ExpirationSeconds: lifetime,
		Path: api.DefaultTokenName, Mode: "0400", RefreshAtPercent: api.DefaultRefreshAtPercent,
	}}) == nil
}

// claim is a pod that counts.
type claim struct {
	pod    *corev1.Pod
	tokens []api.TokenSpec
}

type claims []claim

// tokens returns those of all pods; what many pods declare is there once.
func (c claims) tokens() []api.TokenSpec {
	var all []api.TokenSpec
	seen := map[*api.TokenSpec]bool{}
	for _, one := range c {
		if first := &one.tokens[0]; !seen[first] {
			seen[first] = true
			all = append(all, one.tokens...)
		}
	}
	return all
}

// weight returns that of the audiences.
func (c claims) weight(rbac bool) int {
	var given union
	given.add(c.tokens(), rbac)
	return given.weight
}

// without counts the pods that have never been seen with a grant.
func (c claims) without(a *account) int {
	count := 0
	for _, one := range c {
		if !a.state(one.pod).granted {
			count++
		}
	}
	return count
}

// judge returns the pods that count: they have not ended, they declare tokens, the policy allows all of them, and its limits
// have room for them. It tells the others why not. room is how much more the namespace has room for.
func (r *Reconciler) judge(ctx context.Context, a *account, o observed, current content, rules check) (counting claims, room int, err error) {
	groups := o.groups(current, rules.policy.RBAC(o.Namespace))
	end, room, err := r.ledger.declare(rules, rules.judge(groups), func() (map[string][]addition, error) { return r.additions(ctx, rules) })
	if err != nil {
		return nil, 0, err
	}
	rules.before(end, groups)
	a.later = end != nil
	refused := 0
	for _, g := range groups {
		declared.again(g.declaration)
		for _, pod := range g.pods {
			if g.refused == "" {
				counting = append(counting, claim{pod: pod, tokens: g.tokens})
				continue
			}
			refused++
			r.tell(a, pod, EventGrantRefused, g.refused)
		}
	}
	r.accounts.setRefused(a, refused)
	return counting, room, nil
}

// sooner returns the shorter of two times to look again, of which 0 is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// countRoles returns how many grants there are.
func (r *Reconciler) countRoles(ctx context.Context) int {
	var roles rbacv1.RoleList
	if err := r.cache.List(ctx, &roles); err != nil {
		return 0 // The cache is not filled yet.
	}
	count := 0
	for i := range roles.Items {
		if _, ok := serviceAccountOfGrant(&roles.Items[i]); ok {
			count++
		}
	}
	return count
}
