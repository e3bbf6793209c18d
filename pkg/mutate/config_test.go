package mutate

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestParseConfig(t *testing.T) {
	user, group := int64(65532), int64(65531)
	defaults := func() *Config {
		return &Config{
			APIVersion: "podtoken.dev/v1alpha1",
			Kind:       "WebhookConfiguration",
			Sidecar: SidecarConfig{
				Image: "podtoken/sidecar:v0.1.0", ImagePullPolicy: "IfNotPresent", RunAsUser: &user, RunAsGroup: &group, BestEffort: "Defaults",
				Resources: &corev1.ResourceRequirements{
					Requests: corev1.ResourceList{"cpu": resource.MustParse("1m"), "memory": resource.MustParse("8Mi")},
					Limits:   corev1.ResourceList{"memory": resource.MustParse("16Mi")},
				},
				GuaranteedResources: corev1.ResourceList{"cpu": resource.MustParse("50m"), "memory": resource.MustParse("16Mi")},
			},
			Tokens: TokensConfig{
				MaxExpiration: metav1.Duration{Duration: 24 * time.Hour},
				MaxPerPod:     16,
			},
		}
	}
	tests := map[string]struct {
		text string
		want func(*Config)
	}{
		"only the image": {"", func(*Config) {}},
		"everything": {
			`  imagePullPolicy: Always
  runAsUser: 1000
  runAsGroup: 1001
  resources: {requests: {memory: 10Mi}}
  guaranteedResources: {cpu: 10m, memory: 20Mi}
  bestEffort: None
tokens: {maxExpiration: 48h, maxPerPod: 3}
`,
			func(c *Config) {
				otherUser, otherGroup := int64(1000), int64(1001)
				c.Sidecar.ImagePullPolicy, c.Sidecar.RunAsUser, c.Sidecar.RunAsGroup, c.Sidecar.BestEffort = "Always", &otherUser, &otherGroup, "None"
				c.Sidecar.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"memory": resource.MustParse("10Mi")}}
				c.Sidecar.GuaranteedResources = corev1.ResourceList{"cpu": resource.MustParse("10m"), "memory": resource.MustParse("20Mi")}
				c.Tokens = TokensConfig{MaxExpiration: metav1.Duration{Duration: 48 * time.Hour}, MaxPerPod: 3}
			},
		},
		"profiles": {
			"profiles:\n  vault: {vault-role.vault: app, expiration: 30m}\n  region: {aws-region.aws: eu-central-1}\n  plain: {expiration.a: 3600, wait: false}\n",
			func(c *Config) {
				c.Profiles = map[string]map[string]string{"vault": {"vault-role.vault": "app", "expiration": "30m"}, "region": {"aws-region.aws": "eu-central-1"},
					"plain": {"expiration.a": "3600", "wait": "false"}}
			},
		},
		"the user left to the platform": {"  runAsUser: null\n", func(c *Config) { c.Sidecar.RunAsUser = nil }},
		"the group, too":                {"  runAsUser: null\n  runAsGroup: null\n", func(c *Config) { c.Sidecar.RunAsUser, c.Sidecar.RunAsGroup = nil, nil }},
		"no resources":                  {"  resources: {}\n", func(c *Config) { c.Sidecar.Resources = &corev1.ResourceRequirements{} }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseConfig([]byte(defaultConfig + test.text))
			if err != nil {
				t.Fatal(err)
			}
			want := defaults()
			test.want(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseConfigErrors(t *testing.T) {
	profile := func(name, settings string) string {
		return defaultConfig + "profiles: {" + name + ": {" + settings + "}}\n"
	}
	tests := map[string]struct{ text, want string }{
		"empty": {
			"", `apiVersion: "" is not known, use "podtoken.dev/v1alpha1"; kind: "" is not known, use "WebhookConfiguration"; sidecar.image: "" is not the name of an image`,
		},
		"no YAML":                      {"{", `parsing configuration: `},
		"an unknown field":             {defaultConfig + "  colour: red\n", `unknown field "colour"`},
		"a field twice":                {defaultConfig + "  image: other\n", `"image" already set`},
		"a wrong type":                 {defaultConfig + "tokens: {maxPerPod: many}\n", `maxPerPod`},
		"another version":              {strings.Replace(defaultConfig, "v1alpha1", "v2", 1), `apiVersion: "podtoken.dev/v2" is not known`},
		"a pull policy":                {defaultConfig + "  imagePullPolicy: Sometimes\n", `sidecar.imagePullPolicy: "Sometimes" is not one of Always, IfNotPresent, Never`},
		"root":                         {defaultConfig + "  runAsUser: 0\n", `sidecar.runAsUser: 0 is not allowed, use 1 to 2147483647, or null`},
		"the group of root":            {defaultConfig + "  runAsGroup: 0\n", `sidecar.runAsGroup: 0 is not allowed, use 1 to 2147483647, or null`},
		"an unknown resource":          {defaultConfig + "  resources: {limits: {pods: 1}}\n", `sidecar.resources: limits has "pods"`},
		"a request above the limit":    {defaultConfig + "  resources: {requests: {cpu: 2}, limits: {cpu: 1}}\n", `sidecar.resources: requests.cpu is more than limits.cpu`},
		"guaranteed without memory":    {defaultConfig + "  guaranteedResources: {cpu: 1}\n", `sidecar.guaranteedResources: memory is missing or not positive`},
		"guaranteed with others":       {defaultConfig + "  guaranteedResources: {cpu: 1, memory: 1Mi, pods: 1}\n", `sidecar.guaranteedResources: limits has "pods"`},
		"best effort":                  {defaultConfig + "  bestEffort: Some\n", `sidecar.bestEffort: "Some" is not one of Defaults, None`},
		"a maximum that is too short":  {defaultConfig + "tokens: {maxExpiration: 5m}\n", `tokens.maxExpiration: 5m0s is not allowed, use whole seconds, 10m to `},
		"a maximum with a fraction":    {defaultConfig + "tokens: {maxExpiration: 1h1ms}\n", `tokens.maxExpiration: 1h0m0.001s is not allowed`},
		"a maximum in seconds":         {defaultConfig + "tokens: {maxExpiration: 3600}\n", `parsing configuration: `},
		"a negative number of tokens":  {defaultConfig + "tokens: {maxPerPod: -1}\n", `tokens.maxPerPod: -1 is not allowed, use 1 to 256`},
		"an image with a line break":   {strings.Replace(defaultConfig, "podtoken/sidecar:v0.1.0", `"a\nb"`, 1), `sidecar.image: "a\nb" is not the name of an image`},
		"the name of a profile":        {profile("Vault", "expiration: 30m"), `profiles[Vault]: the name must be 1 to 40 lower-case letters`},
		"an empty profile":             {profile("a", ""), `profiles[a]: it is empty: add settings as "expiration: 30m", or remove it`},
		"an unknown setting":           {profile("a", "expiry: 30m"), `profiles[a]: podtoken.dev/expiry is not a known annotation`},
		"a list in a profile":          {profile("a", "audience.a: [a, b]"), `parsing configuration: `},
		"a setting of pods alone":      {profile("a", "delivery: projected"), `profiles[a]: delivery can only be set on a pod`},
		"a profile in a profile":       {profile("a", "profile: a"), `profiles[a]: profile can only be set on a pod`},
		"the switch in a profile":      {profile("a", `inject: "false"`), `profiles[a]: inject can only be set on a pod`},
		"a value of a profile":         {profile("a", "format.x: yaml"), `profiles[a]: podtoken.dev/format.x: "yaml" is not a format`},
		"a lifetime of a profile":      {profile("a", "expiration.x: 48h"), `profiles[a]: podtoken.dev/expiration.x: "48h" is longer than this installation allows`},
		"a template of a profile":      {profile("a", "template.x: '{{.foo}}'"), `profiles[a]: podtoken.dev/template.x: the value is not a template that can be used`},
		"a preset of a profile":        {profile("a", "aws-region.x: '$'"), `profiles[a]: podtoken.dev/aws-region.x: "$" is not a region`},
		"what cannot go together":      {profile("a", "format.x: json, template.x: 'a'"), `both say what is in the file of the token "x"`},
		"several problems, in one err": {defaultConfig + "  runAsUser: 0\n  bestEffort: x\n", `; sidecar.bestEffort: "x"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			cfg, err := ParseConfig([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, %v, want %s", cfg, err, test.want)
			}
		})
	}
}
