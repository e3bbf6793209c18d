package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podtoken/podtoken/bench/report"
	"github.com/podtoken/podtoken/pkg/api"
)

// grants notes when each ServiceAccount got its RoleBinding: with that it may mint.
type grants struct {
	mu   sync.Mutex
	seen map[string]time.Time
	last time.Time
}

// watchGrants watches until ctx ends.
func watchGrants(ctx context.Context, client kubernetes.Interface) (*grants, error) {
	watch, err := client.RbacV1().RoleBindings(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	g := &grants{seen: map[string]time.Time{}}
	go func() {
		defer watch.Stop()
		for event := range watch.ResultChan() {
			binding, ok := event.Object.(*rbacv1.RoleBinding)
			if account, ours := strings.CutPrefix(nameOf(binding, ok), api.GrantPrefix); ours {
				g.note(binding.Namespace + "/" + account)
			}
		}
	}()
	return g, nil
}

func nameOf(binding *rbacv1.RoleBinding, ok bool) string {
	if !ok {
		return ""
	}
	return binding.Name
}

func (g *grants) note(account string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen[account].IsZero() {
		g.last = time.Now()
		g.seen[account] = g.last
	}
}

// wait waits until so many ServiceAccounts have their grant.
func (g *grants) wait(ctx context.Context, n int) error {
	for deadline := time.Now().Add(5 * time.Minute); ; {
		g.mu.Lock()
		have := len(g.seen)
		g.mu.Unlock()
		switch {
		case have >= n:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("%d of %d ServiceAccounts got a grant within 5 minutes", have, n)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// after are the times from a ServiceAccount's first pod to its grant, in ms.
func (g *grants) after(asked map[string]time.Time) (took report.Sample) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for account, when := range asked {
		// The watch may be faster than the answer to the creation.
		took = append(took, max(float64(g.seen[account].Sub(when).Microseconds())/1000, 0))
	}
	return took
}
