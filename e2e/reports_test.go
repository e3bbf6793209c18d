package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// fileReport is what ./cmd/probe watch prints of one file.
type fileReport struct {
	Reads, Contents, Renames, InPlace int
	Violations, Modes                 []string
	ExpiredSeconds                    float64
	Tokens                            []seenToken
}

type seenToken struct {
	At                time.Time
	IssuedAt          int64  `json:"iat"`
	Expires           int64  `json:"exp"`
	KeyID             string `json:"kid"`
	ServiceAccountUID string
}

// reports decodes what a watch printed.
func reports(t *testing.T, out string) map[string]fileReport {
	t.Helper()
	var all map[string]fileReport
	must(t, json.Unmarshal([]byte(strings.TrimSpace(out)), &all), "decoding the reader's report %q", out)
	return all
}

// clean says that no read ever broke the contract.
func (r fileReport) clean(t *testing.T, what string) {
	t.Helper()
	if r.Reads < 20 || len(r.Violations) > 0 || r.ExpiredSeconds > 0 || r.InPlace > 0 {
		t.Errorf("%s: %d reads, expired for %.0f s, written in place %d times, violations %q", what, r.Reads, r.ExpiredSeconds, r.InPlace, r.Violations)
	}
}

// firstAfter is how long after a moment the first token came that is as wanted; false for none.
func (r fileReport) firstAfter(moment time.Time, wanted func(seenToken) bool) (time.Duration, bool) {
	for _, token := range r.Tokens {
		if token.At.After(moment) && wanted(token) {
			return token.At.Sub(moment), true
		}
	}
	return 0, false
}

// Names in a duel, in which a fault meets both kinds of delivery: two pods that read their tokens all the time.
const (
	oursPod, kubeletsPod = "ours", "kubelets"
	hour, short          = "hour", "short"
	oursDir, kubeletsDir = api.DefaultMountPath + "/", "/projected/"
)

// duel starts a pod of podtoken's and one with projected volumes, each with a token of an hour and one of ten minutes, and
// waits until both read. They end after the given time. change is made to both.
func (n *testNamespace) duel(watch time.Duration, refreshAt string, change func(*corev1.PodSpec)) {
	n.t.Helper()
	spec := func(dir string) corev1.PodSpec {
		s := podSpec(probePath, "watch", "-every", "20ms", watch.String(), dir+hour, dir+short)
		s.RestartPolicy = corev1.RestartPolicyNever
		s.AutomountServiceAccountToken = ptr(false)
		// As a DaemonSet's: a node that is not heard of for minutes does not lose the pod.
		s.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
		if change != nil {
			change(&s)
		}
		return s
	}
	n.create(oursPod, annotations("audience."+hour, audienceDefault, "audience."+short, audienceDefault, "expiration."+short, "10m", "refresh-at", refreshAt), spec(oursDir))
	theirs := spec(kubeletsDir)
	source := func(path string, seconds int64) corev1.VolumeProjection {
		return corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audienceDefault, ExpirationSeconds: &seconds, Path: path}}
	}
	var sources []corev1.VolumeProjection
	for _, volume := range theirs.Volumes {
		if volume.Projected != nil { // what the fault adds to the volume
			sources = append(sources, volume.Projected.Sources...)
		}
	}
	theirs.Volumes = []corev1.Volume{{Name: "projected", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: append(sources, source(hour, 3600), source(short, 600)),
	}}}}
	theirs.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "projected", MountPath: kubeletsDir}}
	n.create(kubeletsPod, nil, theirs)
	for _, pod := range []string{oursPod, kubeletsPod} {
		n.until(pod, "reads its tokens", func(p *corev1.Pod) bool { return running(p.Status.ContainerStatuses, "app") })
	}
}

// outcome waits for the end of a duel and returns what both read. Ours must never break the contract.
func (n *testNamespace) outcome() (ours, kubelets map[string]fileReport) {
	n.t.Helper()
	n.ended()
	return n.judge(n.logs)
}

// ended waits for the end of a duel.
func (n *testNamespace) ended() {
	n.t.Helper()
	for _, pod := range []string{oursPod, kubeletsPod} {
		n.untilWithin(20*time.Minute, pod, "has ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	}
}

// judge reads the logs of a duel.
func (n *testNamespace) judge(logs func(pod, containerName string) string) (ours, kubelets map[string]fileReport) {
	n.t.Helper()
	ours, kubelets = reports(n.t, logs(oursPod, "app")), reports(n.t, logs(kubeletsPod, "app"))
	for _, name := range []string{hour, short} {
		ours[oursDir+name].clean(n.t, "our token "+name)
	}
	if log := logs(oursPod, api.ContainerName); strings.Contains(log, "eyJ") {
		n.t.Errorf("the sidecar's log shows a token:\n%s", log)
	}
	return ours, kubelets
}

// logOnDisk is the log of a container's first run as the container runtime writes it, for when there is no kubelet to ask.
func (n *testNamespace) logOnDisk(pod, containerName string) string {
	n.t.Helper()
	p, err := n.client.CoreV1().Pods(n.name).Get(n.t.Context(), pod, metav1.GetOptions{})
	must(n.t, err, "reading the pod")
	content, err := os.ReadFile(n.cluster.Path("log", "pods", n.name+"_"+pod+"_"+string(p.UID), containerName, "0.log"))
	must(n.t, err, "reading the log of %s/%s", pod, containerName)
	var b strings.Builder
	for line := range strings.Lines(string(content)) {
		// TIME STREAM F|P TEXT; P is a part of a line.
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) < 4 {
			n.t.Fatalf("the log of %s/%s has the line %q", pod, containerName, line)
		}
		b.WriteString(fields[3])
		if fields[2] == "F" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// expired describes for how long readers had an expired token.
func (r fileReport) expired() string {
	if r.ExpiredSeconds == 0 {
		return "never expired"
	}
	return fmt.Sprintf("**expired for %.0f s**", r.ExpiredSeconds)
}
