package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// faultRow is a line of the table in the README.
type faultRow struct{ fault, kubelets, ours string }

// TestComparedWithAProjectedVolume plays the same faults on a pod of podtoken's and on one with projected volumes, both with
// a token of an hour and one of ten minutes, and prints what readers saw as the table of the README. Of podtoken's it holds
// what is promised; the other column is as it was seen, for how the kubelet fails depends on when its next look comes.
//
// The rows take some eleven minutes, all at the same time: nobody issues tokens of less than ten, and the kubelet replaces
// them after eight. What would disturb others happens in clusters of its own.
func TestComparedWithAProjectedVolume(t *testing.T) {
	t.Parallel()
	var (
		mu   sync.Mutex
		rows []faultRow
	)
	t.Cleanup(func() {
		var b strings.Builder
		b.WriteString("\n| fault | projected volume | podtoken |\n|---|---|---|\n")
		for _, row := range rows {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", row.fault, row.kubelets, row.ours)
		}
		t.Log(b.String())
	})
	for name, play := range map[string]func(*testing.T) faultRow{
		"API server away":           faultAPIServerAway,
		"kubelet stopped":           faultKubeletStopped,
		"key rotated with overlap":  func(t *testing.T) faultRow { return faultKeyRotated(t, true) },
		"key rotated without":       func(t *testing.T) faultRow { return faultKeyRotated(t, false) },
		"ServiceAccount re-created": faultServiceAccountRecreated,
		"terminating":               faultTerminating,
		"volume broken":             faultVolumeBroken,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			row := play(t)
			mu.Lock()
			defer mu.Unlock()
			rows = append(rows, row)
		})
	}
}

// The API server goes right after the tokens were issued, and comes back half a minute before the shorter one ends: later than
// any refresh was due. The sidecar's own credential, of the same age, is about to end, too.
func faultAPIServerAway(t *testing.T) faultRow {
	w := ownWorld(t, "away")
	n := w.newNamespace(t, allowedPrefix, nil)
	n.duel(11*time.Minute, "80%", nil)
	ends := time.Unix(min(claimsOf(t, n.token(oursPod, "app", oursDir+short)).Expires, claimsOf(t, n.token(kubeletsPod, "app", kubeletsDir+short)).Expires), 0)
	must(t, w.cluster.StopComponent(cluster.APIServer, 0), "stopping the API server")
	time.Sleep(time.Until(ends.Add(-35 * time.Second)))
	started := time.Now()
	must(t, w.cluster.StartComponent(cluster.APIServer), "starting the API server")
	must(t, w.cluster.WaitForAPIServer(t.Context()), "waiting for the API server")
	t.Logf("the API server was back %s before the end of a token", time.Until(ends).Round(time.Second))
	if left := time.Until(ends); left < 10*time.Second {
		t.Fatalf("the API server took so long that only %s were left", left)
	}
	ours, kubelets := n.outcome()
	after := func(r fileReport) time.Duration {
		d, came := r.firstAfter(started, func(seenToken) bool { return true })
		if !came {
			t.Error("no token was replaced after the API server was back")
		}
		return d.Round(time.Second)
	}
	return faultRow{
		"API server away for 9 min of a 10 min token's life",
		fmt.Sprintf("%s, replaced %s after the server was started", kubelets[kubeletsDir+short].expired(), after(kubelets[kubeletsDir+short])),
		fmt.Sprintf("%s, replaced %s after", ours[oursDir+short].expired(), after(ours[oursDir+short])),
	}
}

