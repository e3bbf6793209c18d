package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/e2e/attack"
	"github.com/podtoken/podtoken/pkg/api"
)

const (
	attackerPods = 20
	// connectionsOfEach is how many each attacker holds to each replica of the webhook: a thousand in all.
	connectionsOfEach = 50
	attackTime        = time.Minute
	baselineTime      = 10 * time.Second
	// admittedWithin is what a creation may take, the API server's part included.
	admittedWithin = time.Second
	// burstEvery is the time between creations at the same time, two more each time, so that the API server opens new connections. It
	// keeps 25, some of which it never used, and which the webhook must not end before it does.
	burstEvery = 5 * time.Second
	burstMore  = 2
)

// Twenty Pods hold a thousand connections to each replica of the webhook for a minute, by slow headers, slow bodies, half bodies and no bodies.
// Each creation of an annotated Pod is admitted during that time, as fast as before, and the webhook stays below its memory limit.
// Serial: it is about time.
func TestPodsCannotStopAdmission(t *testing.T) {
	n := newNamespace(t, nil)
	kinds := attack.HoldKinds()
	name := func(i int) string { return fmt.Sprintf("attacker-%d", i) }
	for i := range attackerPods {
		n.create(name(i), nil, podSpec())
	}
	sources := map[string]bool{}
	for i := range attackerPods {
		sources[n.ready(name(i)).Status.PodIP] = true
	}
	if len(sources) != attackerPods {
		t.Fatalf("%d attackers have %d addresses", attackerPods, len(sources))
	}
	n.settled(t)
	webhooks := n.webhookPods(t)
	var targets []string
	for _, pod := range webhooks {
		targets = append(targets, pod.Status.PodIP+":9443")
	}
	before := n.admissions(baselineTime)
	t.Logf("without attackers: %s", before)

	begun := make(chan struct{})
	var attackers sync.WaitGroup
	held := make([]attack.Held, attackerPods)
	for i := range attackerPods {
		attackers.Go(func() {
			command := append([]string{
				probePath, "hold", "-kind", kinds[i%len(kinds)], "-connections", fmt.Sprint(connectionsOfEach), "-for", attackTime.String(),
			}, targets...)
			<-begun
			out, err := n.execWithin(attackTime+time.Minute, name(i), "app", command...)
			if err == nil {
				err = json.Unmarshal([]byte(out), &held[i])
			}
			if err != nil {
				t.Errorf("%s: %v", name(i), err)
			}
		})
	}
	usage := n.watchWebhooks(webhooks)
	close(begun)
	during := n.admissions(attackTime)
	attackers.Wait()
	usages := usage()
	t.Logf("with attackers: %s", during)

	n.attackHappened(held, kinds, usages)
	for _, err := range slices.Concat(before.failures, during.failures) {
		t.Errorf("an honest admission failed: %v", err)
	}
	if share := before.late() + 0.05; during.late() > share {
		t.Errorf("%.1f %% of the admissions took longer than %s, at most %.1f %% may", 100*during.late(), admittedWithin, 100*share)
	}
	for _, pod := range webhooks {
		now, err := n.client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		must(t, err, "reading a pod of the webhook")
		s := now.Status.ContainerStatuses[0]
		if now.UID != pod.UID || !s.Ready || s.RestartCount != pod.Status.ContainerStatuses[0].RestartCount {
			t.Errorf("%s is not as before: ready %t, restarted %d times, last state %+v", pod.Name, s.Ready, s.RestartCount, s.LastTerminationState.Terminated)
		}
	}
}

// attackHappened makes sure that there was an attack, as attackers and attacked saw it, and that memory sufficed.
func (n *testNamespace) attackHappened(held []attack.Held, kinds []string, usages map[string]*usage) {
	n.t.Helper()
	for k, kind := range kinds {
		var sum attack.Held
		for i := k; i < len(held); i += len(kinds) {
			sum.Opened, sum.Failed, sum.Most = sum.Opened+held[i].Opened, sum.Failed+held[i].Failed, sum.Most+held[i].Most
		}
		n.t.Logf("%s: %d connections opened, %d failed, at most %d at once", kind, sum.Opened, sum.Failed, sum.Most)
		// Each came again, at least once.
		if want := 2 * connectionsOfEach * len(usages) * attackerPods / len(kinds); sum.Opened < want {
			n.t.Errorf("%s: %d connections were opened, want %d", kind, sum.Opened, want)
		}
	}
	for pod, u := range usages {
		n.t.Logf("%s: at most %.0f open files, %.1f MiB of memory, by %d looks", pod, u.files, u.memory/(1<<20), u.looks)
		if u.looks < 10 || u.files < 200 {
			n.t.Errorf("%s was seen %d times, with at most %.0f open files: there was no attack", pod, u.looks, u.files)
		}
		if limit := float64(u.limit); limit == 0 || u.memory >= limit {
			n.t.Errorf("%s took %.0f bytes of memory, of %.0f", pod, u.memory, limit)
		}
	}
}

