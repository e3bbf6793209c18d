package servingcert

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

const (
	// fieldOwner names us in managedFields.
	fieldOwner = "podtoken-controller"
	// A failed step is tried again after firstRetry, twice that, and so on up to lastRetry.
	firstRetry = 50 * time.Millisecond
	lastRetry  = time.Minute
)

// Config is what SetUp needs.
type Config struct {
	// Secret is made when it is not there.
	Secret types.NamespacedName
	// Registration is the name of the MutatingWebhookConfiguration.
	Registration string
	// DNSName is the one by which API servers call the webhook: service.namespace.svc.
	DNSName  string
	Registry prometheus.Registerer
	Logger   *slog.Logger
}

// NewMapper knows the two resources, so that no API server needs to be asked for them.
func NewMapper() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(kindSecret, meta.RESTScopeNamespace)
	mapper.Add(kindRegistration, meta.RESTScopeRoot)
	return mapper
}

var (
	kindSecret       = corev1.SchemeGroupVersion.WithKind("Secret")
	kindRegistration = admissionv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration")
)

// AddToCache adds what is watched: that the two objects change, not what is in them.
func (c Config) AddToCache(options *cache.Options) {
	options.ByObject[metadataOf(kindSecret)] = cache.ByObject{
		Namespaces: map[string]cache.Config{c.Secret.Namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", c.Secret.Name)}},
		Transform:  cache.TransformStripManagedFields(),
	}
	options.ByObject[metadataOf(kindRegistration)] = cache.ByObject{
		Field:     fields.OneTermEqualSelector("metadata.name", c.Registration),
		Transform: cache.TransformStripManagedFields(),
	}
}

func metadataOf(kind schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(kind)
	return object
}

// SetUp adds the reconciler to a manager whose cache and mapper know the two objects. It starts nothing.
func SetUp(mgr manager.Manager, c Config) error {
	r := &Reconciler{
		live: mgr.GetAPIReader(), writer: mgr.GetClient(), secret: c.Secret, registration: c.Registration, dnsName: c.DNSName,
		now: time.Now, metrics: newMetrics(c.Registry), logger: c.Logger,
	}
	warm, skip := true, true
	run, err := controller.New("podtoken-serving-certificate", mgr, controller.Options{
		Reconciler:         r,
		RateLimiter:        workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
		EnableWarmup:       &warm,
		SkipNameValidation: &skip, // The name is in metrics that nobody reads here.
	})
	if err != nil {
		return fmt.Errorf("making the controller of the serving certificate: %w", err)
	}
	for _, watch := range []source.Source{
		source.Kind(mgr.GetCache(), metadataOf(kindSecret), always()),
		source.Kind(mgr.GetCache(), metadataOf(kindRegistration), always()),
		// At the first installation neither is there, and nothing tells of them.
		source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			queue.Add(reconcile.Request{})
			return nil
		}),
	} {
		if err := run.Watch(watch); err != nil {
			return fmt.Errorf("watching: %w", err)
		}
	}
	return nil
}

// always asks for the one thing that there is to look at.
func always() handler.TypedEventHandler[*metav1.PartialObjectMetadata, reconcile.Request] {
	return handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, *metav1.PartialObjectMetadata) []reconcile.Request {
		return []reconcile.Request{{}}
	})
}
