package policies

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
)

// evaluator evaluates everything that podtoken has for the Pods of one kind of request.
type evaluator struct {
	webhook                  matchconditions.Matcher
	enforce, rbac, ephemeral *Policy
}

func newEvaluator(tb testing.TB) *evaluator {
	return &evaluator{
		newWebhook(tb), newPolicy(tb, "podtoken-enforce"), newPolicy(tb, "podtoken-rbac"),
		newPolicy(tb, "podtoken-ephemeralcontainers"),
	}
}

// create evaluates the creation of the Pod: in a namespace of mode rbac, where most is looked at. Errors fail the test: where an
// expression ends with one, also for its cost, the API server rejects the Pod.
func (e *evaluator) create(tb testing.TB, pod *corev1.Pod) {
	tb.Helper()
	asks(tb, e.webhook, pod)
	request := creation(pod, rbacSpace)
	e.enforce.verdict(tb, request, "vault")
	e.rbac.verdict(tb, request, "vault")
}

// debug evaluates the addition of the Pod's ephemeral containers.
func (e *evaluator) debug(tb testing.TB, pod *corev1.Pod) {
	tb.Helper()
	old := pod.DeepCopy()
	old.Spec.EphemeralContainers = nil
	e.ephemeral.verdict(tb, debugging(pod, old, rbacSpace))
}

// named returns n containers.
func named(n int) []corev1.Container {
	all := make([]corev1.Container, n)
	for i := range all {
		all[i] = corev1.Container{Name: fmt.Sprintf("i%d", i), Image: "x"}
	}
	return all
}

// TestCostIsLinear: what a Pod costs grows with its size and not with the square of it, up to the largest that is legal or that fits
// into a request, and it never is so much that the API server gives up. The time of comprehensions grows with the square of their
// iterations, which the API server's own limits do not see: ten times the size would be a hundred times the time.
func TestCostIsLinear(t *testing.T) {
	vault := map[string]string{"podtoken.dev/audience": "vault"}
	projected := map[string]string{"podtoken.dev/audience": "vault", "podtoken.dev/delivery": "projected"}
	tests := map[string]struct {
		large int
		pod   func(tb testing.TB, n int) *corev1.Pod
		debug bool
	}{
		"annotations": {65_000, func(_ testing.TB, n int) *corev1.Pod { return plain(padded(nil, n), 1) }, false},
		"annotations of a Pod that requests tokens": {65_000, func(tb testing.TB, n int) *corev1.Pod {
			pod := injected(tb, plain(vault, 1))
			pod.Annotations = padded(pod.Annotations, n)
			return pod
		}, false},
		"annotations with a forged status": {65_000, func(_ testing.TB, n int) *corev1.Pod {
			return plain(padded(map[string]string{"podtoken.dev/status": ""}, n), 1)
		}, false},
		"a long annotation": {262_000, func(_ testing.TB, n int) *corev1.Pod {
			return plain(map[string]string{"a": strings.Repeat("\x7f", n)}, 1)
		}, false},
		"a long annotation, among others": {262_000 - 65*6, func(_ testing.TB, n int) *corev1.Pod {
			return plain(padded(map[string]string{"a": strings.Repeat("\x7f", n)}, 65), 1)
		}, false},
		"containers": {50_000, func(tb testing.TB, n int) *corev1.Pod {
			pod := injected(tb, plain(vault, 1))
			pod.Spec.Containers = named(n)
			return pod
		}, false},
		"init containers": {50_000, func(tb testing.TB, n int) *corev1.Pod {
			pod := injected(tb, plain(vault, 1))
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, named(n)...)
			return pod
		}, false},
		"volumes": {50_000, func(tb testing.TB, n int) *corev1.Pod {
			pod := injected(tb, plain(projected, 1))
			pod.Spec.Volumes = append(make([]corev1.Volume, n), pod.Spec.Volumes...)
			return pod
		}, false},
		"arguments": {50_000, func(tb testing.TB, n int) *corev1.Pod {
			pod := injected(tb, plain(vault, 1))
			pod.Spec.InitContainers[0].Args = slices.Repeat([]string{`--token={"name":"a","audiences":["a"]}`}, n)
			return pod
		}, false},
		"audiences in an argument": {60_000, func(tb testing.TB, n int) *corev1.Pod {
			pod := injected(tb, plain(vault, 1))
			pod.Spec.InitContainers[0].Args = []string{`--token={"name":"a","audiences":[` + strings.Repeat(`"",`, n) + `""]}`}
			return pod
		}, false},
		"long arguments": {3 << 20, func(tb testing.TB, n int) *corev1.Pod {
			pod := injected(tb, plain(vault, 1))
			pod.Spec.InitContainers[0].Args = []string{strings.Repeat(`"audiences":["`, n/14)}
			return pod
		}, false},
		"projected audiences": {50_000, func(tb testing.TB, n int) *corev1.Pod {
			pod := injected(tb, plain(projected, 1))
			sources := pod.Spec.Volumes[0].Projected.Sources
			pod.Spec.Volumes[0].Projected.Sources = slices.Repeat(sources, n)
			return pod
		}, false},
		"ephemeral containers": {50_000, func(tb testing.TB, n int) *corev1.Pod {
			pod := injected(tb, plain(vault, 1))
			pod.Spec.EphemeralContainers = slices.Repeat([]corev1.EphemeralContainer{debugger("d")}, n)
			return pod
		}, true},
		"mounts of an ephemeral container": {50_000, func(tb testing.TB, n int) *corev1.Pod {
			pod := injected(tb, plain(vault, 1))
			pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{debugger("d", make([]corev1.VolumeMount, n)...)}
			return pod
		}, true},
		"ephemeral containers of a Pod without podtoken": {50_000, func(_ testing.TB, n int) *corev1.Pod {
			pod := plain(nil, 1)
			pod.Spec.InitContainers = named(n)
			pod.Spec.EphemeralContainers = slices.Repeat([]corev1.EphemeralContainer{debugger("d")}, n)
			return pod
		}, true},
	}
	e := newEvaluator(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			isLinear(t, test.large, func(n int) func() {
				pod := test.pod(t, n)
				if test.debug {
					return func() { e.debug(t, pod) }
				}
				return func() { e.create(t, pod) }
			})
		})
	}
}

