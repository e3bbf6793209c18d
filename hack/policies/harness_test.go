package policies

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"
)

// The chart as rendered: with mode rbac in the namespaces prod-* and bank.
const (
	rendered      = "../../charts/podtoken/golden/full.yaml"
	rbacSpace     = "bank"
	excludedSpace = "kube-system"
)

// documents calls f with each YAML document of a file, its kind and its name.
func documents(tb testing.TB, file string, f func(kind, name string, document []byte)) {
	tb.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var raw runtime.RawExtension
		if err := decoder.Decode(&raw); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			tb.Fatalf("%s: %v", file, err)
		}
		var head metav1.PartialObjectMetadata
		if err := yaml.Unmarshal(raw.Raw, &head); err != nil {
			tb.Fatalf("%s: %v", file, err)
		}
		f(head.Kind, head.Name, raw.Raw)
	}
}

func decodeInto[T any](tb testing.TB, document []byte) *T {
	tb.Helper()
	object := new(T)
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		tb.Fatal(err)
	}
	return object
}

// document returns the object of a kind and name in a file; the first of that kind for no name.
func document[T any](tb testing.TB, file, kind, name string) *T {
	tb.Helper()
	var found *T
	documents(tb, file, func(itsKind, itsName string, document []byte) {
		if found == nil && itsKind == kind && (name == "" || itsName == name) {
			found = decodeInto[T](tb, document)
		}
	})
	if found == nil {
		tb.Fatalf("%s has no %s %q", file, kind, name)
	}
	return found
}

// load compiles the policy of a file.
func load(tb testing.TB, file string) *Policy {
	tb.Helper()
	return compile(tb, file, "")
}

// newPolicy compiles a policy of the rendered chart.
func newPolicy(tb testing.TB, name string) *Policy {
	tb.Helper()
	return compile(tb, rendered, name)
}

func compile(tb testing.TB, file, name string) *Policy {
	tb.Helper()
	p, err := Compile(document[admissionv1.ValidatingAdmissionPolicy](tb, file, "ValidatingAdmissionPolicy", name))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// newWebhook compiles the match conditions of the webhook configuration.
func newWebhook(tb testing.TB) matchconditions.Matcher {
	tb.Helper()
	webhook := document[admissionv1.MutatingWebhookConfiguration](tb, rendered, "MutatingWebhookConfiguration", "podtoken").Webhooks[0]
	var conditions []cel.ExpressionAccessor
	for i := range webhook.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&webhook.MatchConditions[i]))
	}
	compiled := cel.NewConditionCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())).
		CompileCondition(conditions, cel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.NewExpressions)
	for _, err := range compiled.CompilationErrors() {
		tb.Fatalf("the webhook's conditions: %v", err)
	}
	return matchconditions.NewMatcher(compiled, webhook.FailurePolicy, "webhook", "admit", webhook.Name)
}

// newRequest makes the attributes of a request: the creation of an object if there is no old one, the deletion of the old one if there is no
// new one, else an update. Each evaluation needs its own, which keep what was converted.
func newRequest(object, old runtime.Object, kind schema.GroupVersionKind, namespace, name string, resource schema.GroupVersionResource, subresource string,
	by user.Info,
) *admission.VersionedAttributes {
	operation, options := admission.Update, runtime.Object(&metav1.UpdateOptions{})
	switch {
	case old == nil:
		operation, options = admission.Create, &metav1.CreateOptions{}
	case object == nil:
		operation, options = admission.Delete, &metav1.DeleteOptions{}
	}
	return &admission.VersionedAttributes{
		Attributes:      admission.NewAttributesRecord(object, old, kind, namespace, name, resource, subresource, operation, options, false, by),
		VersionedObject: admission.NewLazyObject(object), VersionedOldObject: admission.NewLazyObject(old), VersionedKind: kind,
	}
}

// Who sends requests, and about what.
const controllerUser = "system:serviceaccount:podtoken-system:podtoken-controller"

var (
	author   = &user.DefaultInfo{Name: "author"}
	podKind  = corev1.SchemeGroupVersion.WithKind("Pod")
	pods     = corev1.SchemeGroupVersion.WithResource("pods")
	accounts = corev1.SchemeGroupVersion.WithResource("serviceaccounts")
)

// writing is a request about a Role or RoleBinding in namespace web: see newRequest.
func writing(tb testing.TB, object, old runtime.Object, by user.Info) *admission.VersionedAttributes {
	tb.Helper()
	either := object
	if either == nil {
		either = old
	}
	kind, resource := "Role", "roles"
	if _, ok := either.(*rbacv1.RoleBinding); ok {
		kind, resource = "RoleBinding", "rolebindings"
	}
	named, err := meta.Accessor(either)
	if err != nil {
		tb.Fatal(err)
	}
	version := rbacv1.SchemeGroupVersion
	return newRequest(object, old, version.WithKind(kind), "web", named.GetName(), version.WithResource(resource), "", by)
}

// creation of a Pod.
func creation(pod *corev1.Pod, namespace string) *admission.VersionedAttributes {
	return newRequest(pod, nil, podKind, namespace, pod.Name, pods, "", author)
}

// debugging of a Pod: an update of its ephemeral containers.
func debugging(pod, old *corev1.Pod, namespace string) *admission.VersionedAttributes {
	return newRequest(pod, old, podKind, namespace, pod.Name, pods, "ephemeralcontainers", author)
}

// allowed is an authorizer of a ServiceAccount that may request tokens of some audiences.
type allowed []string

func (a allowed) Authorize(_ context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	for _, name := range a {
		if request.GetAPIGroup() == "podtoken.dev" && request.GetResource() == "audiences" && request.GetVerb() == "mint" && request.GetName() == name {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// asks reports whether the conditions match a pod that is created.
func asks(tb testing.TB, matcher matchconditions.Matcher, pod *corev1.Pod) bool {
	tb.Helper()
	result := matcher.Match(tb.Context(), creation(pod, "default"), nil, allowed(nil))
	if result.Error != nil {
		tb.Fatalf("matching: %v", result.Error)
	}
	return result.Matches
}

// verdict returns the message of the denial, empty for none.
func (p *Policy) verdict(tb testing.TB, request *admission.VersionedAttributes, may ...string) string {
	tb.Helper()
	for _, decision := range p.Evaluate(tb.Context(), request, allowed(may)).Decisions {
		if decision.Evaluation == validating.EvalError {
			tb.Fatalf("%s: error instead of a decision: %s", p.Name, decision.Message)
		}
		if decision.Action == validating.ActionDeny {
			return decision.Message
		}
	}
	return ""
}
