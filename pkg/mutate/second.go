package mutate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/podtoken/podtoken/pkg/api"
)

// secondCall compares the container of our name with the one that would be injected now. An earlier call has injected it: that of a moment ago, after
// which another webhook or policy has changed the Pod (reinvocationPolicy: IfNeeded); or that of another installation or version, when the Pod was
// restored, copied or rendered before. What cannot hurt is taken as it is, because those who change containers do it to each Pod of
// the cluster. What would make tokens wrong, lost or readable by others is rejected. See containerRules.
type secondCall struct {
	plan      *plan
	got, want *corev1.Container

	// tokens are those of the existing container's arguments.
	tokens   []api.TokenSpec
	wrong    []difference
	warnings []string
}

// difference is what is wrong with the container.
type difference struct {
	// text names the field, its value and what it must be.
	text string
	// by is what usually changes that field, and what to do.
	by string
}

// containerRule says what another value of a field means.
type containerRule struct {
	// field of a Container or, with a dot, of its SecurityContext, as in its JSON.
	field string
	// by is what usually changes it, and what to do.
	by string
	// judge notes what is wrong, or what to warn of; nil when each value will do.
	judge func(*secondCall)
}

const (
	exempt      = `: exempt containers named "` + api.ContainerName + `" there`
	byEditor    = "a webhook or policy that edits containers" + exempt
	byInjector  = "another injector" + exempt
	bySecurity  = "a policy that sets security contexts" + exempt
	byProbes    = "a webhook or policy that sets probes or lifecycle hooks" + exempt
	byResources = "a webhook or policy that sets resources, such as an overcommit webhook or the VerticalPodAutoscaler" + exempt + ", or set " + api.AnnotationSidecarResources
	byUsers     = "a policy that sets the users or groups of some containers: have it set them for all containers, or before podtoken's webhook is called"
	byAuthor    = "an edit of the annotations, of a profile or of the installation's limits after the Pod was injected (create or render it again), or by " + byEditor
)

// containerRules is the one table that decides about podtoken's container in a Pod that has one already. Each field that the API has is in it; a field of a newer
// API is as good as those without a rule, for no webhook of this version has set it.
var containerRules = []containerRule{
	{"name", "", nil}, // by which it was found
	{"image", byEditor, (*secondCall).judgeImage},
	{"command", byEditor, func(s *secondCall) { s.mustBe("command", s.got.Command, s.want.Command) }},
	{"args", byAuthor, (*secondCall).judgeArguments},
	{"workingDir", "", nil},
	{"ports", "", nil},
	{"envFrom", "", nil}, // env wins
	{"env", byInjector, (*secondCall).judgeEnv},
	{"resources", byResources, (*secondCall).judgeResources},
	{"resizePolicy", "", nil},
	{"restartPolicy", byEditor, func(s *secondCall) { s.mustBe("restartPolicy", s.got.RestartPolicy, s.want.RestartPolicy) }},
	{"restartPolicyRules", byEditor, func(s *secondCall) {
		if len(s.got.RestartPolicyRules) > 0 {
			s.reject("restartPolicyRules is %s, not absent", shown(s.got.RestartPolicyRules))
		}
	}},
	{"volumeMounts", byInjector, (*secondCall).judgeMounts},
	{"volumeDevices", byInjector, (*secondCall).judgeDevices},
	{"livenessProbe", byProbes, (*secondCall).judgeLiveness},
	{"readinessProbe", byProbes, (*secondCall).judgeReadiness},
	{"startupProbe", byProbes, nil}, // with lifecycle
	{"lifecycle", byProbes, (*secondCall).judgeGate},
	{"terminationMessagePath", byEditor, (*secondCall).judgeTerminationMessagePath},
	{"terminationMessagePolicy", "", nil},
	{"imagePullPolicy", "", nil},
	{"securityContext", bySecurity, func(s *secondCall) {
		if s.got.SecurityContext == nil {
			s.reject("securityContext is absent, which has more privileges than ours")
		}
	}},
	{"stdin", "", nil},
	{"stdinOnce", "", nil},
	{"tty", "", nil},

	{"securityContext.capabilities", bySecurity, (*secondCall).judgeCapabilities},
	{"securityContext.privileged", bySecurity, func(s *secondCall) { s.mustNotBe("privileged", s.got.SecurityContext.Privileged, true, false) }},
	{"securityContext.seLinuxOptions", bySecurity, (*secondCall).judgeSELinux},
	{"securityContext.windowsOptions", "", nil}, // for another system
	{"securityContext.runAsUser", bySecurity, (*secondCall).judgeUser},
	{"securityContext.runAsGroup", byUsers, (*secondCall).judgeGroup},
	{"securityContext.runAsNonRoot", bySecurity, func(s *secondCall) {
		if s.user() == nil {
			s.mustNotBe("runAsNonRoot", s.got.SecurityContext.RunAsNonRoot, false, false)
		}
	}},
	{"securityContext.readOnlyRootFilesystem", bySecurity, func(s *secondCall) {
		s.mustNotBe("readOnlyRootFilesystem", s.got.SecurityContext.ReadOnlyRootFilesystem, false, false)
	}},
	{"securityContext.allowPrivilegeEscalation", bySecurity, func(s *secondCall) {
		s.mustNotBe("allowPrivilegeEscalation", s.got.SecurityContext.AllowPrivilegeEscalation, true, true)
	}},
	{"securityContext.procMount", bySecurity, func(s *secondCall) {
		if mount := s.got.SecurityContext.ProcMount; mount != nil && *mount != corev1.DefaultProcMount {
			s.reject("securityContext.procMount is %s, not %q", quote(string(*mount)), corev1.DefaultProcMount)
		}
	}},
	{"securityContext.seccompProfile", bySecurity, func(s *secondCall) {
		if profile := s.got.SecurityContext.SeccompProfile; profile == nil || profile.Type == corev1.SeccompProfileTypeUnconfined {
			s.reject("securityContext.seccompProfile is %s, not %s or one of the node's", shown(profile), mustJSON(s.want.SecurityContext.SeccompProfile))
		}
	}},
	{"securityContext.appArmorProfile", bySecurity, func(s *secondCall) {
		profile := s.got.SecurityContext.AppArmorProfile
		switch {
		case profile != nil && profile.Type == corev1.AppArmorProfileTypeUnconfined:
			s.reject("securityContext.appArmorProfile is %s, not absent or one that confines", shown(profile))
		case profile == nil && s.want.SecurityContext.AppArmorProfile != nil:
			s.warn("securityContext.appArmorProfile is absent, so the Pod's own profile confines the sidecar, too")
		}
	}},
}