// TestCostOfRolesIsLinear: the same for Roles, of which a request has room for 60,000 rules, or for 150,000 without content.
func TestCostOfRolesIsLinear(t *testing.T) {
	policy := newPolicy(t, "podtoken-grants")
	reader := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}
	of := func(rule rbacv1.PolicyRule) func(n int) *rbacv1.Role {
		return func(n int) *rbacv1.Role { return role("a", slices.Repeat([]rbacv1.PolicyRule{rule}, n)...) }
	}
	long := func(change func(*rbacv1.PolicyRule, []string)) func(n int) *rbacv1.Role {
		return func(n int) *rbacv1.Role {
			rule := creates("shop")
			change(&rule, slices.Repeat([]string{"a"}, n))
			return role("a", slices.Repeat([]rbacv1.PolicyRule{rule}, 8)...)
		}
	}
	tests := map[string]struct {
		large int
		role  func(n int) *rbacv1.Role
	}{
		"rules":                           {60_000, of(reader)},
		"rules of which the text is read": {20_000, of(reader)},
		"rules without content":           {150_000, of(rbacv1.PolicyRule{})},
		"rules that create tokens":        {60_000, of(creates("shop"))},
		"rules of podtoken.dev":           {60_000, of(virtual("audiences", "mint", "vault"))},
		"as many as are looped over":      {1000, of(reader)},
		"as many that create tokens":      {1000, of(creates("shop"))},
		"as many of podtoken.dev":         {1000, of(virtual("audiences", "mint", "vault"))},
		"names":                           {60_000, long(func(r *rbacv1.PolicyRule, all []string) { r.ResourceNames = all })},
		"resources":                       {60_000, long(func(r *rbacv1.PolicyRule, all []string) { r.Resources = append(all, r.Resources...) })},
		"verbs":                           {60_000, long(func(r *rbacv1.PolicyRule, all []string) { r.Verbs = append(all, r.Verbs...) })},
		"API groups":                      {60_000, long(func(r *rbacv1.PolicyRule, all []string) { r.APIGroups = append(all, r.APIGroups...) })},
		"names of podtoken.dev": {60_000, func(n int) *rbacv1.Role {
			return role("a", slices.Repeat([]rbacv1.PolicyRule{virtual("audiences", "mint", slices.Repeat([]string{"a"}, n)...)}, 8)...)
		}},
		"verbs of podtoken.dev": {60_000, func(n int) *rbacv1.Role {
			rule := virtual("audiences", "mint", "a")
			rule.Verbs = append(slices.Repeat([]string{"a"}, n), rule.Verbs...)
			return role("a", slices.Repeat([]rbacv1.PolicyRule{rule}, 8)...)
		}},
		"a name": {3 << 20, func(n int) *rbacv1.Role { return role("podtoken:" + strings.Repeat("\x7f", n)) }},
	}
	for name, test := range tests {
		for _, escalates := range []bool{false, true} {
			for _, update := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, escalate %v, update %v", name, escalates, update), func(t *testing.T) {
					isLinear(t, test.large, func(n int) func() {
						object := test.role(n)
						var old kruntime.Object
						if update {
							before := test.role(n)
							before.Rules = append(before.Rules, reader)
							old = before
						}
						request := writing(t, object, old, caller("jane"))
						return func() {
							got := denials(policy.Evaluate(t.Context(), request, &writer{escalates: escalates, tokens: map[string]string{"shop": byHand, "a": byHand}}))
							if strings.Contains(got, "resulted in error") || escalates && got != "" {
								t.Errorf("denied with %.300s", got)
							}
						}
					})
				})
			}
		}
	}
}

