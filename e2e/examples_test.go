package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/pkg/api"
)

const examplesNamespace = "podtoken-examples"

// Every file of manifests/examples does what its comment says when it is applied as it stands.
func TestExamples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../manifests/examples/*.yaml")
	must(t, err, "listing the examples")
	if len(files) < 6 {
		t.Fatalf("only %d examples: %q", len(files), files)
	}
	n := &testNamespace{world: shared, t: t, name: examplesNamespace}
	t.Cleanup(func() {
		if t.Failed() {
			n.dump()
		}
		_ = client.CoreV1().Namespaces().Delete(context.Background(), examplesNamespace, metav1.DeleteOptions{})
	})
	for _, file := range files {
		manifest, err := os.ReadFile(file)
		must(t, err, "reading an example")
		_, err = testCluster.Kubectl(t.Context(), bytes.NewReader(manifest), "apply", "-f", "-")
		must(t, err, "applying %s", file)
	}
	wanted := workloads(t, files)
	// A CronJob's first run would be up to minutes away; starting one by hand uses the same template.
	crons, err := client.BatchV1().CronJobs(examplesNamespace).List(t.Context(), metav1.ListOptions{})
	must(t, err, "listing CronJobs")
	for _, c := range crons.Items {
		_, err := client.BatchV1().Jobs(examplesNamespace).Create(t.Context(), &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Name: c.Name + "-by-hand"}, Spec: c.Spec.JobTemplate.Spec}, metav1.CreateOptions{})
		must(t, err, "starting CronJob %q", c.Name)
	}
	pods := 0
	eventually(t, 4*time.Minute, "every pod of the examples is Ready or has succeeded", func(ctx context.Context) (bool, error) {
		list, err := client.CoreV1().Pods(examplesNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		pods = len(list.Items)
		for _, p := range list.Items {
			if p.Labels[api.LabelInjected] != "true" {
				t.Fatalf("pod %s is not injected", p.Name)
			}
			ready := p.Status.Phase == corev1.PodSucceeded
			for _, c := range p.Status.Conditions {
				ready = ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}
			if !ready {
				return false, nil
			}
		}
		for _, w := range wanted {
			if !slices.ContainsFunc(list.Items, func(p corev1.Pod) bool { return strings.HasPrefix(p.Name, w) }) {
				return false, fmt.Errorf("%q has no pod", w)
			}
		}
		return true, nil
	})
	t.Logf("%d pods of %d examples are well", pods, len(files))
}

// workloads returns the names of the objects in the files that have pods. Every file has one at least.
func workloads(t *testing.T, files []string) []string {
	t.Helper()
	var names []string
	for _, file := range files {
		manifest, err := os.ReadFile(file)
		must(t, err, "reading an example")
		found := len(names)
		for document := range strings.SplitSeq(string(manifest), "\n---\n") {
			var object metav1.PartialObjectMetadata
			must(t, yaml.Unmarshal([]byte(document), &object), "decoding %s", file)
			if slices.Contains([]string{"Pod", "Deployment", "Job", "CronJob"}, object.Kind) {
				names = append(names, object.Name)
			}
		}
		if len(names) == found {
			t.Errorf("%s has no workload", file)
		}
	}
	return names
}
