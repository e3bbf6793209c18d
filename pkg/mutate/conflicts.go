package mutate

import (
	"fmt"
	"strings"

	"github.com/podtoken/podtoken/pkg/api"
)

// conflicts settles the plan and has row 10 of the truth table: whatever has one of our names must be exactly what we
// inject, or it could be a forged token (aws/amazon-eks-pod-identity-webhook#315), and nothing may hide our directory.
func (p *plan) conflicts() []problem {
	var problems []problem
	add := func(format string, args ...any) {
		problems = append(problems, problem{reason: api.ReasonConflict, text: fmt.Sprintf(format, args...)})
	}

	wrong := p.settle()
	switch {
	case p.own < 0:
	case p.req.projected:
		add("the init container %q is podtoken's sidecar, and %s is %q: remove the container, podtoken adds what is needed",
			api.ContainerName, api.AnnotationDelivery, api.DeliveryProjected)
	case len(wrong) > 0:
		add("%s", p.changedText(wrong))
	}
	for _, m := range p.members {
		if m.Name == api.ContainerName {
			add("spec.%s has a container of the reserved name %q: rename it", m.list, m.Name)
		}
	}

	wanted := map[string]int{}
	for i, volume := range p.volumes {
		wanted[volume.Name] = i
	}
	for _, volume := range p.pod.Spec.Volumes {
		if volume.Name != api.VolumeTokens && volume.Name != api.VolumeAPI {
			continue
		}
		i, ok := wanted[volume.Name]
		if !ok {
			add("the volume name %q is reserved: rename the volume", volume.Name)
		} else if text := volumeDifference(volume, p.volumes[i]); text != "" && p.injectedBefore() {
			add("the volume %q differs from what podtoken injected, %s: probably changed by an edit of the annotations or of a profile after the Pod was injected (create or render it again), "+
				"or by a webhook or policy that edits volumes: exempt volumes of this name there", volume.Name, text)
		} else if text != "" {
			add("the volume %q is not what podtoken injects, %s: remove it, podtoken adds its own, or rename it", volume.Name, text)
		}
	}

	for _, m := range p.members {
		if m.selected && m.TerminationMessagePath != "" && below(m.TerminationMessagePath, p.req.mountPath) {
			// The kubelet mounts a file there, for which the container runtime finds no place in a volume that is read-only.
			add("container %s has the terminationMessagePath %s, where the tokens belong: set another, or set %s",
				quote(m.Name), quote(m.TerminationMessagePath), api.AnnotationMountPath)
		}
		for _, mount := range m.VolumeMounts {
			switch {
			case mount.Name == api.VolumeAPI:
				add("container %s mounts the volume %q, which holds the sidecar's own credential: remove the mount", quote(m.Name), mount.Name)
			case mount.Name == api.VolumeTokens && !mount.ReadOnly:
				add("container %s mounts the volume %q writable: set readOnly to true", quote(m.Name), mount.Name)
			case !m.selected || !below(mount.MountPath, p.req.mountPath) || mount.Name == api.VolumeTokens && !p.hides(mount):
			default:
				add("container %s mounts the volume %s at %s, where the tokens belong: mount it elsewhere, or set %s",
					quote(m.Name), quote(mount.Name), quote(mount.MountPath), api.AnnotationMountPath)
			}
		}
	}

	if value, ok := p.pod.Metadata.Labels[api.LabelInjected]; ok && value != "true" {
		add("the label %s has the value %s: remove it, podtoken sets it", api.LabelInjected, quote(value))
	}
	if value, ok := p.pod.Metadata.Annotations[api.AnnotationStatus]; ok {
		if !p.present() {
			add("%s is set on a pod that is not injected: remove it, podtoken sets it", api.AnnotationStatus)
		} else if text := p.statusProblem(value); len(wrong) == 0 && text != "" {
			add("%s does not describe this pod, %s: create or render the Pod again; the webhook writes the status", api.AnnotationStatus, text)
		}
	}
	return problems
}

// changedText returns what is wrong with the container of our name, what probably changed it, and what to do. Where the status shows that podtoken has
// injected the Pod, its author has not written the container. Differences with another cause than the first are counted only.
func (p *plan) changedText(wrong []difference) string {
	var texts []string
	for _, d := range wrong {
		if d.by == wrong[0].by && len(texts) < maxDifferences {
			texts = append(texts, d.text)
		}
	}
	text := strings.Join(texts, ", ")
	if more := len(wrong) - len(texts); more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	if !p.injectedBefore() {
		return fmt.Sprintf("the init container %q is not what podtoken injects, %s: remove it, podtoken adds its own", api.ContainerName, text)
	}
	return fmt.Sprintf("the init container %q differs from what podtoken injected, %s: probably changed by %s", api.ContainerName, text, wrong[0].by)
}

// injectedBefore reports whether the Pod has the status that the webhook writes.
func (p *plan) injectedBefore() bool {
	_, there := p.pod.Metadata.Annotations[api.AnnotationStatus]
	return there
}

// maxDifferences bounds those in a message.
const maxDifferences = 3

// hides reports whether a mount of our own volume is at our mount path and not what we would mount there.
func (p *plan) hides(mount VolumeMount) bool {
	return containerPath(mount.MountPath) == p.req.mountPath && (mount.SubPath != "" || mount.SubPathExpr != "")
}

// present reports whether the pod has what the status annotation describes: the sidecar, or the projected volume.
func (p *plan) present() bool {
	if !p.req.projected {
		return p.own >= 0
	}
	return p.hasVolume(api.VolumeTokens)
}

func (p *plan) hasVolume(name string) bool {
	for _, volume := range p.pod.Spec.Volumes {
		if volume.Name == name {
			return true
		}
	}
	return false
}
