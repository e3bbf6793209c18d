package grant

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	rbacv1ac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/podtoken/podtoken/internal/policy"
)

const testPolicy = `
apiVersion: podtoken.dev/v1alpha1
kind: PolicyConfiguration
allow:
  - name: shops
    namespaces: [shop]
    serviceAccounts: ["*"]
    audiences: [vault, sts]
rbacNamespaces: [prod]
`

// world is a reconciler, a cluster in memory, and what was written and said.
type world struct {
	t        *testing.T
	cluster  client.WithWatch
	r        *Reconciler
	registry *prometheus.Registry
	policy   *policy.Policy
	own      []string
	// writes are requests that change something: "apply Role", "force Role", "replace Role", "delete Role".
	writes []string
	// events are "reason pod: note".
	events []string
	// fail, if set, is the answer to a write.
	fail func(write string) error
	// refuse, if set, is the answer to a Role with these audiences.
	refuse func(audiences []string) error
	// servers are what API servers answer to a probe.
	servers []server
	// unproven leaves the proof of the guard to the test.
	unproven bool
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	w := &world{t: t, registry: prometheus.NewRegistry(), own: []string{"api"}, policy: mustParse(t, testPolicy)}
	w.cluster = fake.NewClientBuilder().WithScheme(NewScheme()).WithObjects(objects...).
		WithIndex(&corev1.Pod{}, podsByServiceAccount, indexPod).
		WithInterceptorFuncs(interceptor.Funcs{
			Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, options ...client.ApplyOption) error {
				verb, kind := "apply", strings.TrimSuffix(fmt.Sprintf("%T", o)[len("*v1."):], "ApplyConfiguration")
				applied := &client.ApplyOptions{}
				applied.ApplyOptions(options)
				if applied.Force != nil && *applied.Force {
					verb = "force"
				}
				if err := w.write(verb + " " + kind); err != nil {
					return err
				}
				if role, ok := o.(*rbacv1ac.RoleApplyConfiguration); ok && w.refuse != nil {
					if err := w.refuse(appliedAudiences(role)); err != nil {
						return err
					}
				}
				return w.apply(ctx, c, kind, o, options...)
			},
			Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, options ...client.PatchOption) error {
				kind := strings.TrimPrefix(fmt.Sprintf("%T", o), "*v1.")
				if err := w.write("replace " + kind); err != nil {
					return err
				}
				data, err := patch.Data(o)
				if err != nil {
					return err
				}
				audiences, err := replacedAudiences(data)
				if err == nil && kind == "Role" && w.refuse != nil {
					err = w.refuse(audiences)
				}
				if err != nil {
					return err
				}
				return c.Patch(ctx, o, patch, options...)
			},
			Delete: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.DeleteOption) error {
				if err := w.write("delete " + o.GetObjectKind().GroupVersionKind().Kind); err != nil {
					return err
				}
				return c.Delete(ctx, o, options...)
			},
		}).Build()
	view := cacheView{w.cluster, stripGrant(func() int { return w.policy.MaxPerServiceAccount() })}
	w.r = &Reconciler{
		cache: view, live: w.cluster, writer: w.cluster,
		policy: func() *policy.Policy { return w.policy }, audiences: func() []string { return w.own }, removalDelay: delay, withdrawalDelay: withdrawalDelay,
		guard:    w.newGuard("podtoken-guard", view),
		accounts: newAccounts(), recorder: w, logger: slog.New(slog.DiscardHandler),
	}
	w.r.metrics = newMetrics(w.r, w.registry)
	return w
}

// newGuard is one that every API server enforces, and that is proven before each look at shop/cart.
func (w *world) newGuard(name string, view client.Reader) *guard {
	logger := slog.New(slog.DiscardHandler)
	w.servers = []server{answers(answerDenied, answerDenied)}
	proof := newProof(func(context.Context) []server { return w.servers }, logger)
	proof.settle = 0
	return newGuard(name, view, proof, logger)
}

// answers is the API server of the Service with its answers to both probes.
func answers(guard, controllerGuard answer) server {
	return server{address: "10.96.0.1", service: true, verdicts: []verdict{
		{policy: "podtoken-guard", answer: guard}, {policy: "podtoken-controller-guard", answer: controllerGuard},
	}}
}

func mustParse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) write(what string) error {
	w.writes = append(w.writes, what)
	if w.fail != nil {
		return w.fail(what)
	}
	return nil
}

// appliedAudiences returns those that a Role grants.
func appliedAudiences(role *rbacv1ac.RoleApplyConfiguration) []string {
	for _, rule := range role.Rules {
		if slices.Equal(rule.Resources, []string{"audiences"}) && slices.Equal(rule.Verbs, []string{"mint"}) {
			return rule.ResourceNames
		}
	}
	return nil
}

