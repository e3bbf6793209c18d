package grant

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

const (
	// maxKeptText is how many bytes are kept of a text in a Role or RoleBinding: more than any that podtoken writes has, names of audiences
	// aside. A text that was cut is none of podtoken's.
	maxKeptText = 300
	// maxNameBytes is how long the name of a ServiceAccount can be.
	maxNameBytes = 253
	// maxKeptOwners, maxKeptSubjects: podtoken writes one, and two are not that.
	maxKeptOwners   = 2
	maxKeptSubjects = 2
	// maxKeptFinalizers is how many the log names. How many there are is of no importance.
	maxKeptFinalizers = 4
	// maxRules is how many a grant has.
	maxRules = 5
	// maxOwnWeight is what the API server's audiences may weigh. An API server has one or two.
	maxOwnWeight = 64
	// maxLifetimeBytes is how long a lifetime can be.
	maxLifetimeBytes = len("-9223372036854775808")
	// overfullAnnotation is on a Role, as the cache has it, of which not all rules were kept. No object on a server has it: it is no valid name.
	overfullAnnotation = "over full"
)

// stripGrant keeps of a Role or RoleBinding with podtoken's label what this package reads, and no more than podtoken itself could have
// written under the policy in use: with the right to create RoleBindings, a user can put 1.5 MB into each, and the label on it. Of an
// object whose name is not one of podtoken's it keeps the identity. The cache may call it again with what it returned.
func stripGrant(limit func() int) func(any) (any, error) {
	return func(in any) (any, error) {
		switch object := in.(type) {
		case *rbacv1.Role:
			out := &rbacv1.Role{TypeMeta: object.TypeMeta}
			var ours bool
			if out.ObjectMeta, ours = strippedMeta(object); !ours {
				return out, nil
			}
			out.Rules = keptRules(object.Rules, limit())
			if overfull(object) || len(out.Rules) < len(object.Rules) {
				metav1.SetMetaDataAnnotation(&out.ObjectMeta, overfullAnnotation, "")
			}
			return out, nil
		case *rbacv1.RoleBinding:
			out := &rbacv1.RoleBinding{TypeMeta: object.TypeMeta}
			var ours bool
			if out.ObjectMeta, ours = strippedMeta(object); !ours {
				return out, nil
			}
			ref := object.RoleRef
			out.RoleRef = rbacv1.RoleRef{APIGroup: short(ref.APIGroup), Kind: short(ref.Kind), Name: short(ref.Name)}
			for _, s := range object.Subjects[:min(len(object.Subjects), maxKeptSubjects)] {
				out.Subjects = append(out.Subjects, rbacv1.Subject{
					Kind: short(s.Kind), APIGroup: short(s.APIGroup), Name: short(s.Name), Namespace: short(s.Namespace),
				})
			}
			return out, nil
		}
		return in, nil
	}
}

// overfull reports whether the Role on the server has rules that the cache has not, because podtoken would not have written them. It is
// not what is wanted, whatever the others are.
func overfull(role *rbacv1.Role) bool {
	_, yes := role.Annotations[overfullAnnotation]
	return yes
}

// strippedMeta returns what is kept of an object's metadata, and whether the object has a name of podtoken's.
func strippedMeta(object metav1.Object) (metav1.ObjectMeta, bool) {
	out := metav1.ObjectMeta{
		Namespace: object.GetNamespace(), Name: object.GetName(), UID: object.GetUID(), ResourceVersion: object.GetResourceVersion(),
		Labels: map[string]string{},
	}
	for _, name := range []string{labelManagedBy, api.LabelGrant} {
		if value, ok := object.GetLabels()[name]; ok {
			out.Labels[name] = value
		}
	}
	account, ours := serviceAccountOfGrant(object)
	if !ours || len(account.Name) > maxNameBytes {
		// Names of Roles have no limit of length. This one is not looked for.
		if sum := sha256.Sum256([]byte(out.Name)); len(out.Name) > maxNameBytes {
			out.Name = hex.EncodeToString(sum[:])
		}
		return out, false
	}
	out.DeletionTimestamp = object.GetDeletionTimestamp()
	if value, ok := object.GetAnnotations()[api.AnnotationWithdrawn]; ok && len(value) <= len(time.RFC3339) {
		out.Annotations = map[string]string{api.AnnotationWithdrawn: value}
	}
	finalizers := object.GetFinalizers()
	for _, name := range finalizers[:min(len(finalizers), maxKeptFinalizers)] {
		out.Finalizers = append(out.Finalizers, short(name))
	}
	owners := object.GetOwnerReferences()
	for _, one := range owners[:min(len(owners), maxKeptOwners)] {
		one.APIVersion, one.Kind, one.Name = short(one.APIVersion), short(one.Kind), short(one.Name)
		if len(one.UID) > maxKeptText {
			one.UID = ""
		}
		out.OwnerReferences = append(out.OwnerReferences, one)
	}
	return out, true
}

// keptRules returns the rules that podtoken itself could have written: of at most so many lifetimes, and audiences of such a weight.
func keptRules(all []rbacv1.PolicyRule, limit int) []rbacv1.PolicyRule {
	var list []rbacv1.PolicyRule
	lifetimes, own, audiences := 0, 0, 0
	for _, rule := range all {
		if len(rule.APIGroups) != 1 || len(rule.Resources) != 1 || len(rule.Verbs) != 1 || len(rule.NonResourceURLs) > 0 ||
			tooLong(maxKeptText, rule.APIGroups[0], rule.Resources[0], rule.Verbs[0]) {
			continue
		}
		fits := false
		switch rule.Resources[0] + " " + rule.Verbs[0] {
		case api.ResourceLifetimes + " " + api.VerbMint:
			lifetimes += len(rule.ResourceNames)
			fits = lifetimes <= limit && !tooLong(maxLifetimeBytes, rule.ResourceNames...)
		case api.ResourceAudiences + " " + api.VerbRenew:
			own += weigh(rule.ResourceNames)
			fits = own <= maxOwnWeight
		case api.ResourceAudiences + " " + api.VerbMint:
			audiences += weigh(rule.ResourceNames)
			fits = audiences <= limit
		default:
			fits = len(rule.ResourceNames) <= 1 && !tooLong(maxKeptText, rule.ResourceNames...)
		}
		if fits && len(list) < maxRules {
			list = append(list, rule)
		}
	}
	return list
}

// tooLong reports whether one of the texts has more bytes.
func tooLong(limit int, texts ...string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return len(text) > limit })
}

// short returns a text as far as it is kept, in memory of its own.
func short(text string) string {
	if len(text) <= maxKeptText {
		return text
	}
	return strings.Clone(text[:maxKeptText])
}
