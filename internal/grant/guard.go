package grant

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// guard knows whether API servers enforce the ValidatingAdmissionPolicy that keeps what a grant allows to minting one's own
// declared tokens. The Role alone would let its holder mint any token for its ServiceAccount, unbound and for 136 years.
type guard struct {
	// name of the policy and of its binding.
	name   string
	reader client.Reader
	proof  *proof
	logger *slog.Logger

	mu       sync.Mutex
	reported string
	silent   bool // nothing was reported yet, and a guard that was always there needs no report
}

func newGuard(name string, reader client.Reader, proof *proof, logger *slog.Logger) *guard {
	return &guard{name: name, reader: reader, proof: proof, logger: logger, silent: true}
}

// fromDisk reports whether a guard of that name is one that API servers load from their disks. Kubernetes keeps such names for
// them, so that there are no objects to read.
func fromDisk(name string) bool { return strings.HasSuffix(name, ".static.k8s.io") }

// problem returns a sentence about what is wrong with the guard, "" if nothing is, and logs every change of it.
func (g *guard) problem(ctx context.Context) string {
	of, problem := g.look(ctx)
	if ctx.Err() != nil {
		return problem // The look was cut short, which says nothing about the guard.
	}
	if proof := g.proof.problemOf(of); problem == "" {
		problem = proof
	}
	if problem == proving {
		return problem // The report waits for the answer.
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case problem == g.reported:
	case problem == "" && !g.silent:
		g.logger.Info("Guard proven", "guard", g.name)
	case problem != "":
		g.logger.Error("Guard missing, nothing new is granted", "guard", g.name, "problem", problem)
		g.silent = false
	}
	g.reported = problem
	return problem
}

// look returns what identifies the guard's objects, and what is wrong with them.
func (g *guard) look(ctx context.Context) (of, problem string) {
	if fromDisk(g.name) {
		return g.name, ""
	}
	key := client.ObjectKey{Name: g.name}
	policy, binding := &admissionv1.ValidatingAdmissionPolicy{}, &admissionv1.ValidatingAdmissionPolicyBinding{}
	if err := g.reader.Get(ctx, key, policy); apierrors.IsNotFound(err) {
		policy = nil
	} else if err != nil {
		return "", fmt.Sprintf("ValidatingAdmissionPolicy %q cannot be read: %v", g.name, err)
	}
	if err := g.reader.Get(ctx, key, binding); apierrors.IsNotFound(err) {
		binding = nil
	} else if err != nil {
		return "", fmt.Sprintf("ValidatingAdmissionPolicyBinding %q cannot be read: %v", g.name, err)
	}
	if problem := guardProblem(g.name, policy, binding); problem != "" {
		return "", problem + "; restore it (it is part of podtoken's chart)"
	}
	return fmt.Sprint(policy.UID, policy.Generation, " ", binding.UID, binding.Generation), ""
}

// guardProblem tells why a policy and its binding, nil if they do not exist, are no guard.
func guardProblem(name string, policy *admissionv1.ValidatingAdmissionPolicy, binding *admissionv1.ValidatingAdmissionPolicyBinding) string {
	switch {
	case policy == nil || policy.DeletionTimestamp != nil:
		return fmt.Sprintf("ValidatingAdmissionPolicy %q does not exist", name)
	case policy.Spec.FailurePolicy != nil && *policy.Spec.FailurePolicy != admissionv1.Fail:
		return fmt.Sprintf("ValidatingAdmissionPolicy %q has failurePolicy %s instead of Fail", name, *policy.Spec.FailurePolicy)
	case binding == nil || binding.DeletionTimestamp != nil:
		return fmt.Sprintf("ValidatingAdmissionPolicyBinding %q does not exist", name)
	case binding.Spec.PolicyName != name:
		return fmt.Sprintf("ValidatingAdmissionPolicyBinding %q binds policy %q instead of %q", name, binding.Spec.PolicyName, name)
	case !slices.Contains(binding.Spec.ValidationActions, admissionv1.Deny):
		return fmt.Sprintf("ValidatingAdmissionPolicyBinding %q has validationActions %v without Deny", name, binding.Spec.ValidationActions)
	case binding.Spec.MatchResources != nil:
		return fmt.Sprintf("ValidatingAdmissionPolicyBinding %q has matchResources, which leave requests out", name)
	}
	return ""
}
