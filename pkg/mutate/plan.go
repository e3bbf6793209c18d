package mutate

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// plan is what an injected pod must look like, and what of it the pod has already.
type plan struct {
	pod     *Pod
	cfg     *Config
	req     *request
	version string
	// apiAudiences are those of the API server.
	apiAudiences []string

	// members are the pod's containers, init containers first, other than podtoken's own.
	members []member
	// own is the index of podtoken's container in spec.initContainers, -1 when there is none yet.
	own int

	// The rest is set by settle.
	identity identity
	tokens   []api.TokenSpec
	// sidecar is nil with DeliveryProjected.
	sidecar *corev1.Container
	volumes []corev1.Volume
	encoded encoded

	notes []string
}

// member is a container of the user, or of another injector.
type member struct {
	*Container
	// list is the field of the spec, and index the place in it, before anything is changed.
	list  string
	index int
	// selected members get the mount and the variables.
	selected bool
	env      *environment
	// reads is set for selected members and for those that mount the volume by themselves.
	reads bool
}

const (
	initContainersField = "initContainers"
	containersField     = "containers"
)

// newPlan applies the request to the pod's containers and reports what does not fit.
func newPlan(in Input, req *request) (*plan, []problem) {
	p := &plan{pod: in.Pod, cfg: in.Config, req: req, version: in.Version, apiAudiences: in.APIServerAudiences, own: -1}
	spec := &in.Pod.Spec
	p.members = make([]member, 0, len(spec.InitContainers)+len(spec.Containers))
	for i := range spec.InitContainers {
		if p.own < 0 && spec.InitContainers[i].Name == api.ContainerName {
			p.own = i
			continue
		}
		p.join(&spec.InitContainers[i].Container, initContainersField, i)
	}
	for i := range spec.Containers {
		p.join(&spec.Containers[i], containersField, i)
	}
	return p, p.misfits()
}

func (p *plan) join(c *Container, list string, index int) {
	if c.Name == "" {
		return // Not a valid container: the API server will refuse the pod, with a better message than ours.
	}
	m := member{Container: c, list: list, index: index, env: &environment{Variables: c.Env}}
	m.selected = c.Name != api.ContainerName && !slices.Contains(p.req.skipContainers, c.Name) &&
		(len(p.req.containers) == 0 || slices.Contains(p.req.containers, c.Name))
	m.reads = m.selected || slices.ContainsFunc(c.VolumeMounts, func(v VolumeMount) bool { return v.Name == api.VolumeTokens })
	p.members = append(p.members, m)
}

// misfits has row 9 of the truth table.
func (p *plan) misfits() []problem {
	var problems []problem
	add := func(format string, args ...any) {
		problems = append(problems, problem{reason: api.ReasonInvalidValue, text: fmt.Sprintf(format, args...)})
	}
	has := func(name string) bool {
		return slices.ContainsFunc(p.members, func(m member) bool { return m.Name == name })
	}
	names := func() string {
		return list(p.members, func(m member) string { return m.Name })
	}

	for _, name := range p.req.containers {
		if slices.Contains(p.req.skipContainers, name) {
			add("%s and %s both name the container %s: remove it from one", api.AnnotationContainers, api.AnnotationSkipContainers, quote(name))
		} else if !has(name) {
			add("%s: the pod has no container %s: it has %s", api.AnnotationContainers, quote(name), names())
		}
	}
	for _, name := range p.req.skipContainers {
		if !has(name) {
			p.note("%s: the pod has no container %s (yet): it has %s", api.AnnotationSkipContainers, quote(name), names())
		}
	}
	switch {
	case len(p.members) == 0:
		add("the pod has no containers: nothing could read the tokens")
	case p.mounted() == 0 && len(problems) == 0:
		add("%s leaves no container that could read the tokens: name fewer, or set %s to \"false\"", api.AnnotationSkipContainers, api.AnnotationInject)
	}
	if p.req.projected {
		return problems // Nothing else applies: the settings of the sidecar have no effect, as a warning says.
	}
	for _, m := range p.members {
		for _, port := range m.Ports {
			if p.req.metricsPort != 0 && port.ContainerPort == p.req.metricsPort && (port.Protocol == "" || port.Protocol == corev1.ProtocolTCP) {
				add("%s: %d is a port of the container %s already: use another", api.AnnotationMetricsPort, port.ContainerPort, quote(m.Name))
			}
		}
	}
	if p.req.notifySignal != "" {
		if !p.pod.Spec.ShareProcessNamespace {
			add("%s needs the processes to see each other: set spec.shareProcessNamespace to true", api.AnnotationNotifySignal)
		}
		// Later containers of other injectors do not matter any more: see judgeUser.
		if _, common := p.common(p.runAsUser); !common && p.own < 0 {
			add("%s needs the permission to signal: give all containers that get the tokens the same non-root user, in spec.securityContext.runAsUser",
				api.AnnotationNotifySignal)
		}
	}
	return problems
}

// mounted counts the containers that get the mount.
func (p *plan) mounted() int {
	n := 0
	for _, m := range p.members {
		if m.selected {
			n++
		}
	}
	return n
}

