package mutate

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// settle decides what exactly is injected. It returns how the container that is in the pod already differs from it;
// empty when there is none, or when it is ours.
func (p *plan) settle() (difference string) {
	p.volumes = p.newVolumes()
	p.noteResources()
	switch {
	case p.req.projected:
		p.tokens = p.req.withModes("0644")
	case p.own < 0:
		p.use(p.newIdentity(), p.sidecarResources()[0])
	default:
		difference = p.meet(p.pod.Spec.InitContainers[p.own].raw)
	}
	p.encode()
	return difference
}

func (p *plan) use(id identity, resources corev1.ResourceRequirements) {
	p.identity = id
	p.tokens = p.req.withModes(id.mode)
	p.sidecar = p.newSidecar(id, resources)
}

// meet compares the container of our name with what an earlier call may have injected. Containers that were added since
// can have changed the outcome of the tables in identity.go and resources.go; the container then stays as it is, since
// nothing that is in the pod is ever replaced.
func (p *plan) meet(raw json.RawMessage) (difference string) {
	var existing corev1.Container
	if err := json.Unmarshal(raw, &existing); err != nil {
		p.use(p.newIdentity(), p.sidecarResources()[0])
		return fmt.Sprintf("it cannot be read: %v", err)
	}
	resources, known := p.adopt(existing.Resources)
	var user *int64
	var seLinux *corev1.SELinuxOptions
	if existing.SecurityContext != nil {
		user, seLinux = existing.SecurityContext.RunAsUser, existing.SecurityContext.SELinuxOptions
	}
	for i, id := range p.candidates(seLinux, user) {
		p.use(id, resources)
		text := containerDifference(existing, *p.sidecar)
		if text == "" && !known {
			text = valueDifference("resources", existing.Resources, p.sidecar.Resources)
		}
		if text == "" {
			if existing.Image != p.cfg.Sidecar.Image {
				p.note("container %q has the image %s, not this installation's %s: another webhook or an upgrade has changed it",
					api.ContainerName, quote(existing.Image), quote(p.cfg.Sidecar.Image))
			}
			return ""
		}
		if i == 0 {
			difference = text
		}
	}
	return difference
}

// containerDifference tells how the container differs from what we would inject; empty when it is ours. What other
// admission plugins and webhooks do to every container, and what the sidecar works with, is tolerated: variables, mounts
// elsewhere, resources (compared by the caller), the target of the readiness probe (meshes put their own agent there),
// the pull policy (AlwaysPullImages), the image (mirrors and digests; a warning tells), security settings that take even
// more away, and defaults that newer API servers may fill in. Refusing them would refuse every pod of the cluster for
// good, for those who do it do it to every pod.
func containerDifference(got, want corev1.Container) string {
	for _, env := range want.Env {
		if text := elementDifference("env", got.Env, env, func(e corev1.EnvVar) string { return e.Name }); text != "" {
			return text
		}
	}
	for _, mount := range want.VolumeMounts {
		if text := elementDifference("volumeMounts", got.VolumeMounts, mount, func(m corev1.VolumeMount) string { return path.Clean(m.MountPath) }); text != "" {
			return text
		}
		for _, other := range got.VolumeMounts {
			if below(other.MountPath, mount.MountPath) && path.Clean(other.MountPath) != mount.MountPath {
				return fmt.Sprintf("volumeMounts has %s, which hides a part of %q", quote(other.MountPath), mount.MountPath)
			}
		}
	}
	got.Env, got.EnvFrom, got.VolumeMounts = want.Env, want.EnvFrom, want.VolumeMounts
	got.Resources, got.ImagePullPolicy, got.Image = want.Resources, want.ImagePullPolicy, want.Image
	if !slices.ContainsFunc(got.ResizePolicy, func(r corev1.ContainerResizePolicy) bool { return r.RestartPolicy != corev1.NotRequired }) {
		got.ResizePolicy = nil
	}
	if probe := got.ReadinessProbe; want.ReadinessProbe != nil && probe != nil && probe.HTTPGet != nil {
		got.ReadinessProbe = want.ReadinessProbe
	}
	got.SecurityContext = plainSecurity(got.SecurityContext)
	return valueDifference("", got, want)
}

