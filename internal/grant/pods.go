package grant

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"weak"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podtoken/podtoken/pkg/api"
)

const (
	// tokenPrefix begins the sidecar's arguments that declare tokens.
	tokenPrefix = "--" + api.FlagToken + "="
	// maxTokenBytes is how much of a pod's declarations is kept in memory. The webhook's largest pods have half of
	// it; more is a pod that was made by hand to be large.
	maxTokenBytes = 256 << 10
	// podsByServiceAccount is the index of the cache's pods. The cache adds the namespace.
	podsByServiceAccount = "serviceAccount"
)

// stripPod keeps of a pod what this package reads. The cache may call it again with what it returned.
func stripPod(in any) (any, error) {
	pod, ok := in.(*corev1.Pod)
	if !ok || len(pod.Spec.Containers) == 0 { // Every pod has containers; this one was stripped before.
		return in, nil
	}
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:         pod.Namespace,
			Name:              pod.Name,
			UID:               pod.UID,
			ResourceVersion:   pod.ResourceVersion,
			CreationTimestamp: pod.CreationTimestamp,
		},
		Spec:   corev1.PodSpec{ServiceAccountName: pod.Spec.ServiceAccountName},
		Status: corev1.PodStatus{Phase: pod.Status.Phase},
	}
	if args, ok := sidecarArguments(pod); ok {
		out.Spec.InitContainers = sidecars.of(tokenArguments(args))
	}
	return out, nil
}

// sidecars of pods that declare the same, as all pods of a Deployment do, are one object in memory.
var sidecars shared

// shared keeps each value as long as somebody else does.
type shared struct {
	mu  sync.Mutex
	all map[string]weak.Pointer[[1]corev1.Container]
}

// of returns the list of the one init container that is kept of a pod.
func (s *shared) of(args []string) []corev1.Container {
	key := strings.Join(args, "\x00")
	s.mu.Lock()
	defer s.mu.Unlock()
	if value := s.all[key].Value(); value != nil {
		return value[:]
	}
	if s.all == nil {
		s.all = map[string]weak.Pointer[[1]corev1.Container]{}
	}
	value := &[1]corev1.Container{{Name: api.ContainerName, Args: args}}
	s.all[key] = weak.Make(value)
	runtime.AddCleanup(value, s.drop, key)
	return value[:]
}

// drop forgets a value that is gone, unless it came again.
func (s *shared) drop(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[key].Value() == nil {
		delete(s.all, key)
	}
}

// tokenArguments returns those of args that declare tokens. Too many bytes become one argument that declares nothing,
// so that declarations returns an error.
func tokenArguments(args []string) []string {
	var tokens []string
	size := 0
	for _, arg := range args {
		if strings.HasPrefix(arg, tokenPrefix) {
			tokens = append(tokens, arg)
			size += len(arg)
		}
	}
	if size > maxTokenBytes {
		return []string{tokenPrefix}
	}
	return tokens
}

// serviceAccountOf returns the name of the pod's ServiceAccount.
func serviceAccountOf(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName == "" {
		return "default"
	}
	return pod.Spec.ServiceAccountName
}

func indexPod(object client.Object) []string {
	return []string{serviceAccountOf(object.(*corev1.Pod))}
}

// finished tells whether the pod's containers have ended for good. A pod that is only terminating still refreshes.
func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// running counts the pods with a sidecar that has not ended.
func running(pods []corev1.Pod) int {
	count := 0
	for i := range pods {
		if _, ok := sidecarArguments(&pods[i]); ok && !finished(&pods[i]) {
			count++
		}
	}
	return count
}

// sidecarArguments returns the arguments of the pod's sidecar and whether it has one: pods whose tokens the kubelet
// delivers have the label, but no sidecar, and need no grant.
func sidecarArguments(pod *corev1.Pod) ([]string, bool) {
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.Name == api.ContainerName {
			return c.Args, true
		}
	}
	return nil, false
}

// declarations reads the tokens in a sidecar's arguments.
func declarations(args []string) ([]api.TokenSpec, error) {
	var tokens []api.TokenSpec
	for _, arg := range args {
		value, ok := strings.CutPrefix(arg, tokenPrefix)
		if !ok {
			continue
		}
		if value == "" {
			return nil, fmt.Errorf("argument --%s is empty, or all of them are longer than %d bytes", api.FlagToken, maxTokenBytes)
		}
		var token api.TokenSpec
		if err := json.Unmarshal([]byte(value), &token); err != nil {
			return nil, fmt.Errorf("argument --%s is not the JSON that the webhook writes: %w", api.FlagToken, err)
		}
		tokens = append(tokens, token)
	}
	if len(tokens) == 0 {
		return nil, fmt.Errorf("it has no argument --%s", api.FlagToken)
	}
	return tokens, nil
}
