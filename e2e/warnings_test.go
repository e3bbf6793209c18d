package e2e

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// warningCollector keeps the admission warnings of a client.
type warningCollector struct {
	mu    sync.Mutex
	texts []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warningCollector) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

// String returns the warnings, a line each.
func (w *warningCollector) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.texts, "\n")
}

func (w *warningCollector) list() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.texts)
}

func (w *warningCollector) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = nil
}

func clientWithWarnings(t *testing.T, w *warningCollector) kubernetes.Interface {
	t.Helper()
	config := rest.CopyConfig(restConfig)
	config.WarningHandler = w
	c, err := kubernetes.NewForConfig(config)
	must(t, err, "building a client")
	return c
}