// judge applies the table.
func (s *secondCall) judge() {
	for _, rule := range containerRules {
		if rule.judge == nil || strings.Contains(rule.field, ".") && s.got.SecurityContext == nil {
			continue
		}
		known := len(s.wrong)
		rule.judge(s)
		for i := known; i < len(s.wrong); i++ {
			s.wrong[i].by = rule.by
		}
	}
}

func (s *secondCall) reject(format string, args ...any) {
	s.wrong = append(s.wrong, difference{text: fmt.Sprintf(format, args...)})
}

// warn is of a value that something else has set, or that was right before.
func (s *secondCall) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf("container %q: %s: set by another webhook, by another version or installation of podtoken, or before annotations or a profile changed", api.ContainerName, fmt.Sprintf(format, args...)))
}

// mustBe rejects every other value.
func (s *secondCall) mustBe(field string, got, want any) {
	if text := valueDifference(field, got, want); text != "" {
		s.reject("%s", text)
	}
}

// mustNotBe rejects the one value of a setting of the SecurityContext that takes less away, which can be that without the setting.
func (s *secondCall) mustNotBe(field string, got *bool, bad, absent bool) {
	value := "absent"
	switch {
	case got == nil && absent != bad:
		return
	case got != nil && *got != bad:
		return
	case got != nil:
		value = strconv.FormatBool(bad)
	}
	s.reject("securityContext.%s is %s, not %t", field, value, !bad)
}

func (s *secondCall) judgeImage() {
	if s.got.Image != s.want.Image {
		s.warn("image is %s, not this installation's %s", quote(s.got.Image), quote(s.want.Image))
	}
}

// judgeEnv looks for our variables, of which there may be no other of the name. Others of other names do nothing to the sidecar.
func (s *secondCall) judgeEnv() {
	for _, want := range s.want.Env {
		if text := elementDifference("env", s.got.Env, want, func(e corev1.EnvVar) string { return e.Name }); text != "" {
			s.reject("%s", text)
		}
	}
}

// ownPaths are what the sidecar needs to see as it is.
var ownPaths = []string{api.SidecarTokenDir, api.APIMountPath, api.SidecarBinary}

// hidden is the one of ownPaths that a mount at the path would hide, in whole or in part, or whose place it would take; empty for none.
func hidden(mountPath string) string {
	i := slices.IndexFunc(ownPaths, func(own string) bool { return below(mountPath, own) || below(own, mountPath) })
	if i < 0 {
		return ""
	}
	return ownPaths[i]
}

