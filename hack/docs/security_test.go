package docs

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/pkg/api"
)

// decode reads YAML into a value that has a field for everything in it.
func decode(t *testing.T, document string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
}

// The Role in docs/security.md is the one that pkg/api describes.
func TestGrantInSecurity(t *testing.T) {
	_, block, _ := strings.Cut(read(t, "docs/security.md"), "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	first, _, _ := strings.Cut(block, "\n---\n")
	var role rbacv1.Role
	decode(t, first, &role)
	account, ok := strings.CutPrefix(role.Name, api.GrantPrefix)
	if !ok || role.Labels[api.LabelGrant] != "true" || len(role.OwnerReferences) != 1 || role.OwnerReferences[0].Name != account {
		t.Errorf("metadata is %+v", role.ObjectMeta)
	}
	type rule struct{ Group, Resource, Verb string }
	var got []rule
	for _, r := range role.Rules {
		got = append(got, rule{r.APIGroups[0], r.Resources[0], r.Verbs[0]})
	}
	want := []rule{
		{"", "serviceaccounts/token", "create"},
		{api.RBACGroup, api.ResourceTokens, api.VerbMint},
		{api.RBACGroup, api.ResourceLifetimes, api.VerbMint},
		{api.RBACGroup, api.ResourceAudiences, api.VerbRenew},
		{api.RBACGroup, api.ResourceAudiences, api.VerbMint},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

// The files that are there to be applied decode, and none gives more than it says.
func TestReadyMadeObjects(t *testing.T) {
	roles, err := filepath.Glob(filepath.Join(root, "docs/roles/*.yaml"))
	if err != nil || len(roles) == 0 {
		t.Fatalf("got %q, %v: want files in docs/roles", roles, err)
	}
	for _, path := range append(roles, filepath.Join(root, "docs/networkpolicy.yaml")) {
		name := strings.TrimPrefix(path, root+"/")
		for _, document := range strings.Split(read(t, name), "\n---\n") {
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			switch kind.Kind {
			case "Role":
				decode(t, document, &rbacv1.Role{})
			case "ClusterRole":
				decode(t, document, &rbacv1.ClusterRole{})
			case "RoleBinding":
				decode(t, document, &rbacv1.RoleBinding{})
			case "NetworkPolicy":
				decode(t, document, &networkingv1.NetworkPolicy{})
			default:
				t.Errorf("%s has a %q", name, kind.Kind)
			}
			var rules struct {
				Rules []rbacv1.PolicyRule `json:"rules"`
			}
			if err := yaml.Unmarshal([]byte(document), &rules); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, rule := range rules.Rules {
				if rule.APIGroups[0] != api.RBACGroup {
					continue
				}
				want := rbacv1.PolicyRule{
					APIGroups: []string{api.RBACGroup}, Resources: []string{api.ResourceAudiences},
					ResourceNames: rule.ResourceNames, Verbs: []string{api.VerbMint},
				}
				if diff := cmp.Diff(want, rule); diff != "" || len(rule.ResourceNames) == 0 {
					t.Errorf("%s: a rule of group %s is no list of audiences to mint (-want +got):\n%s", name, api.RBACGroup, diff)
				}
			}
		}
	}
}

// No rule of docs/audit-policy.yaml writes a body that is a token: the first rule that matches decides.
func TestAuditPolicyRecordsNoTokens(t *testing.T) {
	var policy struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Rules      []struct {
			Level     string `json:"level"`
			Resources []struct {
				Group     string   `json:"group"`
				Resources []string `json:"resources"`
			} `json:"resources"`
		} `json:"rules"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "docs/audit-policy.yaml")), &policy); err != nil {
		t.Fatal(err)
	}
	if policy.APIVersion != "audit.k8s.io/v1" || policy.Kind != "Policy" {
		t.Errorf("it is a %s %s", policy.APIVersion, policy.Kind)
	}
	for i, resource := range []string{"/serviceaccounts/token", "authentication.k8s.io/tokenreviews"} {
		rule := policy.Rules[i]
		if got := rule.Resources[0].Group + "/" + rule.Resources[0].Resources[0]; rule.Level != "Metadata" || got != resource {
			t.Errorf("rule %d is %s for %s, want Metadata for %s", i, rule.Level, got, resource)
		}
	}
}

// docs/audit.md names the audit annotations of the policies, by the names that the default release gives them.
func TestAuditNamesAnnotations(t *testing.T) {
	text := read(t, "docs/audit.md")
	for template, policy := range map[string]string{"_guard.tpl": "podtoken-guard", "enforce.yaml": "podtoken-enforce"} {
		keys := auditKey.FindAllStringSubmatch(read(t, "charts/podtoken/templates/"+template), -1)
		if len(keys) == 0 {
			t.Errorf("%s has no audit annotations: the test has to follow the chart", template)
		}
		for _, key := range keys {
			if !strings.Contains(text, policy+"/"+key[1]) {
				t.Errorf("docs/audit.md does not name %s/%s", policy, key[1])
			}
		}
	}
}
