// Package kube boots the Kubernetes of the measurements, with podtoken in it.
package kube

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/e2e/cluster"
)

// World is a cluster with podtoken.
type World struct {
	Cluster *cluster.Cluster
	Client  kubernetes.Interface
	Config  *rest.Config
}

// Do boots a cluster of that name, installs podtoken with one replica of each part, calls the function, and removes the
// cluster, whatever happened.
func Do(ctx context.Context, name string, measure func(context.Context, *World) error) (err error) {
	root, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	c, err := cluster.Up(ctx, cluster.Options{Name: name, RepoRoot: root, Log: os.Stderr, ProductImages: true})
	if err != nil {
		return err
	}
	if !c.Owned() {
		return errors.New("these measurements look into the processes of the cluster, so they boot their own: unset " + cluster.EnvRegistry)
	}
	// Without the caller's context: what was started goes away also after Ctrl-C.
	defer func() { err = errors.Join(err, c.Down(context.WithoutCancel(ctx))) }()
	if err := c.InstallChart(ctx, "--set", "webhook.replicas=1", "--set", "controller.replicas=1"); err != nil {
		return err
	}
	w := &World{Cluster: c, Config: c.RESTConfig()}
	if w.Client, err = kubernetes.NewForConfig(w.Config); err != nil {
		return err
	}
	return measure(ctx, w)
}

// Part is the pod of a part of podtoken: "webhook" or "controller".
func (w *World) Part(ctx context.Context, part string) (*corev1.Pod, error) {
	pods, err := w.Client.CoreV1().Pods(cluster.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + part})
	if err != nil {
		return nil, err
	}
	if len(pods.Items) != 1 {
		return nil, fmt.Errorf("there are %d pods of the %s, want one", len(pods.Items), part)
	}
	return &pods.Items[0], nil
}

// Process finds the process of a container of this machine, and its cgroup, by what the kernel says of every process.
func Process(pod *corev1.Pod, container string) (pid int, cgroups []string, err error) {
	id := ""
	for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if status.Name == container {
			_, id, _ = strings.Cut(status.ContainerID, "://")
		}
	}
	if id == "" {
		return 0, nil, fmt.Errorf("container %q of pod %s/%s does not run", container, pod.Namespace, pod.Name)
	}
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, nil, err
	}
	for _, file := range files {
		content, err := os.ReadFile(file) //nolint:gosec // below /proc
		if err != nil || !strings.Contains(string(content), id) {
			continue // it has ended, or is another's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		return pid, strings.Fields(string(content)), err
	}
	return 0, nil, fmt.Errorf("no process of container %q of pod %s/%s: %w", container, pod.Namespace, pod.Name, fs.ErrNotExist)
}

// CgroupMemory is what the kernel counts for a container: now, and at most. Both versions of cgroups are read.
func CgroupMemory(cgroups []string) (now, most float64, err error) {
	for _, line := range cgroups {
		_, rest, _ := strings.Cut(line, ":")
		controllers, path, _ := strings.Cut(rest, ":")
		switch controllers {
		case "memory":
			return pair(filepath.Join("/sys/fs/cgroup/memory", path), "memory.usage_in_bytes", "memory.max_usage_in_bytes")
		case "":
			if root := filepath.Join("/sys/fs/cgroup", path); exists(filepath.Join(root, "memory.current")) {
				return pair(root, "memory.current", "memory.peak")
			}
		}
	}
	return 0, 0, fmt.Errorf("no memory controller in %q", cgroups)
}

func pair(directory, first, second string) (a, b float64, err error) {
	for name, target := range map[string]*float64{first: &a, second: &b} {
		content, err := os.ReadFile(filepath.Join(directory, name)) //nolint:gosec // below /sys
		if err != nil {
			return 0, 0, err
		}
		if _, err := fmt.Sscan(string(content), target); err != nil {
			return 0, 0, err
		}
	}
	return a, b, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
