package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What people are shown of a policy is what it decides by.
func TestDescribe(t *testing.T) {
	p, err := Parse([]byte(`
apiVersion: podtoken.dev/v1alpha1
kind: PolicyConfiguration
allow:
- {name: shops, namespaces: ["shop*"], serviceAccounts: [web], audiences: [vault, "https://*.example.com"]}
- {namespaces: [admin], serviceAccounts: ["*"], audiences: ["*", api]}
excludeNamespaces: [kube-system, closed]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Rule{
		{`rule "shops"`, []string{"shop*"}, []string{"web"}, []string{"vault", "https://*.example.com"}},
		{"rule 2", []string{"admin"}, []string{"*"}, []string{"*", "api"}},
	}
	if diff := cmp.Diff(want, p.List()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"closed", "kube-system"}, p.Excluded()); diff != "" {
		t.Error(diff)
	}
	known := []string{"api", "other-api"}
	for _, c := range []struct {
		namespace, account, audience string
		known                        []string
		want                         string
	}{
		{"shop-1", "web", "vault", known, `rule "shops"`},
		{"shop-1", "web", "https://a.example.com", known, `rule "shops"`},
		{"shop-1", "web", "https://a.example.com", nil, ""}, // it could be the API server's
		{"shop-1", "other", "vault", known, ""},
		{"admin", "any", "vault", known, "rule 2"},
		{"admin", "any", "api", known, "rule 2"},
		{"admin", "any", "other-api", known, ""},
	} {
		if got := p.AllowedBy(c.namespace, c.account, c.audience, c.known); got != c.want {
			t.Errorf("%s/%s for %q: got %q, want %q", c.namespace, c.account, c.audience, got, c.want)
		}
	}
	if got := [2]string{p.Names("api"), p.Names("billing")}; got != [2]string{"rule 2", ""} {
		t.Errorf("the rules that name audiences are %q", got)
	}
}
