package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/mutate"
)

// requests is the model of the conditions: the webhook's own function.
func requests(annotations map[string]string) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(annotations)), mutate.IsRequest)
}

// TestWhichPodsRequestTokens: keys decide and nothing else, whatever stands in the values, and however many others there are.
func TestWhichPodsRequestTokens(t *testing.T) {
	tests := map[string]struct {
		annotations map[string]string
		want        bool
	}{
		"no annotation":                    {nil, false},
		"an audience":                      {map[string]string{"podtoken.dev/audience": "vault"}, true},
		"an unknown key":                   {map[string]string{"podtoken.dev/x": ""}, true},
		"the prefix in another case":       {map[string]string{"PodToken.DEV/audience.vault": "vault"}, true},
		"the status alone":                 {map[string]string{"podtoken.dev/status": "{}"}, false},
		"the status in another case":       {map[string]string{"Podtoken.dev/status": "{}"}, true},
		"the status and more":              {map[string]string{"podtoken.dev/status": "{}", "podtoken.dev/audience": "vault"}, true},
		"a status that looks like a key":   {map[string]string{"podtoken.dev/status": "podtoken.dev/audience"}, false},
		"longer than the status":           {map[string]string{"podtoken.dev/status.a": ""}, true},
		"another domain":                   {map[string]string{"x.podtoken.dev/audience": "vault", "podtoken.device/audience": "vault", "podtoken.dev": ""}, false},
		"in a value":                       {map[string]string{"a": "podtoken.dev/audience"}, false},
		"in a value, as the second":        {map[string]string{"b": `, "podtoken.dev/audience":"vault"`}, false},
		"in a value, as the first":         {map[string]string{"b": `{"podtoken.dev/audience":"vault"}`}, false},
		"in a value, behind a backslash":   {map[string]string{"b": `\ "podtoken.dev/audience":"vault"`, "c": `\`, "d": `\\"`}, false},
		"in a value, behind a newline":     {map[string]string{"b": "\n \"podtoken.dev/audience\":\"vault\"", "c": "\u2028 \"podtoken.dev/"}, false},
		"a value that ends with a blank":   {map[string]string{"b": `x `, "c": ` "`}, false},
		"what kubectl apply keeps":         {map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"metadata":{"annotations":{"podtoken.dev/audience":"vault"}}}`}, false},
		"behind a value with all of these": {map[string]string{"a": ` "podtoken.dev/\`, "podtoken.dev/audience": `"`}, true},
	}
	webhook := newWebhook(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if requests(test.annotations) != test.want {
				t.Fatal("the webhook decides otherwise")
			}
			for _, more := range []int{0, 30, 63, 64, 65, 200} {
				if got := asks(t, webhook, plain(padded(test.annotations, more), 1)); got != test.want {
					t.Errorf("with %d more annotations: %v, want %v", more, got, test.want)
				}
			}
		})
	}
}

// FuzzWhichPodsRequestTokens holds both forms of the condition against the webhook's function.
func FuzzWhichPodsRequestTokens(f *testing.F) {
	f.Add("podtoken.dev/audience", "vault", "a", ` "podtoken.dev/audience`)
	f.Add("PodToken.dev/", `\`, "podtoken.dev/status", `":"`)
	f.Add("podtoken.dev/status", "podtoken.dev/", `x "podtoken.dev/`, "\xff\x00\"")
	webhook := newWebhook(f)
	f.Fuzz(func(t *testing.T, key, value, otherKey, otherValue string) {
		if strings.ContainsAny(key+otherKey, "\"\\ {,") {
			t.Skip() // No key that Kubernetes has. The webhook may get to see it, and the Pod is invalid.
		}
		annotations := map[string]string{key: value, otherKey: otherValue}
		for _, more := range []int{0, 70} {
			all := padded(annotations, more)
			if got, want := asks(t, webhook, plain(all, 1)), requests(all); got != want {
				t.Errorf("%q with %d more: %v, want %v", fmt.Sprint(annotations), more, got, want)
			}
		}
	})
}

// TestExemptPods: podtoken leaves them alone, whatever else they have.
func TestExemptPods(t *testing.T) {
	webhook, enforce := newWebhook(t), newPolicy(t, "podtoken-enforce")
	for name, more := range map[string]map[string]string{
		"switched off": {"podtoken.dev/inject": "false"},
		"mirror Pod":   {"kubernetes.io/config.mirror": "x"},
	} {
		for _, others := range []int{0, 100} {
			annotations := padded(map[string]string{"podtoken.dev/audience": "vault", "PodToken.dev/x": ""}, others)
			maps.Copy(annotations, more)
			pod := plain(annotations, 1)
			if asks(t, webhook, pod) || enforce.verdict(t, creation(pod, "default")) != "" {
				t.Errorf("%s, with %d others: the Pod is touched", name, others)
			}
		}
	}
}
