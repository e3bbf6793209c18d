package main

import (
	"context"
	"fmt"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/bench/kube"
	"github.com/podtoken/podtoken/bench/proc"
	"github.com/podtoken/podtoken/bench/report"
	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// watched is how long the sidecar is looked at.
const watched = 2 * time.Minute

// footprint looks at the keeper's sidecar, which has been at rest since the other pods began.
func (m *measurement) footprint(ctx context.Context) (string, error) {
	pod, err := m.Client.CoreV1().Pods(namespace).Get(ctx, m.keeper.Name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	pid, cgroups, err := kube.Process(pod, api.ContainerName)
	if err != nil {
		return "", err
	}
	before, err := proc.WorkOf(pid)
	if err != nil {
		return "", err
	}
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(watched):
	}
	after, err := proc.WorkOf(pid)
	if err != nil {
		return "", err
	}
	memory, err := proc.MemoryOf(pid)
	if err != nil {
		return "", err
	}
	now, most, err := kube.CgroupMemory(cgroups)
	if err != nil {
		return "", err
	}
	plain, compressed, err := imageSizes(ctx)
	if err != nil {
		return "", err
	}
	did := after.Since(before)
	t := report.Table{Head: []string{"sidecar of a running pod, three tokens", ""}}
	row := func(name, format string, value float64) { t.Row(name, fmt.Sprintf(format, value)) }
	row("memory of its cgroup", "%.2f MB", now/1e6)
	row("most that it ever was, also of its hook", "%.2f MB", most/1e6)
	row("RSS of the process", "%.2f MB", memory.RSS/1e6)
	row("of that anonymous", "%.2f MB", memory.Anonymous/1e6)
	row("proportional share", "%.2f MB", memory.Pss/1e6)
	row("CPU a minute", "%.2f ms", float64(did.CPU.Microseconds())/1e3/watched.Minutes())
	row("context switches a minute", "%.0f", did.Switches/watched.Minutes())
	row("image", "%.2f MB", plain)
	row("image, compressed", "%.2f MB", compressed)
	return t.String(), nil
}

// imageSizes are those of the sidecar's image as an archive, and compressed as a registry would.
func imageSizes(ctx context.Context) (plain, compressed float64, err error) {
	images, err := cluster.Images(ctx, "..", io.Discard)
	if err != nil {
		return 0, 0, err
	}
	for _, image := range images {
		if image.Target == "sidecar" {
			return report.Sizes(image.Archive)
		}
	}
	return 0, 0, fmt.Errorf("there is no image of the sidecar")
}
