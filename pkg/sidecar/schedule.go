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
	// In the last lastPart-th of its life a token is near its end: no delay is longer than a hurry-th of what is left ...
	lastPart = 20
	hurry    = 10
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
//
// After a token that was not asked for by this schedule both are shortened by phase, in [0, 1), to at least a
// twentieth: see spread.
func refresh(lifetime time.Duration, percent int, random, phase float64) (earliest, latest time.Duration) {
	interval := lifetime / 100 * time.Duration(percent)
	interval = max(min(interval, maxInterval), minInterval)
	share := interval / jitterDivisor
	return spread(interval-share, phase), spread(interval-time.Duration(random*float64(share)), phase)
}

// spread is what keeps pods apart that got their tokens in the same minute: a deployment of thousands, a node pool that
// came back, a new signing key. A tenth of jitter alone would need some hundred refreshes until nobody sees them come
// together any more; so their first refresh comes at any time of the interval, and one refresh in a pod's life is early.
// The phase is the pod's own, the same for all its tokens, so that they stay together. It is not at once: applications
// that are told of it have just begun.
func spread(interval time.Duration, phase float64) time.Duration {
	return interval - time.Duration(phase*0.95*float64(interval))
}

// pace is how a class of failures is retried.
type pace struct {
	// Without a valid token: full jitter between floor and base * 2^(failures-1), at most ceilingFirst. Somebody waits.
	floor, base, ceilingFirst time.Duration
	// ceiling bounds the delays while there is a valid token, and nobody waits.
	ceiling time.Duration
}

// patience is the longest delay of what reaches the API server. After an outage of five minutes all who missed their
// time in it come back over that long, so that the server, in trouble or just up again, sees less than twice its usual
// load (TestHerd prints the curve). Only as the end of a token nears its pod does not wait for others.
const patience = 12 * time.Minute

// paces by class. Unauthorized comes here only after the other credential was tried. Forbidden starts fast because the
// grant of a new ServiceAccount may be some milliseconds behind its first pod. What fails inside the pod has a low
// ceiling: it costs the API server nothing.
var paces = map[Class]pace{
	ClassUnauthorized:  {100 * time.Millisecond, 500 * time.Millisecond, 15 * time.Second, patience},
	ClassForbidden:     {50 * time.Millisecond, 250 * time.Millisecond, 15 * time.Second, patience},
	ClassNotFound:      {500 * time.Millisecond, 2 * time.Second, 30 * time.Second, patience},
	ClassConfiguration: {5 * time.Second, 30 * time.Second, 2 * time.Minute, patience},
	ClassThrottled:     {100 * time.Millisecond, time.Second, 30 * time.Second, patience},
	ClassServer:        {100 * time.Millisecond, 500 * time.Millisecond, 15 * time.Second, patience},
	ClassNetwork:       {100 * time.Millisecond, 250 * time.Millisecond, 15 * time.Second, patience},
	ClassAnswer:        {500 * time.Millisecond, 2 * time.Second, 30 * time.Second, patience},
	ClassCredential:    {100 * time.Millisecond, 250 * time.Millisecond, 5 * time.Second, 30 * time.Second},
	ClassFile:          {100 * time.Millisecond, 500 * time.Millisecond, 15 * time.Second, time.Minute},
}

// life is what remains of a token, 0 or less for none, and how long it was in the beginning.
type life struct{ left, whole time.Duration }

// urgent is a token that counts as none: it must be replaced as soon as anybody lets us.
var urgent = life{}

// backoff is the delay after the given number of consecutive failures, the last of which is err. In order:
//
//  1. without a valid token: full jitter by the class of the error, doubling, as paces says;
//  2. with a valid token: full jitter up to the ceiling of the class from the first failure on, but at most three quarters
//     of the life that is left, so that attempts come faster as the end nears. In the last twentieth of the life: at most
//     a tenth of what is left, but not below a second;
//  3. Retry-After, up to a minute, comes on top; with a valid token, up to half of what is left of it, and the rest of the
//     delay is what remains to the longest.
//
// So a server that is back for good is noticed before the end, however late; one that is up for a while is noticed if
// that while is as long as the longest delay at that time.
func backoff(err *Error, failures int, l life, random float64) time.Duration {
	p, ok := paces[err.Class]
	if !ok {
		p = paces[ClassNetwork]
	}
	top := p.base
	for i := 1; i < failures && top < p.ceilingFirst; i++ {
		top *= 2
	}
	top, floor := min(top, p.ceilingFirst), p.floor
	retryAfter := min(max(err.RetryAfter, 0), maxRetryAfter)
	if l.left > 0 {
		longest := l.longest()
		retryAfter = min(retryAfter, max(l.left/2, minHurriedDelay))
		// What the server asked for is a part of what may be waited, not more; some jitter is left in any case, or all whom it
		// told the same would come back together.
		room := max(longest-retryAfter, min(longest, l.left/hurry))
		// The jitter is of what may be waited, or it would be no jitter.
		top, floor = min(p.ceiling, room), min(floor, room)
	}
	return max(floor, time.Duration(random*float64(top))) + retryAfter
}

// longest is the longest delay that the life which is left allows. None leads far into the last part of a life.
func (l life) longest() time.Duration {
	last := l.whole / lastPart
	if l.left <= last {
		return max(l.left/hurry, minHurriedDelay)
	}
	return max(min(l.left*3/4, l.left-last), last/hurry, minHurriedDelay)
}
