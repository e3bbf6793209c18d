package explain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/access"
	"github.com/podtoken/podtoken/internal/plugin/inject"
	"github.com/podtoken/podtoken/internal/plugin/installation"
	"github.com/podtoken/podtoken/internal/plugin/manifest"
	"github.com/podtoken/podtoken/internal/plugin/sidecar"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// What findings are about.
const (
	checkAnnotations  = "annotations"
	checkNamespace    = "namespace"
	checkInstallation = "installation"
	checkDecision     = "decision"
	checkSidecar      = "sidecar"
	checkLabel        = "label"
	checkGrant        = "grant"
	checkWorkload     = "workload"
)

// labelTrue is the value of podtoken's labels.
const labelTrue = "true"

type explainer struct {
	cluster *plugin.Cluster
	found   *installation.Installation
}

func (x *explainer) explain(ctx context.Context, s *subject) (*Report, error) {
	if s.Namespace == "" {
		s.Namespace = x.cluster.Namespace
	}
	r := &Report{Object: s.String(), Template: s.Template, ServiceAccount: s.ServiceAccount()}
	specs, err := x.decide(s, r)
	if err != nil {
		return nil, err
	}
	x.annotations(ctx, s, r)
	if asks(s.Pod) {
		if err := x.reach(ctx, s, r); err != nil {
			return nil, err
		}
	}
	if err := x.tokens(ctx, s, r, specs); err != nil {
		return nil, err
	}
	if s.live != nil && r.Outcome == api.OutcomeUnchanged {
		if sidecar.Runs(s.live) && !finished(s.live) {
			if err := x.grant(ctx, s, r, specs); err != nil {
				return nil, err
			}
		}
		if err := x.running(ctx, s, r); err != nil {
			return nil, err
		}
	}
	x.workload(s, r)
	return r, nil
}

// decide sets the outcome. A running pod with a sidecar is as it is: what the webhook would say today is of no use to it.
func (x *explainer) decide(s *subject, r *Report) ([]api.TokenSpec, error) {
	labelled := s.live != nil && s.live.Labels[api.LabelInjected] == labelTrue
	switch {
	case labelled && !sidecar.Runs(s.live) && !sidecar.Projected(s.live):
		r.Outcome, r.Message = api.OutcomeSkipped, "the Pod has podtoken's label, and nothing that brings it tokens"
		r.Findings.Add(plugin.Problem, checkLabel, "metadata.labels: %s is %q, and the Pod has neither podtoken's sidecar nor a projected volume %q, so its files are never written: "+
			"create it again with its annotations and without the label", api.LabelInjected, labelTrue, api.VolumeTokens)
		return nil, nil
	case labelled:
		r.Outcome, r.Reason, r.Message = api.OutcomeUnchanged, api.ReasonAlreadyInjected, "the pod is injected"
		var status api.Status
		if json.Unmarshal([]byte(s.live.Annotations[api.AnnotationStatus]), &status) == nil && status.Version != "" {
			r.Message += " (by version " + status.Version + ")"
		}
	case sidecar.Runs(s.live):
		r.Outcome, r.Message = api.OutcomeUnchanged, "the Pod has podtoken's sidecar without its label, and the controller does not count it"
	}
	if r.Outcome != "" {
		content, err := s.JSON()
		if err != nil {
			return nil, err
		}
		r.Containers, err = containers(content)
		return sidecar.Declared(s.live), err
	}
	rules, err := x.found.Rules()
	if err != nil {
		return nil, err
	}
	content, err := s.JSON()
	if err != nil {
		return nil, err
	}
	decision, err := rules.Pod(content, s.Namespace)
	if err != nil {
		return nil, err
	}
	r.Outcome, r.Reason, r.Message = decision.Outcome, decision.Reason, decision.Message
	for _, warning := range decision.Warnings {
		r.Findings.Add(plugin.Warning, checkDecision, "%s", warning)
	}
	switch {
	case !decision.Allowed():
		r.Findings.Add(plugin.Problem, checkDecision, "the webhook refuses this pod: %s", strings.TrimPrefix(decision.Message, "podtoken: "))
	case s.live != nil && decision.Outcome == api.OutcomeInjected:
		r.Outcome, r.Reason = api.OutcomeSkipped, ""
		r.Message = "the pod is not injected; a new one like it would be"
		r.Findings.Add(plugin.Problem, checkAnnotations, "the pod is older than its annotations or than podtoken: create it again, running pods are not changed")
	}
	if r.Outcome == api.OutcomeInjected || r.Outcome == api.OutcomeUnchanged {
		r.Containers, err = containers(decision.Pod)
	}
	return decision.Tokens, err
}

