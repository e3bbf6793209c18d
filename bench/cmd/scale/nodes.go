package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/bench/kube"
)

const (
	fakeAnnotation = "kwok.x-k8s.io/node"
	fake           = "fake"
	maxShown       = 4000 // bytes of a log
)

func nodeName(i int) string { return fmt.Sprintf("kwok-%03d", i) }

// stages are what kwok does with nodes and pods: files of its module.
var stages = []string{
	"node/fast/node-initialize.yaml", "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
	"pod/fast/pod-ready.yaml", "pod/fast/pod-complete.yaml", "pod/fast/pod-delete.yaml",
}

// buildKwok builds kwok into a directory, and returns how it is called.
func buildKwok(ctx context.Context, dir string) (command []string, err error) {
	program := filepath.Join(dir, "kwok")
	goTool := func(arguments ...string) (string, error) {
		run := exec.CommandContext(ctx, "go", arguments...)
		run.Dir, run.Env = "kwok", append(os.Environ(), "CGO_ENABLED=0")
		output, err := run.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("building kwok: %w\n%s", err, output)
		}
		return strings.TrimSpace(string(output)), nil
	}
	if _, err := goTool("build", "-o", program, "sigs.k8s.io/kwok/cmd/kwok"); err != nil {
		return nil, err
	}
	module, err := goTool("list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok")
	if err != nil {
		return nil, err
	}
	command = []string{program, "--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=" + fakeAnnotation + "=" + fake, "--node-lease-duration-seconds=40"}
	for _, stage := range stages {
		command = append(command, "--config="+filepath.Join(module, "kustomize", "stage", filepath.FromSlash(stage)))
	}
	return command, nil
}

// startNodes makes nodes, and starts kwok, which plays their kubelets until the returned function is called.
func startNodes(ctx context.Context, w *kube.World, kwok []string, nodes int) (stop func(), err error) {
	command := append(kwok, "--kubeconfig="+w.Cluster.Kubeconfig())
	process := exec.CommandContext(ctx, command[0], command[1:]...)
	var log bytes.Buffer // read it after stop
	process.Stdout, process.Stderr = &log, &log
	if err := process.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	}
	for i := range nodes {
		if _, err := w.Client.CoreV1().Nodes().Create(ctx, node(nodeName(i)), metav1.CreateOptions{}); err != nil {
			stop()
			return nil, err
		}
	}
	for deadline := time.Now().Add(2 * time.Minute); ; {
		ready, err := readyNodes(ctx, w)
		switch {
		case err == nil && ready >= nodes:
			return stop, nil
		case time.Now().After(deadline):
			stop()
			return nil, errors.Join(err, fmt.Errorf("kwok made %d of %d nodes ready in 2 minutes; it says:\n%s", ready, nodes, log.String()[max(0, log.Len()-maxShown):]))
		}
		time.Sleep(time.Second)
	}
}

func node(name string) *corev1.Node {
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("1000")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{fakeAnnotation: fake},
			Labels:      map[string]string{"type": "kwok", corev1.LabelHostname: name, corev1.LabelOSStable: "linux"},
		},
		// Nothing that the scheduler places may come here.
		Spec:   corev1.NodeSpec{Taints: []corev1.Taint{{Key: fakeAnnotation, Value: fake, Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{Allocatable: room, Capacity: room, Phase: corev1.NodeRunning},
	}
}

func readyNodes(ctx context.Context, w *kube.World) (ready int, err error) {
	nodes, err := w.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "type=kwok"})
	if err != nil {
		return 0, err
	}
	for _, node := range nodes.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	return ready, nil
}
