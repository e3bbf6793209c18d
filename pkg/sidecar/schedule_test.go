package sidecar

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

// most is the top of the jitter.
const most = 1 - 1e-12

func TestRefreshComesAtAPercentageOfTheGrantedLifetime(t *testing.T) {
	for name, c := range map[string]struct {
		lifetime         time.Duration
		percent          int
		random           float64
		earliest, latest time.Duration
	}{
		"80 percent of an hour":                          {time.Hour, 80, 0, 43*time.Minute + 12*time.Second, 48 * time.Minute},
		"the most jitter is a tenth, downward":           {time.Hour, 80, 0.999999999999, 43*time.Minute + 12*time.Second, 43*time.Minute + 12*time.Second},
		"half of the jitter":                             {time.Hour, 80, 0.5, 43*time.Minute + 12*time.Second, 45*time.Minute + 36*time.Second},
		"20 percent of the shortest lifetime":            {10 * time.Minute, 20, 0, 108 * time.Second, 2 * time.Minute},
		"never later than a day":                         {30 * 24 * time.Hour, 80, 0, 21*time.Hour + 36*time.Minute, 24 * time.Hour},
		"a day minus jitter":                             {30 * 24 * time.Hour, 80, 0.5, 21*time.Hour + 36*time.Minute, 22*time.Hour + 48*time.Minute},
		"136 years do not overflow":                      {(1 << 32) * time.Second, 90, 0, 21*time.Hour + 36*time.Minute, 24 * time.Hour},
		"a lifetime of nothing is no busy loop":          {0, 80, 0, 90 * time.Millisecond, 100 * time.Millisecond},
		"a lifetime before its beginning neither":        {-time.Hour, 80, 0, 90 * time.Millisecond, 100 * time.Millisecond},
		"one second, as a test's API server may give it": {time.Second, 80, 0, 720 * time.Millisecond, 800 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			earliest, latest := refresh(c.lifetime, c.percent, c.random, 0)
			if earliest != c.earliest || latest.Round(time.Microsecond) != c.latest {
				t.Errorf("got %s and %s, want %s and %s", earliest, latest, c.earliest, c.latest)
			}
		})
	}
}

// Pods that were started together must not refresh together: the first refresh comes at any time of the interval.
func TestTheFirstRefreshIsSpreadOverTheInterval(t *testing.T) {
	for phase, want := range map[float64][2]time.Duration{
		0:    {43*time.Minute + 12*time.Second, 48 * time.Minute},
		0.5:  {22*time.Minute + 40*time.Second + 800*time.Millisecond, 25*time.Minute + 12*time.Second},
		most: {2*time.Minute + 9*time.Second + 600*time.Millisecond, 2*time.Minute + 24*time.Second},
	} {
		earliest, latest := refresh(time.Hour, 80, 0, phase)
		if got := [2]time.Duration{earliest.Round(time.Microsecond), latest.Round(time.Microsecond)}; got != want {
			t.Errorf("phase %v: got %v, want %v", phase, got, want)
		}
	}
}

func TestExpiryIsTheEarliestThatTheAnswerSays(t *testing.T) {
	issued := time.Unix(1790000000, 0).UTC()
	in := func(d time.Duration) time.Time { return issued.Add(d) }
	for name, c := range map[string]struct {
		exp, warnAfter, status time.Time
		want                   time.Duration
	}{
		"claim and status agree":                             {exp: in(time.Hour), status: in(time.Hour), want: time.Hour},
		"the status is computed before signing":              {exp: in(time.Hour), status: in(time.Hour - time.Second), want: time.Hour - time.Second},
		"a token extended to a year counts as its status":    {exp: in(365 * 24 * time.Hour), warnAfter: in(3607 * time.Second), status: in(3607 * time.Second), want: 3607 * time.Second},
		"an extended token found on disk has only its claim": {exp: in(365 * 24 * time.Hour), warnAfter: in(3607 * time.Second), want: 3607 * time.Second},
		"on disk the claim counts":                           {exp: in(10 * time.Minute), want: 10 * time.Minute},
		"a status beyond the claim does not count":           {exp: in(10 * time.Minute), status: in(time.Hour), want: 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			if got := expiry(jwt.Claims{Expires: c.exp, WarnAfter: c.warnAfter}, c.status); !got.Equal(in(c.want)) {
				t.Errorf("got %s, want %s", got, in(c.want))
			}
		})
	}
}

