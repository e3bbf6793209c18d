package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// meddler is a container of the files' own user that sees the sidecar's process, and through it the token volume.
const meddler = "meddler"

// meddlable is the spec with what a meddler needs. A writable mount is rejected, in the spec and in ephemeral containers.
func meddlable(spec corev1.PodSpec) corev1.PodSpec {
	// /proc/PID/root is for processes of the same user and group.
	spec.ShareProcessNamespace, spec.SecurityContext.RunAsGroup = ptr(true), ptr(int64(1000))
	return spec
}

// meddler adds it to a pod that is meddlable.
func (n *testNamespace) meddler(pod string) {
	n.t.Helper()
	c := withUser(container(meddler, probePath, "sleep"), 1000)
	n.addEphemeral(pod, c)
	// The pod's status would say it later: the kubelet does not look at a pod while it waits for a gate.
	eventually(n.t, 2*time.Minute, "the meddler runs", func(context.Context) (bool, error) {
		_, err := n.exec(pod, meddler, probePath, "stat", probePath)
		return err == nil, err
	})
}

// meddle has it do something to a file, in the file system of a sidecar that runs: one whose gate gives up is restarted after a while.
func (n *testNamespace) meddle(pod, action, file string) {
	n.t.Helper()
	eventually(n.t, 2*time.Minute, fmt.Sprintf("doing %q to the file %q", action, file), func(context.Context) (bool, error) {
		_, err := n.exec(pod, meddler, probePath, "tamper", action, api.SidecarTokenDir+"/"+file, api.SidecarBinary, api.CommandRun)
		if err != nil && !strings.Contains(err.Error(), "no process runs") {
			must(n.t, err, "doing %q to the file %q", action, file)
		}
		return err == nil, err
	})
}

func TestWritableMountOfTheTokenVolumeIsRefused(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec()
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: api.VolumeTokens, MountPath: "/rw"}}
	_, err := n.tryCreate("pod", annotations("audience.vault", "vault"), spec)
	if message := denial(t, err); !strings.Contains(message, `container "app" mounts the volume "podtoken" writable: set readOnly to true`) {
		t.Errorf("it is refused with %q", message)
	}
}

// Whatever a program of the same user does to a token's file, the sidecar puts the same token back within a minute, without
// asking the API server, and says what it found.
func TestWhatTheApplicationDoesToTheFilesIsUndone(t *testing.T) {
	t.Parallel()
	// The sidecar looks once a minute.
	const soon = 70 * time.Second
	rows := map[string]struct{ action, problem string }{
		"a": {"delete", "it was deleted"},
		"b": {"overwrite", "it was overwritten"},
		"c": {"truncate", "it was overwritten"},
		"d": {"chmod", "its mode was changed"},
		"e": {"symlink", "a link or a special file is in its place"},
		"f": {"folder", "a folder is in its place"},
	}
	n := newNamespace(t, nil)
	keys := []string{"metrics-port", metricsPort}
	for token := range rows {
		keys = append(keys, "audience."+token, "audience-"+token)
	}
	n.create("pod", annotations(keys...), meddlable(podSpec()))
	n.ready("pod")
	n.meddler("pod")

	before := map[string]string{}
	for token := range rows {
		before[token] = n.token("pod", "app", api.DefaultMountPath+"/"+token)
	}
	refreshesBefore := refreshes(n.metrics("pod"))
	start := time.Now()
	for token, row := range rows {
		n.meddle("pod", row.action, token)
	}
	var restored []logLine
	within(t, soon, "the sidecar has restored each file", func(context.Context) (bool, error) {
		restored = n.said("pod", "Token file restored")
		return len(restored) >= len(rows), nil
	})
	t.Logf("restored %s after the first of it", time.Since(start).Round(time.Second))

	for _, line := range restored {
		if want := rows[line.Token].problem; line.Problem != want || line.Level != "WARN" || line.Restored != 1 {
			t.Errorf("token %q: the log says %+v, want a warning of %q", line.Token, line, want)
		}
	}
	metrics := n.metrics("pod")
	for token, row := range rows {
		file := api.DefaultMountPath + "/" + token
		if n.token("pod", "app", file) != before[token] {
			t.Errorf("after %q there is another token", row.action)
		}
		if out, err := n.exec("pod", "app", probePath, "stat", file); err != nil || !strings.Contains(out, `"mode":"0400","owner":"1000:`) {
			t.Errorf("after %q the file is %s (%v)", row.action, out, err)
		}
		if got := metrics[metric("token_restored_files_total", "token", token)]; got != 1 {
			t.Errorf("after %q %v restored files are counted, want 1", row.action, got)
		}
	}
	if diff := cmp.Diff(refreshesBefore, refreshes(metrics)); diff != "" || len(refreshesBefore) == 0 {
		t.Errorf("the API server was asked (-before +after):\n%s", diff)
	}
	if out, err := n.exec("pod", api.ContainerName, api.SidecarBinary, api.CommandCheck); err != nil || strings.Count(out, "is fresh until") != len(rows) {
		t.Errorf("check says %s (%v), want %d fresh tokens", out, err, len(rows))
	}
	if written := n.said("pod", "Token written"); len(written) != len(rows) {
		t.Errorf("%d tokens were written, want the first %d", len(written), len(rows))
	}
}

