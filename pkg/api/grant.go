package api

// A grant is the Role and the RoleBinding, both named GrantPrefix and the ServiceAccount's name, with which the
// controller lets a ServiceAccount mint the tokens that its pods declare. It has these rules, in this order:
//
//	apiGroups       resources                 resourceNames                  verbs     for
//	""              serviceaccounts/token     the ServiceAccount             create    the API server
//	RBACGroup       ResourceTokens            the ServiceAccount             mint      the mark: the guard looks at who holds it
//	RBACGroup       ResourceLifetimes         declared lifetimes, seconds    mint      the guard
//	RBACGroup       ResourceAudiences         the API server's audiences     renew     the guard
//	RBACGroup       ResourceAudiences         declared audiences             mint      the guard; absent where Roles of
//	                                                                                   administrators decide (mode rbac)
//
// A grant that was withdrawn keeps nothing but the mark, and AnnotationWithdrawn, until requests that were authorized before have ended.
//
// No API group serves RBACGroup. RBAC does not ask for that; of kubectl's commands `auth can-i --list` shows the rules, while
// `auth can-i mint audiences.podtoken.dev/vault` asks for another resource (k8s.io/kubectl@v0.37.2/pkg/cmd/auth/cani.go).
const (
	// GrantPrefix begins the names of the Role and the RoleBinding. A colon keeps them apart from names that users choose.
	GrantPrefix = "podtoken:"
	// LabelGrant marks both; its value is "true". The controller leaves what does not have it alone.
	LabelGrant = Prefix + "grant"
	// AnnotationWithdrawn is on the Role of a grant that was withdrawn: since when, as in RFC 3339.
	AnnotationWithdrawn = Prefix + "withdrawn-at"
	// RBACGroup is the API group of the permissions that only the guard asks for.
	RBACGroup = "podtoken.dev"
)

// Resources and verbs of RBACGroup.
const (
	ResourceTokens    = "tokens"
	ResourceLifetimes = "lifetimes"
	ResourceAudiences = "audiences"
	VerbMint          = "mint"
	VerbRenew         = "renew"
)

// RenewalSeconds is the longest lifetime with which the sidecar may renew its own API credential.
const RenewalSeconds = 3600
