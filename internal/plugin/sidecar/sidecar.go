// Package sidecar reads what the sidecar of a running pod knows: by its own command check, in its container.
package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/status"
)

// ErrProjected is for pods whose tokens the kubelet keeps.
var ErrProjected = errors.New("delivery projected: the kubelet keeps these tokens, and nobody can ask it about them")

// Container is the sidecar in a pod; nil if there is none.
func Container(pod *corev1.Pod) *corev1.Container {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == api.ContainerName {
			return &pod.Spec.InitContainers[i]
		}
	}
	return nil
}

// Runs reports whether a pod has our sidecar: a container of its name that was told to keep tokens. The pod may be nil.
func Runs(pod *corev1.Pod) bool {
	if pod == nil {
		return false
	}
	container := Container(pod)
	return container != nil && slices.ContainsFunc(container.Args, func(argument string) bool { return strings.HasPrefix(argument, tokenPrefix) })
}

// Projected reports whether the kubelet keeps the tokens of a pod (delivery projected).
func Projected(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == api.VolumeTokens && v.Projected != nil })
}

// tokenPrefix begins the arguments that name tokens.
const tokenPrefix = "--" + api.FlagToken + "="

// Declared are the tokens that the sidecar was told to keep.
func Declared(pod *corev1.Pod) []api.TokenSpec {
	container := Container(pod)
	if container == nil {
		return nil
	}
	var tokens []api.TokenSpec
	for _, argument := range container.Args {
		value, ok := strings.CutPrefix(argument, tokenPrefix)
		if !ok {
			continue
		}
		if token, err := config.ParseToken(value); err == nil {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// State is why the sidecar of a pod does not run, in the words of the pod's status; empty if it runs.
func State(pod *corev1.Pod) string {
	for i := range pod.Status.InitContainerStatuses {
		s := &pod.Status.InitContainerStatuses[i]
		if s.Name != api.ContainerName {
			continue
		}
		text := ""
		switch {
		case s.State.Running != nil:
			return ""
		case s.State.Waiting != nil:
			text = "waiting: " + s.State.Waiting.Reason
			if s.State.Waiting.Message != "" {
				text += ": " + s.State.Waiting.Message
			}
		case s.State.Terminated != nil:
			text = "ended: " + s.State.Terminated.Reason
		}
		if last := s.LastTerminationState.Terminated; last != nil && last.Message != "" {
			text += "; before: " + last.Message
		}
		return strings.Join(strings.Fields(text), " ")
	}
	return "the pod's containers have not been started (phase " + string(pod.Status.Phase) + ")"
}

// Details asks the sidecar of a pod.
func Details(ctx context.Context, c *plugin.Cluster, pod *corev1.Pod) (*status.Details, error) {
	switch {
	case Container(pod) == nil && pod.Annotations[api.AnnotationDelivery] == api.DeliveryProjected && pod.Labels[api.LabelInjected] != "":
		return nil, ErrProjected
	case Container(pod) == nil:
		return nil, fmt.Errorf("pod %s/%s has no sidecar of podtoken: \"kubectl podtoken explain %s\" says why", pod.Namespace, pod.Name, pod.Name)
	}
	if state := State(pod); state != "" {
		return nil, fmt.Errorf("the sidecar does not run: %s", state)
	}
	stdout, stderr, err := c.Exec(ctx, pod.Namespace, pod.Name, api.ContainerName, api.SidecarBinary, api.CommandCheck, "--"+api.FlagOutput+"="+api.OutputJSON)
	// Its exit code is 1 when a token is not fresh, and then the answer says which.
	details := &status.Details{}
	if decodeErr := json.Unmarshal([]byte(stdout), details); decodeErr == nil {
		return details, nil
	}
	switch {
	case apierrors.IsForbidden(err):
		return nil, err
	case strings.Contains(stderr, "flag provided but not defined"):
		return nil, fmt.Errorf("the sidecar of pod %s/%s is of a version without \"check --output=json\": create the pod again", pod.Namespace, pod.Name)
	case err != nil:
		return nil, fmt.Errorf("asking the sidecar of pod %s/%s: %w: %s", pod.Namespace, pod.Name, err, strings.TrimSpace(stderr))
	}
	return nil, fmt.Errorf("the sidecar of pod %s/%s answered with something else than JSON", pod.Namespace, pod.Name)
}
