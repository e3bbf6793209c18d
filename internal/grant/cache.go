package grant

import (
	"net/http"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
)

// NewScheme returns the types that the controller reads and writes.
func NewScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, rbacv1.AddToScheme, admissionv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err) // Only types that were registered twice are an error.
		}
	}
	return scheme
}

// NewMapper knows the resources of those types, so that no API server needs to be asked for them.
func NewMapper(*rest.Config, *http.Client) (meta.RESTMapper, error) {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("ServiceAccount"), meta.RESTScopeNamespace)
	mapper.Add(rbacv1.SchemeGroupVersion.WithKind("Role"), meta.RESTScopeNamespace)
	mapper.Add(rbacv1.SchemeGroupVersion.WithKind("RoleBinding"), meta.RESTScopeNamespace)
	for _, kind := range []string{"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"} {
		// The plural that is guessed for words in -y is right, and plain for the other.
		mapper.Add(admissionv1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeRoot)
	}
	return mapper, nil
}

// CacheOptions returns what is read of a cluster: the injected pods, the names of ServiceAccounts, our own Roles and
// RoleBindings, and the guard. Whatever is read without a cache must be read on purpose. current returns the policy in use, whose
// limits tell how large a Role of podtoken can be.
//
// Objects out of these caches are shared. They must not be changed.
func CacheOptions(guard string, current func() *policy.Policy) cache.Options {
	shared := true
	limit := func() int { return current().MaxPerServiceAccount() }
	ours := labels.SelectorFromSet(labels.Set{api.LabelGrant: labelTrue})
	named := cache.ByObject{Field: fields.OneTermEqualSelector("metadata.name", guard), Transform: cache.TransformStripManagedFields()}
	return cache.Options{
		ReaderFailOnMissingInformer:  true,
		DefaultUnsafeDisableDeepCopy: &shared,
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}: {
				Label:     labels.SelectorFromSet(labels.Set{api.LabelInjected: labelTrue}),
				Transform: stripPod,
			},
			serviceAccount():                                {Transform: stripServiceAccount},
			&rbacv1.Role{}:                                  {Label: ours, Transform: stripGrant(limit)},
			&rbacv1.RoleBinding{}:                           {Label: ours, Transform: stripGrant(limit)},
			&admissionv1.ValidatingAdmissionPolicy{}:        named,
			&admissionv1.ValidatingAdmissionPolicyBinding{}: named,
		},
	}
}

// serviceAccount is a ServiceAccount of which only the metadata is read.
func serviceAccount() *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ServiceAccount"))
	return object
}

// stripServiceAccount keeps the name and the uid: a cluster has many more ServiceAccounts than we care for.
func stripServiceAccount(in any) (any, error) {
	object, ok := in.(*metav1.PartialObjectMetadata)
	if !ok {
		return in, nil
	}
	return &metav1.PartialObjectMetadata{
		TypeMeta: object.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: object.Namespace, Name: object.Name, UID: object.UID, ResourceVersion: object.ResourceVersion,
		},
	}, nil
}
