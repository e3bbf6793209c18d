package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	type limits struct {
		MaxSeconds                                 int64
		MaxPerPod, PerAccount, PerNamespace, Rules int
	}
	tests := map[string]struct {
		text string
		want limits
	}{
		"only what is required":          {header, limits{86400, 16, 256, 4096, 0}},
		"lists that are null":            {header + "allow:\nrbacNamespaces:\nexcludeNamespaces: null\n", limits{86400, 16, 256, 4096, 0}},
		"everything":                     {example, limits{28800, 3, 256, 4096, 3}},
		"zeros, as in the webhook's":     {header + "maxExpiration: 0s\nmaxPerPod: 0\n", limits{86400, 16, 256, 4096, 0}},
		"the least":                      {header + "maxExpiration: 10m\nmaxPerPod: 1\n", limits{600, 1, 256, 4096, 0}},
		"the most":                       {header + "maxExpiration: 4294967296s\nmaxPerPod: 256\n", limits{1 << 32, 256, 256, 4096, 0}},
		"the least audiences":            {header + "maxAudiencesPerServiceAccount: 1\nmaxAudiencesPerNamespace: 1\n", limits{86400, 16, 1, 1, 0}},
		"the most audiences":             {header + "maxAudiencesPerServiceAccount: 1024\nmaxAudiencesPerNamespace: 16384\n", limits{86400, 16, 1024, 16384, 0}},
		"JSON":                           {`{"apiVersion": "podtoken.dev/v1alpha1", "kind": "PolicyConfiguration", "maxPerPod": 2}`, limits{86400, 2, 256, 4096, 0}},
		"two rules of one name":          {header + "allow:\n" + strings.Repeat("- {name: a, namespaces: [a], serviceAccounts: [a], audiences: [a]}\n", 2), limits{86400, 16, 256, 4096, 2}},
		"names of the greatest length":   {header + "rbacNamespaces: ['" + strings.Repeat("a", 63) + "*']\n", limits{86400, 16, 256, 4096, 0}},
		"a ServiceAccount with a period": {header + "allow: [{namespaces: [a], serviceAccounts: [a.b-c*], audiences: [zürich]}]\n", limits{86400, 16, 256, 4096, 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := mustParse(t, test.text)
			if diff := cmp.Diff(test.want, limits{p.maxSeconds, p.maxPerPod, p.MaxPerServiceAccount(), p.MaxPerNamespace(), p.Rules()}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	rule := func(text string) string { return header + "allow: [{" + text + "}]\n" }
	const rest = ", serviceAccounts: [a], audiences: [a]"
	tests := map[string]struct{ text, want string }{
		"empty": {
			"", `checking policy: apiVersion: "" is not known, use "podtoken.dev/v1alpha1"; kind: "" is not known, use "PolicyConfiguration"`,
		},
		"no YAML":                     {"{", "parsing policy: "},
		"a list":                      {"- a", "parsing policy: json: cannot unmarshal array"},
		"another kind":                {strings.Replace(header, "PolicyC", "WebhookC", 1), `kind: "WebhookConfiguration" is not known, use "PolicyConfiguration"`},
		"an unknown field":            {header + "colour: red\n", `parsing policy: unknown field "colour"`},
		"unknown fields of rules":     {rule("namespace: [a], audience: [a]"), `parsing policy: unknown field "allow[0].audience"; unknown field "allow[0].namespace"`},
		"another spelling of a field": {header + "Allow: []\n", `unknown field "Allow"`},
		"a field twice":               {header + "maxPerPod: 1\nmaxPerPod: 2\n", `key "maxPerPod" already set in map`},
		"a wrong type":                {header + "maxPerPod: many\n", `cannot unmarshal string into Go struct field file.maxPerPod of type int`},
		"a text for a list":           {header + "rbacNamespaces: prod\n", `file.rbacNamespaces of type []string`},
		"a number for a text":         {rule("namespaces: [1]" + rest), `cannot unmarshal number into Go struct field fileRule.allow.namespaces of type string`},
		"a maximum in seconds":        {header + "maxExpiration: 3600\n", `file.maxExpiration of type string`},
		"a maximum without unit":      {header + `maxExpiration: "3600"`, `maxExpiration: "3600" is not a duration: use one as "90m" or "24h"`},
		"a maximum that is too short": {header + "maxExpiration: 9m59s", `maxExpiration: "9m59s" is not allowed, use whole seconds, 10m to 1193046h28m16s`},
		"a maximum that is too long":  {header + "maxExpiration: 4294967297s", `maxExpiration: "4294967297s" is not allowed`},
		"a maximum with a fraction":   {header + "maxExpiration: 1h1ms", `maxExpiration: "1h1ms" is not allowed`},
		"a negative maximum":          {header + "maxExpiration: -1h", `maxExpiration: "-1h" is not allowed`},
		"a negative number":           {header + "maxPerPod: -1", `maxPerPod: -1 is not allowed, use 1 to 256`},
		"too large a number":          {header + "maxPerPod: 257", `maxPerPod: 257 is not allowed, use 1 to 256`},
		"too many audiences":          {header + "maxAudiencesPerServiceAccount: 1025", `maxAudiencesPerServiceAccount: 1025 is not allowed, use 1 to 1024`},
		"a negative number of them":   {header + "maxAudiencesPerNamespace: -1", `maxAudiencesPerNamespace: -1 is not allowed, use 1 to 16384`},
		"too many in a namespace":     {header + "maxAudiencesPerNamespace: 16385", `maxAudiencesPerNamespace: 16385 is not allowed, use 1 to 16384`},
		"an empty rule": {
			rule(""), `allow[0].namespaces: is missing or empty: list what the rule is for, ["*"] for all; ` +
				`allow[0].serviceAccounts: is missing or empty: list what the rule is for, ["*"] for all; ` +
				`allow[0].audiences: is missing or empty: list what the rule is for, ["*"] for all`,
		},
		"a namespace that cannot be":      {rule("namespaces: [a, Pay]" + rest), `allow[0].namespaces[1]: "Pay" is not the name of a namespace: use lower case letters, digits and '-', at most 63 of them`},
		"a namespace that is too long":    {rule("namespaces: [" + strings.Repeat("a", 64) + "]" + rest), `allow[0].namespaces[0]: "aaa`},
		"an empty namespace":              {rule("namespaces: ['']" + rest), `allow[0].namespaces[0]: "" is not the name`},
		"a ServiceAccount that cannot be": {rule("namespaces: [a], serviceAccounts: ['system:serviceaccount:a:b'], audiences: [a]"), `allow[0].serviceAccounts[0]: "system:serviceaccount:a:b" is not the name of a ServiceAccount`},
		"an audience with a blank":        {rule("namespaces: [a], serviceAccounts: [a], audiences: ['a b']"), `allow[0].audiences[0]: "a b" has blanks, control characters or invalid UTF-8: remove them`},
		"an empty audience":               {rule("namespaces: [a], serviceAccounts: [a], audiences: ['']"), `allow[0].audiences[0]: "" is empty`},
		"an audience that is too long":    {rule("namespaces: [a], serviceAccounts: [a], audiences: [" + strings.Repeat("a", 513) + "]"), `has 513 bytes: at most 512 are allowed`},
		"a rule's name with a line break": {rule(`name: "a\nb", namespaces: [a]` + rest), `allow[0].name: "a\nb" is not allowed, use at most 63 bytes without control characters`},
		"a rule's name that is too long":  {rule(`name: ` + strings.Repeat("a", 64) + `, namespaces: [a]` + rest), `allow[0].name: "aaa`},
		"a namespace of mode rbac":        {header + "rbacNamespaces: ['prod_*']", `rbacNamespaces[0]: "prod_*" is not the name of a namespace`},
		"a pattern among the excluded":    {header + "excludeNamespaces: [a, 'kube-*']", `excludeNamespaces[1]: "kube-*" is a pattern: write the names of the namespaces`},
		"no name among the excluded":      {header + "excludeNamespaces: ['A']", `excludeNamespaces[0]: "A" is not the name of a namespace`},
		"several problems, in one error":  {header + "maxPerPod: -1\nrbacNamespaces: [A]\n" + "allow: [{namespaces: [B]" + rest + "}]\n", `checking policy: allow[0].namespaces[0]: "B" is not the name of a namespace: use lower case letters, digits and '-', at most 63 of them; rbacNamespaces[0]: "A" is`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := Parse([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, %v, want %s", p, err, test.want)
			}
			if p != nil {
				t.Error("there is a policy with the error")
			}
		})
	}
}
