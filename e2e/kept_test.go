package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// An installation through what administrators do to it and what happens to it, one after the other, in a cluster of its own: an
// upgrade from the previous version and the way back, a bad configuration, a machine without time for the webhook, another start of
// the API server. After its end there is nothing but what there was before.
func TestInstallationThatIsKept(t *testing.T) {
	t.Parallel()
	w := emptyWorld(t, "kept")
	t.Run("upgrade and rollback", w.upgradeAndRollback)
	t.Run("guard outlives releases", w.guardOutlivesReleases)
	t.Run("bad configuration", w.badConfiguration)
	t.Run("starved webhook", w.starvedWebhook)
	t.Run("API server restarted", w.apiServerRestarted)
	t.Run("uninstallation", w.uninstalledWithoutATrace)
}

// install installs or upgrades to a version, this one or the previous.
func (w *world) install(t *testing.T, root string, more ...string) {
	t.Helper()
	must(t, w.cluster.InstallChartOf(t.Context(), root, more...), "installing podtoken")
}

// previousVersion unpacks what hack/previous.sh has packed, and returns the directory.
func previousVersion(t *testing.T) string {
	t.Helper()
	directory := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "tar", "-xzf", filepath.Join("testdata", "previous.tar.gz"), "-C", directory).CombinedOutput()
	must(t, err, "unpacking the previous version: %s", out)
	return directory
}

// settled waits until no pod of the installation is on its way out, so that what is created now is the new version's work.
func (w *world) settled(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "no pod of the installation ends", func(context.Context) (bool, error) {
		for _, pod := range w.installationPods(t) {
			if pod.DeletionTimestamp != nil {
				return false, fmt.Errorf("%s does", pod.Name)
			}
		}
		return true, nil
	})
}

// reader is a pod that reads its token all the time, and is asked for another token all the time. Its part of the verdict comes from
// end.
type reader struct {
	n    *testNamespace
	pod  string
	stop func()

	refreshes, refusedBefore int
	failures                 []error
}

// refreshTimeout is for a request for a token that nothing stands in the way of but other work of the machine.
const refreshTimeout = 20 * time.Second

func (n *testNamespace) reader(pod string) *reader {
	n.t.Helper()
	spec := podSpec(probePath, "watch", "-every", "20ms", "20m", oursDir+audienceDeclared)
	spec.RestartPolicy = corev1.RestartPolicyNever
	n.create(pod, annotations("audience.vault", audienceDeclared), spec)
	n.ready(pod)
	r := &reader{n: n, pod: pod}
	r.refusedBefore = r.refused() // a new ServiceAccount's first grant may come a moment after its pod
	done, ended := make(chan struct{}), sync.WaitGroup{}
	ended.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(500 * time.Millisecond):
			}
			r.refreshes++
			if _, err := n.exec(pod, api.ContainerName, api.SidecarBinary, api.CommandRefresh, "--timeout="+refreshTimeout.String()); err != nil {
				r.failures = append(r.failures, fmt.Errorf("%s: refresh %d: %w", time.Now().Format(time.TimeOnly), r.refreshes, err))
			}
		}
	})
	r.stop = sync.OnceFunc(func() {
		close(done)
		ended.Wait()
	})
	n.t.Cleanup(r.stop)
	return r
}

// refused is how many requests for a token have failed.
func (r *reader) refused() int {
	r.n.t.Helper()
	return strings.Count(r.n.logs(r.pod, api.ContainerName), `"errorClass"`)
}

// end is the verdict: each refresh gave a new token at the first attempt, and each read found one.
func (r *reader) end() {
	t := r.n.t
	t.Helper()
	r.stop()
	for _, failure := range r.failures {
		t.Errorf("%s: %v", r.pod, failure)
	}
	if refused := r.refused() - r.refusedBefore; refused > 0 {
		t.Errorf("%s: %d requests for a token failed:\n%s", r.pod, refused, r.n.logs(r.pod, api.ContainerName))
	}
	_, err := r.n.exec(r.pod, "app", probePath, "stop", probePath, "watch")
	must(t, err, "ending the reader")
	r.n.succeeded(r.pod)
	report := reports(t, r.n.logs(r.pod, "app"))[oursDir+audienceDeclared]
	report.clean(t, r.pod)
	t.Logf("%s: %d refreshes, %d tokens, %d reads", r.pod, r.refreshes, report.Contents, report.Reads)
	if report.Contents < r.refreshes || r.refreshes < 5 {
		t.Errorf("%s: %d tokens came of %d refreshes", r.pod, report.Contents, r.refreshes)
	}
}
