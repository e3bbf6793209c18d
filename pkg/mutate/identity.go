package mutate

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// identity is the sidecar's user and what goes with it. The readers are the containers that get the mount, init
// containers too:
//
//	readers                                        sidecar's runAsUser   mode of the files
//	all have the same explicit non-root user       that user             0400
//	else, and the pod has an fsGroup               the configured one    0440 (the kubelet made the directory setgid)
//	else                                           the configured one    0444
//
// A container's user is its own runAsUser, else the pod's. None, and 0, do not count as explicit. The first row also keeps
// the kubelet's rule for the pod's other projected tokens, which are 0600 only while all containers have a common user
// (k8s.io/kubernetes@v1.37.2/pkg/volume/util/util.go, FsUserFrom).
type identity struct {
	// user is nil when the platform chooses it (configuration runAsUser: null).
	user *int64
	// mode is that of tokens for which no annotation sets one.
	mode string
	// seLinux are the container-level options that all readers have in common; the kubelet relabels the volume for each
	// container, so another label would take the files away from the others.
	seLinux *corev1.SELinuxOptions
}

// fallbackUser is the sidecar's user when the platform should choose it and would choose root.
const fallbackUser = 65532

// newIdentity applies the table.
func (p *plan) newIdentity() identity {
	id := identity{user: p.defaultUser(), mode: "0444", seLinux: p.commonSELinux()}
	if user, common := p.commonUser(); common {
		id.user, id.mode = &user, "0400"
	} else if p.pod.Spec.SecurityContext.FSGroup != nil {
		id.mode = "0440"
	}
	return id
}

// candidates are the identities that an earlier call may have come to, when another injector added containers or
// security contexts after it; the one for the pod as it is now comes first. seLinux is that of the container that is
// there already.
func (p *plan) candidates(seLinux *corev1.SELinuxOptions, existing *int64) []identity {
	now := p.newIdentity()
	if seLinux == nil || slices.ContainsFunc(p.members, func(m member) bool { return m.reads && sameSELinux(m.SecurityContext.SELinuxOptions, seLinux) }) {
		now.seLinux = seLinux
	}
	all := []identity{now}
	if existing != nil && slices.ContainsFunc(p.members, func(m member) bool { user, ok := p.explicitUser(m); return m.reads && ok && user == *existing }) {
		all = append(all, identity{existing, "0400", now.seLinux})
	}
	if p.req.notifySignal == "" { // It needs a common user.
		all = append(all, identity{p.defaultUser(), "0440", now.seLinux}, identity{p.defaultUser(), "0444", now.seLinux})
	}
	if existing != nil && *existing > 0 && p.cfg.Sidecar.RunAsUser == nil && p.req.notifySignal == "" {
		// The platform was asked to choose the user, and has.
		all = append(all, identity{existing, "0440", now.seLinux}, identity{existing, "0444", now.seLinux})
	}
	return all
}

func (p *plan) defaultUser() *int64 {
	if user := p.pod.Spec.SecurityContext.RunAsUser; p.cfg.Sidecar.RunAsUser == nil && user != nil && *user == 0 {
		user := int64(fallbackUser)
		return &user
	}
	return p.cfg.Sidecar.RunAsUser
}

// commonUser returns the explicit non-root user that all readers have.
func (p *plan) commonUser() (common int64, ok bool) {
	for _, m := range p.members {
		if !m.reads {
			continue
		}
		user, explicit := p.explicitUser(m)
		if !explicit || ok && user != common {
			return 0, false
		}
		common, ok = user, true
	}
	return common, ok
}

// explicitUser returns the user that the pod's spec gives the member, if it is not root.
func (p *plan) explicitUser(m member) (user int64, ok bool) {
	if set := p.runAsUser(m); set != nil && *set > 0 {
		return *set, true
	}
	return 0, false
}

func (p *plan) runAsUser(m member) *int64 {
	if m.SecurityContext.RunAsUser != nil {
		return m.SecurityContext.RunAsUser
	}
	return p.pod.Spec.SecurityContext.RunAsUser
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

// canRead tells whether the spec assures that the member can read a file of the sidecar with that mode.
func (p *plan) canRead(m member, mode string) bool {
	bits, err := strconv.ParseUint(mode, 8, 16)
	if err != nil || bits&0o004 != 0 {
		return true
	}
	sc := &p.pod.Spec.SecurityContext
	if bits&0o040 != 0 && sc.FSGroup != nil {
		return true
	}
	owner := p.identity.user
	if owner == nil {
		owner = sc.RunAsUser
	}
	user := p.runAsUser(m)
	return user != nil && (*user == 0 || owner != nil && *user == *owner)
}

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
