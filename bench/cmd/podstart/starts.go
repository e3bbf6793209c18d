package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podtoken/podtoken/bench/kube"
	"github.com/podtoken/podtoken/bench/report"
)

const (
	startLimit = 2 * time.Minute
	pollEvery  = 50 * time.Millisecond
)

type measurement struct {
	*kube.World
	// keeper is an injected pod that stays, so that its ServiceAccount keeps its grant.
	keeper *corev1.Pod
}

// prepare makes the namespace, and starts the keeper.
func (m *measurement) prepare(ctx context.Context) error {
	if _, err := m.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: serviceAccount}}
	if _, err := m.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	var err error
	if m.keeper, err = m.Client.CoreV1().Pods(namespace).Create(ctx, annotated("true"), metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err = m.firstLine(ctx, m.keeper.Name)
	return err
}

// shape is a kind of pod, and how long its starts took.
type shape struct {
	name    string
	pod     func() *corev1.Pod
	took    report.Sample // ms
	missing int           // starts without all tokens
	tokens  bool
}

// starts starts pods of each kind in turns.
func (m *measurement) starts(ctx context.Context, rounds int) (string, error) {
	shapes := []*shape{
		{name: "no tokens", pod: plain},
		{name: "three tokens of the kubelet: projected volume", pod: projected, tokens: true},
		{name: "**three tokens of podtoken**", pod: func() *corev1.Pod { return annotated("true") }, tokens: true},
		{name: "the same with `wait: \"strict\"`", pod: func() *corev1.Pod { return annotated("strict") }, tokens: true},
		{name: "the same with `restartPolicy: OnFailure`", pod: func() *corev1.Pod {
			pod := annotated("true")
			pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			return pod
		}, tokens: true},
		{name: "the same with `wait: \"false\"`", pod: func() *corev1.Pod { return annotated("false") }, tokens: true},
		{name: "the same sidecar, an init container waits", pod: func() *corev1.Pod { return initialised(m.keeper) }, tokens: true},
	}
	for round := range rounds + 1 {
		for _, s := range shapes {
			took, missing, err := m.start(ctx, s.pod())
			if err != nil {
				return "", fmt.Errorf("%s: %w", s.name, err)
			}
			if round == 0 {
				continue // what is done for the first time takes longer
			}
			s.took = append(s.took, float64(took.Milliseconds()))
			if missing {
				s.missing++
			}
		}
	}
	t := report.Table{Head: []string{fmt.Sprintf("%d starts of each, in turns", rounds), "created to application runs, ms", "more than without tokens, ms", "tokens there at its first line"}}
	base := shapes[0].took.Median()
	for _, s := range shapes {
		more, there := "", ""
		if s.tokens {
			more, there = fmt.Sprintf("%+.0f", s.took.Median()-base), fmt.Sprintf("%d of %d", rounds-s.missing, rounds)
		}
		t.Row(s.name, s.took.Spread(0), more, there)
	}
	return t.String(), nil
}

// start is how long after its creation the application of the pod wrote its first line, by the clock of this machine, which
// is also that of containerd.
func (m *measurement) start(ctx context.Context, pod *corev1.Pod) (took time.Duration, missing bool, err error) {
	asked := time.Now()
	created, err := m.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return 0, false, err
	}
	line, err := m.firstLine(ctx, created.Name)
	if err != nil {
		return 0, false, err
	}
	stamp, text, _ := strings.Cut(line, " ")
	wrote, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		return 0, false, err
	}
	return wrote.Sub(asked), text != "up", m.remove(ctx, created.Name)
}

// firstLine waits for the first line of the application's log, with its time.
func (m *measurement) firstLine(ctx context.Context, name string) (line string, err error) {
	err = wait.PollUntilContextTimeout(ctx, pollEvery, startLimit, false, func(ctx context.Context) (bool, error) {
		pod, err := m.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil || len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Running == nil {
			return false, err
		}
		log, err := m.Client.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{Container: "app", Timestamps: true}).DoRaw(ctx)
		if err != nil || len(log) == 0 {
			return false, nil //nolint:nilerr // it is there a moment later
		}
		lines := bufio.NewScanner(bytes.NewReader(log))
		lines.Scan()
		line = lines.Text()
		return true, lines.Err()
	})
	if err != nil {
		return "", fmt.Errorf("waiting for the first line of pod %s: %w", name, err)
	}
	return line, nil
}

// remove deletes a pod, and waits until it is gone, so that the next one has the node for itself.
func (m *measurement) remove(ctx context.Context, name string) error {
	if err := m.Client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return wait.PollUntilContextTimeout(ctx, pollEvery, startLimit, false, func(ctx context.Context) (bool, error) {
		_, err := m.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}
