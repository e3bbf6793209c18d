package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// TestMonitors: each finds the Service, or the pods, that it is for, and the port by the name that it has there.
func TestMonitors(t *testing.T) {
	rendered := decode(t, filepath.Join(root, "charts/podtoken/golden/full.yaml"))
	for _, name := range []string{"podtoken-webhook", "podtoken-controller"} {
		m := named[*monitor](t, rendered, name)
		var found []string
		for _, service := range all[*corev1.Service](rendered) {
			if selects(t, m.Spec.Selector, service.Labels) && service.Namespace == m.Namespace {
				found = append(found, service.Name)
				ports := map[string]int32{}
				for _, port := range service.Spec.Ports {
					ports[port.Name] = port.Port
				}
				if port := ports[m.Spec.Endpoints[0].Port]; port != 8080 {
					t.Errorf("%s scrapes port %q of a Service with %v", name, m.Spec.Endpoints[0].Port, ports)
				}
			}
		}
		if diff := cmp.Diff([]string{name}, found); diff != "" {
			t.Errorf("Services that %s selects (-want +got):\n%s", name, diff)
		}
	}

	sidecars := named[*monitor](t, rendered, "podtoken-sidecar")
	if !sidecars.Spec.NamespaceSelector.Any || !selects(t, sidecars.Spec.Selector, map[string]string{"podtoken.dev/injected": "true"}) {
		t.Errorf("the PodMonitor does not select injected pods of all namespaces: %+v", sidecars.Spec)
	}
	// What the webhook writes into such a pod.
	patch := read(t, "pkg/mutate/testdata/metrics-port.txtar")
	if port := sidecars.Spec.PodMetricsEndpoints[0].Port; !strings.Contains(patch, `"ports":[{"name":"`+port+`","containerPort":9102`) {
		t.Errorf("no port of a sidecar is named %q", port)
	}
}

func selects(t *testing.T, selector metav1.LabelSelector, of map[string]string) bool {
	t.Helper()
	parsed, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil || parsed.Empty() {
		t.Fatalf("selector %v: %v", selector, err)
	}
	return parsed.Matches(labels.Set(of))
}

// TestNothingOfMetricsByDefault: a cluster without the operator's kinds can take the default render.
func TestNothingOfMetricsByDefault(t *testing.T) {
	for _, file := range []string{"charts/podtoken/golden/default.yaml", install} {
		rendered := decode(t, filepath.Join(root, file))
		if monitors, rules := all[*monitor](rendered), all[*prometheusRule](rendered); len(monitors)+len(rules) != 0 {
			t.Errorf("%s has %d monitors and %d PrometheusRules", file, len(monitors), len(rules))
		}
		for _, configMap := range all[*corev1.ConfigMap](rendered) {
			if strings.Contains(configMap.Name, "dashboard") {
				t.Errorf("%s has a dashboard", file)
			}
		}
	}
}
