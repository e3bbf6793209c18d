package main

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPodsAreRestricted(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		for _, template := range podTemplates(decode(t, path)) {
			for _, problem := range restrictedProblems(template.Spec) {
				t.Error(problem)
			}
		}
	}, "charts/podtoken/golden/*.yaml", "manifests/*.yaml", "manifests/examples/*.yaml")
}

// TestRestrictedProblems keeps the check itself honest.
func TestRestrictedProblems(t *testing.T) {
	spec := corev1.PodSpec{
		HostNetwork: true,
		Volumes:     []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}},
		Containers:  []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{HostPort: 1}}}},
	}
	want := []string{
		"the pod shares a namespace of its node",
		`volume "v" is of a forbidden type`,
		`container "c" has a port of its node`,
		`container "c" allows privilege escalation`,
		`container "c" keeps capabilities`,
		`container "c" may run as root`,
		`container "c" has no seccomp profile`,
	}
	if got := restrictedProblems(spec); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// restrictedProblems checks a pod against the Pod Security standard "restricted", in a stricter form: what may be left
// out or relaxed there without need may not be here.
func restrictedProblems(spec corev1.PodSpec) []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }

	if spec.HostNetwork || spec.HostPID || spec.HostIPC {
		add("the pod shares a namespace of its node")
	}
	for _, volume := range spec.Volumes {
		source := volume.VolumeSource
		if source.ConfigMap == nil && source.Secret == nil && source.EmptyDir == nil && source.Projected == nil {
			add("volume %q is of a forbidden type", volume.Name)
		}
	}
	pod := spec.SecurityContext
	if pod == nil {
		pod = &corev1.PodSecurityContext{}
	}
	if pod.RunAsUser != nil && *pod.RunAsUser == 0 {
		add("the pod runs as root")
	}
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		context := container.SecurityContext
		if context == nil {
			context = &corev1.SecurityContext{}
		}
		for _, port := range container.Ports {
			if port.HostPort != 0 {
				add("container %q has a port of its node", container.Name)
			}
		}
		if context.Privileged != nil && *context.Privileged {
			add("container %q is privileged", container.Name)
		}
		if context.AllowPrivilegeEscalation == nil || *context.AllowPrivilegeEscalation {
			add("container %q allows privilege escalation", container.Name)
		}
		capabilities := context.Capabilities
		if capabilities == nil || !slices.Equal(capabilities.Drop, []corev1.Capability{"ALL"}) || len(capabilities.Add) > 0 {
			add("container %q keeps capabilities", container.Name)
		}
		if !isTrue(context.RunAsNonRoot, pod.RunAsNonRoot) || context.RunAsUser != nil && *context.RunAsUser == 0 {
			add("container %q may run as root", container.Name)
		}
		profile := context.SeccompProfile
		if profile == nil {
			profile = pod.SeccompProfile
		}
		if profile == nil || profile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			add("container %q has no seccomp profile", container.Name)
		}
	}
	return problems
}

// isTrue tells whether the container's setting, or else the pod's, is true.
func isTrue(container, pod *bool) bool {
	if container != nil {
		return *container
	}
	return pod != nil && *pod
}
