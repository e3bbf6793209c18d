package main

import (
	"context"
	"sync"
	"time"
)

// probeInterval is how long the result of a handshake with ourselves is the answer to /readyz. Any Pod can request it as often as it
// likes, and each handshake costs 25 times what the rest of an answer does.
const probeInterval = time.Second

// limitedProbe does one probe at a time, and keeps its result.
type limitedProbe struct {
	mu     sync.Mutex
	probed time.Time
	err    error
	// running is closed when the probe that is running has ended; nil if there is none.
	running chan struct{}
}

// result returns what the last probe returned, or the one that it starts or finds running. A caller that gives up ends no probe, for
// others wait for it as well.
func (p *limitedProbe) result(ctx context.Context, timeout time.Duration, probe func(context.Context) error) error {
	p.mu.Lock()
	if p.running == nil && (p.probed.IsZero() || time.Since(p.probed) >= probeInterval) {
		running := make(chan struct{})
		p.running = running
		go func() {
			probing, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
			defer cancel()
			err := probe(probing)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.probed, p.err, p.running = time.Now(), err, nil
			close(running)
		}()
	}
	running := p.running
	p.mu.Unlock()
	if running != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-running:
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