// judgeMounts looks for our mounts. Others may be anywhere but at, above or below ours and the program: the runtime would have to make the place of our mount in
// a volume that is above it.
func (s *secondCall) judgeMounts() {
	mounts := slices.Clone(s.got.VolumeMounts)
	for i := range mounts {
		mounts[i].MountPath = containerPath(mounts[i].MountPath)
	}
	for _, want := range s.want.VolumeMounts {
		if text := elementDifference("volumeMounts", mounts, want, func(m corev1.VolumeMount) string { return m.MountPath }); text != "" {
			s.reject("%s", text)
		}
	}
	for _, mount := range s.got.VolumeMounts {
		ours := slices.ContainsFunc(s.want.VolumeMounts, func(want corev1.VolumeMount) bool { return containerPath(mount.MountPath) == want.MountPath })
		if own := hidden(mount.MountPath); own != "" && !ours {
			s.reject("volumeMounts has %s, at, above or below %q", quote(mount.MountPath), own)
		}
	}
}

func (s *secondCall) judgeDevices() {
	for _, device := range s.got.VolumeDevices {
		if own := hidden(device.DevicePath); own != "" {
			s.reject("volumeDevices has %s, at, above or below %q", quote(device.DevicePath), own)
		}
	}
}

// judgeTerminationMessagePath: the kubelet mounts a file there.
func (s *secondCall) judgeTerminationMessagePath() {
	if own := hidden(s.got.TerminationMessagePath); s.got.TerminationMessagePath != "" && own != "" {
		s.reject("terminationMessagePath is %s, at, above or below %q", quote(s.got.TerminationMessagePath), own)
	}
}

// minMemory is what the sidecar needs to live: less, and it is killed (docs/operations.md).
var minMemory = resource.MustParse("10Mi")

// judgeResources: the sidecar works with whatever is requested. Its memory limit is enough if it is not below what was asked for here, either.
func (s *secondCall) judgeResources() {
	got, limited := s.got.Resources.Limits[corev1.ResourceMemory]
	want, wanted := s.want.Resources.Limits[corev1.ResourceMemory]
	if limited && !got.IsZero() && got.Cmp(minMemory) < 0 && (!wanted || got.Cmp(want) < 0) {
		s.reject("resources.limits.memory is %q, and the sidecar needs %s", got.String(), minMemory.String())
	}
}

func (s *secondCall) judgeLiveness() {
	if s.got.LivenessProbe != nil {
		s.warn("livenessProbe is %s, and podtoken sets none: where it fails, the kubelet restarts the sidecar", shown(s.got.LivenessProbe))
	}
}

// judgeReadiness takes every probe for ours: meshes put their own agent there.
func (s *secondCall) judgeReadiness() {
	switch {
	case s.want.ReadinessProbe != nil && s.got.ReadinessProbe == nil:
		s.warn("readinessProbe is absent, and %s is \"true\": the Pod is ready without its tokens", api.AnnotationReadiness)
	case s.want.ReadinessProbe == nil && s.got.ReadinessProbe != nil:
		s.warn("readinessProbe is %s, and podtoken sets none: where it fails, the Pod is not ready", shown(s.got.ReadinessProbe))
	}
}

// gate is how a container holds the others back.
type gate struct{ hook, probe bool }

// runs reports whether it is the command that waits for the tokens, of the hook or of one of the probes.
func runs(action *corev1.ExecAction, commands ...[]string) bool {
	return action != nil && slices.ContainsFunc(commands, func(command []string) bool { return slices.Equal(command, action.Command) })
}

func gateOf(c *corev1.Container) gate {
	return gate{
		hook:  c.Lifecycle != nil && c.Lifecycle.PostStart != nil && runs(c.Lifecycle.PostStart.Exec, hook().PostStart.Exec.Command),
		probe: c.StartupProbe != nil && runs(c.StartupProbe.Exec, startupProbe().Exec.Command, patientProbe().Exec.Command),
	}
}

// judgeGate: other containers must wait, in one way or another. What others add besides is of no importance, but for what takes the place of podtoken's hook or probe.
func (s *secondCall) judgeGate() {
	got, want := gateOf(s.got), gateOf(s.want)
	switch {
	case s.got.Lifecycle != nil && s.got.Lifecycle.PostStart != nil && !got.hook:
		s.reject("lifecycle.postStart is %s, which is not podtoken's", shown(s.got.Lifecycle.PostStart))
	case want != gate{} && got == gate{}:
		s.reject("lifecycle.postStart and startupProbe do not run %q, so the other containers start without waiting for the tokens", api.SidecarBinary+" "+api.CommandWait)
	case want == gate{} && got != want:
		s.warn("the other containers wait for the tokens by %s, and %s is %q", got, api.AnnotationWait, api.WaitFalse)
	case got != want:
		s.warn("the other containers wait for the tokens by %s, not by %s", got, want)
	case want.probe:
		if text := valueDifference("startupProbe", s.got.StartupProbe, s.want.StartupProbe); text != "" {
			s.warn("%s", text)
		}
	case s.got.StartupProbe != nil:
		s.warn("startupProbe is %s, and podtoken sets none: the other containers do not start before it succeeds", shown(s.got.StartupProbe))
	}
}

