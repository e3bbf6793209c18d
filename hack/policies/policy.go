package policies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/admission"
	admissionauthorizer "k8s.io/apiserver/pkg/admission/plugin/authorizer"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Policy is a compiled ValidatingAdmissionPolicy.
type Policy struct {
	*admissionv1.ValidatingAdmissionPolicy
	validator validating.Validator
}

// Load reads and compiles the first policy of a file of YAML documents.
func Load(file string) (*Policy, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		policy := &admissionv1.ValidatingAdmissionPolicy{}
		switch err := decoder.Decode(policy); {
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("%s has no ValidatingAdmissionPolicy", file)
		case err != nil:
			return nil, fmt.Errorf("decoding %s: %w", file, err)
		case policy.Kind == "ValidatingAdmissionPolicy":
			return Compile(policy)
		}
	}
}

// Compile compiles a policy as the API server does (k8s.io/apiserver@v0.37.2/pkg/admission/plugin/policy/validating/plugin.go,
// compilePolicy, which is not exported). Messages have no authorizer there.
func Compile(policy *admissionv1.ValidatingAdmissionPolicy) (*Policy, error) {
	return CompileFor(policy, environment.DefaultCompatibilityVersion())
}

// CompileFor compiles a policy with what expressions could use in a version of Kubernetes.
func CompileFor(policy *admissionv1.ValidatingAdmissionPolicy, kubernetes *version.Version) (*Policy, error) {
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(kubernetes))
	if err != nil {
		return nil, fmt.Errorf("making a compiler: %w", err)
	}
	withAuthorizer := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	check := func(what string, result cel.CompilationResult) {
		if result.Error != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", what, result.Error))
		}
	}
	for _, variable := range policy.Spec.Variables {
		check("variable "+variable.Name, compiler.CompileAndStoreVariable(&validating.Variable{Name: variable.Name, Expression: variable.Expression}, withAuthorizer, environment.NewExpressions))
	}
	var conditions, validations, messages, annotations []cel.ExpressionAccessor
	for i := range policy.Spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&policy.Spec.MatchConditions[i]))
	}
	for _, validation := range policy.Spec.Validations {
		validations = append(validations, &validating.ValidationCondition{Expression: validation.Expression, Message: validation.Message, Reason: validation.Reason})
		if validation.MessageExpression == "" {
			messages = append(messages, nil)
			continue
		}
		messages = append(messages, &validating.MessageExpressionCondition{MessageExpression: validation.MessageExpression})
	}
	for _, annotation := range policy.Spec.AuditAnnotations {
		annotations = append(annotations, &validating.AuditAnnotationCondition{Key: annotation.Key, ValueExpression: annotation.ValueExpression})
	}
	for what, list := range map[string][]cel.ExpressionAccessor{"matchCondition": conditions, "validation": validations} {
		for _, expression := range list {
			check(what+" "+expression.GetExpression(), compiler.CompileCELExpression(expression, withAuthorizer, environment.NewExpressions))
		}
	}
	for what, list := range map[string][]cel.ExpressionAccessor{"messageExpression": messages, "auditAnnotation": annotations} {
		for _, expression := range list {
			if expression != nil {
				check(what+" "+expression.GetExpression(), compiler.CompileCELExpression(expression, cel.OptionalVariableDeclarations{}, environment.NewExpressions))
			}
		}
	}
	if err != nil {
		return nil, err
	}
	matcher := matchconditions.NewMatcher(compiler.CompileCondition(conditions, withAuthorizer, environment.StoredExpressions),
		policy.Spec.FailurePolicy, "policy", "validate", policy.Name)
	return &Policy{ValidatingAdmissionPolicy: policy, validator: validating.NewValidator(
		compiler.CompileCondition(validations, withAuthorizer, environment.StoredExpressions), matcher,
		compiler.CompileCondition(annotations, withAuthorizer, environment.StoredExpressions),
		compiler.CompileCondition(messages, cel.OptionalVariableDeclarations{}, environment.StoredExpressions),
		policy.Spec.FailurePolicy, nil)}, nil
}

// Evaluate returns what the policy says of a request; no decisions if its conditions leave the request out.
func (p *Policy) Evaluate(ctx context.Context, attributes admission.Attributes, kind schema.GroupVersionKind, authz authorizer.UnconditionalAuthorizer) validating.ValidateResult {
	versioned := &admission.VersionedAttributes{
		Attributes: attributes, VersionedObject: admission.NewLazyObject(attributes.GetObject()),
		VersionedOldObject: admission.NewLazyObject(attributes.GetOldObject()), VersionedKind: kind,
	}
	return p.validator.Validate(ctx, attributes.GetResource(), versioned, nil, nil, celconfig.RuntimeCELCostBudget, admissionauthorizer.NewCachingAuthorizer(authz))
}
