package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	releaseNamespace  = "podtoken-system"
	webhookDeployment = "podtoken-webhook"
	servingSecret     = "podtoken-webhook-tls"
	servingCert       = "podtoken-webhook-tls"
)

// These two tests disturb the installation, so they do not run beside others (they do not call t.Parallel).

// "An outage of the webhook cannot hurt any other pod", and never starts an annotated pod without its tokens.
func TestWebhookDown(t *testing.T) {
	n := newNamespace(t, nil)
	scaleWebhook(t, 0)
	t.Cleanup(func() { scaleWebhook(t, 2) })

	_, err := n.tryCreate("annotated", annotations("audience", audienceDefault), podSpec())
	if message := denial(t, err); !strings.Contains(message, "failed calling webhook") {
		t.Errorf("the annotated pod is refused with %q, want the webhook's failure", message)
	}
	n.create("plain", nil, podSpec())
	n.ready("plain")
	// Who can do without for a while says so.
	n.create("switched-off", annotations("audience", audienceDefault, "inject", "false"), podSpec())
	n.ready("switched-off")

	scaleWebhook(t, 2)
	// A ready webhook is reachable a moment later, when kube-proxy has heard of it.
	eventually(t, pollShort, "the annotated pod is admitted", func(context.Context) (bool, error) {
		_, err := n.tryCreate("annotated", annotations("audience", audienceDefault), podSpec())
		return err == nil, err
	})
	n.ready("annotated")
}

// The certificate is renewed by cert-manager, the running replicas take it into use, and then they are rolled, all while
// at least 200 pods are created: none fails, and none is left without its sidecar.
func TestCertificateRenewalAndRollout(t *testing.T) {
	const atLeast = 200
	n := newNamespace(t, nil)
	ctx := t.Context()
	before, err := client.CoreV1().Secrets(releaseNamespace).Get(ctx, servingSecret, metav1.GetOptions{})
	must(t, err, "reading the serving certificate")
	replicas := webhookPods(t)

	// From before the renewal until the last old replica has gone.
	pods := n.stream(atLeast)

	renewCertificate(t)
	var after *corev1.Secret
	eventually(t, time.Minute, "cert-manager has renewed the certificate", func(ctx context.Context) (bool, error) {
		var err error
		after, err = client.CoreV1().Secrets(releaseNamespace).Get(ctx, servingSecret, metav1.GetOptions{})
		return err == nil && !bytes.Equal(after.Data["tls.crt"], before.Data["tls.crt"]), err
	})
	shared.serve(t, replicas, after.Data["tls.crt"])
	atRenewal := pods.created.Load()

	_, err = testCluster.Kubectl(ctx, nil, "-n", releaseNamespace, "rollout", "restart", "deployment/"+webhookDeployment)
	must(t, err, "rolling the webhook")
	_, err = testCluster.Kubectl(ctx, nil, "-n", releaseNamespace, "rollout", "status", "deployment/"+webhookDeployment, "--timeout=3m")
	must(t, err, "waiting for the rollout")
	eventually(t, time.Minute, "the old replicas have gone", func(context.Context) (bool, error) {
		for _, now := range webhookPods(t) {
			for _, old := range replicas {
				if now.UID == old.UID {
					return false, nil
				}
			}
		}
		return true, nil
	})
	pods.stop()
	t.Logf("%d of the pods were created before the rollout", atRenewal)
}

func webhookPods(t *testing.T) []corev1.Pod {
	t.Helper()
	return shared.webhookPods(t)
}

func (w *world) webhookPods(t *testing.T) []corev1.Pod {
	t.Helper()
	pods, err := w.client.CoreV1().Pods(releaseNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=webhook"})
	must(t, err, "listing the webhook's pods")
	return pods.Items
}

// renewCertificate asks cert-manager for a new certificate the way its own command line tool does.
func renewCertificate(t *testing.T) {
	t.Helper()
	path := "/apis/cert-manager.io/v1/namespaces/" + releaseNamespace + "/certificates/" + servingCert
	data, err := client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(t.Context())
	must(t, err, "reading the Certificate")
	var certificate struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Status   struct {
			Conditions []map[string]any `json:"conditions"`
		} `json:"status"`
	}
	must(t, json.Unmarshal(data, &certificate), "decoding the Certificate")
	conditions := append(certificate.Status.Conditions, map[string]any{
		"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "renewed by a test",
		"lastTransitionTime": metav1.Now(),
	})
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions}})
	must(t, err, "encoding a patch")
	_, err = client.Discovery().RESTClient().Patch(types.MergePatchType).AbsPath(path, "status").Body(patch).DoRaw(t.Context())
	must(t, err, "asking for a new certificate")
}

func scaleWebhook(t *testing.T, replicas int) {
	t.Helper()
	ctx := context.Background() // also from Cleanup, when the test's context has ended
	_, err := testCluster.Kubectl(ctx, nil, "-n", releaseNamespace, "scale", "deployment/"+webhookDeployment, fmt.Sprintf("--replicas=%d", replicas))
	must(t, err, "scaling the webhook")
	if replicas > 0 {
		_, err = testCluster.Kubectl(ctx, nil, "-n", releaseNamespace, "rollout", "status", "deployment/"+webhookDeployment, "--timeout=3m")
		must(t, err, "waiting for the webhook")
		return
	}
	eventually(t, time.Minute, "no webhook pod is left", func(ctx context.Context) (bool, error) {
		pods, err := client.CoreV1().Pods(releaseNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=webhook"})
		return err == nil && len(pods.Items) == 0, err
	})
}