// admissions is how creations of annotated Pods went.
type admissions struct {
	single, bursts []time.Duration
	failures       []error
}

// admissions creates annotated Pods, as dry runs, for a time: one after another, and now and then many at once.
func (n *testNamespace) admissions(d time.Duration) *admissions {
	n.t.Helper()
	a := &admissions{}
	var mu sync.Mutex
	create := func(to *[]time.Duration) {
		start := time.Now()
		err := n.injectedDryRun()
		mu.Lock()
		defer mu.Unlock()
		if *to = append(*to, time.Since(start)); err != nil {
			a.failures = append(a.failures, fmt.Errorf("%s: after %s: %w", start.Format(time.TimeOnly), time.Since(start), err))
		}
	}
	start, bursts := time.Now(), 0
	for time.Since(start) < d {
		create(&a.single)
		if time.Since(start) > time.Duration(bursts)*burstEvery {
			bursts++
			var all sync.WaitGroup
			for range bursts * burstMore {
				all.Go(func() { create(&a.bursts) })
			}
			all.Wait()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return a
}

// injectedDryRun creates an annotated Pod without storing it.
func (n *testNamespace) injectedDryRun() error {
	pod, err := n.client.CoreV1().Pods(n.name).Create(n.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "honest", Annotations: annotations("audience", audienceDefault)}, Spec: podSpec(),
	}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err == nil && (len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].Name != api.ContainerName) {
		err = errors.New("admitted without a sidecar")
	}
	return err
}

// late is the share of creations, one after another, that took too long.
func (a *admissions) late() float64 {
	late := 0
	for _, took := range a.single {
		if took > admittedWithin {
			late++
		}
	}
	return float64(late) / float64(max(1, len(a.single)))
}

func (a *admissions) String() string {
	summary := func(times []time.Duration) string {
		times = slices.Sorted(slices.Values(times))
		at := func(i int) time.Duration { return times[i].Round(100 * time.Microsecond) }
		return fmt.Sprintf("%d, median %s, 99 %% %s, slowest %s", len(times), at(len(times)/2), at(len(times)*99/100), at(len(times)-1))
	}
	return fmt.Sprintf("one after another: %s; some at once: %s; %d failed", summary(a.single), summary(a.bursts), len(a.failures))
}

// usage is the most that a webhook's process used.
type usage struct {
	memory, files float64
	looks         int
	limit         int64
}

// watchWebhooks reads what the webhooks use, until the returned function is called.
func (n *testNamespace) watchWebhooks(pods []corev1.Pod) (stop func() map[string]*usage) {
	ctx, cancel := context.WithCancel(n.t.Context())
	usages := map[string]*usage{}
	var watchers sync.WaitGroup
	for _, pod := range pods {
		u := &usage{limit: pod.Spec.Containers[0].Resources.Limits.Memory().Value()}
		usages[pod.Name] = u
		watchers.Go(func() {
			for ctx.Err() == nil {
				metrics, err := n.webhookMetrics(ctx, pod.Name)
				if err != nil && ctx.Err() == nil {
					n.t.Errorf("reading metrics of %s: %v", pod.Name, err)
				}
				u.add(metrics)
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		})
	}
	return func() map[string]*usage {
		cancel()
		watchers.Wait()
		return usages
	}
}

func (u *usage) add(metrics string) {
	for line := range strings.Lines(metrics) {
		for name, most := range map[string]*float64{"process_resident_memory_bytes": &u.memory, "process_open_fds": &u.files} {
			var value float64
			if n, _ := fmt.Sscanf(line, name+" %g", &value); n == 1 {
				*most = max(*most, value)
				if most == &u.memory {
					u.looks++
				}
			}
		}
	}
}