func (g gate) String() string {
	switch g {
	case gate{hook: true}:
		return "a postStart hook"
	case gate{probe: true}:
		return "a startup probe"
	case gate{hook: true, probe: true}:
		return "both a postStart hook and a startup probe"
	}
	return "nothing"
}

// judgeCapabilities: whatever is dropped besides ALL is dropped already.
func (s *secondCall) judgeCapabilities() {
	c := s.got.SecurityContext.Capabilities
	isAll := func(c corev1.Capability) bool { return strings.EqualFold(string(c), "ALL") } // as containerd and CRI-O take it
	if c == nil || !slices.ContainsFunc(c.Drop, isAll) {
		s.reject("securityContext.capabilities.drop does not have \"ALL\"")
	}
	if c != nil && len(c.Add) > 0 {
		s.reject("securityContext.capabilities.add is %s, not absent", shown(c.Add))
	}
}

// judgeSELinux: options that the readers do not have can take the files away from them, because the kubelet relabels the volume for each container.
func (s *secondCall) judgeSELinux() {
	got := s.got.SecurityContext.SELinuxOptions
	if !sameSELinux(got, s.want.SecurityContext.SELinuxOptions) &&
		!slices.ContainsFunc(s.plan.members, func(m member) bool { return m.reads && sameSELinux(m.SecurityContext.SELinuxOptions, got) }) {
		s.warn("securityContext.seLinuxOptions is %s, and no container that reads the tokens has the same", shown(got))
	}
}

// user is that of the existing container, nil when the image or the platform chooses it.
func (s *secondCall) user() *int64 {
	return firstID(s.got.SecurityContext.RunAsUser, s.plan.pod.Spec.SecurityContext.RunAsUser)
}

func (s *secondCall) group() *int64 {
	return firstID(s.got.SecurityContext.RunAsGroup, s.plan.pod.Spec.SecurityContext.RunAsGroup)
}

// judgeUser: a user that none of the readers has is as good, if they can read the files (see judgeGroup).
func (s *secondCall) judgeUser() {
	p, user := s.plan, s.user()
	fits := func(other *int64) bool { return same(user, other) }
	isReaders := slices.ContainsFunc(p.members, func(m member) bool { return m.reads && fits(p.runAsUser(m)) })
	configured := p.cfg.Sidecar.RunAsUser
	switch {
	case user != nil && *user == 0:
		s.reject("securityContext.runAsUser is 0, and the sidecar never runs as root")
	case isReaders || fits(s.want.SecurityContext.RunAsUser):
	case p.req.notifySignal != "":
		s.reject("securityContext.runAsUser is %s, and the processes that %s signals run as another user", shown(user), api.AnnotationNotifySignal)
	case configured == nil || fits(configured): // The platform was asked to choose the user, and has; or another row of the table of identities held before.
	default:
		s.warn("securityContext.runAsUser is %s, not %s", shown(user), shown(s.want.SecurityContext.RunAsUser))
	}
}

// judgeGroup also looks whether anything can still read the files: it is rejected if nothing can, and something could read those of a Pod that is injected now. That some
// cannot is a warning (see readWarnings), because containers can have come since.
func (s *secondCall) judgeGroup() {
	p := s.plan
	if group := s.got.SecurityContext.RunAsGroup; group != nil && *group == 0 {
		s.warn("securityContext.runAsGroup is 0, the group of root, not %s", shown(s.want.SecurityContext.RunAsGroup))
	}
	now := identity{user: s.user(), group: s.group()}
	for i, t := range s.tokens {
		isRead := func(id identity, mode string) bool {
			return slices.ContainsFunc(p.members, func(m member) bool { return m.reads && p.mayRead(m, id, mode) })
		}
		if i < len(p.tokens) && !isRead(now, t.Mode) && isRead(p.identity, p.tokens[i].Mode) {
			readers := slices.DeleteFunc(slices.Clone(p.members), func(m member) bool { return !m.reads })
			s.reject("securityContext has runAsUser %s and runAsGroup %s, and files of mode %s that no container can read: %s", shown(now.user), shown(now.group), t.Mode,
				list(readers, func(m member) string {
					return fmt.Sprintf("%s (user %s, group %s)", m.Name, shown(p.runAsUser(m)), shown(p.runAsGroup(m)))
				}))
			return
		}
	}
}