func (p *plan) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// warnings are the admission warnings of a settled plan. The order is fixed.
func (p *plan) warnings() []string {
	warnings := slices.Concat(p.req.warnings, p.notes, p.audienceWarnings(), p.kubeconfigWarnings(), p.keptWarnings(), p.mountWarnings(), p.nestingWarnings(), p.envWarnings())
	if !p.req.projected {
		warnings = append(warnings, p.readWarnings()...)
		warnings = append(warnings, p.meshWarnings()...)
		warnings = append(warnings, p.windowsWarnings()...)
		if p.req.metricsPort != 0 && p.pod.Spec.HostNetwork {
			warnings = append(warnings, fmt.Sprintf("%s: the pod uses the node's network, so %d becomes a port of the node", api.AnnotationMetricsPort, p.req.metricsPort))
		}
	}
	return shorten(warnings)
}

// shorten removes duplicates and bounds the number. The API server itself cuts what is more than 4096 bytes.
func shorten(warnings []string) []string {
	var short []string
	seen := map[string]bool{}
	for _, warning := range warnings {
		if !seen[warning] && len(short) < maxListed {
			short = append(short, warning)
		}
		seen[warning] = true
	}
	if more := len(seen) - maxListed; more > 0 {
		short = append(short, fmt.Sprintf("podtoken has %d more warnings", more))
	}
	return short
}

// audienceWarnings finds audiences that no validating service expects, and tokens whose receivers could use them against the API server.
func (p *plan) audienceWarnings() []string {
	var warnings []string
	for _, t := range p.req.tokens {
		if i := slices.IndexFunc(t.audiences, func(audience string) bool { return audienceMistake(audience) != "" }); i >= 0 {
			warnings = append(warnings, fmt.Sprintf("the token %q has the audience %s, %s: validating services compare the whole text: "+
				"write it without quotation marks and brackets, and separate several by commas", t.name, quote(t.audiences[i]), audienceMistake(t.audiences[i])))
		}
		isAPI := func(audience string) bool { return slices.Contains(p.apiAudiences, audience) }
		i := slices.IndexFunc(t.audiences, isAPI)
		if i < 0 || !slices.ContainsFunc(t.audiences, func(a string) bool { return !isAPI(a) }) {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("the token %q mixes the API server's audience %s with others: whoever receives it there can call the API server as this pod",
			t.name, quote(t.audiences[i])))
	}
	return warnings
}

// kubeconfigWarnings finds kubeconfigs that the pod's own API server will refuse.
func (p *plan) kubeconfigWarnings() []string {
	var warnings []string
	for _, t := range p.req.tokens {
		isAPI := func(audience string) bool { return slices.Contains(p.apiAudiences, audience) }
		if t.ownKubeconfig && len(p.apiAudiences) > 0 && !slices.ContainsFunc(t.audiences, isAPI) {
			warnings = append(warnings, fmt.Sprintf("the token %q has none of the API server's audiences, which will refuse its kubeconfig: use %s, or %s%s for another cluster",
				t.name, quote(p.apiAudiences[0]), api.AnnotationKubeconfigServerOf, t.name))
		}
	}
	return warnings
}

// keptWarnings finds tokens that an SDK may use after their end, because it reads the new one too late.
func (p *plan) keptWarnings() []string {
	var warnings []string
	after := int64(100 - p.req.refreshAtPercent)
	if p.req.projected {
		after = 100 - api.DefaultRefreshAtPercent // the kubelet's
	}
	for _, t := range p.req.tokens {
		least := (int64(t.kept/time.Second)*100 + after - 1) / after
		if t.expirationSeconds < least {
			warnings = append(warnings, fmt.Sprintf("the token %q ends %s after it is replaced, and its SDK keeps the old one for up to %s: use at least %s for %s%s",
				t.name, shortDuration(t.expirationSeconds*after/100), shortDuration(int64(t.kept/time.Second)), shortDuration(least), api.AnnotationExpirationOf, t.name))
		}
	}
	return warnings
}

// meshValidators are init containers by which a service mesh checks that its CNI plugin has redirected the pod's network.
// The proxy to which it is redirected starts after the sidecar then.
var meshValidators = []string{"istio-validation", "linkerd-network-validator", "kuma-validation"}

// meshWarnings finds pods in which the gate may wait for a network that comes up behind the gate.
func (p *plan) meshWarnings() []string {
	var warnings []string
	for _, c := range p.pod.Spec.InitContainers {
		if p.req.wait != api.WaitFalse && slices.Contains(meshValidators, c.Name) {
			warnings = append(warnings, fmt.Sprintf("init container %q: a mesh redirects the network before its proxy runs: exclude the API server's addresses from redirection, or set %s: \"false\"",
				c.Name, api.AnnotationWait))
		}
	}
	return warnings
}

