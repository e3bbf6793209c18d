package sidecar

import (
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

const (
	// maxInterval is the longest time between two refreshes, however long the token lives.
	maxInterval = 24 * time.Hour
	// minInterval keeps nonsense from the server from becoming a busy loop.
	minInterval = 100 * time.Millisecond
	// jitterDivisor: a refresh comes up to interval/jitterDivisor before the interval's end, never after it.
	jitterDivisor = 10
	// maxSleep bounds every sleep: timers stand still while a node is suspended, so the wall clock is looked at this
	// often. One look costs up to 0.4 ms of CPU on a busy node, so more looks are not for free.
	maxSleep = time.Minute
	// maxRetryAfter bounds what a server can ask us to wait.
	maxRetryAfter = time.Minute
	// hurry: a delay is never longer than this part of the life that is left ...
	hurry = 10
	// ... unless that is shorter than this.
	minHurriedDelay = time.Second
)

// instant is a reading of both clocks. The monotonic clock stands still while a node is suspended; the wall clock
// jumps when it is set.
type instant struct {
	monotonic time.Duration
	wall      time.Time
}

// since is the time that passed, by the clock that says more: a suspended node counts its sleep, and a wall clock that
// is set back does not postpone anything. Neither compares the node's clock with the API server's.
func (i instant) since(earlier instant) time.Duration {
	return max(i.monotonic-earlier.monotonic, i.wall.Sub(earlier.wall))
}

// back is the instant that lies d before i.
func (i instant) back(d time.Duration) instant {
	return instant{monotonic: i.monotonic - d, wall: i.wall.Add(-d)}
}

// expiry is when a token ends for our purposes: the earliest of the exp claim, the answer's expirationTimestamp, and
// warnafter. The API server extends some tokens to a year (--service-account-extend-token-expiration) for the sake of
// clients that never read their file again; the other two then say what was meant.
func expiry(claims jwt.Claims, status time.Time) time.Time {
	end := claims.Expires
	for _, other := range []time.Time{status, claims.WarnAfter} {
		if !other.IsZero() && other.Before(end) {
			end = other
		}
	}
	return end
}

// refresh is when a token is replaced: after `latest`, counted from when it was asked for; or from `earliest` on, when
// another token of the pod is refreshed anyway, so that tokens of one lifetime share a connection and a notification.
//
//	interval = min(lifetime * refreshAtPercent / 100, 24 h)
//	earliest = 9/10 of the interval
//	latest   = interval - random * interval/10, random in [0, 1)
func refresh(lifetime time.Duration, percent int, random float64) (earliest, latest time.Duration) {
	interval := lifetime / 100 * time.Duration(percent)
	interval = max(min(interval, maxInterval), minInterval)
	share := interval / jitterDivisor
	return interval - share, interval - time.Duration(random*float64(share))
}

// pace is how a class of failures is retried: full jitter between floor and base * 2^(failures-1), at most ceiling.
type pace struct {
	floor, base time.Duration
	// ceilingFirst holds as long as there is no valid token, and the application waits; ceiling after that.
	ceilingFirst, ceiling time.Duration
}

// paces by class. Unauthorized comes here only after the credential was read again. Forbidden starts fast because the
// grant of a new ServiceAccount may be some milliseconds behind its first pod.
var paces = map[Class]pace{
	ClassUnauthorized:  {100 * time.Millisecond, 500 * time.Millisecond, 15 * time.Second, time.Minute},
	ClassForbidden:     {50 * time.Millisecond, 250 * time.Millisecond, 15 * time.Second, time.Minute},
	ClassNotFound:      {500 * time.Millisecond, 2 * time.Second, 30 * time.Second, 5 * time.Minute},
	ClassConfiguration: {5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute},
	ClassThrottled:     {100 * time.Millisecond, time.Second, 30 * time.Second, 2 * time.Minute},
	ClassServer:        {100 * time.Millisecond, 500 * time.Millisecond, 15 * time.Second, time.Minute},
	ClassNetwork:       {100 * time.Millisecond, 250 * time.Millisecond, 15 * time.Second, time.Minute},
	ClassAnswer:        {500 * time.Millisecond, 2 * time.Second, 30 * time.Second, 5 * time.Minute},
	ClassCredential:    {100 * time.Millisecond, 250 * time.Millisecond, 5 * time.Second, 30 * time.Second},
	ClassFile:          {100 * time.Millisecond, 500 * time.Millisecond, 15 * time.Second, time.Minute},
}

// backoff is the delay after the given number of consecutive failures, the last of which is err. left is what remains
// of the token on disk, 0 or less for none. In order:
//
//  1. full jitter by the class of the error, as paces says;
//  2. with a valid token: at most a tenth of what is left of it, but not below one second, so that attempts come faster
//     as the end nears;
//  3. Retry-After, up to a minute, comes on top; with a valid token, up to half of what is left of it.
func backoff(err *Error, failures int, left time.Duration, random float64) time.Duration {
	p, ok := paces[err.Class]
	if !ok {
		p = paces[ClassNetwork]
	}
	ceiling := p.ceiling
	if left <= 0 {
		ceiling = p.ceilingFirst
	}
	top := p.base
	for i := 1; i < failures && top < ceiling; i++ {
		top *= 2
	}
	delay := max(p.floor, time.Duration(random*float64(min(top, ceiling))))
	if left > 0 {
		delay = min(delay, max(left/hurry, minHurriedDelay))
	}
	retryAfter := min(max(err.RetryAfter, 0), maxRetryAfter)
	if left > 0 {
		retryAfter = min(retryAfter, max(left/2, minHurriedDelay))
	}
	return delay + retryAfter
}
