package sidecar

import (
	"io/fs"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

// token is the state of one token.
type token struct {
	spec api.TokenSpec
	mode fs.FileMode

	// What lies on disk; exists is false when it is not ours or not there. content and file are what must lie there.
	exists  bool
	content Secret
	file    fs.FileInfo
	made    []made
	// cluster is what is in their texts, if usesCluster.
	cluster     tokenfile.Cluster
	usesCluster bool
	signer      Signer
	received    instant
	lifetime    time.Duration
	expires     time.Time
	lastSuccess time.Time

	// pending was minted but could not be written: the next attempt writes it and asks for nothing.
	pending *result
	// broken is the state of a file that somebody else changed and that could not be put back yet.
	broken repair

	// The next attempt is due when `after` has passed since `from`; from `early` on it goes along with others.
	from         instant
	after, early time.Duration
	cause        Cause
	inFlight     bool
	// again has the token asked for once more when the request in flight has ended.
	again bool

	failures int
	lastErr  *Error
	loggedAt instant

	// Counted since the process started.
	failed    map[Class]uint64
	refreshed map[Cause]uint64
	restored  uint64
}

func newToken(spec api.TokenSpec, mode fs.FileMode) *token {
	t := &token{spec: spec, mode: mode, failed: map[Class]uint64{}, refreshed: map[Cause]uint64{}}
	for _, file := range spec.Files {
		t.made = append(t.made, made{spec: file})
		t.usesCluster = t.usesCluster || usesCluster(file.Steps)
	}
	for _, class := range Classes() {
		t.failed[class] = 0
	}
	for _, cause := range Causes() {
		t.refreshed[cause] = 0
	}
	return t
}

// Cause is why a token is asked for.
type Cause string

// Causes of refreshes: a closed set, used in logs and as a metric label.
const (
	// CauseMissing: there was no file.
	CauseMissing Cause = "Missing"
	// CauseUnusable: the file was not the one that is wanted.
	CauseUnusable Cause = "Unusable"
	// CauseScheduled: it was time.
	CauseScheduled Cause = "Scheduled"
	// CauseAsked: somebody asked for it.
	CauseAsked Cause = "Asked"
	// CauseKeyRotated: the API server signs with another key than the token's.
	CauseKeyRotated Cause = "KeyRotated"
	// CauseServiceAccountRecreated: the ServiceAccount was deleted and made again, and the token is of the old one.
	CauseServiceAccountRecreated Cause = "ServiceAccountRecreated"
)

// Causes lists every Cause, in the order above.
func Causes() []Cause {
	return []Cause{CauseMissing, CauseUnusable, CauseScheduled, CauseAsked, CauseKeyRotated, CauseServiceAccountRecreated}
}

// result is the end of a request: for a token, or for our own credential.
type result struct {
	token  *token // nil for our own credential
	asked  instant
	minted Token
	signer Signer // of our own credential
	err    error
}

// succeed plans the replacement of a token that was asked for at the given time.
func (t *token) succeed(received instant, lifetime time.Duration, random, phase float64) {
	if t.cause == CauseScheduled && (!t.exists || t.left(received) > 0) {
		phase = 0
	}
	t.exists, t.received, t.lifetime = true, received, lifetime
	t.failures, t.lastErr, t.loggedAt = 0, nil, instant{}
	t.from, t.cause = received, CauseScheduled
	t.early, t.after = refresh(lifetime, t.spec.RefreshAtPercent, random, phase)
}

// retry plans the next attempt after a failure.
func (t *token) retry(now instant, err *Error, random float64) {
	t.failures++
	t.lastErr, t.from = err, now
	l := life{t.left(now), t.lifetime}
	if t.cause != CauseScheduled {
		// What lies on disk may already be refused by those it is for, or somebody waits.
		l = urgent
	}
	t.after = backoff(err, t.failures, l, random)
	t.early = t.after
}

// dueIn has the token asked for after a delay, whatever it waits for now.
func (t *token) dueIn(now instant, delay time.Duration, cause Cause) {
	t.from, t.after, t.early, t.cause, t.again = now, delay, delay, cause, false
}

// due tells whether it is time, or, if others are asked for now, nearly so.
func (t *token) due(now instant, together bool) bool {
	if together {
		return now.since(t.from) >= t.early
	}
	return now.since(t.from) >= t.after
}

// left is what remains of the token on disk; 0 or less for none.
func (t *token) left(now instant) time.Duration {
	if !t.exists {
		return 0
	}
	// iat is cut to whole seconds, so a token may be issued up to a second later than it says.
	return t.lifetime - time.Second - now.since(t.received)
}

func (t *token) pendingLifetime() time.Duration {
	claims := t.pending.minted.Claims
	return expiry(claims, t.pending.minted.Expires).Sub(claims.IssuedAt)
}

// nextAt is the wall clock's time of the next attempt.
func (t *token) nextAt() time.Time { return t.from.wall.Add(t.after).UTC().Truncate(time.Millisecond) }
