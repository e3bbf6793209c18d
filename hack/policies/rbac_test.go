package policies

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestModeRBAC: each audience that was injected needs a Role, wherever it came from, and however it is delivered.
func TestModeRBAC(t *testing.T) {
	const aws, azure, vault = "sts.amazonaws.com", "api://AzureADTokenExchange", "vault"
	arn := "arn:aws:iam::123456789012:role/r"
	strange := `a"b\u0024c$d\e]f[g<h&i'j{"audiences":["x"]}`
	tests := map[string]struct {
		annotations map[string]string
		needs       []string
	}{
		"an audience":                 {map[string]string{"podtoken.dev/audience": vault}, []string{vault}},
		"audiences of several tokens": {map[string]string{"podtoken.dev/audience.a": "a b", "podtoken.dev/audience.b": "c"}, []string{"a", "b", "c"}},
		"a preset":                    {map[string]string{"podtoken.dev/aws-role-arn.x": arn}, []string{aws}},
		"a profile":                   {map[string]string{"podtoken.dev/profile": "clouds"}, []string{aws, azure}},
		"projected":                   {map[string]string{"podtoken.dev/audience.a": "a", "podtoken.dev/audience.b": "b", "podtoken.dev/delivery": "projected"}, []string{"a", "b"}},
		"a projected preset":          {map[string]string{"podtoken.dev/aws-role-arn.x": arn, "podtoken.dev/delivery": "projected"}, []string{aws}},
		"a projected profile":         {map[string]string{"podtoken.dev/profile": "cloud", "podtoken.dev/delivery": "projected"}, []string{aws}},
		"an audience with everything that JSON and the kubelet escape": {
			map[string]string{"podtoken.dev/audience.a": strange, "podtoken.dev/audience.b": `\ \\ \" \\u0024 é`}, []string{strange, `\`, `\\`, `\"`, `\\u0024`, "é"},
		},
		"files that look like audiences": {
			map[string]string{"podtoken.dev/audience.a": "a", "podtoken.dev/template.a": `"audiences":["x"] --token={"audiences":["y"]} {{json .audiences}}`}, []string{"a"},
		},
		"other arguments": {
			map[string]string{"podtoken.dev/audience.a": "a", "podtoken.dev/notify": "http://localhost:8080/--token=", "podtoken.dev/metrics-port": "9102"}, []string{"a"},
		},
		"among many annotations": {padded(map[string]string{"podtoken.dev/audience": vault}, 1000), []string{vault}},
		"24 audiences":           {map[string]string{"podtoken.dev/audience.a": "0 1 2 3 4 5 6 7", "podtoken.dev/audience.b": "8 9 10 11 12 13 14 15", "podtoken.dev/audience.c": "16 17 18 19 20 21 22 23"}, numbers(24)},
	}
	rbac := newPolicy(t, "podtoken-rbac")
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pod := injected(t, plain(test.annotations, 1))
			if got := rbac.verdict(t, creation(pod, "default")); got != "" {
				t.Errorf("in another namespace: %s", got)
			}
			if got := rbac.verdict(t, creation(pod, rbacSpace), test.needs...); got != "" {
				t.Errorf("with all Roles: %s", got)
			}
			for i, missing := range test.needs {
				others := append(append([]string{}, test.needs[:i]...), test.needs[i+1:]...)
				want := `podtoken: ServiceAccount "app" may not mint tokens for audience "` + missing + `": `
				if got := rbac.verdict(t, creation(pod, rbacSpace), others...); !strings.HasPrefix(got, want) {
					t.Errorf("without a Role for %q: got %q, want %q", missing, got, want)
				}
			}
		})
	}
}

func numbers(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

// TestModeRBACRejectsWhatItCannotRead: too much to check, and arguments that are not the webhook's.
func TestModeRBACRejectsWhatItCannotRead(t *testing.T) {
	rbac := newPolicy(t, "podtoken-rbac")
	most := map[string]string{}
	for i := range 16 {
		most[fmt.Sprintf("podtoken.dev/audience.t%d", i)] = strings.Join(longAudiences(i*8, 8), ",")
	}
	change := func(change func(*corev1.Container)) *corev1.Pod {
		pod := injected(t, plain(map[string]string{"podtoken.dev/audience": "vault"}, 1))
		change(&pod.Spec.InitContainers[0])
		return pod
	}
	const forged = `the arguments of the container "podtoken" are not those that the webhook writes`
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"the most that the webhook writes": {injected(t, plain(most, 1)), "the tokens of the pod have 128 audiences"},
		"another order of the fields":      {change(func(c *corev1.Container) { c.Args = []string{`--token={"audiences" : ["vault"]}`} }), forged},
		"an escaped name of the field":     {change(func(c *corev1.Container) { c.Args = []string{`--token={"\u0061udiences":["vault"]}`} }), forged},
		"an escaped letter":                {change(func(c *corev1.Container) { c.Args = []string{`--token={"name":"a","audiences":["v\u0061ult"]}`} }), forged},
		"a name in another case":           {change(func(c *corev1.Container) { c.Args = []string{`--token={"name":"a","Audiences":["vault"]}`} }), forged},
		"a name twice":                     {change(func(c *corev1.Container) { c.Args = []string{`--token={"audiences":["vault"],"audiences":["x"]}`} }), forged},
		"no audiences":                     {change(func(c *corev1.Container) { c.Args = []string{`--token={}`} }), forged},
		"too many arguments":               {change(func(c *corev1.Container) { c.Args = make([]string, 301) }), forged},
		"too long arguments":               {change(func(c *corev1.Container) { c.Args = append(c.Args, strings.Repeat("x", 1<<18)) }), forged},
	} {
		t.Run(name, func(t *testing.T) {
			if got := rbac.verdict(t, creation(test.pod, rbacSpace), "vault"); !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	// Nothing was requested: the names alone are not podtoken's.
	for name, annotations := range map[string]map[string]string{"no annotation": nil, "a status alone": {"podtoken.dev/status": "{}"}, "switched off": {"podtoken.dev/status": "{}", "podtoken.dev/audience": "x", "podtoken.dev/inject": "false"}} {
		pod := change(func(c *corev1.Container) { c.Args = []string{`--token={}`} })
		pod.Annotations = annotations
		if got := rbac.verdict(t, creation(pod, rbacSpace)); got != "" {
			t.Errorf("%s: the Pod is touched: %s", name, got)
		}
	}
}
