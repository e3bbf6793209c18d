package sidecar

import (
	"maps"
	"time"
)

// Snapshot is what is known of all tokens at one moment, for metrics and health. Nothing in it is changed afterwards.
type Snapshot struct {
	Tokens []TokenSnapshot
}

// TokenSnapshot is one token's part of a Snapshot.
type TokenSnapshot struct {
	Name string
	// Expires is when the token on disk ends, by the API server's clock, and Ends the same by the node's; zero while there is
	// none.
	Expires, Ends time.Time
	// LastSuccess is when this process wrote, or kept, the file; zero for never.
	LastSuccess time.Time
	// AskedSeconds and GrantedSeconds are the lifetime that was asked for and the one of the token on disk (0 for none).
	AskedSeconds, GrantedSeconds int64
	// Failures counts failed attempts by class, Refreshes written tokens by cause, since this process started.
	// Every class and every cause is there, also at 0.
	Failures  map[Class]uint64
	Refreshes map[Cause]uint64
	// Restored counts files that somebody else had deleted or changed and that were put back.
	Restored uint64
}

// tell hands out a Snapshot.
func (s *Sidecar) tell() {
	if s.onSnapshot == nil {
		return
	}
	snapshot := Snapshot{Tokens: make([]TokenSnapshot, 0, len(s.tokens))}
	for _, t := range s.tokens {
		one := TokenSnapshot{
			Name:         t.spec.Name,
			AskedSeconds: t.spec.ExpirationSeconds,
			Failures:     maps.Clone(t.failed),
			Refreshes:    maps.Clone(t.refreshed),
			Restored:     t.restored,
		}
		if t.exists {
			one.Expires, one.LastSuccess, one.GrantedSeconds = t.expires, t.lastSuccess, int64(t.lifetime/time.Second)
			one.Ends = t.received.wall.Add(t.lifetime)
		}
		snapshot.Tokens = append(snapshot.Tokens, one)
	}
	s.onSnapshot(snapshot)
}
