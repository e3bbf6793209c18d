package e2e

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// stream is a steady creation of annotated pods, of which none may fail.
type stream struct {
	created atomic.Int64
	// away says that there is no API server for a while. What fails then, unless it is the webhook, is counted and is no failure.
	away       atomic.Bool
	failedAway atomic.Int64
	// stop ends it, and is the test's verdict. The end of the test calls it too.
	stop func()
}

// stream creates pods, two every 150 ms, until it is stopped and there are at least so many.
func (n *testNamespace) stream(atLeast int64) *stream {
	n.t.Helper()
	spec := gated(serviceAccount) // created, never run
	s := &stream{}
	var (
		mu       sync.Mutex
		failures []error
		creators sync.WaitGroup
	)
	createOne := func() {
		away := s.away.Load()
		i := s.created.Add(1)
		pod, err := n.tryCreate(fmt.Sprintf("pod-%d", i), annotations("audience", audienceDefault), spec)
		switch {
		case err == nil && len(pod.Spec.InitContainers) > 0 && pod.Spec.InitContainers[0].Name == api.ContainerName:
		case err != nil && (away || s.away.Load()) && !strings.Contains(err.Error(), "podtoken"):
			s.failedAway.Add(1)
		default:
			if err == nil {
				err = errors.New("created without a sidecar")
			}
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, fmt.Errorf("%s: pod %d: %w", time.Now().Format(time.TimeOnly), i, err))
		}
	}
	done := make(chan struct{})
	for range 2 {
		creators.Go(func() {
			for {
				select {
				case <-done:
					if s.created.Load() >= atLeast {
						return
					}
				default:
				}
				createOne()
				time.Sleep(150 * time.Millisecond)
			}
		})
	}
	s.stop = sync.OnceFunc(func() {
		close(done)
		creators.Wait()
		n.t.Logf("%d pods were created", s.created.Load())
		for _, f := range failures[:min(len(failures), 20)] {
			n.t.Error(f)
		}
		list, err := n.client.CoreV1().Pods(n.name).List(context.Background(), metav1.ListOptions{LabelSelector: api.LabelInjected + "=true"})
		injected := int64(0)
		for i := range list.Items {
			if strings.HasPrefix(list.Items[i].Name, "pod-") {
				injected++
			}
		}
		if err != nil || injected < s.created.Load()-s.failedAway.Load() {
			n.t.Errorf("%d of %d pods are injected, %d creations failed (%v)", injected, s.created.Load(), len(failures), err)
		}
	})
	n.t.Cleanup(s.stop) // before the namespace goes
	return s
}

// lookAtFiles has the kubelet update the files of the installation's pods now. It would do so within its sync period, a minute
// or two; a change of the pod makes it look at once.
func lookAtFiles(t *testing.T) {
	t.Helper()
	shared.lookAtFiles(t)
}

func (w *world) lookAtFiles(t *testing.T) {
	t.Helper()
	_, err := w.cluster.Kubectl(t.Context(), nil, "-n", releaseNamespace, "annotate", "--overwrite", "pods", "--all",
		"podtoken.test/look="+fmt.Sprint(time.Now().UnixNano()))
	must(t, err, "annotating the installation's pods")
}

// serve waits until the webhook's pods serve a certificate, which is known by its end: what is counted begins anew when a container
// on a busy machine does.
func (w *world) serve(t *testing.T, pods []corev1.Pod, certificate []byte) {
	t.Helper()
	block, _ := pem.Decode(certificate)
	parsed, err := x509.ParseCertificate(block.Bytes)
	must(t, err, "parsing the certificate")
	w.lookAtFiles(t)
	for _, pod := range pods {
		metrics := ""
		defer func() {
			if t.Failed() {
				log, err := w.client.CoreV1().Pods(releaseNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(context.Background())
				t.Logf("%s: want a certificate until %d; %s\nlog (%v): %s", pod.Name, parsed.NotAfter.Unix(), metrics, err, log)
			}
		}()
		eventually(t, 3*time.Minute, pod.Name+" serves the new certificate", func(ctx context.Context) (bool, error) {
			var err error
			metrics, err = w.webhookMetrics(ctx, pod.Name)
			for line := range strings.Lines(metrics) {
				if value, ok := strings.CutPrefix(line, "podtoken_certificate_expiry_timestamp_seconds "); ok {
					end, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
					return int64(end) == parsed.NotAfter.Unix(), err
				}
			}
			return false, err
		})
	}
}
