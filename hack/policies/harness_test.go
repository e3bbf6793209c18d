package policies

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	apiservercel "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"
)

// The chart as rendered: with mode rbac in the namespaces prod-* and bank.
const (
	rendered      = "../../charts/podtoken/golden/full.yaml"
	rbacSpace     = "bank"
	excludedSpace = "kube-system"
)

// document returns the object of a kind and name in the rendered chart.
func document[T any](tb testing.TB, kind, name string) *T {
	tb.Helper()
	data, err := os.ReadFile(filepath.FromSlash(rendered))
	if err != nil {
		tb.Fatal(err)
	}
	for text := range strings.SplitSeq(string(data), "\n---\n") {
		var meta metav1.PartialObjectMetadata
		if err := yaml.Unmarshal([]byte(text), &meta); err != nil {
			tb.Fatal(err)
		}
		if meta.Kind != kind || meta.Name != name {
			continue
		}
		object := new(T)
		if err := yaml.UnmarshalStrict([]byte(text), object); err != nil {
			tb.Fatal(err)
		}
		return object
	}
	tb.Fatalf("the chart has no %s %q", kind, name)
	return nil
}

// newPolicy compiles a policy of the rendered chart.
func newPolicy(tb testing.TB, name string) *Policy {
	tb.Helper()
	p, err := Compile(document[admissionregistrationv1.ValidatingAdmissionPolicy](tb, "ValidatingAdmissionPolicy", name))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// newWebhook compiles the match conditions of the webhook configuration.
func newWebhook(tb testing.TB) matchconditions.Matcher {
	tb.Helper()
	webhook := document[admissionregistrationv1.MutatingWebhookConfiguration](tb, "MutatingWebhookConfiguration", "podtoken").Webhooks[0]
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

var pods = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// attributes of a request that creates the pod; each evaluation needs its own, which keep what was converted.
func attributes(pod *corev1.Pod, namespace string) *admission.VersionedAttributes {
	return requestOf(pod, nil, namespace, "", admission.Create)
}

func requestOf(pod, old *corev1.Pod, namespace, subresource string, operation admission.Operation) *admission.VersionedAttributes {
	kind := schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	versioned := &admission.VersionedAttributes{VersionedKind: kind}
	versioned.VersionedObject.Set(pod)
	if old == nil {
		versioned.Attributes = admission.NewAttributesRecord(pod, nil, kind, namespace, pod.Name, pods, subresource, operation, &metav1.CreateOptions{}, false, &user.DefaultInfo{Name: "author"})
	} else {
		versioned.VersionedOldObject.Set(old)
		versioned.Attributes = admission.NewAttributesRecord(pod, old, kind, namespace, pod.Name, pods, subresource, operation, &metav1.UpdateOptions{}, false, &user.DefaultInfo{Name: "author"})
	}
	return versioned
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
	result := matcher.Match(tb.Context(), attributes(pod, "default"), nil, allowed(nil))
	if result.Error != nil {
		tb.Fatalf("matching: %v", result.Error)
	}
	return result.Matches
}

// verdict returns the message of the denial, empty for none.
func (p *Policy) verdict(tb testing.TB, request *admission.VersionedAttributes, may ...string) string {
	tb.Helper()
	result := p.validator.Validate(tb.Context(), request.GetResource(), request, nil, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: request.GetNamespace()}},
		apiservercel.RuntimeCELCostBudget, allowed(may))
	for _, decision := range result.Decisions {
		if decision.Evaluation == validating.EvalError {
			tb.Fatalf("%s: error instead of a decision: %s", p.Name, decision.Message)
		}
		if decision.Action == validating.ActionDeny {
			return decision.Message
		}
	}
	return ""
}
