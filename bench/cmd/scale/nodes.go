package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/bench/kube"
)

const (
	fakeAnnotation = "kwok.x-k8s.io/node"
	fake           = "fake"
)

func nodeName(i int) string { return fmt.Sprintf("kwok-%03d", i) }

// startNodes makes nodes, and starts kwok, which plays their kubelets until the returned function is called.
func startNodes(ctx context.Context, w *kube.World, kwok string, nodes int) (stop func(), err error) {
	log, err := os.Create(w.Cluster.Log("kwok"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	process := exec.Command(kwok, "--kubeconfig="+w.Cluster.Kubeconfig(), "--manage-all-nodes=false", //nolint:gosec,noctx // ours; it is stopped below
		"--manage-nodes-with-annotation-selector="+fakeAnnotation+"="+fake)
	process.Stdout, process.Stderr = log, log
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
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
			return nil, fmt.Errorf("kwok made %d of %d nodes ready in 2 minutes (%w); its log is %s", ready, nodes, err, w.Cluster.Log("kwok"))
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
