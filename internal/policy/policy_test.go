package policy

import (
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
)

const header = "apiVersion: podtoken.dev/v1alpha1\nkind: PolicyConfiguration\n"

const example = header + `
allow:
- name: payments
  namespaces: ["pay-*"]
  serviceAccounts: ["*"]
  audiences: ["vault", "https://*.example.com"]
- namespaces: ["shop", "pay-*"]
  serviceAccounts: ["web", "ci-*"]
  audiences: ["sts", "https://kubernetes.default.svc"]
- name: everything but the API server
  namespaces: [dev]
  serviceAccounts: ["*"]
  audiences: ["*"]
rbacNamespaces: ["prod-*"]
excludeNamespaces: [kube-system, prod-system]
maxExpiration: 8h
maxPerPod: 3
`

var apiServer = []string{"https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local"}

func mustParse(tb testing.TB, text string) *Policy {
	tb.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// token is a token of an hour.
func token(name string, audiences ...string) api.TokenSpec {
	return api.TokenSpec{Name: name, Audiences: audiences, ExpirationSeconds: 3600, Path: name, Mode: "0444", RefreshAtPercent: 80}
}

func lasting(seconds int64) api.TokenSpec {
	t := token("a", "vault")
	t.ExpirationSeconds = seconds
	return t
}

func TestCheckAllows(t *testing.T) {
	tests := map[string]struct {
		namespace, account string
		tokens             []api.TokenSpec
	}{
		"an audience that a rule names":                            {"pay-eu", "any", []api.TokenSpec{token("a", "vault")}},
		"an audience that a glob matches":                          {"pay-eu", "any", []api.TokenSpec{token("a", "https://x.example.com")}},
		"audiences of one token out of several rules":              {"pay-eu", "web", []api.TokenSpec{token("a", "vault", "sts")}},
		"several tokens":                                           {"pay-eu", "ci-1", []api.TokenSpec{token("a", "vault"), token("b", "sts"), token("c", "vault")}},
		"an audience of the API server that a rule names":          {"shop", "web", []api.TokenSpec{token("a", "https://kubernetes.default.svc")}},
		"any other audience by a star":                             {"dev", "x", []api.TokenSpec{token("a", "https://kubernetes.default.svc.evil.example.com")}},
		"an audience with a star in it, literally":                 {"dev", "x", []api.TokenSpec{token("a", "*")}},
		"the same audience twice":                                  {"pay-eu", "x", []api.TokenSpec{token("a", "vault", "vault")}},
		"no token at all":                                          {"nowhere", "x", nil},
		"in mode rbac, what no rule allows":                        {"prod-eu", "x", []api.TokenSpec{token("a", "anything")}},
		"in mode rbac, an audience of the API server":              {"prod-eu", "x", []api.TokenSpec{token("a", apiServer...)}},
		"the shortest lifetime":                                    {"dev", "x", []api.TokenSpec{lasting(600)}},
		"the longest lifetime":                                     {"dev", "x", []api.TokenSpec{lasting(8 * 3600)}},
		"a second less than what becomes a year":                   {"dev", "x", []api.TokenSpec{lasting(3606)}},
		"eight audiences":                                          {"dev", "x", []api.TokenSpec{token("a", "1", "2", "3", "4", "5", "6", "7", "8")}},
		"an audience of the greatest length":                       {"dev", "x", []api.TokenSpec{token("a", strings.Repeat("x", 512))}},
		"a token without a name, path or mode (others look at it)": {"dev", "x", []api.TokenSpec{{Audiences: []string{"a"}, ExpirationSeconds: 600}}},
	}
	p := mustParse(t, example)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := p.Check(Request{test.namespace, test.account, test.tokens, apiServer}); got != nil {
				t.Errorf("refused (%s): %s", got.Reason, got.Message)
			}
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	const (
		change = " (policy.allow in the Helm chart's values)"
		noRule = "no rule of the policy matches this ServiceAccount; an administrator can add one" + change
	)
	nine := token("a", "1", "2", "3", "4", "5", "6", "7", "8", "9")
	tests := map[string]struct {
		namespace, account string
		tokens             []api.TokenSpec
		reason             api.Reason
		message            string
	}{
		"no rule for the namespace": {
			"other", "web", []api.TokenSpec{token("a", "vault")}, "NotAllowed",
			`ServiceAccount "web" in namespace "other": the audience "vault" (token "a") is not allowed: ` + noRule,
		},
		"no rule for the ServiceAccount": {
			"shop", "db", []api.TokenSpec{token("a", "sts")}, "NotAllowed",
			`ServiceAccount "db" in namespace "shop": the audience "sts" (token "a") is not allowed: ` + noRule,
		},
		"a rule, but not for this audience": {
			"pay-eu", "db", []api.TokenSpec{token("a", "vault", "sts")}, "NotAllowed",
			`ServiceAccount "db" in namespace "pay-eu": the audience "sts" (token "a") is not allowed: ` +
				`the policy has rule "payments" ("vault", "https://*.example.com") for it; an administrator can add the audience` + change,
		},
		"all refused audiences, with all matching rules": {
			"pay-eu", "web", []api.TokenSpec{token("a", "x", "vault"), token("b", "y")}, "NotAllowed",
			`ServiceAccount "web" in namespace "pay-eu": the audiences "x" (token "a"), "y" (token "b") are not allowed: ` +
				`the policy has rule "payments" ("vault", "https://*.example.com"), rule 2 ("sts", "https://kubernetes.default.svc") for it; ` +
				`an administrator can add the audiences` + change,
		},
		"an audience of the API server by a star": {
			"dev", "x", []api.TokenSpec{token("a", "vault", "https://kubernetes.default.svc")}, "NotAllowed",
			`ServiceAccount "x" in namespace "dev": the audience "https://kubernetes.default.svc" (token "a", the API server's own) is not allowed: ` +
				`the policy has rule "everything but the API server" ("*") for it; an administrator can add the audience` + change +
				`; one of the API server is allowed only by a rule that names it without '*'`,
		},
		"another audience of the API server than the rule names": {
			"shop", "web", []api.TokenSpec{token("a", "https://kubernetes.default.svc.cluster.local")}, "NotAllowed",
			`ServiceAccount "web" in namespace "shop": the audience "https://kubernetes.default.svc.cluster.local" (token "a", the API server's own) is not allowed: ` +
				`the policy has rule 2 ("sts", "https://kubernetes.default.svc") for it; an administrator can add the audience` + change +
				`; one of the API server is allowed only by a rule that names it without '*'`,
		},
		"an excluded namespace": {
			"kube-system", "x", []api.TokenSpec{token("a", "vault")}, "NotAllowed",
			`ServiceAccount "x" in namespace "kube-system": there are no tokens in this namespace, which the policy excludes: use another one, ` +
				`or ask an administrator (excludeNamespaces of the policy; webhook.excludeNamespaces in the Helm chart's values)`,
		},
		"an excluded namespace of mode rbac": {
			"prod-system", "x", []api.TokenSpec{token("a", "vault")}, "NotAllowed",
			`ServiceAccount "x" in namespace "prod-system": there are no tokens in this namespace, which the policy excludes: use another one, ` +
				`or ask an administrator (excludeNamespaces of the policy; webhook.excludeNamespaces in the Helm chart's values)`,
		},
		"too many tokens": {
			"dev", "x", []api.TokenSpec{token("a"), token("b"), token("c"), token("d")}, "LimitExceeded",
			`ServiceAccount "x" in namespace "dev": the pod has 4 tokens, and at most 3 are allowed: use fewer, ` +
				`or ask an administrator (maxPerPod of the policy; tokens.maxPerPod in the Helm chart's values)`,
		},
		"too long": {
			"dev", "x", []api.TokenSpec{lasting(8*3600 + 1)}, "LimitExceeded",
			`ServiceAccount "x" in namespace "dev": the token "a" has a lifetime of 28801 s, and at most 28800 s (8h) are allowed: use less, ` +
				`or ask an administrator (maxExpiration of the policy; tokens.maxExpiration in the Helm chart's values)`,
		},
		"too short": {
			"dev", "x", []api.TokenSpec{lasting(599)}, "LimitExceeded",
			`ServiceAccount "x" in namespace "dev": the token "a" has a lifetime of 599 s, and it must be at least 600 s`,
		},
		"negative": {
			"dev", "x", []api.TokenSpec{lasting(-1 << 63)}, "LimitExceeded",
			`ServiceAccount "x" in namespace "dev": the token "a" has a lifetime of -9223372036854775808 s, and it must be at least 600 s`,
		},
		"what becomes a year": {
			"dev", "x", []api.TokenSpec{lasting(3607)}, "LimitExceeded",
			`ServiceAccount "x" in namespace "dev": the token "a" has a lifetime of exactly 3607 s, out of which kube-apiserver makes a token of one year: use 1h`,
		},
		"no audiences, which is a token for the API server": {
			"dev", "x", []api.TokenSpec{token("a")}, "LimitExceeded",
			`ServiceAccount "x" in namespace "dev": the token "a" has 0 audiences, and it must have 1 to 8`,
		},
		"too many audiences": {
			"dev", "x", []api.TokenSpec{nine}, "LimitExceeded",
			`ServiceAccount "x" in namespace "dev": the token "a" has 9 audiences, and it must have 1 to 8`,
		},
		"too many audiences in mode rbac": {
			"prod-eu", "x", []api.TokenSpec{nine}, "LimitExceeded",
			`ServiceAccount "x" in namespace "prod-eu": the token "a" has 9 audiences, and it must have 1 to 8`,
		},
		"an empty audience": {
			"dev", "x", []api.TokenSpec{token("a", "")}, "LimitExceeded",
			`ServiceAccount "x" in namespace "dev": the token "a" has the audience "", which is empty`,
		},
		"an absurd audience, in mode rbac": {
			"prod-eu", "x", []api.TokenSpec{token("a", "a\nb")}, "LimitExceeded",
			`ServiceAccount "x" in namespace "prod-eu": the token "a" has the audience "a\nb", which has blanks, control characters or invalid UTF-8: remove them`,
		},
		"an audience that is too long": {
			"dev", "x", []api.TokenSpec{token("a", strings.Repeat("x", 513))}, "LimitExceeded",
			`ServiceAccount "x" in namespace "dev": the token "a" has the audience "` + strings.Repeat("x", 100) + `"..., which has 513 bytes: at most 512 are allowed`,
		},
		"several problems, with the reason of the first": {
			"pay-eu", "db", []api.TokenSpec{token("a", "sts"), lasting(1)}, "NotAllowed",
			`ServiceAccount "db" in namespace "pay-eu": 2 problems: (1) the audience "sts" (token "a") is not allowed: ` +
				`the policy has rule "payments" ("vault", "https://*.example.com") for it; an administrator can add the audience` + change +
				`; (2) the token "a" has a lifetime of 1 s, and it must be at least 600 s`,
		},
	}
	p := mustParse(t, example)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := p.Check(Request{test.namespace, test.account, test.tokens, apiServer})
			if got == nil {
				t.Fatal("allowed")
			}
			if got.Reason != test.reason || got.Message != test.message || got.Error() != test.message {
				t.Errorf("got %s: %s\nwant %s: %s", got.Reason, got.Message, test.reason, test.message)
			}
		})
	}
}

