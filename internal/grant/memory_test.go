package grant

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// memoryPods is how many pods a benchmark has.
const memoryPods = 10_000

// honestPod is one of a hundred Deployments of the namespace.
func honestPod(i int) *corev1.Pod {
	p := memoryPod(i)
	p.Spec.InitContainers[0].Args = []string{argument("vault", 3600, "vault"), argument("sts", 3600, fmt.Sprintf("https://sts-%d.example.com", i%100))}
	return p
}

// hostilePod declares as much as an API server takes, as no other does, in every way that there is.
func hostilePod(i int) *corev1.Pod {
	p := memoryPod(i)
	p.Labels["x"] = strings.Repeat("l", 63)
	p.Annotations = map[string]string{"x": strings.Repeat("a", 1<<10)}
	unique := fmt.Sprintf("%06d", i)
	kind := i % len(hostileArguments)
	if kind < 2 && i >= 200 {
		kind = 4 // Large ones take long to read, and the first two hundred fill the namespace.
	}
	if kind == 3 && i >= 1000 {
		kind = 2 // They take long to read, too, and what is kept of each is the same.
	}
	for _, arg := range hostileArguments[kind] {
		p.Spec.InitContainers[0].Args = append(p.Spec.InitContainers[0].Args, strings.ReplaceAll(arg, "UNIQUE", unique))
	}
	return p
}

// hostileArguments are made once, for it takes longer than what is measured.
var hostileArguments = [][]string{
	largest(), // that the webhook would write
	slices.Repeat([]string{argument("t", 3600, "UNIQUE"+strings.Repeat("x", 7900))}, 32),                   // more than that
	{`--token={"name":"t","audiences":["x"],"expirationSeconds":9UNIQUE` + strings.Repeat("9", 800) + `}`}, // quoted in the error, which is cut
	{argument("UNIQUE", 3600, slices.Repeat([]string{""}, 3000)...)},                                       // many of nothing
	{argument("t", 3600, "UNIQUE")}, // small, and each with its own
}

func largest() (args []string) {
	for t := range 16 {
		var audiences []string
		for a := range 8 {
			audiences = append(audiences, fmt.Sprintf("%02d%dUNIQUE%s", t, a, strings.Repeat("x", 500)))
		}
		args = append(args, argument(fmt.Sprintf("t%d", t), 3600, audiences...))
	}
	return args
}

func memoryPod(i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "memory", Name: fmt.Sprintf("pod-%06d", i), UID: types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i)),
			Labels: map[string]string{"podtoken.dev/injected": "true"},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "cart",
			InitContainers:     []corev1.Container{{Name: "podtoken"}},
			Containers:         []corev1.Container{{Name: "app"}},
		},
	}
}

func liveHeap() int64 {
	var stats runtime.MemStats
	for range 3 { // declarations are dropped after they were found to be garbage
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// bytesPerPod returns what the cache keeps of a pod.
func bytesPerPod(tb testing.TB, relists int, make func(i int) *corev1.Pod) float64 {
	tb.Helper()
	begin := liveHeap()
	cached := map[string]any{}
	for range relists + 1 {
		again := map[string]any{}
		for i := range memoryPods {
			pod := make(i)
			stripped, err := stripPod(pod)
			if err != nil {
				tb.Fatal(err)
			}
			again[pod.Name] = stripped
		}
		cached = again
	}
	used := liveHeap() - begin
	runtime.KeepAlive(cached)
	return float64(used) / memoryPods
}

// Ten thousand hostile pods cost no more memory than ten thousand honest ones, also after their list was read again.
func TestHostilePodsCostNoMoreMemory(t *testing.T) {
	honest, hostile := bytesPerPod(t, 0, honestPod), bytesPerPod(t, 0, hostilePod)
	relisted := bytesPerPod(t, 1, hostilePod)
	t.Logf("bytes of live heap for each pod: honest %.0f, hostile %.0f, hostile after another list %.0f", honest, hostile, relisted)
	if hostile > 1.25*honest || relisted > 1.25*honest {
		t.Errorf("a hostile pod costs %.2f times as much as an honest one, %.2f times after another list, want at most 1.25",
			hostile/honest, relisted/honest)
	}
	youngestFirst := bytesPerPod(t, 0, func(i int) *corev1.Pod {
		p := hostilePod(i)
		p.CreationTimestamp = metav1.NewTime(epoch.Add(time.Duration(-i) * time.Second))
		return p
	})
	t.Logf("hostile, where each makes others give way: %.0f", youngestFirst)
	if youngestFirst > 1.75*honest {
		t.Errorf("where each makes others give way, a hostile pod costs %.2f times as much as an honest one, want at most 1.75", youngestFirst/honest)
	}
}

func benchmarkMemory(b *testing.B, make func(i int) *corev1.Pod) {
	used := 0.0
	for b.Loop() {
		used = bytesPerPod(b, 0, make)
	}
	b.ReportMetric(used, "B-live/pod")
}

func BenchmarkHonestPods(b *testing.B)  { benchmarkMemory(b, honestPod) }
func BenchmarkHostilePods(b *testing.B) { benchmarkMemory(b, hostilePod) }
