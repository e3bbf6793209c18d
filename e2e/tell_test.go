package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// told is what ./cmd/probe listen prints of a notification.
type told struct{ Path, ContentType, Body, Signal string }

// told returns what the application was told until now.
func (n *testNamespace) told(pod string) []told {
	n.t.Helper()
	var all []told
	for line := range strings.Lines(n.logs(pod, "app")) {
		var one told
		must(n.t, json.Unmarshal([]byte(line), &one), "decoding the application's line %q", line)
		all = append(all, one)
	}
	return all
}

// untilTold waits until the application was told so often, each time the same.
func (n *testNamespace) untilTold(pod string, times int, want told) {
	n.t.Helper()
	var all []told
	eventually(n.t, time.Minute, "the application is told", func(context.Context) (bool, error) {
		all = n.told(pod)
		return len(all) >= times, nil
	})
	if !slices.Equal(all, slices.Repeat([]told{want}, times)) {
		n.t.Errorf("the application was told %+v, want %d times %+v", all, times, want)
	}
}

func (n *testNamespace) refresh(pod string) {
	n.t.Helper()
	_, err := n.exec(pod, api.ContainerName, api.SidecarBinary, api.CommandRefresh)
	must(n.t, err, "asking for a refresh")
}

// cannotRefresh waits until a refresh fails for the reason that is wanted: on a busy machine the first can fail because there is no answer in time.
func (n *testNamespace) cannotRefresh(pod string, want ...string) {
	n.t.Helper()
	eventually(n.t, pollShort, fmt.Sprintf("a refresh fails with %q", want), func(context.Context) (bool, error) {
		_, err := n.exec(pod, api.ContainerName, api.SidecarBinary, api.CommandRefresh, "--timeout=3s")
		missing := func(text string) bool { return err == nil || !strings.Contains(err.Error(), text) }
		return !slices.ContainsFunc(want, missing), err
	})
}

// Of two files that change together the application hears once, also when it starts after them; of files that are kept after
// a restart of the sidecar it hears nothing.
func TestNotify(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec(probePath, "listen", "8099")
	spec.ShareProcessNamespace = ptr(true) // for restartSidecar
	n.create("pod", annotations("audience.vault", "vault", "audience.billing", "billing",
		"notify", "http://localhost:8099/reload", "metrics-port", metricsPort), spec)
	n.ready("pod")
	want := told{Path: "/reload", ContentType: "application/json", Body: `{"tokens":["billing","vault"]}`}
	n.untilTold("pod", 1, want)
	n.refresh("pod")
	n.untilTold("pod", 2, want)

	n.restartSidecar("pod")
	eventually(t, pollShort, "the restarted sidecar has kept both files", func(context.Context) (bool, error) {
		return len(n.said("pod", "Token kept")) == 2 && n.metrics("pod") != nil, nil
	})
	n.counted("pod", map[string]float64{"success": 0, "pending": 0})
	// Had the restart been told after all, the next change would not be the third.
	n.refresh("pod")
	n.untilTold("pod", 3, want)
	n.counted("pod", map[string]float64{"success": 1, "failure": 0, "pending": 0})
}

// counted compares the metrics of the sidecar's POSTs.
func (n *testNamespace) counted(pod string, want map[string]float64) {
	n.t.Helper()
	names := map[string]string{
		"success": metric("notifications_total", "kind", "http", "result", "success"),
		"failure": metric("notifications_total", "kind", "http", "result", "failure"),
		"pending": metric("notifications_pending_tokens", "kind", "http"),
	}
	// The application has printed a line before the sidecar has got the answer.
	eventually(n.t, pollShort, "the notifications are counted", func(context.Context) (bool, error) {
		metrics := n.metrics(pod)
		for what, number := range want {
			if got, ok := metrics[names[what]]; !ok || got != number {
				return false, errors.New(names[what] + " is another")
			}
		}
		return true, nil
	})
}

