package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// Both replicas of the webhook get a thousandth of a CPU, and then none. Each creation of a pod gets its answer in the time that the
// registration allows: the pod with its sidecar, or a refusal that names the webhook. Never a pod without.
func (w *world) starvedWebhook(t *testing.T) {
	n := w.newNamespace(t, allowedPrefix, nil)
	processes := w.webhookProcesses(t)
	limit := w.webhookTimeout(t)

	give := starve(t, processes)
	n.answered(t, "starved", 12*time.Second, limit)
	if give() == 0 {
		t.Error("the kernel says that nobody had to wait for CPU")
	}
	n.admits(t)

	for _, pid := range processes {
		t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGCONT) })
		must(t, unix.Kill(pid, unix.SIGSTOP), "stopping process %d", pid)
	}
	if admitted, refused := n.answered(t, "stopped", 2*limit, limit); admitted > 0 || refused < 2 {
		t.Errorf("%d pods were admitted and %d refused by stopped processes", admitted, refused)
	}
	for _, pid := range processes {
		must(t, unix.Kill(pid, unix.SIGCONT), "continuing process %d", pid)
	}
	n.admits(t)
	n.worksFor("pod")
}

// webhookTimeout is how long an API server waits for the webhook.
func (w *world) webhookTimeout(t *testing.T) time.Duration {
	t.Helper()
	configuration, err := w.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), registration, metav1.GetOptions{})
	must(t, err, "reading the registration")
	return time.Duration(*configuration.Webhooks[0].TimeoutSeconds) * time.Second
}

// answered creates pods for a while, two at a time, and judges each answer.
func (n *testNamespace) answered(t *testing.T, what string, during, limit time.Duration) (admitted, refused int) {
	t.Helper()
	// For all else that an API server and its client do on a busy machine.
	const more = 3 * time.Second
	var (
		mu       sync.Mutex
		slowest  time.Duration
		creators sync.WaitGroup
		texts    = map[string]int{}
	)
	createOne := func(name string) {
		start := time.Now()
		pod, err := n.tryCreate(name, annotations("audience", audienceDefault), gated(serviceAccount))
		took := time.Since(start)
		mu.Lock()
		defer mu.Unlock()
		slowest = max(slowest, took)
		switch {
		case err != nil && strings.Contains(err.Error(), `failed calling webhook "pods.podtoken.dev"`):
			refused++
			texts[err.Error()]++
		case err != nil:
			t.Errorf("%s: refused with %q, which does not name the webhook", name, err)
		case len(pod.Spec.InitContainers) == 0 || pod.Spec.InitContainers[0].Name != api.ContainerName:
			t.Errorf("%s: created without a sidecar", name)
		default:
			admitted++
		}
		if took > limit+more {
			t.Errorf("%s: answered after %s, want %s at most", name, took, limit)
		}
	}
	end := time.Now().Add(during)
	for creator := range 2 {
		creators.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				createOne(fmt.Sprintf("%s-%d-%d", what, creator, i))
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	creators.Wait()
	t.Logf("%s: %d pods were admitted, %d refused, the slowest answer came after %s: %v", what, admitted, refused, slowest.Round(time.Millisecond), texts)
	return admitted, refused
}

// admits waits until a pod is admitted, and holds from then on that each is.
func (n *testNamespace) admits(t *testing.T) {
	t.Helper()
	eventually(t, pollShort, "a pod is admitted again", func(context.Context) (bool, error) {
		err := n.tryDryRun(annotations("audience", audienceDefault))
		return err == nil, err
	})
	for range 20 {
		if err := n.tryDryRun(annotations("audience", audienceDefault)); err != nil {
			t.Errorf("after the webhook was back: %v", err)
		}
	}
}

// webhookProcesses are the webhook's own processes in the pods that serve.
func (w *world) webhookProcesses(t *testing.T) []int {
	t.Helper()
	w.settled(t)
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	must(t, err, "listing processes")
	pods := w.webhookPods(t)
	var pids []int
	for _, file := range files {
		groups, _ := os.ReadFile(file)
		program, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		for _, pod := range pods {
			if strings.Contains(string(groups), "pod"+string(pod.UID)) && strings.HasPrefix(string(program), "/podtoken-webhook\x00") {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
				must(t, err, "reading a process's number")
				pids = append(pids, pid)
			}
		}
	}
	if len(pids) != len(pods) || len(pids) == 0 {
		t.Fatalf("%d processes of %d webhook pods were found", len(pids), len(pods))
	}
	return pids
}

// starve leaves the containers of the processes one millisecond of CPU in a second. The returned function gives them all again, and
// says in how many seconds somebody had to wait.
func starve(t *testing.T, pids []int) func() (waited int) {
	t.Helper()
	var before []setting
	var stats []string
	for _, pid := range pids {
		group, settings := cpuGroup(t, pid)
		for _, s := range settings {
			content, err := os.ReadFile(s.file)
			must(t, err, "reading how much CPU process %d may have", pid)
			must(t, os.WriteFile(s.file, []byte(s.content), 0o600), "starving process %d", pid)
			before = append(before, setting{s.file, strings.TrimSpace(string(content))})
		}
		stats = append(stats, filepath.Join(group, "cpu.stat"))
	}
	throttled := func() (periods int) {
		for _, stat := range stats {
			content, err := os.ReadFile(stat)
			must(t, err, "reading how often somebody had to wait")
			for line := range strings.Lines(string(content)) {
				var count int
				if _, err := fmt.Sscanf(line, "nr_throttled %d", &count); err == nil {
					periods += count
				}
			}
		}
		return periods
	}
	already := throttled()
	give := sync.OnceFunc(func() {
		for _, s := range slices.Backward(before) {
			must(t, os.WriteFile(s.file, []byte(s.content), 0o600), "giving CPU back")
		}
	})
	t.Cleanup(give)
	return func() int {
		waited := throttled() - already
		give()
		return waited
	}
}

// setting is a file of a cgroup with its content.
type setting struct{ file, content string }

// cpuGroup is the directory of a process's cgroup for CPU, and what to write there for one millisecond of CPU in a second.
func cpuGroup(t *testing.T, pid int) (directory string, few []setting) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err, "reading the mounts")
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(t, err, "reading the cgroups of process %d", pid)
	for line := range strings.Lines(string(groups)) {
		group := strings.SplitN(strings.TrimSpace(line), ":", 3) // hierarchy, controllers, path
		for mount := range strings.Lines(string(mounts)) {
			fields := strings.Fields(mount) // device, directory, type, options
			directory := filepath.Join(fields[1], group[2])
			switch {
			case fields[2] == "cgroup" && slices.Contains(strings.Split(group[1], ","), "cpu") && slices.Contains(strings.Split(fields[3], ","), "cpu"):
				few = []setting{{filepath.Join(directory, "cpu.cfs_period_us"), "1000000"}, {filepath.Join(directory, "cpu.cfs_quota_us"), "1000"}}
			case fields[2] == "cgroup2" && group[1] == "":
				few = []setting{{filepath.Join(directory, "cpu.max"), "1000 1000000"}}
			default:
				continue
			}
			if _, err := os.Stat(few[0].file); err == nil {
				return directory, few
			}
		}
	}
	t.Fatalf("process %d has no cgroup that limits its CPU: %s", pid, groups)
	return "", nil
}
