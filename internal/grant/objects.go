package grant

import (
	"slices"
	"strconv"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	rbacv1ac "k8s.io/client-go/applyconfigurations/rbac/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

const (
	labelManagedBy = "app.kubernetes.io/managed-by"
	managedBy      = "podtoken"
	labelTrue      = "true"
)

// owner is the ServiceAccount of a grant.
type owner struct {
	types.NamespacedName
	uid types.UID
}

// nameOf returns the name of the Role and of the RoleBinding.
func nameOf(serviceAccount string) string { return api.GrantPrefix + serviceAccount }

// content is what tells one grant from another. All lists are sorted and have no duplicates.
type content struct {
	lifetimes []int64
	// own are the API server's audiences.
	own []string
	// audiences is nil where Roles of administrators decide.
	audiences []string
}

// empty reports whether there is nothing to grant. A list that is empty for another reason than the mode must never become a
// rule: no resourceNames means all of them.
func (c content) empty() bool { return len(c.lifetimes) == 0 }

// rules returns the Role's rules; pkg/api/grant.go says what they are for. The guard and the controller's own guard know
// their order.
func rules(serviceAccount string, c content) []rbacv1.PolicyRule {
	lifetimes := make([]string, len(c.lifetimes))
	for i, lifetime := range c.lifetimes {
		lifetimes[i] = strconv.FormatInt(lifetime, 10)
	}
	list := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{serviceAccount}, Verbs: []string{"create"}},
		virtual(api.ResourceTokens, api.VerbMint, []string{serviceAccount}),
		virtual(api.ResourceLifetimes, api.VerbMint, lifetimes),
		virtual(api.ResourceAudiences, api.VerbRenew, c.own),
		virtual(api.ResourceAudiences, api.VerbMint, c.audiences),
	}
	return slices.DeleteFunc(list, func(rule rbacv1.PolicyRule) bool { return len(rule.ResourceNames) == 0 })
}

// virtual is a permission that only the guard asks for.
func virtual(resource, verb string, names []string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{api.RBACGroup}, Resources: []string{resource}, ResourceNames: names, Verbs: []string{verb}}
}

// contentOf reads what the Role of a grant gives. Rules of another shape, which the controller does not write, are passed over.
func contentOf(role *rbacv1.Role) content {
	var c content
	for _, rule := range role.Rules {
		if len(rule.Resources) != 1 || len(rule.Verbs) != 1 || !slices.Equal(rule.APIGroups, []string{api.RBACGroup}) {
			continue
		}
		switch rule.Resources[0] + " " + rule.Verbs[0] {
		case api.ResourceLifetimes + " " + api.VerbMint:
			for _, name := range rule.ResourceNames {
				if lifetime, err := strconv.ParseInt(name, 10, 64); err == nil {
					c.lifetimes = append(c.lifetimes, lifetime)
				}
			}
		case api.ResourceAudiences + " " + api.VerbRenew:
			c.own = append(c.own, rule.ResourceNames...)
		case api.ResourceAudiences + " " + api.VerbMint:
			c.audiences = append(c.audiences, rule.ResourceNames...)
		}
	}
	return content{lifetimes: set(c.lifetimes), own: set(c.own), audiences: set(c.audiences)}
}

// subjects of the RoleBinding.
func (o owner) subjects() []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: o.Name, Namespace: o.Namespace}}
}

func (o owner) roleRef() rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: nameOf(o.Name)}
}

// owns reports whether the object's only owner is o. Where it is not, applying does not help: owner references are
// merged by uid, and those of others would stay.
func (o owner) owns(object metav1.Object) bool {
	return equality.Semantic.DeepEqual(object.GetOwnerReferences(), o.references())
}

func (o owner) references() []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: o.Name, UID: o.uid}}
}

func labelled(object metav1.Object) bool {
	return object.GetLabels()[labelManagedBy] == managedBy && object.GetLabels()[api.LabelGrant] == labelTrue
}

// isRole reports whether the Role on the server is the one that is wanted.
func (o owner) isRole(role *rbacv1.Role, c content) bool {
	return role != nil && labelled(role) && o.owns(role) && hasRules(role, rules(o.Name, c))
}

// hasRules reports whether the Role on the server has these rules and no other.
func hasRules(role *rbacv1.Role, rules []rbacv1.PolicyRule) bool {
	return !overfull(role) && equality.Semantic.DeepEqual(role.Rules, rules)
}

// isBinding reports whether the RoleBinding on the server is the one that is wanted.
func (o owner) isBinding(binding *rbacv1.RoleBinding) bool {
	return binding != nil && labelled(binding) && o.owns(binding) && binding.RoleRef == o.roleRef() &&
		equality.Semantic.DeepEqual(binding.Subjects, o.subjects())
}

func (o owner) reference() *metav1ac.OwnerReferenceApplyConfiguration {
	return metav1ac.OwnerReference().WithAPIVersion("v1").WithKind("ServiceAccount").WithName(o.Name).WithUID(o.uid)
}

func grantLabels() map[string]string {
	return map[string]string{labelManagedBy: managedBy, api.LabelGrant: labelTrue}
}

func (o owner) role(c content) *rbacv1ac.RoleApplyConfiguration { return o.withRules(rules(o.Name, c)) }

func (o owner) withRules(rules []rbacv1.PolicyRule) *rbacv1ac.RoleApplyConfiguration {
	role := rbacv1ac.Role(nameOf(o.Name), o.Namespace).WithLabels(grantLabels()).WithOwnerReferences(o.reference())
	for _, rule := range rules {
		role.WithRules(rbacv1ac.PolicyRule().WithAPIGroups(rule.APIGroups...).WithResources(rule.Resources...).
			WithResourceNames(rule.ResourceNames...).WithVerbs(rule.Verbs...))
	}
	return role
}

func (o owner) binding() *rbacv1ac.RoleBindingApplyConfiguration {
	binding := rbacv1ac.RoleBinding(nameOf(o.Name), o.Namespace).WithLabels(grantLabels()).WithOwnerReferences(o.reference())
	ref := o.roleRef()
	binding.WithRoleRef(rbacv1ac.RoleRef().WithAPIGroup(ref.APIGroup).WithKind(ref.Kind).WithName(ref.Name))
	for _, subject := range o.subjects() {
		binding.WithSubjects(rbacv1ac.Subject().WithKind(subject.Kind).WithName(subject.Name).WithNamespace(subject.Namespace))
	}
	return binding
}

// serviceAccountOfGrant returns the ServiceAccount of the Role or RoleBinding of a grant.
func serviceAccountOfGrant(object metav1.Object) (types.NamespacedName, bool) {
	name, ok := strings.CutPrefix(object.GetName(), api.GrantPrefix)
	return types.NamespacedName{Namespace: object.GetNamespace(), Name: name}, ok && name != ""
}
