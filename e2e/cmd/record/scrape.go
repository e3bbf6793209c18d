package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// scrapeTimeout is long for a page of some kilobytes, and short for one interval.
const scrapeTimeout = 3 * time.Second

// kept are the beginnings of the metrics that the dashboard can name; an API server has megabytes of others.
var kept = []string{"podtoken_", "process_", "apiserver_admission_webhook_rejection_count"}

// scraper asks webhook, controller, sidecars and API server for their metrics, as the chart's ServiceMonitor and PodMonitor
// make a Prometheus do it: from within the cluster's network.
type scraper struct {
	client kubernetes.Interface
	http   *http.Client
	// targets are those of the last time that the API server told them.
	targets []target
}

type target struct {
	labels map[string]string
	url    string
}

func newScraper(c *cluster.Cluster, client kubernetes.Interface) *scraper {
	dial := func(ctx context.Context, network, address string) (connection net.Conn, err error) {
		err = c.InNamespace(func() error {
			connection, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return connection, err
	}
	return &scraper{client: client, http: &http.Client{
		Timeout: scrapeTimeout, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
	}}
}

// all scrapes everything at once. All lines have one time, so that they are in its order.
func (s *scraper) all(ctx context.Context) []line {
	s.discover(ctx)
	now := time.Now().UnixMilli()
	lines := make([]line, len(s.targets)+1)
	var group sync.WaitGroup
	for i, t := range s.targets {
		group.Go(func() { lines[i] = line{Time: now, Labels: t.labels, Text: s.get(ctx, t.url)} })
	}
	group.Go(func() {
		lines[len(s.targets)] = line{Time: now, Labels: map[string]string{"job": "apiserver", "instance": "apiserver"}, Text: s.apiServer(ctx)}
	})
	group.Wait()
	return lines
}

func (s *scraper) get(ctx context.Context, url string) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return ""
	}
	response, err := s.http.Do(request)
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return ""
	}
	return keep(string(body))
}

func (s *scraper) apiServer(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	body, err := s.client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return ""
	}
	// Before its first failure it does not have the metric that is looked for: what it answers must not be taken for nothing.
	return "# EOF\n" + keep(string(body))
}

func keep(text string) string {
	var b strings.Builder
	for one := range strings.Lines(text) {
		for _, prefix := range kept {
			if strings.HasPrefix(one, prefix) {
				b.WriteString(one)
			}
		}
	}
	return b.String()
}

// discover finds the targets. While the API server is away, a Prometheus keeps those that it knows.
func (s *scraper) discover(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	list, err := s.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	s.targets = nil
	for i := range list.Items {
		pod := &list.Items[i]
		if pod.Status.PodIP == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		component := pod.Labels["app.kubernetes.io/component"]
		switch {
		case pod.Namespace == cluster.Namespace && (component == "webhook" || component == "controller"):
			one := targetOf(pod, "podtoken-"+component, component, "metrics", 8080)
			one.labels["service"] = one.labels["job"]
			s.targets = append(s.targets, one)
		case pod.Labels[api.LabelInjected] == "true":
			if port := sidecarPort(pod); port != 0 {
				s.targets = append(s.targets, targetOf(pod, "podtoken-sidecar", api.ContainerName, "podtoken", port))
			}
		}
	}
}

func sidecarPort(pod *corev1.Pod) int32 {
	for _, c := range pod.Spec.InitContainers {
		if c.Name == api.ContainerName && len(c.Ports) > 0 {
			return c.Ports[0].ContainerPort
		}
	}
	return 0
}

func targetOf(pod *corev1.Pod, job, container, endpoint string, port int32) target {
	address := net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(int(port)))
	return target{url: fmt.Sprintf("http://%s/metrics", address), labels: map[string]string{
		"job": job, "instance": address, "namespace": pod.Namespace, "pod": pod.Name, "container": container, "endpoint": endpoint,
	}}
}