// isLinear compares the time that the evaluation takes for a tenth of the size with that for the size.
func isLinear(t *testing.T, size int, prepare func(n int) (evaluate func())) {
	t.Helper()
	least := func(n int) time.Duration {
		evaluate := prepare(n)
		least := time.Hour
		// The garbage collector's time depends on what else is in memory, and is more than that of small objects.
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		for range 3 {
			runtime.GC()
			start := cpuTime(t)
			evaluate()
			least = min(least, cpuTime(t)-start)
		}
		return least
	}
	small, large := least(size/10), least(size)
	t.Logf("%d: %v, %d: %v", size/10, small, size, large)
	if large > 40*small && large > 10*time.Millisecond {
		t.Errorf("%v for %d, and %v for %d: the cost is not linear", small, size/10, large, size)
	}
}

// cpuTime is what this process has used, however busy the machine is with others.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkCreate is what podtoken costs the API server for the creation of a Pod in a namespace of mode rbac: the conditions of the webhook
// and all policies. The time of the CPU does not depend on what else the machine does.
func BenchmarkCreate(b *testing.B) {
	e := newEvaluator(b)
	measure := func(name string, evaluate func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			start := cpuTime(b)
			for b.Loop() {
				evaluate(b)
			}
			b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
		})
	}
	run := func(name string, pod *corev1.Pod) {
		measure(name, func(b *testing.B) { e.create(b, pod) })
	}
	for _, size := range []struct{ annotations, containers int }{{0, 1}, {8, 2}, {64, 32}, {65, 32}, {1000, 32}, {10_000, 32}, {20_000, 32}, {40_000, 32}, {65_000, 32}} {
		run(fmt.Sprintf("plain/annotations=%d/containers=%d", size.annotations, size.containers), plain(padded(nil, size.annotations), size.containers))
	}
	for _, size := range []struct{ annotations, containers int }{{1, 1}, {62, 32}, {1000, 490}, {65_000, 32}} {
		pod := injected(b, plain(map[string]string{"podtoken.dev/audience": "vault"}, size.containers))
		pod.Annotations = padded(pod.Annotations, size.annotations)
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, named(size.containers)...)
		run(fmt.Sprintf("injected/annotations=%d/containers=%d", size.annotations, size.containers), pod)
	}
	most := map[string]string{}
	for i := range 16 {
		most[fmt.Sprintf("podtoken.dev/audience.t%d", i)] = strings.Join(longAudiences(i*8, 8), ",")
	}
	run("injected/audiences=128", injected(b, plain(most, 32)))
	pod := injected(b, plain(map[string]string{"podtoken.dev/audience": "vault"}, 32))
	for range 8 {
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, debugger("d", make([]corev1.VolumeMount, 8)...))
	}
	measure("ephemeral", func(b *testing.B) { e.debug(b, pod) })
}

// longAudiences returns n audiences as long as the webhook takes them.
func longAudiences(from, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%0512d", from+i)
	}
	return all
}