// An application that cannot reload is told again, the log says why, and the tokens are refreshed all the same.
func TestNotifyIsTriedAgain(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience", audienceDefault, "notify", "http://127.0.0.1:8099/", "metrics-port", metricsPort),
		podSpec(probePath, "listen", "-status", "500", "8099"))
	n.ready("pod")
	eventually(t, time.Minute, "the application was told twice", func(context.Context) (bool, error) {
		return len(n.told("pod")) >= 2, nil
	})
	n.counted("pod", map[string]float64{"success": 0, "pending": 1})
	failed := n.said("pod", "Telling the application failed")
	if len(failed) != 1 || failed[0].Level != "WARN" || failed[0].Error != "it answered HTTP 500, want 2xx" {
		t.Errorf("the log says %+v, want one warning with the status", failed)
	}
	before := n.token("pod", "app", tokenPath)
	n.refresh("pod")
	if n.token("pod", "app", tokenPath) == before {
		t.Error("the token was not replaced")
	}
}

// The signal reaches the process of that name once for each change.
func TestNotifySignal(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec(probePath, "listen", "8099")
	spec.ShareProcessNamespace = ptr(true)
	n.create("pod", annotations("audience.vault", "vault", "audience.billing", "billing", "notify-signal", "SIGHUP:listener"), spec)
	n.ready("pod")
	// It started after the tokens were there.
	eventually(t, time.Minute, "the sidecar has seen that it needs no signal", func(context.Context) (bool, error) {
		return strings.Contains(n.logs("pod", api.ContainerName), "Application needs not be told"), nil
	})
	want := told{Signal: "hangup"}
	n.refresh("pod")
	n.untilTold("pod", 1, want) // when it is old enough to be prepared
	n.refresh("pod")
	n.untilTold("pod", 2, want)
	if restarts := n.ready("pod").Status.ContainerStatuses[0].RestartCount; restarts != 0 {
		t.Errorf("the application has restarted %d times", restarts)
	}
}

// Where a signal could never arrive, the pod is refused with what to change.
func TestSignalThatCannotArriveIsRefused(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	for name, row := range map[string]struct {
		change func(*corev1.PodSpec)
		want   string
	}{
		"the processes do not see each other": {
			func(s *corev1.PodSpec) { s.ShareProcessNamespace = nil },
			"podtoken.dev/notify-signal needs the processes to see each other: set spec.shareProcessNamespace to true",
		},
		"the containers have different users": {
			func(s *corev1.PodSpec) {
				s.Containers = append(s.Containers, withUser(container("other", probePath, "sleep"), 1001))
			},
			"podtoken.dev/notify-signal needs the permission to signal: give all containers that get the tokens the same non-root user, in spec.securityContext.runAsUser",
		},
		"nobody says which user": {
			func(s *corev1.PodSpec) { s.SecurityContext = nil },
			"podtoken.dev/notify-signal needs the permission to signal: give all containers that get the tokens the same non-root user, in spec.securityContext.runAsUser",
		},
	} {
		spec := podSpec()
		spec.ShareProcessNamespace = ptr(true)
		row.change(&spec)
		_, err := n.tryCreate("pod", annotations("audience", audienceDefault, "notify-signal", "SIGHUP:listener"), spec)
		if message := denial(t, err); !strings.Contains(message, row.want) {
			t.Errorf("%s: it is refused with %q, want %q", name, message, row.want)
		}
	}
}

// missing is what /readyz says of a token that could not be had yet.
const missing = `token "vault" does not exist yet`

// blockedPod starts without its token, for want of a grant, and returns when the sidecar has said so.
func (n *testNamespace) blockedPod(keysAndValues ...string) {
	n.t.Helper()
	n.account("blocked")
	n.block("blocked")
	spec := podSpec()
	spec.ServiceAccountName = "blocked"
	keysAndValues = append(keysAndValues, "audience.vault", "vault", "wait", "false", "metrics-port", metricsPort)
	n.create("pod", annotations(keysAndValues...), spec)
	n.until("pod", "runs its application", func(p *corev1.Pod) bool { return running(p.Status.ContainerStatuses, "app") })
	eventually(n.t, pollShort, "the sidecar was refused", func(context.Context) (bool, error) {
		return n.metrics("pod")[metric("token_failures_total", "token", "vault", "class", "Forbidden")] > 0, nil
	})
}

