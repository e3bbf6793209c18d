package mutate

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// Mutate decides about one pod. The first row of the truth table whose condition holds is the answer:
//
//	row  condition                                                    outcome    reason
//	 1   no pod, no configuration                                     Error      Malformed, Internal
//	 2   the operation is not CREATE                                  Skipped    NotCreate
//	 3   mirror pod (annotation kubernetes.io/config.mirror)          Skipped    MirrorPod
//	 4   no annotation of podtoken, status apart                      Skipped    NoAnnotation
//	 5   inject: "false" (nothing else is looked at)                  Skipped    SwitchedOff
//	 6   inject is neither "true" nor "false"                         Denied     InvalidValue
//	 7   only for Windows, by spec.os, nodeSelector or node affinity  Denied     Unsupported
//	 8   the annotations have problems                                Denied     that of the first: UnknownAnnotation,
//	                                                                             InvalidValue, NoAudience, LimitExceeded
//	 9   the annotations do not fit the pod                           Denied     InvalidValue
//	10   something of our name is in the pod and not exactly ours     Denied     Conflict
//	11   nothing is missing                                           Unchanged  AlreadyInjected
//	12   else                                                         Injected   Sidecar, Projected
//
// Rows 8 and 9 are reported together, and every denial names all the problems of its row.
func Mutate(in Input) Result {
	if in.Pod == nil {
		return Result{Outcome: api.OutcomeError, Reason: api.ReasonMalformed, Message: "the request has no pod"}
	}
	if in.Config == nil {
		return Result{Outcome: api.OutcomeError, Reason: api.ReasonInternal, Message: "the webhook has no configuration"}
	}
	if result, done := skip(in); done {
		return result
	}
	if where := windows(&in.Pod.Spec); where != "" && !badSwitch(in.Pod) {
		return deny([]problem{{reason: api.ReasonUnsupported, text: fmt.Sprintf("%s makes this a Windows pod, and Windows pods are not supported: "+
			"remove the podtoken annotations, or set %s to \"false\"", where, api.AnnotationInject)}})
	}
	req, problems := parse(in.Pod.Metadata.Annotations, in.Config)
	p, misfits := newPlan(in, req)
	if problems = append(problems, misfits...); len(problems) > 0 {
		return deny(problems)
	}
	if problems := p.conflicts(); len(problems) > 0 {
		return deny(problems)
	}
	result := Result{
		Outcome:  api.OutcomeInjected,
		Reason:   api.ReasonSidecar,
		Message:  fmt.Sprintf("injected (tokens: %d, containers: %d)", len(p.tokens), p.mounted()),
		Warnings: p.warnings(),
		Patch:    p.patch(),
		Tokens:   p.tokens,
	}
	if req.projected {
		result.Reason = api.ReasonProjected
	}
	if len(result.Patch) == 0 {
		result.Outcome, result.Reason, result.Message = api.OutcomeUnchanged, api.ReasonAlreadyInjected, "the pod has everything already"
	}
	return result
}

// skip has rows 2 to 5.
func skip(in Input) (result Result, done bool) {
	skipped := func(reason api.Reason, message string) (Result, bool) {
		return Result{Outcome: api.OutcomeSkipped, Reason: reason, Message: message}, true
	}
	if in.Operation != "CREATE" {
		return skipped(api.ReasonNotCreate, "only the creation of pods is of interest")
	}
	annotations := in.Pod.Metadata.Annotations
	if _, mirror := annotations[api.AnnotationMirrorPod]; mirror {
		return skipped(api.ReasonMirrorPod, "mirror pods cannot be changed")
	}
	if !asks(annotations) {
		return skipped(api.ReasonNoAnnotation, "the pod has no podtoken annotation")
	}
	if annotations[api.AnnotationInject] == "false" {
		return skipped(api.ReasonSwitchedOff, "injection is switched off by "+api.AnnotationInject)
	}
	return Result{}, false
}

// asks reports whether there is an annotation of the user for podtoken.
func asks(annotations map[string]string) bool {
	for key := range annotations {
		if IsRequest(key) {
			return true
		}
	}
	return false
}