// containers are those of an injected pod that can read the tokens.
func containers(content []byte) ([]Container, error) {
	if content == nil {
		return nil, nil
	}
	var pod corev1.Pod
	if err := json.Unmarshal(content, &pod); err != nil {
		return nil, err
	}
	var found []Container
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		at := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == api.VolumeTokens })
		if at < 0 || c.Name == api.ContainerName {
			continue
		}
		container := Container{Name: c.Name, Directory: c.VolumeMounts[at].MountPath}
		for _, env := range c.Env {
			if strings.HasPrefix(env.Value, container.Directory+"/") {
				container.Variables = append(container.Variables, env.Name)
			}
		}
		found = append(found, container)
	}
	return found, nil
}

// asks reports whether a pod has annotations of podtoken.
func asks(pod *manifest.Pod) bool {
	annotations := pod.Annotations()
	for key := range annotations {
		if mutate.IsRequest(key) && annotations[api.AnnotationInject] != "false" {
			return true
		}
	}
	return false
}

// annotations looks for annotations that stand where they do nothing.
func (x *explainer) annotations(ctx context.Context, s *subject, r *Report) {
	if keys := inject.Misplaced(s.Pod); len(keys) > 0 {
		r.Findings.Add(plugin.Problem, checkAnnotations, "%s", inject.MisplacedText(s.Pod, keys))
	}
	if s.live == nil || asks(s.Pod) || sidecar.Runs(s.live) {
		return
	}
	// A pod without annotations may be of a workload that has them in the wrong place.
	// Deployments hand their annotations down to ReplicaSets, so it is the outermost owner that counts.
	found := ""
	for owner := metav1.GetControllerOf(s.live); owner != nil && s.Namespace == x.cluster.Namespace; {
		pod, next, err := x.owner(ctx, owner)
		if err != nil {
			break // It is gone, may not be read, or is of a kind that has no pods: there is nothing to say.
		}
		if keys := inject.Misplaced(pod); len(keys) > 0 {
			found = fmt.Sprintf("%s: %s", pod, inject.MisplacedText(pod, keys))
		} else if asks(pod) {
			found = fmt.Sprintf("%s has the annotations by now, and this pod was made before: restart the workload", pod)
		}
		owner = next
	}
	if found != "" {
		r.Findings.Add(plugin.Problem, checkAnnotations, "%s", found)
	}
}

// owner is the pod template of an owner, and who owns that.
func (x *explainer) owner(ctx context.Context, reference *metav1.OwnerReference) (*manifest.Pod, *metav1.OwnerReference, error) {
	object, err := x.cluster.Object(ctx, resourceOf(reference)+"/"+reference.Name)
	if err != nil {
		return nil, nil, err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := json.Marshal(content)
	if err != nil {
		return nil, nil, err
	}
	pods, err := manifest.Parse(encoded)
	if err != nil {
		return nil, nil, err
	}
	if len(pods) != 1 {
		return nil, nil, fmt.Errorf("%s has no pod template", reference.Kind)
	}
	var partial metav1.PartialObjectMetadata
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &partial); err != nil {
		return nil, nil, err
	}
	return pods[0], metav1.GetControllerOf(&partial), nil
}

// resourceOf is the kind of an owner as arguments spell it: "replicaset.v1.apps".
func resourceOf(owner *metav1.OwnerReference) string {
	group, version, ok := strings.Cut(owner.APIVersion, "/")
	if !ok {
		return strings.ToLower(owner.Kind)
	}
	return strings.ToLower(owner.Kind) + "." + version + "." + group
}

// reach reports whether the webhook is called for the pod at all.
func (x *explainer) reach(ctx context.Context, s *subject, r *Report) error {
	if x.found.Registration == nil && x.found.RegistrationErr == nil {
		r.Findings.Add(plugin.Problem, checkInstallation, "there is no MutatingWebhookConfiguration with the webhook %s: nobody calls the webhook; an administrator has to "+
			"run \"helm upgrade\", and \"kubectl podtoken doctor\" says what else is missing", installation.WebhookName)
	}
	namespace, err := x.cluster.Client.CoreV1().Namespaces().Get(ctx, s.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		r.Findings.Add(plugin.Problem, checkNamespace, "namespace %q does not exist", s.Namespace)
		return nil
	case apierrors.IsForbidden(err):
		namespace = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.Namespace, Labels: map[string]string{corev1.LabelMetadataName: s.Namespace}}}
	case err != nil:
		return err
	}
	if x.found.Excluded(namespace) && !sidecar.Runs(s.live) {
		r.Findings.Add(plugin.Problem, checkNamespace, "pods in namespace %q are never injected: use another one, or set %s to \"false\"", s.Namespace, api.AnnotationInject)
	}
	return nil
}

