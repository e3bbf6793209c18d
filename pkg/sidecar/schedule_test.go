package sidecar

import (
	"testing"
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

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
			earliest, latest := refresh(c.lifetime, c.percent, c.random)
			if earliest != c.earliest || latest.Round(time.Microsecond) != c.latest {
				t.Errorf("got %s and %s, want %s and %s", earliest, latest, c.earliest, c.latest)
			}
		})
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
	const most = 1 - 1e-12 // the top of the jitter
	for name, c := range map[string]struct {
		err      Error
		failures int
		left     time.Duration
		random   float64
		want     time.Duration
	}{
		"first 403, the grant may be on its way":        {Error{Class: "Forbidden"}, 1, 0, most, 250 * time.Millisecond},
		"full jitter goes down to the floor":            {Error{Class: "Forbidden"}, 1, 0, 0, 50 * time.Millisecond},
		"403 doubles":                                   {Error{Class: "Forbidden"}, 3, 0, most, time.Second},
		"403 is capped at 15 s while there is no token": {Error{Class: "Forbidden"}, 50, 0, most, 15 * time.Second},
		"403 is capped at a minute with a token":        {Error{Class: "Forbidden"}, 50, time.Hour, most, time.Minute},
		"an expired token is as none":                   {Error{Class: "Forbidden"}, 50, -time.Hour, most, 15 * time.Second},
		"401 comes after the file was read again":       {Error{Class: "Unauthorized"}, 1, time.Hour, most, 500 * time.Millisecond},
		"404 is slow":                                       {Error{Class: "NotFound"}, 50, time.Hour, most, 5 * time.Minute},
		"configuration is slow from the start":              {Error{Class: "Configuration"}, 1, 0, most, 30 * time.Second},
		"configuration is never fast":                       {Error{Class: "Configuration"}, 1, 0, 0, 5 * time.Second},
		"configuration takes minutes":                       {Error{Class: "Configuration"}, 50, 10 * time.Hour, most, 10 * time.Minute},
		"500 doubles up to a minute":                        {Error{Class: "Server"}, 4, time.Hour, most, 4 * time.Second},
		"no answer":                                         {Error{Class: "Network"}, 2, time.Hour, most, 500 * time.Millisecond},
		"our own credential is a local file":                {Error{Class: "Credential"}, 50, time.Hour, most, 30 * time.Second},
		"a class that nobody knows is as no answer":         {Error{Class: "?"}, 50, time.Hour, most, time.Minute},
		"Retry-After comes on top of the jitter":            {Error{Class: "Throttled", RetryAfter: 7 * time.Second}, 1, time.Hour, 0.5, 7*time.Second + 500*time.Millisecond},
		"Retry-After is honoured up to a minute":            {Error{Class: "Throttled", RetryAfter: time.Hour}, 1, time.Hour, 0.5, time.Minute + 500*time.Millisecond},
		"Retry-After does not outlive the token":            {Error{Class: "Throttled", RetryAfter: time.Hour}, 1, time.Minute, 0.5, 30*time.Second + 500*time.Millisecond},
		"a negative Retry-After is none":                    {Error{Class: "Throttled", RetryAfter: -time.Hour}, 1, time.Hour, 0.5, 500 * time.Millisecond},
		"a tenth of what is left, as the end nears":         {Error{Class: "Configuration"}, 50, 2 * time.Minute, most, 12 * time.Second},
		"but not faster than a second":                      {Error{Class: "Configuration"}, 50, 5 * time.Second, most, time.Second},
		"the end does not slow down what is faster already": {Error{Class: "Server"}, 1, 2 * time.Minute, 0.4, 200 * time.Millisecond},
		"a million failures do not overflow":                {Error{Class: "Server"}, 1000000, time.Hour, most, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			if got := backoff(&c.err, c.failures, c.left, c.random).Round(time.Microsecond); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
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
