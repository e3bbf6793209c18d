package policies

import (
	"slices"
	"strconv"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// The guards once more, in Go: from the decision table above the guard's template and "The guard" in docs/security.md, not from
// their expressions. Fuzzing compares the two.

// verdict of a guard.
type verdict struct {
	row     int    // of the table; 0 is the probe, which no row has
	allowed bool   //
	message string // part of the first denial
}

// rights of a caller at one moment, as far as the guard asks for them.
type rights struct {
	create        bool
	reason        string // of create
	mark          bool
	unguarded     bool
	lifetimes     map[int64]bool  // mint
	audiences     map[string]bool // mint
	renewals      map[string]bool // renew audiences
	everything    bool            // a wildcard; then create has a reason, and nothing else counts
	mintsAnything bool            // mint for each audience and lifetime, without the mark
}

// modelOf is what the guard must say of a request.
func modelOf(by user.Info, namespace, name string, spec *authenticationv1.TokenRequestSpec, now *rights) verdict {
	if notLookedAt(by) {
		return verdict{row: 1, allowed: true}
	}
	if slices.Equal(spec.Audiences, []string{"podtoken.dev/guard-probe"}) {
		return verdict{message: "guard revision"}
	}
	if !now.create && !now.everything {
		return verdict{row: 2, message: "is not allowed to create tokens of"}
	}
	if now.unguarded || now.everything {
		return verdict{row: 3, allowed: true}
	}
	self := serviceaccount.MatchesUsername(namespace, name, by.GetName())
	copied := "which is for that ServiceAccount alone"
	switch reason := classify(now.reason); {
	case reason == byPodtoken && self:
		return declared(4, by, spec, now)
	case reason == byPodtoken:
		return verdict{row: 7, message: copied}
	case now.mark && self:
		return declared(5, by, spec, now)
	case now.mark:
		return verdict{row: 8, message: copied}
	case reason == byUnknown && strings.HasPrefix(by.GetName(), serviceaccount.ServiceAccountUsernamePrefix):
		return verdict{row: 10, message: "does not know the reason"}
	case reason == byUnknown:
		return verdict{row: 11, allowed: true}
	case self:
		return verdict{row: 6, allowed: true}
	default:
		return verdict{row: 9, allowed: true}
	}
}

// strictModelOf is what the strict guard must say: rows 5 and 6, and what the guard denies anyway.
func strictModelOf(by user.Info, namespace, name string, now *rights) verdict {
	if notLookedAt(by) || !serviceaccount.MatchesUsername(namespace, name, by.GetName()) || now.mark || now.unguarded || now.everything {
		return verdict{allowed: true}
	}
	return verdict{message: "by a right that is not a grant of podtoken"}
}

// notLookedAt reports whether the caller is a kubelet, kube-controller-manager, or in system:masters.
func notLookedAt(by user.Info) bool {
	kubelet := strings.HasPrefix(by.GetName(), "system:node:") && slices.Contains(by.GetGroups(), user.NodesGroup)
	return kubelet || by.GetName() == user.KubeControllerManager || slices.Contains(by.GetGroups(), user.SystemPrivilegedGroup)
}

// declared says of a request by the holder of a grant whether it is for what the grant declares.
func declared(row int, by user.Info, spec *authenticationv1.TokenRequestSpec, now *rights) verdict {
	deny := func(message string) verdict { return verdict{row: row, message: message} }
	pod, uid := by.GetExtra()["authentication.kubernetes.io/pod-name"], by.GetExtra()["authentication.kubernetes.io/pod-uid"]
	if strings.Join(pod, ",") == "" || strings.Join(uid, ",") == "" {
		return deny("only with a credential that is bound to a pod")
	}
	if len(pod) > 1 || len(uid) > 1 { // The API server gives one of each; of several, none is the Pod's.
		return deny("only tokens that are bound to the calling pod")
	}
	if ref := spec.BoundObjectRef; ref == nil || *ref != (authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: ref.Name, UID: ref.UID}) ||
		ref.Name != pod[0] || string(ref.UID) != uid[0] {
		return deny("only tokens that are bound to the calling pod")
	}
	if len(spec.Audiences) < 1 || len(spec.Audiences) > 8 || slices.Contains(spec.Audiences, "") {
		return deny("only tokens of 1 to 8 audiences, none of them empty")
	}
	seconds := int64(3600)
	if spec.ExpirationSeconds != nil {
		seconds = *spec.ExpirationSeconds
	}
	lacks := func(granted map[string]bool) bool {
		return slices.ContainsFunc(spec.Audiences, func(audience string) bool { return !granted[audience] })
	}
	switch {
	case seconds <= 3600 && !lacks(now.renewals):
		return verdict{row: row, allowed: true}
	case !now.lifetimes[seconds] && !now.mintsAnything:
		return deny("may not mint tokens that last " + strconv.FormatInt(seconds, 10) + " s")
	case lacks(now.audiences) && !now.mintsAnything:
		return deny("may not mint tokens for audience")
	}
	return verdict{row: row, allowed: true}
}

// by whom the API server was told that a caller may create tokens.
type origin int

const (
	byUnknown  origin = iota // not a reason of RBAC
	byPodtoken               // RoleBinding podtoken:*, or a Role or ClusterRole podtoken:* by any binding
	byAnother                // any other binding
)

// classify reads the reason of a decision: RBAC: allowed by <kind> <quoted name> of <kind> <quoted name> to <subject>.
func classify(reason string) origin {
	rest, ok := strings.CutPrefix(reason, "RBAC: allowed by ")
	if !ok {
		return byUnknown
	}
	kind, rest, ok := strings.Cut(rest, ` "`)
	if !ok || kind != "RoleBinding" && kind != "ClusterRoleBinding" {
		return byUnknown
	}
	if kind == "RoleBinding" && strings.HasPrefix(rest, "podtoken:") {
		return byPodtoken
	}
	_, rest, ok = cutQuoted(rest)
	for _, of := range []string{` of Role "`, ` of ClusterRole "`} {
		role, found := strings.CutPrefix(rest, of)
		if !ok || !found {
			continue
		}
		if strings.HasPrefix(role, "podtoken:") {
			return byPodtoken
		}
		if _, subject, whole := cutQuoted(role); whole && strings.HasPrefix(subject, " to ") {
			return byAnother
		}
	}
	return byUnknown
}

// cutQuoted splits a text after a string in quotes, whose opening one is gone: a backslash takes the next character with it.
func cutQuoted(text string) (quoted, rest string, ok bool) {
	escaped := false
	for i, char := range text {
		switch {
		case escaped:
			if char == '\n' { // strconv.Quote never prints one
				return "", "", false
			}
			escaped = false
		case char == '\\':
			escaped = true
		case char == '"':
			return text[:i], text[i+1:], true
		}
	}
	return "", "", false
}
