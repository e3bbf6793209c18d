package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/podtoken/podtoken/pkg/api"
)

// Each row of the user and mode table runs a reader over the replacement of its tokens: 10 minute tokens that are
// replaced after 20 % of their life, watched for longer than that. No read may ever see a missing, empty, partial or
// expired file, and mode and owner hold before and after.
func TestRefreshKeepsTheFileContract(t *testing.T) {
	t.Parallel()
	type row struct {
		annotations map[string]string
		spec        func(*corev1.PodSpec)
		file, mode  string
		// also is another path of the same file that is read.
		also string
		// outsiderReads is whether a container of another user, which comes later, may read the file.
		outsiderReads bool
	}
	rows := map[string]row{
		"one explicit user gives 0400 and that owner": {
			spec: func(*corev1.PodSpec) {}, mode: "0400 1000:65531",
		},
		"users differ but fsGroup is set gives 0440 and that group": {
			spec: func(s *corev1.PodSpec) {
				s.SecurityContext.FSGroup = ptr(int64(3000))
				s.InitContainers = []corev1.Container{withUser(container("other-user", probePath, "stat", tokenPath), 1001)}
			},
			mode: "0440 65532:3000", outsiderReads: true, // fsGroup makes every container of the pod a member
		},
		"users differ but their group is the same gives 0440 and that group": {
			spec: func(s *corev1.PodSpec) {
				s.Containers[0].SecurityContext.RunAsGroup = ptr(int64(3000))
				other := withUser(container("other-user", probePath, "stat", tokenPath), 1001)
				other.SecurityContext.RunAsGroup = ptr(int64(3000))
				s.InitContainers = []corev1.Container{other}
			},
			mode: "0440 65532:3000",
		},
		"an init container that runs as root opens the files to nobody": {
			spec: func(s *corev1.PodSpec) {
				s.SecurityContext.RunAsNonRoot = nil
				s.Containers[0].SecurityContext.RunAsGroup = ptr(int64(3000))
				root := container("root", probePath, "stat", tokenPath)
				root.SecurityContext = &corev1.SecurityContext{RunAsUser: ptr(int64(0)), RunAsGroup: ptr(int64(3000))}
				s.InitContainers = []corev1.Container{root}
			},
			mode: "0400 1000:3000",
		},
		"no common user and no group gives 0444": {
			spec: func(s *corev1.PodSpec) {
				s.InitContainers = []corev1.Container{withUser(container("other-user", probePath, "stat", tokenPath), 1001)}
			},
			mode: "0444 65532:65531", outsiderReads: true,
		},
		"root, or a pod that says nothing about users, gives 0444 too": {
			spec: func(s *corev1.PodSpec) {
				s.SecurityContext = nil
				s.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: ptr(int64(0))}
			},
			mode: "0444 65532:65531", outsiderReads: true,
		},
		"a file that a template makes, of the same text": {
			annotations: annotations("template.token", "{{.token}}"),
			spec:        func(*corev1.PodSpec) {}, mode: "0400 1000:65531",
		},
		"a mode of the user, in a folder of the user": {
			annotations: annotations("file-mode", "0600", "path.token", "deep/er/jwt"),
			spec: func(s *corev1.PodSpec) {
				// A directory subPath of the volume sees the same replacements.
				s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: api.VolumeTokens, MountPath: "/sub", SubPath: "deep", ReadOnly: true}}
				s.Containers[0].Command = append(s.Containers[0].Command, "/sub/er/jwt")
			},
			file: api.DefaultMountPath + "/deep/er/jwt", mode: "0600 1000:65531", also: "/sub/er/jwt",
		},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNamespace(t, nil)
			if r.file == "" {
				r.file = tokenPath
			}
			a := annotations("audience", audienceDefault, "expiration", "10m", "refresh-at", "20%")
			for k, v := range r.annotations {
				a[k] = v
			}
			spec := podSpec(probePath, "watch", "140s", r.file)
			spec.RestartPolicy = corev1.RestartPolicyNever
			r.spec(&spec)
			n.create("pod", a, spec)
			n.until("pod", "runs its application", func(p *corev1.Pod) bool { return running(p.Status.ContainerStatuses, "app") })
			seen := n.debug("pod", 2000, probePath, "stat", r.file)
			if !strings.Contains(seen, `"mode":"`+r.mode[:4]+`"`) {
				t.Errorf("a container of another user sees %s, want a file of mode %s", seen, r.mode[:4])
			}
			if got := strings.Contains(seen, `"readable":true`); got != r.outsiderReads {
				t.Errorf("a container of another user reads the token: %v, want %v", got, r.outsiderReads)
			}
			n.succeeded("pod")

			all := reports(t, n.logs("pod", "app"))
			report := all[r.file]
			if other := all[r.also]; r.also != "" && (other.Contents != report.Contents || len(other.Violations) > 0) {
				t.Errorf("the directory subPath showed %d tokens and %q, want %d and no violation", other.Contents, other.Violations, report.Contents)
			}
			t.Logf("%d reads, %d tokens, %d renames", report.Reads, report.Contents, report.Renames)
			if len(report.Violations) > 0 {
				t.Errorf("the reader saw broken files: %q", report.Violations)
			}
			if report.Contents < 2 || report.Renames < 1 {
				t.Errorf("the reader saw %d tokens and %d renames, want at least 2 and 1", report.Contents, report.Renames)
			}
			if report.InPlace > 0 {
				t.Errorf("the file was written in place %d times", report.InPlace)
			}
			if len(report.Modes) != 1 || report.Modes[0] != r.mode {
				t.Errorf("mode and owner were %q, want only %q", report.Modes, r.mode)
			}
			if log := n.logs("pod", api.ContainerName); strings.Contains(log, "eyJ") || strings.Count(log, `"jti"`) < 2 {
				t.Errorf("the sidecar's log should name at least 2 tokens by jti and show none:\n%s", log)
			}
		})
	}
}