// The kubelet stops for longer than its credential for the sidecar lasts, and in the middle of that the API server for
// longer than a refresh. The sidecar renews its credential itself.
func faultKubeletStopped(t *testing.T) faultRow {
	w := ownWorld(t, "kubelet")
	n := w.newNamespace(t, allowedPrefix, nil)
	n.duel(13*time.Minute, "20%", nil)
	reboots := n.startRebooting()
	must(t, w.cluster.StopComponent(cluster.Kubelet, time.Second), "stopping the kubelet")
	stopped := time.Now()
	time.Sleep(4 * time.Minute)
	must(t, w.cluster.StopComponent(cluster.APIServer, 0), "stopping the API server")
	time.Sleep(150 * time.Second)
	must(t, w.cluster.StartComponent(cluster.APIServer), "starting the API server")
	must(t, w.cluster.WaitForAPIServer(t.Context()), "waiting for the API server")
	time.Sleep(time.Until(stopped.Add(13*time.Minute + 20*time.Second)))
	ours, kubelets := n.judge(n.logOnDisk)
	log := n.logOnDisk(oursPod, api.ContainerName)
	if got := ours[oursDir+short].Contents; got < 5 {
		t.Errorf("our token of ten minutes was replaced %d times in 13 minutes, want at least 5", got-1)
	}
	if strings.Count(log, "API credential renewed") == 0 || !strings.Contains(log, `"errorClass":"Network"`) {
		t.Errorf("the sidecar did not renew its credential, or did not tell of the outage:\n%s", log)
	}
	reboots.reboot()
	must(t, w.cluster.StartComponent(cluster.Kubelet), "starting the kubelet")
	reboots.check()
	n.ended()
	return faultRow{
		"kubelet stopped for 13 min, API server for 2.5 min of them",
		kubelets[kubeletsDir+short].expired(),
		fmt.Sprintf("%s, replaced %d times", ours[oursDir+short].expired(), ours[oursDir+short].Contents-1),
	}
}

// The volume has another source, a ConfigMap that is deleted.
func faultVolumeBroken(t *testing.T) faultRow {
	n := newNamespace(t, nil)
	_, err := client.CoreV1().ConfigMaps(n.name).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
	must(t, err, "creating a ConfigMap")
	n.duel(690*time.Second, "80%", func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{{Name: "settings", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}},
		}}}}
		s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "settings", MountPath: "/settings"}}
	})
	must(t, client.CoreV1().ConfigMaps(n.name).Delete(t.Context(), "settings", metav1.DeleteOptions{}), "deleting the ConfigMap")
	ours, kubelets := n.outcome()
	return faultRow{
		"a ConfigMap of the volume deleted", kubelets[kubeletsDir+short].expired(),
		fmt.Sprintf("%s, replaced %d times", ours[oursDir+short].expired(), ours[oursDir+short].Contents-1),
	}
}

// Pods that are told to end go on for five minutes in their preStop hook. In that time the kubelet would have replaced its
// ten minute token, and it ends; so does the credential that the kubelet gave the sidecar. Both were made when the pods were,
// or two minutes later on a busy machine.
func faultTerminating(t *testing.T) faultRow {
	const preStop = 300
	n := newNamespace(t, nil)
	created := time.Now()
	n.duel(20*time.Minute, "20%", func(s *corev1.PodSpec) {
		s.TerminationGracePeriodSeconds = ptr(int64(preStop + 20))
		s.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: preStop}}}
	})
	// The logs go with the pods, so they are followed.
	said := map[string]func() string{}
	for pod, containers := range map[string][]string{oursPod: {"app", api.ContainerName}, kubeletsPod: {"app"}} {
		for _, c := range containers {
			said[pod+c] = n.followLog(pod, c)
		}
	}
	time.Sleep(time.Until(created.Add(7 * time.Minute)))
	for _, pod := range []string{oursPod, kubeletsPod} {
		must(t, client.CoreV1().Pods(n.name).Delete(t.Context(), pod, metav1.DeleteOptions{}), "deleting pod %q", pod)
	}
	deleted := time.Now()
	ours, kubelets := reports(t, said[oursPod+"app"]())[oursDir+short], reports(t, said[kubeletsPod+"app"]())[kubeletsDir+short]
	ours.clean(t, "our token")
	fresh := 0
	for _, token := range ours.Tokens {
		if token.At.After(deleted) {
			fresh++
		}
	}
	if fresh < 1 {
		t.Errorf("no token was replaced in the %d s of the preStop hook; the sidecar says:\n%s", preStop, said[oursPod+api.ContainerName]())
	}
	if log := said[oursPod+api.ContainerName](); !strings.Contains(log, "API credential renewed") || strings.Contains(log, "eyJ") {
		t.Errorf("the sidecar did not renew its credential, or shows a token:\n%s", log)
	}
	return faultRow{
		"pod terminating for 5 min", kubelets.expired(), fmt.Sprintf("%s, replaced %d times meanwhile", ours.expired(), fresh),
	}
}