// page503 checks that the sidecar calls itself not ready, and why.
func (n *testNamespace) page503() {
	n.t.Helper()
	if status, text := n.page("pod", api.PathReady); status != http.StatusServiceUnavailable || strings.TrimSpace(text) != missing {
		n.t.Errorf("%s answers %d %q, want 503 %q", api.PathReady, status, text, missing)
	}
	if status, text := n.page("pod", api.PathHealth); status != http.StatusOK {
		n.t.Errorf("%s answers %d %q, want 200: the sidecar works", api.PathHealth, status, text)
	}
}

// A pod that asks for it is ready only with its token, and the sidecar's port tells of both times.
func TestMetricsAndReadiness(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.blockedPod("readiness", "true")
	n.page503()
	n.event("pod", "Unhealthy", "statuscode: 503")
	pod, err := n.client.CoreV1().Pods(n.name).Get(t.Context(), "pod", metav1.GetOptions{})
	must(t, err, "reading the pod")
	for _, c := range pod.Status.Conditions {
		if (c.Type == corev1.PodReady || c.Type == corev1.ContainersReady) && c.Status == corev1.ConditionTrue {
			t.Errorf("the pod without its token is %s", c.Type)
		}
	}
	if got := n.metrics("pod"); got[metric("token_expiry_timestamp_seconds", "token", "vault")] != 0 || got[metric("token_granted_lifetime_seconds", "token", "vault")] != 0 {
		t.Errorf("there is a token in the metrics: %v", got)
	}

	n.unblock("blocked")
	unblocked := time.Now()
	n.ready("pod")
	t.Logf("ready %s after the grant was free", time.Since(unblocked).Round(time.Second))
	if status, text := n.page("pod", api.PathReady); status != http.StatusOK {
		t.Errorf("%s answers %d %q, want 200", api.PathReady, status, text)
	}
	metrics, claims := n.metrics("pod"), claimsOf(t, n.token("pod", "app", api.DefaultMountPath+"/vault"))
	// The API server takes the time for its expirationTimestamp before the time for the token's claims, so the one may be in the
	// second before the other (k8s.io/kubernetes@v1.37.2, registry/core/serviceaccount/storage/token.go). The earlier one counts.
	granted, earlier := 3600., 0.
	if metrics[metric("token_granted_lifetime_seconds", "token", "vault")] == 3599 {
		granted, earlier = 3599, 1
	}
	for name, want := range map[string]float64{
		metric("token_expiry_timestamp_seconds", "token", "vault"):                float64(claims.Expires) - earlier,
		metric("token_asked_lifetime_seconds", "token", "vault"):                  3600,
		metric("token_granted_lifetime_seconds", "token", "vault"):                granted,
		metric("token_refreshes_total", "token", "vault", "cause", "Missing"):     1,
		metric("token_refreshes_total", "token", "vault", "cause", "Scheduled"):   0,
		metric("token_restored_files_total", "token", "vault"):                    0,
		metric("token_failures_total", "token", "vault", "class", "Unauthorized"): 0,
	} {
		if got, ok := metrics[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if claims.Expires <= time.Now().Unix() {
		t.Errorf("the token ended at %d", claims.Expires)
	}
	if log := n.logs("pod", api.ContainerName); strings.Contains(log, "eyJ") {
		t.Error("the log shows a token")
	}
}

// A pod that does not ask for it is ready without its tokens: the application decides what it can do without them.
func TestReadinessIsOptional(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.blockedPod()
	n.ready("pod")
	n.page503()
}
