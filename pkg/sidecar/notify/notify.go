// Package notify tells the application of the pod that its token files have changed: by a POST to a loopback URL, by a
// signal to a process, or by both.
//
// The contract: a change is told once, after all files that change together are in place, and never for a file that
// stayed as it was. What cannot be told is tried again, for some minutes, while changes that come meanwhile join it, so
// that the newest news is what the application hears. Nothing here ever delays a refresh, or ends with it: the files are
// what counts, and an application that is never told can read them all the same.
//
// It runs in every pod of podtoken's users: the standard library, pkg/api and pkg/sidecar/config only. Do not add names
// that are looked up, redirects, or proxies: a notification must not leave the pod.
package notify

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"

	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

// Kind is a way of telling: a closed set, used in logs and as a metric label.
type Kind string

// Kinds of notifications.
const (
	// KindHTTP is a POST to a URL.
	KindHTTP Kind = "http"
	// KindSignal is a signal to a process.
	KindSignal Kind = "signal"
)

// Count is what became of the notifications of one kind, since this process started.
type Count struct {
	Kind Kind
	// Successes and Failures count attempts.
	Successes, Failures uint64
	// Pending is the number of tokens that have changed without the application knowing.
	Pending int
}

// Notifier tells of changes. Its methods may be called concurrently.
type Notifier struct {
	couriers []*courier
}

// New prepares a Notifier for what the config asks for, which may be nothing. It does no I/O and starts nothing. The
// config must be valid.
func New(c config.Config, version string, log *slog.Logger) *Notifier {
	n := &Notifier{}
	add := func(kind Kind, target string, deliver deliverFunc, onChange func()) {
		n.couriers = append(n.couriers, &courier{
			kind: kind, deliver: deliver, onChange: onChange, random: rand.Float64, wake: make(chan struct{}, 1),
			log: log.With("kind", kind, "target", target),
		})
	}
	if c.Notify != "" {
		add(KindHTTP, shownURL(c.Notify), newPoster(c.Notify, version).deliver, nil)
	}
	if c.NotifySignal != (config.Signal{}) {
		s := newSignaller(c.NotifySignal)
		add(KindSignal, c.NotifySignal.Name+":"+c.NotifySignal.Process, s.deliver, s.changed)
	}
	return n
}

// Changed has the application told that the files of these tokens have changed. It returns at once.
func (n *Notifier) Changed(tokens []string) {
	for _, c := range n.couriers {
		c.changed(tokens)
	}
}

// Run tells of the changes until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, c := range n.couriers {
		running.Go(func() { c.run(ctx) })
	}
	running.Wait()
}

// Counts has an entry for each kind that is in use.
func (n *Notifier) Counts() []Count {
	counts := make([]Count, 0, len(n.couriers))
	for _, c := range n.couriers {
		c.mu.Lock()
		count := c.count
		count.Kind, count.Pending = c.kind, len(union(c.telling, c.untold))
		c.mu.Unlock()
		counts = append(counts, count)
	}
	return counts
}