// refreshes are the counts of tokens that the API server was asked for.
func refreshes(metrics map[string]float64) map[string]float64 {
	counts := maps.Clone(metrics)
	maps.DeleteFunc(counts, func(name string, _ float64) bool {
		return !strings.HasPrefix(name, "podtoken_sidecar_token_refreshes_total")
	})
	return counts
}

// A volume without room for another byte keeps its tokens as they are, the failure is reported, and as soon as there is room the
// new token is written.
func TestFullVolumeKeepsItsTokens(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience.vault", "vault", "metrics-port", metricsPort), meddlable(podSpec()))
	n.ready("pod")
	n.meddler("pod")
	const file = api.DefaultMountPath + "/vault"
	before := n.token("pod", "app", file)

	n.meddle("pod", "fill", "filler")
	n.cannotRefresh("pod", "no space left on device")
	// Before its grant was there, the sidecar can have said that it has none.
	failures := n.said("pod", "Token not refreshed")
	if last := len(failures) - 1; last < 0 || failures[last].ErrorClass != "File" || !strings.Contains(failures[last].Error, "no space left on device") {
		t.Errorf("the log tells of the failure: %+v, want class File and the reason", failures)
	}
	if got := n.metrics("pod")[metric("token_failures_total", "token", "vault", "class", "File")]; got < 1 {
		t.Errorf("%v failures of class File are counted", got)
	}
	pod, err := n.client.CoreV1().Pods(n.name).Get(t.Context(), "pod", metav1.GetOptions{})
	must(t, err, "reading the pod")
	if n.token("pod", "app", file) != before {
		t.Error("the old token is not there any more")
	}
	assertReview(t, before, "vault", pod)

	n.meddle("pod", "delete", "filler")
	room := time.Now()
	var after string
	eventually(t, time.Minute, "the new token is written", func(context.Context) (bool, error) {
		after = n.token("pod", "app", file)
		return after != before, nil
	})
	t.Logf("written %s after there was room", time.Since(room).Round(time.Second))
	pod = n.ready("pod")
	assertReview(t, after, "vault", pod)
	if restarts := pod.Status.InitContainerStatuses[0].RestartCount; restarts != 0 {
		t.Errorf("the sidecar has restarted %d times", restarts)
	}
	if written := n.said("pod", "Token written"); len(written) != 2 || written[1].JTI != claimsOf(t, after).ID {
		t.Errorf("the log tells of the tokens %+v", written)
	}
}
