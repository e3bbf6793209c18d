package sidecar

import (
	"context"
	"time"
)

const (
	// seldom is the least time between two renewals of our own credential, up to twice that, after the refusals that
	// patientFor counts; or when the credential should have ended, and only a wrong clock lets one hope.
	seldom = 5 * time.Minute
	// patientFor: an API server that has just started refuses everything for a moment.
	patientFor = 3
	// renewEvery is the least time after one that was not, whatever the API server grants.
	renewEvery = 30 * time.Second
)

// renewal is the state of the renewal of our own credential.
type renewal struct {
	inFlight bool
	failures int
	lastErr  *Error
	// The next one is not due before `after` has passed since `from`.
	from  instant
	after time.Duration
	// left was the life of our credential when it was asked for another.
	left time.Duration
	// problem is that of the credential file, as it was logged last.
	problem string
}

// tend keeps our own credential alive, and has its signer compared with those of the tokens. The kubelet replaces the
// file in time as a rule; when it is late, has stopped, or leaves the pod alone because it is terminating, the credential
// is renewed in memory.
func (s *Sidecar) tend(ctx context.Context, now instant) {
	c := s.minter.Credential()
	if c.Problem != s.renewal.problem {
		s.renewal.problem = c.Problem
		if c.Problem != "" {
			s.log.Warn("API credential's file cannot be used", "error", c.Problem)
		} else {
			s.log.Info("API credential's file can be used again")
		}
	}
	s.observe(c.Signer)
	s.observeOwn()
	r := &s.renewal
	if r.inFlight {
		return
	}
	if wait := max(c.RenewIn, r.after-now.since(r.from)); wait > 0 {
		s.lookWithin(wait)
		return
	}
	r.inFlight, r.left, s.connected = true, c.Left, true
	go func() {
		signer, err := s.minter.Renew(ctx)
		s.results <- result{asked: now, signer: signer, err: err}
	}()
}

// renewed ends a renewal. A refusal is logged once: a Role that somebody wrote by hand may not allow it.
func (s *Sidecar) renewed(r result) {
	state := &s.renewal
	state.inFlight = false
	state.from, state.after = s.clock(), renewEvery
	s.lookWithin(0)
	if r.err == nil {
		s.log.Info("API credential renewed", "failures", state.failures)
		state.failures, state.lastErr = 0, nil
		s.observe(r.signer)
		return
	}
	err := asError(r.err, ClassNetwork)
	state.failures++
	// Spread over what is left: after an outage the kubelets of all nodes come back in the same minute, and many pods with
	// them whose file is about to run out.
	left := state.left - state.from.since(r.asked)
	state.after = backoff(err, state.failures, life{left, left}, s.random())
	refused := err.Class == ClassForbidden || err.Class == ClassConfiguration
	if left <= 0 || refused && state.failures > patientFor {
		state.after = seldom + time.Duration(s.random()*float64(seldom))
	}
	if state.lastErr == nil || state.lastErr.Class != err.Class {
		s.log.Warn("API credential not renewed", "errorClass", err.Class, "error", err.Error(), "retryAt", state.from.wall.Add(state.after).UTC())
	}
	state.lastErr = err
}