// debug adds an ephemeral container of a user, as kubectl debug does, which mounts the token volume, and returns its
// output. Admission allows that mount: what it can read is decided by the files' modes alone.
func (n *testNamespace) debug(podName string, uid int64, command ...string) string {
	n.t.Helper()
	c := withUser(container("debugger", command...), uid)
	c.VolumeMounts = []corev1.VolumeMount{{Name: api.VolumeTokens, MountPath: api.DefaultMountPath, ReadOnly: true}}
	n.addEphemeral(podName, c)
	n.until(podName, "has run the debugger", func(p *corev1.Pod) bool {
		s := p.Status.EphemeralContainerStatuses
		return len(s) > 0 && s[0].State.Terminated != nil
	})
	return n.logs(podName, "debugger")
}

// addEphemeral adds an ephemeral container to a pod, whose status may change in between.
func (n *testNamespace) addEphemeral(podName string, c corev1.Container) {
	n.t.Helper()
	pods := n.client.CoreV1().Pods(n.name)
	must(n.t, retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		pod, err := pods.Get(n.t.Context(), podName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon(c)})
		_, err = pods.UpdateEphemeralContainers(n.t.Context(), podName, pod, metav1.UpdateOptions{})
		return err
	}), "adding an ephemeral container")
}

func running(statuses []corev1.ContainerStatus, name string) bool {
	return slices.ContainsFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == name && s.State.Running != nil })
}

func withUser(c corev1.Container, uid int64) corev1.Container {
	c.SecurityContext.RunAsUser = ptr(uid)
	return c
}

// "After a restart, files that are still fresh are kept": a killed sidecar comes back and asks for nothing.
func TestRestartedSidecarKeepsFreshTokens(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec()
	spec.ShareProcessNamespace = ptr(true)
	n.create("pod", annotations("audience", audienceDefault), spec)
	n.ready("pod")
	before := n.token("pod", "app", tokenPath)
	_, err := n.exec("pod", api.ContainerName, api.SidecarBinary, "no-such-command")
	if err == nil {
		t.Error("an unknown command of the sidecar ends well")
	}
	pod, err := client.CoreV1().Pods(n.name).Get(t.Context(), "pod", metav1.GetOptions{})
	must(t, err, "reading the pod")
	if pod.Status.InitContainerStatuses[0].RestartCount != 0 {
		t.Fatal("the sidecar has restarted by itself")
	}
	n.restartSidecar("pod")
	eventually(t, pollShort, "the restarted sidecar has looked at the file", func(context.Context) (bool, error) {
		log := n.logs("pod", api.ContainerName)
		if strings.Contains(log, "Token written") {
			t.Fatalf("the restarted sidecar asked for a token:\n%s", log)
		}
		return strings.Contains(log, "Token kept"), nil
	})
	if after := n.token("pod", "app", tokenPath); after != before {
		t.Error("the restarted sidecar replaced a token that was fresh")
	}
}
