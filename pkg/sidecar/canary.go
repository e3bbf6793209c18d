package sidecar

import (
	"slices"
	"time"
)

const (
	// canaryJitter spreads what a new key makes thousands of pods ask for. They do not see it in the same second anyway:
	// each learns it from its own credential, which the kubelet replaces every eight minutes, at its next look.
	canaryJitter = 10 * time.Second
	// newSignerEvery bounds how often signers that were never seen before may replace all tokens.
	newSignerEvery = time.Minute
	// seenSignerEvery, doubled each time, is the same for signers that were: while API servers sign with different keys in
	// a rollout, each of them is right. The last one to be seen counts in the end.
	seenSignerEvery = 10 * time.Minute
	// maxSigners bounds what is remembered.
	maxSigners = 8
)

// canary remembers by whom tokens were signed.
type canary struct {
	seen   []Signer // without times
	rounds int      // in a row, without a new signer
	last   instant
	ran    bool
}

func (e Signer) withoutTime() Signer {
	e.IssuedAt = time.Time{}
	return e
}

// mark remembers a signer and tells whether it is new.
func (c *canary) mark(e Signer) bool {
	e = e.withoutTime()
	if slices.Contains(c.seen, e) {
		return false
	}
	if len(c.seen) == maxSigners {
		c.seen = slices.Delete(c.seen, 0, 1)
	}
	c.seen = append(c.seen, e)
	return true
}

// rest is how long nobody may be asked for again because of another signer.
func (c *canary) rest(known bool, now instant) time.Duration {
	if !c.ran {
		return 0
	}
	rest := newSignerEvery
	if known {
		rest = min(seenSignerEvery<<min(c.rounds, 10), maxInterval)
	}
	return rest - now.since(c.last)
}

// outdated tells what makes a token older than the evidence useless, or may soon; empty for nothing. A token that is not
// older says nothing about it: API servers that sign with different keys are all right.
func (t *token) outdated(e Signer) Cause {
	switch {
	case !t.exists || t.inFlight || !e.IssuedAt.After(t.signer.IssuedAt):
	case e.ServiceAccountUID != "" && t.signer.ServiceAccountUID != "" && e.ServiceAccountUID != t.signer.ServiceAccountUID:
		return CauseServiceAccountRecreated
	case e.KeyID != "" && e.KeyID != t.signer.KeyID:
		return CauseKeyRotated
	}
	return ""
}

// observe compares a token just seen, our own credential or one that was minted, with those on disk. When the API server
// signs with another key, or the ServiceAccount was made again, every token that is older is replaced, not up to 80 % of
// its life later. It is called with the same evidence again and again, so that what comes too early is done later.
func (s *Sidecar) observe(e Signer) {
	if e.IssuedAt.IsZero() {
		return
	}
	now := s.clock()
	var stale []*token
	for _, t := range s.tokens {
		if t.outdated(e) != "" {
			stale = append(stale, t)
		}
	}
	if stale == nil {
		s.canary.mark(e)
		return
	}
	known := slices.Contains(s.canary.seen, e.withoutTime())
	if s.canary.rest(known, now) > 0 {
		return
	}
	if s.canary.mark(e) {
		s.canary.rounds = 0
	} else if s.canary.ran {
		s.canary.rounds++
	}
	s.canary.last, s.canary.ran = now, true
	delay := time.Duration(s.random() * float64(canaryJitter))
	names := make([]string, 0, len(stale))
	cause := stale[0].outdated(e)
	for _, t := range stale {
		names = append(names, t.spec.Name)
		t.pending = nil
		t.dueIn(now, delay, t.outdated(e))
	}
	s.log.Warn("Tokens are outdated", "tokens", names, "cause", cause, "keyID", e.KeyID, "serviceAccountUID", e.ServiceAccountUID)
}

// observeOwn compares the tokens on disk with each other: a refresh of one may be the first to show a new key.
func (s *Sidecar) observeOwn() {
	var newest Signer
	for _, t := range s.tokens {
		if t.exists && t.signer.IssuedAt.After(newest.IssuedAt) {
			newest = t.signer
		}
	}
	s.observe(newest)
}