// windowsWarnings finds Pods that may be for Windows.
func (p *plan) windowsWarnings() []string {
	text := "windowsOptions: if the Pod is for Windows it never starts, because the sidecar runs on Linux only: then remove the podtoken annotations; " +
		"else set spec.os.name to \"linux\", or remove the windowsOptions"
	switch i := slices.IndexFunc(p.members, func(m member) bool { return m.SecurityContext.Windows }); {
	case p.pod.Spec.OS == string(corev1.Linux) || p.pod.Spec.NodeSelector[corev1.LabelOSStable] == string(corev1.Linux):
	case p.pod.Spec.SecurityContext.Windows:
		return []string{"spec.securityContext." + text}
	case i >= 0:
		return []string{fmt.Sprintf("container %s: securityContext.%s", quote(p.members[i].Name), text)}
	}
	return nil
}

// nestedSources are the kinds of volumes in which the kubelet makes the places of other mounts
// (k8s.io/kubernetes@v1.37.2/pkg/volume/util/nested_volumes.go and its callers).
var nestedSources = []string{"configMap", "secret", "projected", "downwardAPI"}

// nestingWarnings finds volumes above the mount path in which the container runtime cannot make the place of our mount, unless it is there. Of several the deepest counts.
func (p *plan) nestingWarnings() []string {
	var warnings []string
	for _, m := range p.members {
		if !m.selected {
			continue
		}
		var above *VolumeMount
		for i := range m.VolumeMounts {
			mount := &m.VolumeMounts[i]
			if at := containerPath(mount.MountPath); at != p.req.mountPath && below(p.req.mountPath, at) && (above == nil || below(at, above.MountPath)) {
				above = mount
			}
		}
		if above == nil {
			continue
		}
		volume, found := p.volume(above.Name)
		nested := slices.Contains(nestedSources, volume.Source) && above.SubPath == "" && above.SubPathExpr == ""
		if !found || nested || !above.ReadOnly && !volume.ReadOnly && volume.Source != "image" {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("container %s mounts the volume %s read-only at %s, above the mount path: unless it has the directory %s, the container does not start "+
			"(\"create mountpoint ... read-only file system\"): mount it elsewhere, create that directory in it, or set %s",
			quote(m.Name), quote(above.Name), quote(above.MountPath), quote(p.req.mountPath), api.AnnotationMountPath))
	}
	return warnings
}

// volume returns the Pod's volume of the name, and whether there is one.
func (p *plan) volume(name string) (Volume, bool) {
	i := slices.IndexFunc(p.pod.Spec.Volumes, func(v Volume) bool { return v.Name == name })
	if i < 0 {
		return Volume{}, false
	}
	return p.pod.Spec.Volumes[i], true
}

// mountWarnings finds mounts that will not see replaced files.
func (p *plan) mountWarnings() []string {
	var warnings []string
	for _, m := range p.members {
		for _, v := range m.VolumeMounts {
			// Of a folder below the volume a subPath mount is fine; of a file it pins the inode, which a rename leaves behind
			// (k8s.io/kubernetes@v1.37.2/pkg/volume/util/subpath/subpath_linux.go).
			isFile := func(t tokenRequest) bool { return slices.Contains(t.paths(), path.Clean(v.SubPath)) }
			if v.Name == api.VolumeTokens && (v.SubPathExpr != "" || slices.ContainsFunc(p.req.tokens, isFile)) {
				warnings = append(warnings, fmt.Sprintf("container %s: a subPath mount of a file of the volume %q never sees a new token: mount the directory",
					quote(m.Name), api.VolumeTokens))
			}
		}
	}
	return warnings
}

// envWarnings finds variables of the user that have the name of ours, which stay as they are, and those that SDKs prefer to ours.
func (p *plan) envWarnings() []string {
	var warnings []string
	for _, m := range p.members {
		for _, t := range p.req.tokens {
			if value, found := m.env.value(t.env); m.selected && found && value != t.file {
				warnings = append(warnings, fmt.Sprintf("container %s: its own variable %s is kept: the token %q is in %s", quote(m.Name), t.env, t.name, quote(t.file)))
			}
			for _, v := range t.variables {
				if value, found := m.env.value(v.name); m.selected && found && value != v.value && !v.quiet {
					warnings = append(warnings, fmt.Sprintf("container %s: its own variable %s is kept: the token %q would set it to %s", quote(m.Name), v.name, t.name, quote(v.value)))
				}
			}
			for _, rival := range t.rivals {
				if m.selected && m.env.has(rival) {
					warnings = append(warnings, fmt.Sprintf("container %s: SDKs use its own variable %s and not the token %q: remove it", quote(m.Name), rival, t.name))
				}
			}
		}
	}
	return warnings
}

// list writes names for a message: quoted, shortened when there are many.
func list[T any](items []T, name func(T) string) string {
	if len(items) == 0 {
		return "none"
	}
	quoted := make([]string, 0, maxListed)
	for _, item := range items[:min(len(items), maxListed)] {
		quoted = append(quoted, quote(name(item)))
	}
	if more := len(items) - maxListed; more > 0 {
		quoted = append(quoted, strconv.Itoa(more)+" more")
	}
	return strings.Join(quoted, ", ")
}