// plainSecurity drops what says the default in other words, and capabilities that are dropped although all are.
func plainSecurity(sc *corev1.SecurityContext) *corev1.SecurityContext {
	if sc == nil {
		return nil
	}
	plain := *sc
	if plain.ProcMount != nil && *plain.ProcMount == corev1.DefaultProcMount {
		plain.ProcMount = nil
	}
	if plain.Privileged != nil && !*plain.Privileged {
		plain.Privileged = nil
	}
	if c := plain.Capabilities; c != nil && len(c.Add) == 0 && slices.Contains(c.Drop, "ALL") {
		plain.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	}
	return &plain
}

// elementDifference looks for want in the list: it must be there, and nothing else under its name.
func elementDifference[T any](field string, list []T, want T, name func(T) string) string {
	found := false
	for _, element := range list {
		if name(element) != name(want) {
			continue
		}
		if text := valueDifference(fmt.Sprintf("%s[%s]", field, name(want)), element, want); text != "" {
			return text
		}
		found = true
	}
	if !found {
		return fmt.Sprintf("%s has no %s", field, name(want))
	}
	return ""
}

// valueDifference names the first field in which the JSON of two values differs, with both values; empty for none.
func valueDifference(field string, got, want any) string {
	if reflect.DeepEqual(got, want) {
		return "" // The usual case, without the detour.
	}
	decode := func(value any) (decoded any) {
		if err := json.Unmarshal(mustJSON(value), &decoded); err != nil {
			panic(err) // It was just encoded.
		}
		return decoded
	}
	return jsonDifference(field, decode(got), decode(want))
}

func jsonDifference(field string, got, want any) string {
	gotMap, gotIsMap := got.(map[string]any)
	wantMap, wantIsMap := want.(map[string]any)
	if gotIsMap && wantIsMap {
		union := maps.Clone(gotMap)
		maps.Copy(union, wantMap)
		for _, key := range slices.Sorted(maps.Keys(union)) {
			if text := jsonDifference(strings.TrimPrefix(field+"."+key, "."), gotMap[key], wantMap[key]); text != "" {
				return text
			}
		}
		return ""
	}
	gotList, gotIsList := got.([]any)
	wantList, wantIsList := want.([]any)
	if gotIsList && wantIsList && len(gotList) == len(wantList) {
		for i := range gotList {
			if text := jsonDifference(fmt.Sprintf("%s[%d]", field, i), gotList[i], wantList[i]); text != "" {
				return text
			}
		}
		return ""
	}
	if reflect.DeepEqual(got, want) {
		return ""
	}
	gotText, gotIsText := got.(string)
	wantText, wantIsText := want.(string)
	if gotIsText && wantIsText {
		// Long texts, as the arguments of tokens, may have the difference far from their beginning.
		skip := commonPrefix(gotText, wantText) - maxQuotedBytes/2
		if skip > 0 && len(wantText) > maxQuotedBytes {
			return fmt.Sprintf("%s is ...%s, not ...%s", field, quote(gotText[skip:]), quote(wantText[skip:]))
		}
	}
	return fmt.Sprintf("%s is %s, not %s", field, shown(got), shown(want))
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func shown(value any) string {
	switch value := value.(type) {
	case nil:
		return "absent"
	case string:
		return quote(value)
	}
	return cut(string(mustJSON(value)))
}

// volumeDifference compares a volume of our name with ours.
func volumeDifference(got Volume, want corev1.Volume) string {
	type source struct {
		EmptyDir  *corev1.EmptyDirVolumeSource  `json:"emptyDir,omitempty"`
		Projected *corev1.ProjectedVolumeSource `json:"projected,omitempty"`
	}
	return valueDifference("", source{got.EmptyDir, got.Projected}, source{want.EmptyDir, want.Projected})
}

// statusDifference compares the status that is in the pod already. The version is the injecting webhook's, and may differ.
func (p *plan) statusDifference(value string) string {
	var got, want api.Status
	if err := json.Unmarshal([]byte(value), &got); err != nil {
		return "it is not the webhook's JSON"
	}
	if err := json.Unmarshal([]byte(p.encoded.status), &want); err != nil {
		panic(err) // It was just encoded.
	}
	got.Version = want.Version
	return valueDifference("", got, want)
}

// below tells whether a mount path is the directory or inside of it.
func below(mountPath, dir string) bool {
	mountPath = path.Clean(mountPath)
	rest, found := strings.CutPrefix(mountPath, dir)
	return found && (rest == "" || rest[0] == '/')
}