func TestSinceGoesByTheClockThatSaysMore(t *testing.T) {
	wall := time.Unix(1790000000, 0)
	earlier := instant{monotonic: time.Hour, wall: wall}
	for name, c := range map[string]struct {
		now  instant
		want time.Duration
	}{
		"both agree":                          {instant{time.Hour + time.Minute, wall.Add(time.Minute)}, time.Minute},
		"the node was suspended":              {instant{time.Hour + time.Second, wall.Add(8 * time.Hour)}, 8 * time.Hour},
		"the wall clock was set back an hour": {instant{time.Hour + time.Minute, wall.Add(-time.Hour)}, time.Minute},
		"nothing passed":                      {earlier, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.now.since(earlier); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for name, c := range map[string]struct {
		err      Error
		failures int
		left     time.Duration
		random   float64
		want     time.Duration
	}{
		"first 403, the grant may be on its way":          {Error{Class: "Forbidden"}, 1, 0, most, 250 * time.Millisecond},
		"full jitter goes down to the floor":              {Error{Class: "Forbidden"}, 1, 0, 0, 50 * time.Millisecond},
		"403 doubles":                                     {Error{Class: "Forbidden"}, 3, 0, most, time.Second},
		"403 is capped at 15 s while there is no token":   {Error{Class: "Forbidden"}, 50, 0, most, 15 * time.Second},
		"an expired token is as none":                     {Error{Class: "Forbidden"}, 50, -time.Hour, most, 15 * time.Second},
		"with a token nobody waits":                       {Error{Class: "Network"}, 1, time.Hour, most, 12 * time.Minute},
		"the next may come at any time until then":        {Error{Class: "Network"}, 1, time.Hour, 0.25, 3 * time.Minute},
		"three quarters of what is left":                  {Error{Class: "Server"}, 2, 12 * time.Minute, most, 9 * time.Minute},
		"half of that with half of the jitter":            {Error{Class: "Server"}, 9, 12 * time.Minute, 0.5, 270 * time.Second},
		"not far into the last twentieth":                 {Error{Class: "Server"}, 9, 10 * time.Minute, most, 7 * time.Minute},
		"401 comes after the other credential was tried":  {Error{Class: "Unauthorized"}, 1, 0, most, 500 * time.Millisecond},
		"404 without a token is slow":                     {Error{Class: "NotFound"}, 50, 0, most, 30 * time.Second},
		"configuration is slow from the start":            {Error{Class: "Configuration"}, 1, 0, most, 30 * time.Second},
		"configuration is never fast":                     {Error{Class: "Configuration"}, 1, time.Hour, 0, 5 * time.Second},
		"configuration takes minutes":                     {Error{Class: "Configuration"}, 50, time.Hour, most, 12 * time.Minute},
		"500 doubles without a token":                     {Error{Class: "Server"}, 4, 0, most, 4 * time.Second},
		"our own credential is a local file":              {Error{Class: "Credential"}, 50, time.Hour, most, 30 * time.Second},
		"so is the token's":                               {Error{Class: "File"}, 50, time.Hour, most, time.Minute},
		"a class that nobody knows is as no answer":       {Error{Class: "?"}, 50, 0, most, 15 * time.Second},
		"Retry-After comes on top of the jitter":          {Error{Class: "Throttled", RetryAfter: 7 * time.Second}, 1, 0, 0.5, 7*time.Second + 500*time.Millisecond},
		"Retry-After is honoured up to a minute":          {Error{Class: "Throttled", RetryAfter: time.Hour}, 1, 0, 0.5, time.Minute + 500*time.Millisecond},
		"Retry-After does not outlive the token":          {Error{Class: "Throttled", RetryAfter: time.Hour}, 1, time.Minute, 0.5, 33 * time.Second},
		"what was asked for is a part of the delay":       {Error{Class: "Throttled", RetryAfter: time.Minute}, 1, 10 * time.Minute, most, 7 * time.Minute},
		"a negative Retry-After is none":                  {Error{Class: "Throttled", RetryAfter: -time.Hour}, 1, 0, 0.5, 500 * time.Millisecond},
		"the last twentieth: a tenth of what is left":     {Error{Class: "Network"}, 50, 2 * time.Minute, most, 12 * time.Second},
		"of any class, with the least jitter":             {Error{Class: "Configuration"}, 50, 20 * time.Second, 0, 2 * time.Second},
		"but not faster than a second":                    {Error{Class: "Configuration"}, 50, 5 * time.Second, most, time.Second},
		"the end does not slow down what is fast already": {Error{Class: "Server"}, 1, 2 * time.Minute, 0.01, 120 * time.Millisecond},
		"a million failures do not overflow":              {Error{Class: "Server"}, 1000000, 0, most, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := backoff(&c.err, c.failures, life{c.left, time.Hour}, c.random).Round(time.Microsecond); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// Whatever the server asks for: while there is a token the next attempt comes before it ends.
func TestNoDelayOutlivesTheToken(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 4))
	for range 100000 {
		whole := time.Duration(float64(10*time.Minute) * (1 + 10*random.Float64()))
		left := 2*time.Second + time.Duration(random.Float64()*random.Float64()*float64(whole))
		err := &Error{Class: Classes()[random.IntN(len(Classes()))], RetryAfter: time.Duration(random.Float64() * float64(2*time.Minute))}
		if delay := backoff(err, 1+random.IntN(9), life{left, whole}, random.Float64()); delay >= left {
			t.Fatalf("%s after %q with Retry-After %s, of %s only %s are left", delay, err.Class, err.RetryAfter, whole, left)
		}
	}
}

func TestEveryClassHasAPace(t *testing.T) {
	for _, class := range Classes() {
		p, ok := paces[class]
		if !ok || p.floor <= 0 || p.base < p.floor || p.ceilingFirst < p.base || p.ceiling < p.ceilingFirst {
			t.Errorf("class %s: %+v", class, p)
		}
	}
	if len(paces) != len(Classes()) {
		t.Errorf("%d paces for %d classes", len(paces), len(Classes()))
	}
}

// While everything fails, attempts go on so that no time in which the server answers is missed if it is as long as the
// schedule promises: three quarters of the life that is left, at most patience; a tenth, or a second, in the last
// twentieth of the life.
func TestNoGapBetweenAttemptsIsLongerThanPromised(t *testing.T) {
	promised := func(left, lifetime time.Duration) time.Duration {
		if left <= lifetime/20 {
			return max(left/10, lifetime/200, time.Second)
		}
		return min(left*3/4, 12*time.Minute)
	}
	random := rand.New(rand.NewPCG(1, 4))
	for range 600 {
		lifetime := []time.Duration{10 * time.Minute, time.Hour, 24 * time.Hour, 30 * 24 * time.Hour}[random.IntN(4)]
		token := newToken(api.TokenSpec{Name: "vault", RefreshAtPercent: 20 + random.IntN(71)}, 0o400)
		token.cause = CauseScheduled
		token.succeed(at(0), lifetime, random.Float64(), random.Float64())
		class := Classes()[random.IntN(len(Classes()))]
		now, end := token.after, lifetime-time.Second
		for now < end {
			token.retry(at(now), &Error{Class: class}, random.Float64())
			next := min(now+token.after, end)
			if token.after <= 0 {
				t.Fatal("a busy loop")
			}
			// The server comes up right after an attempt, or when the last twentieth begins.
			for _, up := range []time.Duration{now, end - lifetime/20} {
				if up >= now && next-up > promised(end-up, lifetime) {
					t.Fatalf("%s, token of %s: no attempt from %s to %s before its end, promised are %s", class, lifetime, end-up, end-next, promised(end-up, lifetime))
				}
			}
			now = next
		}
	}
}
