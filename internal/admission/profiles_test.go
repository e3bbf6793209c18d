package admission

import (
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/mutate"
)

// What a profile or a preset asks for is judged as if the pod had written it.
func TestPolicyAppliesToProfilesAndPresets(t *testing.T) {
	const profiles = `
profiles:
  vault: {vault-role.vault: app, expiration.vault: 12h}
  api: {audience.k8s: "https://kubernetes.default.svc", format.k8s: kubeconfig}
  foreign: {audience.x: other}
`
	rules, err := mutate.ParseConfig([]byte(configuration + profiles))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		annotations  string
		reason, text string
	}{
		"a profile that the policy allows": {`"podtoken.dev/profile": "vault"`, "", ""},
		"a profile with an audience of the API server": {`"podtoken.dev/profile": "api"`, "NotAllowed",
			`the audience "https://kubernetes.default.svc" (token "k8s", the API server's own) is not allowed`},
		"a profile that no rule has":              {`"podtoken.dev/profile": "vault foreign"`, "NotAllowed", `the audience "other" (token "x") is not allowed`},
		"an audience of the pod over a profile's": {`"podtoken.dev/profile": "foreign", "podtoken.dev/audience.x": "billing"`, "", ""},
		"a preset's audience":                     {`"podtoken.dev/aws-role-arn.aws": "arn:aws:iam::123456789012:role/a"`, "NotAllowed", `the audience "sts.amazonaws.com" (token "aws") is not allowed`},
		"a preset with another":                   {`"podtoken.dev/aws-role-arn.aws": "arn:aws:iam::123456789012:role/a", "podtoken.dev/audience.aws": "billing"`, "", ""},
		"a profile that there is not":             {`"podtoken.dev/profile": "x"`, "InvalidValue", `names "x", which is not a profile of this installation`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.config.Rules = func() *mutate.Config { return rules }
			answer := decodeAnswer(t, h.serve(newRequest(reviewOf(c.annotations))).Body.Bytes()).Response
			if c.reason == "" {
				if !answer.Allowed || len(answer.Patch) == 0 {
					t.Errorf("refused: %v", answer.Result)
				}
				return
			}
			if answer.Allowed || string(answer.Result.Reason) != c.reason || !strings.Contains(answer.Result.Message, c.text) {
				t.Errorf("allowed %v, %v: want %s, %s", answer.Allowed, answer.Result, c.reason, c.text)
			}
		})
	}
}

// Templates and certificates are where somebody may put a secret by mistake: a denial does not repeat them.
func TestDenialsDoNotRepeatSecrets(t *testing.T) {
	const secret = "s3cr3t"
	for _, annotations := range []string{
		`"podtoken.dev/audience.a": "vault", "podtoken.dev/template.a": "password = ` + secret + ` {{.nothing}}"`,
		`"podtoken.dev/audience.a": "vault", "podtoken.dev/format.a": "kubeconfig", "podtoken.dev/kubeconfig-server.a": "https://a", ` +
			`"podtoken.dev/kubeconfig-ca.a": "-----BEGIN PRIVATE KEY-----\n` + secret + `\n-----END PRIVATE KEY-----"`,
	} {
		h := newHarness(t)
		answer := decodeAnswer(t, h.serve(newRequest(reviewOf(annotations))).Body.Bytes()).Response
		if answer.Allowed || strings.Contains(answer.Result.Message, secret) || strings.Contains(h.log.String(), secret) {
			t.Errorf("allowed %v, %v", answer.Allowed, answer.Result)
		}
	}
}
