package grant

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/podtoken/podtoken/internal/policy"
)

// Name of the controller in events and logs.
const Name = "podtoken-controller"

const (
	// concurrency is how many ServiceAccounts are looked at at a time. Each of them waits for two writes, one after the other: when
	// a busy API server takes a second for each, four at a time would fall behind the pods (see docs/performance.md).
	concurrency = 16
	// A failed reconciliation is tried again after firstRetry, twice that, and so on up to lastRetry.
	firstRetry = 50 * time.Millisecond
	lastRetry  = time.Minute
)

// Config is what SetUp needs.
type Config struct {
	// Policy and Audiences return what is in use now: the installation's policy and the API server's own audiences.
	// Neither may be nil or empty.
	Policy    func() *policy.Policy
	Audiences func() []string
	// PollInterval is how often they are looked at.
	PollInterval time.Duration
	RemovalDelay time.Duration
	// WithdrawalDelay is how long the mark of a grant stays after its rights, longer than an API server lets a request take.
	WithdrawalDelay time.Duration
	// Guard is the name of the guard's policy and binding, and ControllerGuard that of those on the controller itself.
	Guard, ControllerGuard string
	// Self is the ServiceAccount that the controller runs as.
	Self     func() types.NamespacedName
	Registry prometheus.Registerer
	Logger   *slog.Logger
}

// SetUp adds the controller to a manager that has CacheOptions of the same guard. It starts nothing.
func SetUp(ctx context.Context, mgr manager.Manager, c Config) error {
	if err := mgr.GetFieldIndexer().IndexField(ctx, &corev1.Pod{}, podsByServiceAccount, indexPod); err != nil {
		return fmt.Errorf("indexing pods: %w", err)
	}
	// Where a namespace has no room for all declarations, pods are not kept before the Roles are there.
	if _, err := mgr.GetCache().GetInformer(ctx, &rbacv1.Role{}, cache.BlockUntilSynced(false)); err != nil {
		return fmt.Errorf("preparing the cache of Roles: %w", err)
	}
	api := &prober{cluster: mgr.GetConfig(), self: c.Self, guard: c.Guard, controllerGuard: c.ControllerGuard}
	r := &Reconciler{
		cache: mgr.GetCache(), live: mgr.GetAPIReader(), writer: mgr.GetClient(),
		policy: c.Policy, audiences: c.Audiences, removalDelay: c.RemovalDelay,
		withdrawalDelay: c.WithdrawalDelay,
		guard:           newGuard(c.Guard, mgr.GetCache(), newProof(api.probe, c.Logger), c.Logger),
		accounts:        newAccounts(),
		recorder:        mgr.GetEventRecorder(Name),
		logger:          c.Logger,
	}
	declared.sortBy(r.standings(ctx))
	r.metrics = newMetrics(r, c.Registry) //nolint:contextcheck // a scrape has no context of its own to hand on

	warm, skip := true, true
	run, err := controller.New(Name, mgr, controller.Options{
		Reconciler:              r,
		MaxConcurrentReconciles: concurrency,
		RateLimiter:             retries(),
		EnableWarmup:            &warm, // A replica that becomes the leader has full caches.
		// The name is in controller-runtime's own metrics only, which are not used here.
		SkipNameValidation: &skip,
	})
	if err != nil {
		return fmt.Errorf("making the controller: %w", err)
	}
	changes, displaced := make(chan event.GenericEvent), make(chan event.GenericEvent)
	for _, watch := range r.sources(mgr, changes, displaced) {
		if err := run.Watch(watch); err != nil {
			return fmt.Errorf("watching: %w", err)
		}
	}
	if err := mgr.Add(&proofs{guard: r.guard, elected: mgr.Elected()}); err != nil {
		return fmt.Errorf("adding the proof of the guard: %w", err)
	}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		r.watchInputs(ctx, c.PollInterval, changes, displaced)
		return nil
	}))
}

// retries limits how fast failures are tried again: each one on its own, and all together to fifty a second.
func retries() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedMaxOfRateLimiter(
		workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
		&workqueue.TypedBucketRateLimiter[reconcile.Request]{Limiter: rate.NewLimiter(rate.Limit(50), 200)},
	)
}

