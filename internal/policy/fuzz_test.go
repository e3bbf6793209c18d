package policy

import (
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// FuzzParse: no file makes Parse panic, and no Policy that it returns makes Check panic or allow what no policy may.
func FuzzParse(f *testing.F) {
	f.Add([]byte(example), "pay-eu", "web", "vault", int64(3600))
	f.Add([]byte(header+"allow: [{namespaces: ['*'], serviceAccounts: ['*'], audiences: ['*']}]\n"), "a", "b", "https://kubernetes.default.svc", int64(600))
	f.Add([]byte(header+"allow: [null]\nrbacNamespaces: [null]\nexcludeNamespaces: [~]"), "", "", "", int64(0))
	for _, text := range []string{"", "{", "[]", "null", "&a [*a]", "a: &a {b: *a}", "---\n---\n", "\xff", "? [a]\n: b", "<<: {a: 1}", "1: 2"} {
		f.Add([]byte(text), "a", "b", "c", int64(3607))
	}
	f.Fuzz(func(t *testing.T, data []byte, namespace, account, audience string, seconds int64) {
		p, err := Parse(data)
		if err != nil {
			if p != nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v and %v", p, err)
			}
			return
		}
		spec := token("a", audience)
		spec.ExpirationSeconds = seconds
		switch refusal := p.Check(Request{namespace, account, []api.TokenSpec{spec}, []string{"https://kubernetes.default.svc"}}); {
		case refusal != nil && (refusal.Reason == "" || refusal.Message == "" || len(refusal.Message) > 16_000):
			t.Errorf("got %+v", refusal)
		case refusal == nil && (audience == "" || len(audience) > 512 || seconds < 600 || seconds == 3607 || seconds > 1<<32):
			t.Errorf("%q for %d s is allowed", audience, seconds)
		}
	})
}

// An audience is the same thing for annotations and for the policy: what a pod can ask for, a policy can allow, and what
// stands in a hand-made pod, the policy judges as an annotation would be.
func TestAudiencesAreThoseOfAnnotations(t *testing.T) {
	config, err := mutate.ParseConfig([]byte("apiVersion: podtoken.dev/v1alpha1\nkind: WebhookConfiguration\nsidecar: {image: podtoken/sidecar:v1}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, header+"allow: [{namespaces: ['*'], serviceAccounts: ['*'], audiences: ['*']}]\n")
	for _, audience := range []string{
		"a", "https://x/y?z=1#f", "zürich", `"quoted"`, "*", strings.Repeat("a", 512), strings.Repeat("a", 513), "a\x00", "a\x7f", "a\u00a0b", "a\u200bb", "\xff", "",
	} {
		pod := &mutate.Pod{Metadata: mutate.Metadata{Annotations: map[string]string{"podtoken.dev/audience": audience}}, Spec: mutate.Spec{Containers: []mutate.Container{{Name: "app"}}}}
		asked := mutate.Mutate(mutate.Input{Pod: pod, Operation: "CREATE", Config: config}).Outcome == api.OutcomeInjected
		allowed := p.Check(Request{"a", "a", []api.TokenSpec{token("a", audience)}, apiServer}) == nil
		if asked != allowed || (audienceProblem(audience) == "") != asked {
			t.Errorf("%.40q: an annotation can have it: %t, the policy can allow it: %t", audience, asked, allowed)
		}
	}
}
