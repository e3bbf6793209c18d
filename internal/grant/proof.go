package grant

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/event"
)

const (
	// proofInterval is how often API servers prove that they still enforce the guards.
	proofInterval = time.Minute
	// proofValidity is how long a proof counts while the API server gives no answer that says anything, as a busy one does not: what it
	// has enforced since its policies changed last it enforces still.
	proofValidity = 10 * time.Minute
	// settleTime is for how long, since the guard's objects came or changed or an API server let a probe pass, each probe must
	// have been denied. An API server takes up new policies at most once a second, and may still enforce one that was deleted
	// and is there again, let go of it, and take it up again.
	settleTime = 3 * time.Second
	// settleInterval is how often it is asked in that time.
	settleInterval = 500 * time.Millisecond
	// A proof that failed is tried again after firstProofRetry, twice that, and so on up to lastProofRetry.
	firstProofRetry = time.Second
	lastProofRetry  = 10 * time.Second
)

// proving is the problem of a guard of which nothing bad is known, and whose proof takes a moment. Pods are not told of it.
const proving = "API servers are being asked whether they enforce the guard"

// proof knows whether API servers enforce the guard that there is. Objects alone tell what they enforce in a second, or
// would if the admission plugin were on.
type proof struct {
	probe  func(context.Context) []server
	settle time.Duration
	logger *slog.Logger
	// wake ends the time between two rounds; news is that the problem has changed. Both have room for one.
	wake chan struct{}
	news chan event.GenericEvent

	mu sync.Mutex
	// of identifies the guard's objects; "" while there are none.
	of string
	// seen is when they were first seen; since is that too, or when an API server let a probe pass after that.
	seen, since time.Time
	// proven is when the API servers had proven it last; zero if they have not, or if one let a probe pass after that.
	proven  time.Time
	problem string
	servers []server
}

func newProof(probe func(context.Context) []server, logger *slog.Logger) *proof {
	return &proof{
		probe: probe, settle: settleTime, logger: logger,
		wake: make(chan struct{}, 1), news: make(chan event.GenericEvent, 1), problem: proving,
	}
}

// problemOf returns what is wrong with the guard whose objects are identified by of, "" if nothing is. Other objects than
// before begin a new proof.
func (p *proof) problemOf(of string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if of != p.of {
		p.of, p.problem = of, proving
		p.seen, p.proven = time.Now(), time.Time{}
		p.since = p.seen
		notify(p.wake, struct{}{})
	}
	return p.problem
}

// again asks for one more round before anything new is granted.
func (p *proof) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problem = proving
}

// round asks the API servers once, and returns after what time to ask again; 0 for the next failure's turn.
func (p *proof) round(ctx context.Context) time.Duration {
	p.mu.Lock()
	of := p.of
	p.mu.Unlock()
	if of == "" {
		return 0
	}
	begin := time.Now()
	servers := p.probe(ctx)
	if ctx.Err() != nil {
		return 0 // It was cut short, which says nothing about API servers.
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of != of {
		return settleInterval // The answers are about other objects.
	}
	p.report(ctx, servers)
	problem := problemOfServers(servers)
	if slices.ContainsFunc(servers, func(s server) bool { return s.state() == stateNotEnforcing }) {
		p.since, p.proven = time.Now(), time.Time{}
	}
	silent := problem != "" && !p.proven.IsZero() && begin.Sub(p.proven) < proofValidity
	switch {
	case silent:
		problem = ""
	case problem == "" && begin.Sub(p.since) < p.settle || problem != "" && begin.Sub(p.seen) < p.settle:
		problem = proving // API servers may still be at it.
	case problem == "":
		p.proven = begin
	}
	if problem != p.problem {
		p.problem = problem
		notify(p.news, event.GenericEvent{Object: serviceAccount()})
	}
	switch {
	case silent:
		return lastProofRetry
	case problem == "":
		return proofInterval
	case problem == proving:
		return settleInterval
	}
	return 0
}

// report logs what is new about API servers. The caller holds the lock.
func (p *proof) report(ctx context.Context, servers []server) {
	if describeServers(servers) != describeServers(p.servers) {
		level := slog.LevelInfo
		if slices.ContainsFunc(servers, func(s server) bool { return s.state() == stateNotEnforcing }) {
			level = slog.LevelError
		}
		var enforcing, notEnforcing, unknown []string
		for _, s := range servers {
			switch s.state() {
			case stateEnforcing:
				enforcing = append(enforcing, s.address)
			case stateNotEnforcing:
				notEnforcing = append(notEnforcing, s.address)
			default:
				unknown = append(unknown, s.address+": "+s.unknown())
			}
		}
		p.logger.Log(ctx, level, "API servers probed", "enforcing", enforcing, "notEnforcing", notEnforcing, "unknown", unknown)
	}
	p.servers = servers
}

// count returns how many API servers are in a state.
func (p *proof) count(state string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := 0
	for _, s := range p.servers {
		if s.state() == state {
			count++
		}
	}
	return count
}

// problemOfServers returns why nothing new may be granted, "" if it may: each API server that answers denies, and that of the Service does answer.
func problemOfServers(servers []server) string {
	for _, s := range servers {
		for _, v := range s.verdicts {
			if v.answer == answerOutdated {
				return fmt.Sprintf("API server %s enforces an earlier ValidatingAdmissionPolicy %q: %s", s.address, v.policy, v.reason)
			}
			if v.answer == answerAllowed {
				return fmt.Sprintf("API server %s does not enforce ValidatingAdmissionPolicy %q: it allowed a dry run that this policy must deny. "+
					"Run \"helm upgrade\" if the policy is missing, and enable the admission plugin ValidatingAdmissionPolicy in every API server", s.address, v.policy)
			}
		}
	}
	for _, s := range servers {
		for _, v := range s.verdicts {
			if v.answer == answerUnknown && s.service {
				return fmt.Sprintf("whether API server %s enforces ValidatingAdmissionPolicy %q is unknown: %s", s.address, v.policy, v.reason)
			}
		}
	}
	return ""
}

func describeServers(servers []server) string {
	var text strings.Builder
	for _, s := range servers {
		_, _ = fmt.Fprintf(&text, "%s %s %s\n", s.address, s.state(), s.unknown())
	}
	return text.String()
}

// notify puts something into a channel unless there is something to be taken already.
func notify[T any](channel chan<- T, what T) {
	select {
	case channel <- what:
	default:
	}
}

// proofs is the work of all replicas, also of those that wait for the Lease: the next leader has its proof.
type proofs struct {
	guard   *guard
	elected <-chan struct{}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (p *proofs) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable: it proves the guard again and again until ctx is done.
func (p *proofs) Start(ctx context.Context) error {
	elected, retry := p.elected, firstProofRetry
	for {
		p.guard.problem(ctx) // reads which objects there are
		wait := p.guard.proof.round(ctx)
		if wait == 0 {
			wait, retry = retry, min(2*retry, lastProofRetry)
		} else {
			retry = firstProofRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-elected:
			elected = nil
			p.guard.proof.again() // No grant of a new leader rests on what it heard as another's stand-in.
		case <-p.guard.proof.wake:
			retry = firstProofRetry
		case <-timer.C:
		}
		timer.Stop()
	}
}
