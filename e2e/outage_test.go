package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podtoken/podtoken/pkg/api"
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

	scaleWebhook(t, 2)
	// A ready webhook is reachable a moment later, when kube-proxy has heard of it.
	eventually(t, pollShort, "the annotated pod is admitted", func(context.Context) (bool, error) {
		_, err := n.tryCreate("annotated", annotations("audience", audienceDefault), podSpec())
		return err == nil, err
	})
	n.ready("annotated")
}

// The certificate is renewed by cert-manager and the webhook's pods are rolled while 200 pods are created: none
// fails, and none is left without its sidecar.
func TestCertificateRenewalAndRollout(t *testing.T) {
	const pods = 200
	n := newNamespace(t, nil)
	ctx := t.Context()
	before, err := client.CoreV1().Secrets(releaseNamespace).Get(ctx, servingSecret, metav1.GetOptions{})
	must(t, err, "reading the serving certificate")

	spec := podSpec()
	spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "podtoken.test/never"}} // created, never run
	var (
		mu       sync.Mutex
		failures []error
		creators sync.WaitGroup
	)
	createOne := func(i int) {
		pod, err := n.tryCreate(fmt.Sprintf("pod-%d", i), annotations("audience", audienceDefault), spec)
		if err == nil && (len(pod.Spec.InitContainers) == 0 || pod.Spec.InitContainers[0].Name != api.ContainerName) {
			err = errors.New("created without a sidecar")
		}
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, fmt.Errorf("pod %d: %w", i, err))
		}
	}
	// Two steady streams of pods, so that creations overlap with everything that happens meanwhile.
	done := make(chan struct{})
	for stream := range 2 {
		creators.Go(func() {
			tick := time.NewTicker(250 * time.Millisecond)
			defer tick.Stop()
			for i := stream; i < pods; i += 2 {
				createOne(i)
				<-tick.C
			}
		})
	}
	go func() { creators.Wait(); close(done) }()

	renewCertificate(t)
	eventually(t, time.Minute, "cert-manager has renewed the certificate", func(ctx context.Context) (bool, error) {
		after, err := client.CoreV1().Secrets(releaseNamespace).Get(ctx, servingSecret, metav1.GetOptions{})
		return err == nil && !bytes.Equal(after.Data["tls.crt"], before.Data["tls.crt"]), err
	})
	_, err = testCluster.Kubectl(ctx, nil, "-n", releaseNamespace, "rollout", "restart", "deployment/"+webhookDeployment)
	must(t, err, "rolling the webhook")
	_, err = testCluster.Kubectl(ctx, nil, "-n", releaseNamespace, "rollout", "status", "deployment/"+webhookDeployment, "--timeout=3m")
	must(t, err, "waiting for the rollout")
	select {
	case <-done:
		// The stream ended before the rollout did: more pods have to meet the new certificate.
		createOne(pods)
	default:
	}
	<-done

	for _, f := range failures {
		t.Error(f)
	}
	list, err := client.CoreV1().Pods(n.name).List(ctx, metav1.ListOptions{LabelSelector: api.LabelInjected + "=true"})
	must(t, err, "listing pods")
	if len(list.Items) < pods {
		t.Errorf("%d of %d pods are injected", len(list.Items), pods)
	}
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
