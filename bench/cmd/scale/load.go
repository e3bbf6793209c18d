package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/bench/report"
	"github.com/podtoken/podtoken/pkg/api"
)

// dimensions of a cluster.
type dimensions struct{ nodes, namespaces, accounts, pods int }

const (
	// workers create at the same time.
	workers = 16
	// plainEvery: so many injected pods come with one that is not, to compare with.
	plainEvery = 10
)

// account is a ServiceAccount, by its number.
func (d dimensions) account(i int) (namespace, name string) {
	return fmt.Sprintf("scale-%02d", i%d.namespaces), fmt.Sprintf("app-%04d", i)
}

// load makes the objects.
type load struct {
	dimensions
	client kubernetes.Interface

	mu sync.Mutex
	// asked is when the first pod of each ServiceAccount existed.
	asked            map[string]time.Time
	injected, others report.Sample // ms of each creation
}

func newLoad(config *rest.Config, size dimensions) (*load, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // the API server sets the pace
	client, err := kubernetes.NewForConfig(config)
	return &load{dimensions: size, client: client, asked: map[string]time.Time{}}, err
}

// each calls the function for every number below n, several at a time.
func each(ctx context.Context, n int, call func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i := range n {
		group.Go(func() error { return call(ctx, i) })
	}
	return group.Wait()
}

// makeAccounts makes namespaces and ServiceAccounts, which are nothing to podtoken yet.
func (l *load) makeAccounts(ctx context.Context) error {
	for i := range l.namespaces {
		name, _ := l.account(i)
		if _, err := l.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return each(ctx, l.accounts, func(ctx context.Context, i int) error {
		namespace, name := l.account(i)
		_, err := l.client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	})
}

// makePods makes all pods, and returns how long that took.
func (l *load) makePods(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	err := each(ctx, l.pods, func(ctx context.Context, i int) error {
		if i%plainEvery == 0 {
			if err := l.makePod(ctx, i, nil); err != nil {
				return err
			}
		}
		return l.makePod(ctx, i, map[string]string{
			api.AnnotationAudienceOf + "vault":   "vault, https://sts.example.com",
			api.AnnotationAudienceOf + "billing": "https://billing.example.com",
		})
	})
	return time.Since(began), err
}

func (l *load) makePod(ctx context.Context, i int, annotations map[string]string) error {
	// The pods of a ServiceAccount come one after the other, as those of a Deployment do.
	namespace, account := l.account(i * l.accounts / l.pods)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: account + "-", Annotations: annotations},
		Spec: corev1.PodSpec{
			ServiceAccountName: account,
			NodeName:           nodeName(i % l.nodes), // the scheduler is not what is measured
			Containers: []corev1.Container{{
				Name: "app", Image: "registry.example.com/app:1",
				Env:   []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}, {Name: "PORT", Value: "8080"}},
				Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
			}},
		},
	}
	began := time.Now()
	if _, err := l.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating a pod of %s/%s: %w", namespace, account, err)
	}
	there := time.Now()
	took := float64(there.Sub(began).Microseconds()) / 1000
	l.mu.Lock()
	defer l.mu.Unlock()
	if annotations == nil {
		l.others = append(l.others, took)
		return nil
	}
	l.injected = append(l.injected, took)
	if key := namespace + "/" + account; l.asked[key].IsZero() {
		l.asked[key] = there
	}
	return nil
}
