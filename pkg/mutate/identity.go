package mutate

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

// identity is the sidecar's user and group, and what goes with them. The readers are the containers that get the mount, init containers too, but for
// those that run as root, which can read the files of everybody. (A server that starts as root does not count as one of these: it may go on as another user and group.)
//
//	readers                                         sidecar's runAsUser   mode of the files
//	all have the same explicit non-root user        that user             0400
//	else, and the pod has an fsGroup                the configured one    0440 (the kubelet made the directory setgid)
//	else, all have explicit non-root users and the
//	same explicit non-root group                    the configured one    0440
//	else                                            the configured one    0444
//
// The sidecar's runAsGroup is that group if all readers have it, else the configured one: never 0, and the files have it, or the fsGroup.
//
// A container's user is its own runAsUser, else the pod's, and so is its group. None, and 0, do not count as explicit. The first row also keeps
// the kubelet's rule for the pod's other projected tokens, which are 0600 only while all containers have a common user
// (k8s.io/kubernetes@v1.37.2/pkg/volume/util/util.go, FsUserFrom).
type identity struct {
	// user and group are nil when the platform chooses them (configuration runAsUser, runAsGroup: null).
	user, group *int64
	// mode is that of tokens for which no annotation sets one.
	mode string
	// seLinux are the container-level options that all readers have in common; the kubelet relabels the volume for each
	// container, so another label would take the files away from the others.
	seLinux *corev1.SELinuxOptions
}

// The sidecar's user and group by default, and when the platform should choose them and would choose root's. They are not the same: many images run as 65532:65532, and
// processes of the same user and group can look into each other where a Pod shares its process namespace.
const (
	fallbackUser  = 65532
	fallbackGroup = 65531
)

// newIdentity applies the table.
func (p *plan) newIdentity() identity {
	pod := &p.pod.Spec.SecurityContext
	id := identity{
		user: chosen(p.cfg.Sidecar.RunAsUser, pod.RunAsUser, fallbackUser), group: chosen(p.cfg.Sidecar.RunAsGroup, pod.RunAsGroup, fallbackGroup),
		mode: "0444", seLinux: p.commonSELinux(),
	}
	user, commonUser := p.common(p.runAsUser)
	group, commonGroup := p.common(p.runAsGroup)
	if commonGroup {
		id.group = &group
	}
	switch {
	case commonUser:
		id.user, id.mode = &user, "0400"
	case pod.FSGroup != nil || commonGroup && p.allUsersExplicit():
		id.mode = "0440"
	}
	return id
}

// chosen is the configured user or group; nil leaves it to the platform, unless the pod would have root's.
func chosen(configured, pod *int64, fallback int64) *int64 {
	if configured == nil && pod != nil && *pod == 0 {
		return &fallback
	}
	return configured
}

// common returns the explicit user or group, other than root's, that all readers have.
func (p *plan) common(of func(member) *int64) (common int64, ok bool) {
	for _, m := range p.members {
		if !p.decides(m) {
			continue
		}
		id := of(m)
		if id == nil || *id <= 0 || ok && *id != common {
			return 0, false
		}
		common, ok = *id, true
	}
	return common, ok
}

// decides reports whether the identity has to suit the member: it reads the files, and could not read them as any other user's.
func (p *plan) decides(m member) bool { return m.reads && !(m.ends() && p.readsAll(m)) }

// ends reports whether the member is an init container that ends before the application starts.
func (m member) ends() bool {
	return m.list == initContainersField && m.RestartPolicy != corev1.ContainerRestartPolicyAlways
}

// allUsersExplicit reports whether all readers have explicit users other than root.
func (p *plan) allUsersExplicit() bool {
	return !slices.ContainsFunc(p.members, func(m member) bool {
		user := p.runAsUser(m)
		return p.decides(m) && (user == nil || *user <= 0)
	})
}

// readsAll reports whether the member is root with the capability to read everybody's files, which container runtimes give it unless it is
// dropped.
func (p *plan) readsAll(m member) bool {
	user := p.runAsUser(m)
	if user == nil || *user != 0 {
		return false
	}
	has := func(list []string, names ...string) bool {
		return slices.ContainsFunc(list, func(c string) bool {
			return slices.Contains(names, strings.TrimPrefix(strings.ToUpper(c), "CAP_"))
		})
	}
	sc := &m.SecurityContext
	return sc.Privileged || has(sc.AddedCapabilities, "ALL", "DAC_OVERRIDE", "DAC_READ_SEARCH") || !has(sc.DroppedCapabilities, "ALL", "DAC_OVERRIDE")
}