// While nobody knows which audiences are the API server's, a star could let one of them through.
func TestUnknownAudiencesOfTheAPIServer(t *testing.T) {
	p := mustParse(t, example)
	if got := p.Check(Request{"pay-eu", "x", []api.TokenSpec{token("a", "vault")}, nil}); got != nil {
		t.Errorf("what a rule names is refused: %v", got)
	}
	if got := p.Check(Request{"prod-eu", "x", []api.TokenSpec{token("a", "vault")}, nil}); got != nil {
		t.Errorf("what Roles decide is refused: %v", got)
	}
	got := p.Check(Request{"dev", "x", []api.TokenSpec{token("a", "vault")}, nil})
	want := `ServiceAccount "x" in namespace "dev": the audience "vault" (token "a") is not allowed: ` +
		`the policy has rule "everything but the API server" ("*") for it; an administrator can add the audience (policy.allow in the Helm chart's values)` +
		`; which audiences are the API server's is not known yet, so only those that a rule names without '*' are allowed`
	if got == nil || got.Reason != "NotAllowed" || got.Message != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestNoRulesAllowNothing(t *testing.T) {
	p := mustParse(t, header+"allow: []\nrbacNamespaces: [free]\n")
	for namespace, allowed := range map[string]bool{"shop": false, "free": true} {
		got := p.Check(Request{namespace, "web", []api.TokenSpec{token("a", "vault")}, apiServer})
		if (got == nil) != allowed || p.RBAC(namespace) != allowed {
			t.Errorf("namespace %s: %v, RBAC %t", namespace, got, p.RBAC(namespace))
		}
	}
}

// Names of hand-made pods and policies may be of any size; a message goes into an API answer and into events.
func TestMessagesAreBounded(t *testing.T) {
	huge := strings.Repeat("\x00ä\u200b\n", 50_000)
	var rules strings.Builder
	for range 40 {
		rules.WriteString("- {name: " + strings.Repeat("r", 63) + ", namespaces: ['*'], serviceAccounts: ['*'], audiences: [" +
			strings.Repeat(strings.Repeat("x", 512)+", ", 30) + "x]}\n")
	}
	p := mustParse(t, header+"maxPerPod: 256\nallow:\n"+rules.String())
	var tokens []api.TokenSpec
	for range 256 {
		tokens = append(tokens, api.TokenSpec{Name: huge, Audiences: []string{strings.Repeat("y", 500), huge, "", "b"}})
	}
	got := p.Check(Request{huge, huge, tokens, apiServer})
	if got == nil || len(got.Message) > 16_000 || strings.ContainsAny(got.Message, "\x00\n") {
		t.Fatalf("%d bytes: %.300v", len(got.Message), got)
	}
	for _, want := range []string{
		"769 problems: (1) the audiences ", " and 502 more are not allowed: the policy has ", ` and 21 more), rule "rrr`, `rrr" (31 audiences) and 30 more for it`, "; and 759 more",
	} {
		if !strings.Contains(got.Message, want) {
			t.Errorf("the message has not %q", want)
		}
	}

	// The message of a usual pod has to fit into an event (1 kB) without a cut in the middle of what matters.
	usual := mustParse(t, example).Check(Request{"pay-eu", "web", []api.TokenSpec{token("a", "x"), token("b", "y")}, apiServer})
	if len(usual.Message) > 500 {
		t.Errorf("%d bytes: %s", len(usual.Message), usual.Message)
	}
}