// tokens says what policy and RBAC say about each audience.
func (x *explainer) tokens(ctx context.Context, s *subject, r *Report, specs []api.TokenSpec) error {
	account := access.Account{Namespace: s.Namespace, Name: r.ServiceAccount}
	var denied []string
	for _, spec := range specs {
		token := Token{TokenSpec: spec}
		for _, audience := range spec.Audiences {
			answer, err := account.MayMint(ctx, x.cluster.Client, audience)
			if err != nil {
				return err
			}
			grant := Grant{Audience: audience, Policy: x.found.AllowedBy(s.Namespace, account.Name, audience), RBAC: string(answer)}
			if text := quotedAudience(audience); answer == access.No && !slices.Contains(denied, text) {
				denied = append(denied, text)
			}
			token.Grants = append(token.Grants, grant)
		}
		r.Tokens = append(r.Tokens, token)
	}
	if len(denied) == 0 {
		return nil
	}
	switch {
	case s.live != nil && r.Outcome == api.OutcomeUnchanged:
		// The grant of a running sidecar has findings of its own.
	case x.found.Policy != nil && x.found.Policy.RBAC(s.Namespace):
		r.Findings.Add(plugin.Problem, checkGrant, "%s", rolesDecide(account, denied))
	case (r.Outcome == api.OutcomeInjected || r.Outcome == api.OutcomeUnchanged) && !r.Findings.Bad():
		r.Findings.Add(plugin.Note, checkGrant, "ServiceAccount %s gets the right to mint when the first such pod exists", account)
	}
	return nil
}

// running says what an injected pod waits for.
func (x *explainer) running(ctx context.Context, s *subject, r *Report) error {
	if sidecar.Container(s.live) != nil && !finished(s.live) {
		if state := sidecar.State(s.live); state != "" {
			r.Findings.Add(plugin.Problem, checkSidecar, "the sidecar does not run: %s", state)
		} else {
			r.Findings.Add(plugin.OK, checkSidecar, "the sidecar runs; \"kubectl podtoken status %s -n %s\" asks it about its tokens", s.Name, s.Namespace)
		}
	}
	events, err := x.cluster.Client.CoreV1().Events(s.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.uid=" + string(s.live.UID),
	})
	if apierrors.IsForbidden(err) {
		return nil
	}
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for i := range events.Items {
		event := &events.Items[i]
		if slices.Contains([]string{"GrantRefused", "GrantConflict", "GrantFailed", "GuardMissing"}, event.Reason) && !seen[event.Reason] {
			seen[event.Reason] = true
			if r.says(strings.TrimPrefix(event.Message, "podtoken: ")) {
				continue
			}
			r.Findings.Add(plugin.Problem, checkGrant, "%s: %s", event.Reason, event.Message)
		}
	}
	return nil
}

// says reports whether a finding has the text already.
func (r *Report) says(text string) bool {
	return text != "" && slices.ContainsFunc(r.Findings, func(f plugin.Finding) bool { return strings.Contains(f.Text, text) })
}

// workload says why a workload has no pods.
func (x *explainer) workload(s *subject, r *Report) {
	status, _ := s.content["status"].(map[string]any)
	conditions, _ := status["conditions"].([]any)
	for _, item := range conditions {
		condition, _ := item.(map[string]any)
		if condition["type"] == "ReplicaFailure" && condition["status"] == "True" {
			r.Findings.Add(plugin.Problem, checkWorkload, "its pods cannot be created: %v", condition["message"])
		}
	}
}

// lifetime writes seconds as "1h", "90m".
func lifetime(seconds int64) string {
	text := (time.Duration(seconds) * time.Second).String()
	for _, zero := range []struct{ suffix, cut string }{{"m0s", "0s"}, {"h0m", "0m"}} {
		if strings.HasSuffix(text, zero.suffix) {
			text = strings.TrimSuffix(text, zero.cut)
		}
	}
	return text
}
