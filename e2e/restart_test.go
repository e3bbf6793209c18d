package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// The sidecars of four pods are killed fifty times each, at random moments of a start or of a refresh, while readers check
// every read. No read is ever broken, what is fresh is kept, and nothing is left lying about.
func TestKilledTwoHundredTimes(t *testing.T) {
	t.Parallel()
	const pods, each = 4, 50
	n := newNamespace(t, nil)
	for i := range pods {
		spec := podSpec(probePath, "watch", "20m", oursDir+"a", oursDir+"b")
		spec.ShareProcessNamespace = ptr(true)
		spec.Containers = append(spec.Containers, container("killer", probePath, "harass", strconv.Itoa(each), api.SidecarBinary, oursDir+"a"))
		spec.RestartPolicy = corev1.RestartPolicyNever
		n.create(fmt.Sprint("pod-", i), annotations("audience.a", "a", "audience.b", "b"), spec)
	}
	contents := 0
	for i := range pods {
		pod := fmt.Sprint("pod-", i)
		eventually(t, 15*time.Minute, "the sidecar of "+pod+" was killed often enough", func(ctx context.Context) (bool, error) {
			p, err := client.CoreV1().Pods(n.name).Get(ctx, pod, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			i := slices.IndexFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == "killer" })
			if i < 0 || p.Status.ContainerStatuses[i].State.Terminated == nil {
				return false, errors.New("the killer is at work")
			}
			if code := p.Status.ContainerStatuses[i].State.Terminated.ExitCode; code != 0 {
				t.Fatalf("the killer ended with %d: %s", code, n.logs(pod, "killer"))
			}
			if got := p.Status.InitContainerStatuses[0].RestartCount; got < each {
				t.Errorf("the sidecar of %s was restarted %d times, want %d", pod, got, each)
			}
			return true, nil
		})
		left, err := n.exec(pod, "app", probePath, "list", api.DefaultMountPath)
		must(t, err, "listing the files")
		if want := api.StatusFile + "\na\nb\n"; left != want {
			t.Errorf("%s has the files %q, want %q", pod, left, want)
		}
		if log := n.logs(pod, api.ContainerName); !strings.Contains(log, "Token kept") || strings.Contains(log, "eyJ") {
			t.Errorf("the last sidecar of %s kept no token, or shows one:\n%s", pod, log)
		}
		_, err = n.exec(pod, "app", probePath, "stop", probePath, "watch")
		must(t, err, "ending the reader")
		n.succeeded(pod)
		for path, r := range reports(t, n.logs(pod, "app")) {
			r.clean(t, pod+": "+path)
			contents += r.Contents
		}
	}
	t.Logf("%d tokens were written in %d lives", contents, pods*each)
	if contents < pods*each/2 {
		t.Errorf("%d tokens were written, which is too few for a kill in the middle to be likely", contents)
	}
}

// An application that fails may have all containers of its pod restarted in place (restartPolicyRules). The volume stays, so
// nothing is asked for, and the token that it finds is the one that it knew.
func TestInPlaceRestartOfAllContainersKeepsFreshTokens(t *testing.T) {
	t.Parallel()
	since(t, 36, "feature RestartAllContainersOnContainerExits")
	n := newNamespace(t, nil)
	spec := podSpec(probePath, "sleep", "7")
	spec.RestartPolicy = corev1.RestartPolicyNever
	spec.Containers[0].RestartPolicy = ptr(corev1.ContainerRestartPolicyNever)
	spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{
		Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{7}},
	}}
	n.create("pod", annotations("audience", audienceDefault), spec)
	before := n.ready("pod")
	token := n.token("pod", "app", tokenPath)
	_, err := n.exec("pod", "app", probePath, "stop", probePath, "sleep")
	if err != nil && !strings.Contains(err.Error(), "137") && !strings.Contains(err.Error(), "143") {
		t.Logf("the command ended with its container: %v", err)
	}
	sidecar := func(p *corev1.Pod) string { return p.Status.InitContainerStatuses[0].ContainerID }
	n.until("pod", "has other containers, which are ready", func(p *corev1.Pod) bool {
		return sidecar(p) != sidecar(before) && p.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID && p.Status.ContainerStatuses[0].Ready
	})
	if n.token("pod", "app", tokenPath) != token {
		t.Error("the token is another one after the restart")
	}
	if log := n.logs("pod", api.ContainerName); !strings.Contains(log, "Token kept") || strings.Contains(log, "Token written") {
		t.Errorf("the sidecar asked for a token after the restart, or kept none:\n%s", log)
	}
}

// rebooted is a pod whose node is rebooted while its kubelet does not look: every process gone, and the memory that held its
// files.
type rebooted struct {
	n      *testNamespace
	before *corev1.Pod
	token  string
}

func (n *testNamespace) startRebooting() *rebooted {
	n.t.Helper()
	spec := podSpec(probePath, "watch", "-every", "20ms", "20m", tokenPath)
	spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
	n.create("rebooted", annotations("audience", audienceDefault), spec)
	r := &rebooted{n: n, before: n.ready("rebooted")}
	r.token = n.token("rebooted", "app", tokenPath)
	return r
}

// reboot does it; the kubelet must be stopped.
func (r *rebooted) reboot() {
	t := r.n.t
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	must(t, err, "listing processes")
	killed := 0
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(groups), "pod"+string(r.before.UID)) {
			continue // it has ended meanwhile, or is another pod's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		must(t, err, "reading a process's number")
		if err := unix.Kill(pid, unix.SIGKILL); err == nil {
			killed++
		}
	}
	if killed < 3 { // the pod's own, the sidecar and the application
		t.Errorf("%d processes of the pod were found, want at least 3", killed)
	}
	volume := r.n.cluster.Path("kubelet", "pods", string(r.before.UID), "volumes", "kubernetes.io~empty-dir", api.VolumeTokens)
	var unmounted error
	for range 100 { // containers that are being taken down still hold it
		if unmounted = unix.Unmount(volume, 0); unmounted == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("unmounting the volume %s: %v", volume, unmounted)
}

// check waits until the pod is whole again: the application, which must not start without its token, has a new one.
func (r *rebooted) check() {
	t := r.n.t
	t.Helper()
	pod := r.n.until("rebooted", "is ready again with other containers", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) > 0 && s[0].Ready && s[0].ContainerID != r.before.Status.ContainerStatuses[0].ContainerID
	})
	token := r.n.token("rebooted", "app", tokenPath)
	if token == r.token {
		t.Error("the token is that of before the reboot, whose file was gone")
	}
	if issued := time.Unix(claimsOf(t, token).IssuedAt, 0); issued.After(pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time) {
		t.Errorf("the application started before its token was issued, at %s", issued)
	}
	said := r.n.followLog("rebooted", "app")
	eventually(t, time.Minute, "the application has read for a while", func(context.Context) (bool, error) {
		return time.Since(pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time) > 5*time.Second, nil
	})
	_, err := r.n.exec("rebooted", "app", probePath, "stop", probePath, "watch")
	must(t, err, "ending the reader")
	reports(t, said())[tokenPath].clean(t, "the application after the reboot")
}