func (w *world) Eventf(regarding, _ runtime.Object, kind, reason, _, note string, args ...any) {
	if kind != corev1.EventTypeWarning {
		w.t.Errorf("event of type %s, want Warning", kind)
	}
	w.events = append(w.events, reason+" "+regarding.(*corev1.Pod).Name+": "+fmt.Sprintf(note, args...))
}

// reconcile looks at shop/cart.
func (w *world) reconcile() reconcile.Result {
	w.t.Helper()
	result, err := w.try()
	if err != nil {
		w.t.Fatal(err)
	}
	return result
}

func (w *world) try() (reconcile.Result, error) { return w.tryAccount("cart") }

func (w *world) tryAccount(name string) (reconcile.Result, error) {
	if !w.unproven {
		w.r.guard.problem(w.t.Context())
		w.r.guard.proof.round(w.t.Context())
	}
	return w.r.Reconcile(w.t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: name}})
}

// taken returns what was written since the last call.
func (w *world) taken() []string {
	writes := w.writes
	w.writes = nil
	return writes
}

func (w *world) add(objects ...client.Object) {
	w.t.Helper()
	for _, object := range objects {
		if err := w.cluster.Create(w.t.Context(), object); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) change(object client.Object, change func()) {
	w.t.Helper()
	if err := w.cluster.Get(w.t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		w.t.Fatal(err)
	}
	change()
	if err := w.cluster.Update(w.t.Context(), object); err != nil {
		w.t.Fatal(err)
	}
}

// remove deletes something by another hand than the reconciler's.
func (w *world) remove(object client.Object) {
	w.t.Helper()
	if err := w.cluster.Delete(w.t.Context(), object); err != nil {
		w.t.Fatal(err)
	}
	w.taken()
}

// role returns the Role of the grant, nil if there is none.
func (w *world) role() *rbacv1.Role {
	w.t.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "podtoken:cart"}}
	if err := w.cluster.Get(w.t.Context(), client.ObjectKeyFromObject(role), role); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		w.t.Fatal(err)
	}
	return role
}

// binding returns the RoleBinding of the grant, nil if there is none.
func (w *world) binding() *rbacv1.RoleBinding {
	w.t.Helper()
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "podtoken:cart"}}
	if err := w.cluster.Get(w.t.Context(), client.ObjectKeyFromObject(binding), binding); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		w.t.Fatal(err)
	}
	return binding
}

// counts returns how reconciliations ended.
func (w *world) counts() map[string]float64 {
	w.t.Helper()
	values := map[string]float64{}
	for name, value := range w.values() {
		if name, ok := strings.CutPrefix(name, "podtoken_grant_reconciles_total "); ok && value > 0 {
			values[name] = value
		}
	}
	return values
}

// values returns all metrics; of a histogram the count.
func (w *world) values() map[string]float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += " " + label.GetValue()
			}
			values[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// cacheView reads as the cache does, which does not see Roles and RoleBindings without our label, and strips what it sees.
type cacheView struct {
	client.Reader
	strip func(any) (any, error)
}

func (v cacheView) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	if err := v.Reader.List(ctx, list, options...); err != nil {
		return err
	}
	if pods, ok := list.(*corev1.PodList); ok {
		for i := range pods.Items {
			stripped, err := stripPod(&pods.Items[i])
			if err != nil {
				return err
			}
			pods.Items[i] = *stripped.(*corev1.Pod)
		}
	}
	return nil
}

func (v cacheView) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	if err := v.Reader.Get(ctx, key, object, options...); err != nil {
		return err
	}
	switch object.(type) {
	case *rbacv1.Role, *rbacv1.RoleBinding:
		if object.GetLabels()["podtoken.dev/grant"] != "true" {
			return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
		}
	}
	stripped, err := v.strip(object)
	if err != nil {
		return err
	}
	switch object := object.(type) {
	case *rbacv1.Role:
		*object = *stripped.(*rbacv1.Role)
	case *rbacv1.RoleBinding:
		*object = *stripped.(*rbacv1.RoleBinding)
	}
	return nil
}

// cartAccount is the ServiceAccount shop/cart.
func cartAccount(uid types.UID) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: uid}}
}

// pod is one of cart's, with a token of each audience.
func pod(name string, seconds int64, audiences ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, UID: types.UID("uid-" + name), CreationTimestamp: metav1.NewTime(time.Now().Truncate(time.Second)),
			Labels: map[string]string{"podtoken.dev/injected": "true"},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "cart",
			InitContainers:     []corev1.Container{{Name: "podtoken"}},
			Containers:         []corev1.Container{{Name: "app"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	for i, audience := range audiences {
		p.Spec.InitContainers[0].Args = append(p.Spec.InitContainers[0].Args, fmt.Sprintf(
			`--token={"name":"t%d","audiences":[%q],"expirationSeconds":%d,"path":"t%d","mode":"0400","refreshAtPercent":80}`, i, audience, seconds, i))
	}
	return p
}