// IsRequest reports whether an annotation with this key makes podtoken responsible for the Pod. The prefix in another case does, too:
// it is legal, and without a denial the Pod would start without tokens. The conditions of the webhook and of the policies say the same
// (charts/podtoken/templates/_helpers.tpl).
func IsRequest(key string) bool {
	return hasPrefix(key) && key != api.AnnotationStatus
}

// hasPrefix reports whether the key begins with podtoken's prefix in any case.
func hasPrefix(key string) bool {
	return len(key) >= len(api.Prefix) && strings.EqualFold(key[:len(api.Prefix)], api.Prefix)
}

// badSwitch is the condition of row 6; the message comes from parse, with everything else that is wrong.
func badSwitch(pod *Pod) bool {
	value, ok := pod.Metadata.Annotations[api.AnnotationInject]
	return ok && value != "true"
}

// windows names the field that binds the pod to Windows; empty when none does. windowsOptions alone do not: a Pod for Linux can have them
// (see windowsWarnings).
func windows(spec *Spec) string {
	if spec.OS == string(corev1.Windows) {
		return `spec.os.name "windows"`
	}
	for _, label := range osLabels {
		if spec.NodeSelector[label] == string(corev1.Windows) {
			return "spec.nodeSelector " + label + `: "windows"`
		}
	}
	if _, ok := spec.NodeSelector[corev1.LabelWindowsBuild]; ok {
		return "spec.nodeSelector " + corev1.LabelWindowsBuild
	}
	if spec.RequiredNodeAffinity == nil || len(spec.RequiredNodeAffinity.NodeSelectorTerms) == 0 {
		return ""
	}
	// Terms are alternatives, the expressions of a term hold together: every term must demand Windows.
	label := ""
	for _, term := range spec.RequiredNodeAffinity.NodeSelectorTerms {
		i := slices.IndexFunc(term.MatchExpressions, demandsWindows)
		if i < 0 {
			return ""
		}
		label = term.MatchExpressions[i].Key
	}
	return "the required node affinity to " + label + ` "windows"`
}

// osLabels are those by which a node says its operating system; the second is what the first was called before Kubernetes 1.14.
var osLabels = []string{corev1.LabelOSStable, "beta.kubernetes.io/os"}

// demandsWindows reports whether the expression holds for nodes of Windows alone. There are nodes of Linux and of Windows, and no others.
func demandsWindows(e corev1.NodeSelectorRequirement) bool {
	isWindows := func(value string) bool { return value == string(corev1.Windows) }
	switch {
	case e.Key == corev1.LabelWindowsBuild:
		return e.Operator == corev1.NodeSelectorOpIn || e.Operator == corev1.NodeSelectorOpExists
	case !slices.Contains(osLabels, e.Key):
		return false
	case e.Operator == corev1.NodeSelectorOpIn:
		return len(e.Values) > 0 && !slices.ContainsFunc(e.Values, func(value string) bool { return !isWindows(value) })
	case e.Operator == corev1.NodeSelectorOpNotIn:
		return slices.Contains(e.Values, string(corev1.Linux)) && !slices.ContainsFunc(e.Values, isWindows)
	}
	return false
}

// maxListed bounds the problems in a message and the names in a list.
const maxListed = 10

// deny makes a denial out of the problems, of which there is at least one.
func deny(problems []problem) Result {
	result := Result{Outcome: api.OutcomeDenied, Reason: problems[0].reason, Message: "podtoken: " + problems[0].text}
	if len(problems) == 1 {
		return result
	}
	var text strings.Builder
	fmt.Fprintf(&text, "podtoken: %d problems: ", len(problems))
	for i, problem := range problems[:min(len(problems), maxListed)] {
		if i > 0 {
			text.WriteString("; ")
		}
		fmt.Fprintf(&text, "(%d) %s", i+1, problem.text)
	}
	if more := len(problems) - maxListed; more > 0 {
		fmt.Fprintf(&text, "; and %d more", more)
	}
	result.Message = text.String()
	return result
}