func (p *plan) runAsUser(m member) *int64 {
	return firstID(m.SecurityContext.RunAsUser, p.pod.Spec.SecurityContext.RunAsUser)
}

func (p *plan) runAsGroup(m member) *int64 {
	return firstID(m.SecurityContext.RunAsGroup, p.pod.Spec.SecurityContext.RunAsGroup)
}

func firstID(ids ...*int64) *int64 {
	for _, id := range ids {
		if id != nil {
			return id
		}
	}
	return nil
}

// commonSELinux returns the container-level options that all readers have, nil when they differ.
func (p *plan) commonSELinux() *corev1.SELinuxOptions {
	var common *corev1.SELinuxOptions
	first := true
	for _, m := range p.members {
		switch {
		case !m.reads:
		case first:
			common, first = m.SecurityContext.SELinuxOptions, false
		case !sameSELinux(common, m.SecurityContext.SELinuxOptions):
			return nil
		}
	}
	return common
}

func sameSELinux(a, b *corev1.SELinuxOptions) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// readWarnings finds containers that do not surely have the right to read a token's file.
func (p *plan) readWarnings() []string {
	var warnings []string
	seen := map[string]bool{}
	for _, t := range p.tokens {
		if seen[t.Mode] {
			continue
		}
		seen[t.Mode] = true
		var unsure []member
		for _, m := range p.members {
			if m.reads && !p.canRead(m, t.Mode) {
				unsure = append(unsure, m)
			}
		}
		if len(unsure) > 0 {
			warnings = append(warnings, fmt.Sprintf("token files of mode %s may be unreadable in %s: give all containers one non-root runAsUser, "+
				"or the pod an fsGroup and the files mode 0440", t.Mode, list(unsure, func(m member) string { return m.Name })))
		}
	}
	return warnings
}

// canRead reports whether the spec assures that the member can read a file of the sidecar with that mode.
func (p *plan) canRead(m member, mode string) bool {
	return p.reads(m, p.identity, mode, same)
}

// mayRead reports whether the spec does not rule it out.
func (p *plan) mayRead(m member, id identity, mode string) bool {
	return p.reads(m, id, mode, func(a, b *int64) bool { return a == nil || b == nil || *a == *b })
}

func (p *plan) reads(m member, id identity, mode string, fits func(a, b *int64) bool) bool {
	bits, err := config.ParseMode(mode)
	if err != nil || bits&0o004 != 0 || p.readsAll(m) {
		return true
	}
	sc := &p.pod.Spec.SecurityContext
	if bits&0o040 != 0 && (sc.FSGroup != nil || fits(p.runAsGroup(m), firstID(id.group, sc.RunAsGroup))) {
		return true
	}
	return fits(p.runAsUser(m), firstID(id.user, sc.RunAsUser))
}

// same reports whether both are known, and the same.
func same(a, b *int64) bool { return a != nil && b != nil && *a == *b }

// withModes returns the tokens for the sidecar.
func (r *request) withModes(mode string) []api.TokenSpec {
	tokens := make([]api.TokenSpec, 0, len(r.tokens))
	for _, t := range r.tokens {
		spec := api.TokenSpec{
			Name:              t.name,
			Audiences:         t.audiences,
			ExpirationSeconds: t.expirationSeconds,
			Path:              t.path,
			Mode:              mode,
			RefreshAtPercent:  r.refreshAtPercent,
		}
		if t.mode != "" {
			spec.Mode = t.mode
		}
		if len(t.steps) > 0 {
			spec.Path, spec.Files = api.TokenPrefix+t.name, []api.FileSpec{{Path: t.path, Steps: t.steps}}
		}
		for _, file := range t.extra {
			spec.Files = append(spec.Files, api.FileSpec{Path: file.path, Steps: file.steps})
		}
		tokens = append(tokens, spec)
	}
	return tokens
}