// sources are all that makes a ServiceAccount be looked at.
func (r *Reconciler) sources(mgr manager.Manager, changes, displaced <-chan event.GenericEvent) []source.Source {
	caches := mgr.GetCache()
	everybody := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request { return r.everybody(ctx) })
	all := []source.Source{
		source.Kind(caches, &corev1.Pod{}, mapped(func(_ context.Context, pod *corev1.Pod) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pod.Namespace, Name: serviceAccountOf(pod)}}}
		}), predicate.TypedFuncs[*corev1.Pod]{UpdateFunc: func(e event.TypedUpdateEvent[*corev1.Pod]) bool {
			// Pods change all the time, but of what we read only the end, and whether there is room to keep what they declare.
			return finished(e.ObjectOld) != finished(e.ObjectNew) || e.ObjectOld.UID != e.ObjectNew.UID ||
				declared.get(e.ObjectOld) != declared.get(e.ObjectNew)
		}, DeleteFunc: func(e event.TypedDeleteEvent[*corev1.Pod]) bool {
			declared.gone(e.Object)
			return true
		}}),
		source.Kind(caches, serviceAccount(), mapped(func(_ context.Context, account *metav1.PartialObjectMetadata) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(account)}}
		}), predicate.TypedFuncs[*metav1.PartialObjectMetadata]{UpdateFunc: func(e event.TypedUpdateEvent[*metav1.PartialObjectMetadata]) bool {
			return e.ObjectOld.UID != e.ObjectNew.UID
		}}),
		source.Kind(caches, &rbacv1.Role{}, mapped(ofGrant[*rbacv1.Role])),
		source.Kind(caches, &rbacv1.RoleBinding{}, mapped(ofGrant[*rbacv1.RoleBinding])),
		source.Channel(changes, everybody),
		source.Channel(displaced, &handler.EnqueueRequestForObject{}),
		source.Channel(r.guard.proof.news, everybody),
	}
	if !fromDisk(r.guard.name) {
		all = append(all,
			source.Kind(caches, &admissionv1.ValidatingAdmissionPolicy{}, whenGuardChanges[*admissionv1.ValidatingAdmissionPolicy](r)),
			source.Kind(caches, &admissionv1.ValidatingAdmissionPolicyBinding{}, whenGuardChanges[*admissionv1.ValidatingAdmissionPolicyBinding](r)))
	}
	return all
}

func mapped[T client.Object](requests func(context.Context, T) []reconcile.Request) handler.TypedEventHandler[T, reconcile.Request] {
	return handler.TypedEnqueueRequestsFromMapFunc(requests)
}

// ofGrant returns the ServiceAccount of a Role or RoleBinding.
func ofGrant[T client.Object](_ context.Context, object T) []reconcile.Request {
	name, ok := serviceAccountOfGrant(object)
	if !ok {
		return nil
	}
	return []reconcile.Request{{NamespacedName: name}}
}

func whenGuardChanges[T client.Object](r *Reconciler) handler.TypedEventHandler[T, reconcile.Request] {
	return mapped(func(ctx context.Context, _ T) []reconcile.Request { return r.everybody(ctx) })
}

// everybody returns all ServiceAccounts that have injected pods or a grant.
func (r *Reconciler) everybody(ctx context.Context) []reconcile.Request {
	all := map[types.NamespacedName]bool{}
	var pods corev1.PodList
	var roles rbacv1.RoleList
	for _, list := range []client.ObjectList{&pods, &roles} {
		if err := r.cache.List(ctx, list); err != nil {
			r.logger.Error("Listing what to look at failed", "error", err) // Only before the caches are filled, and when we end.
		}
	}
	for i := range pods.Items {
		all[types.NamespacedName{Namespace: pods.Items[i].Namespace, Name: serviceAccountOf(&pods.Items[i])}] = true
	}
	for i := range roles.Items {
		if name, ok := serviceAccountOfGrant(&roles.Items[i]); ok {
			all[name] = true
		}
	}
	requests := make([]reconcile.Request, 0, len(all))
	for name := range all {
		requests = append(requests, reconcile.Request{NamespacedName: name})
	}
	return requests
}

// watchInputs reports every change of the policy and of the API server's audiences until ctx is done, and the ServiceAccounts whose
// pods have lost their room in the cache.
func (r *Reconciler) watchInputs(ctx context.Context, interval time.Duration, changes, displaced chan<- event.GenericEvent) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	rules, audiences := r.policy(), r.audiences()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for name := range declared.takeDisplaced() {
			account := serviceAccount()
			account.Namespace, account.Name = name.Namespace, name.Name
			select {
			case <-ctx.Done():
				return
			case displaced <- event.GenericEvent{Object: account}:
			}
		}
		if r.policy() == rules && slices.Equal(r.audiences(), audiences) {
			continue
		}
		rules, audiences = r.policy(), r.audiences()
		r.logger.Info("Policy or API server audiences changed, every grant is looked at again")
		select {
		case <-ctx.Done():
			return
		case changes <- event.GenericEvent{Object: serviceAccount()}:
		}
	}
}
