package policies

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
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

// Evaluate returns what the policy says of a request; no decisions if its conditions leave the request out. As in the API server, the same
// question to the authorizer has the same answer for the time of one evaluation.
func (p *Policy) Evaluate(ctx context.Context, request *admission.VersionedAttributes, authz authorizer.UnconditionalAuthorizer) validating.ValidateResult {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: request.GetNamespace()}}
	return p.validator.Validate(ctx, request.GetResource(), request, nil, namespace, celconfig.RuntimeCELCostBudget, admissionauthorizer.NewCachingAuthorizer(authz))
}
