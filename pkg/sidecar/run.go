package sidecar

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/status"
)

// concurrency bounds the requests at a time.
const concurrency = 4

// Sidecar keeps the tokens of one Config. All its state belongs to the goroutine of Run.
type Sidecar struct {
	config  config.Config
	minter  Minter
	writer  Writer
	log     *slog.Logger
	version string
	onBatch func(context.Context, Batch)
	refresh <-chan os.Signal

	clock  func() instant
	random func() float64

	tokens  []*token
	results chan result
	running int
	batch   Batch
	// connected since the minter was told to rest.
	connected bool
}

// Batch is what changed between two times of rest.
type Batch struct {
	// Written are the names of the tokens whose files were replaced, sorted.
	Written []string
}

// Deps are what a Sidecar works with.
type Deps struct {
	Minter  Minter
	Writer  Writer
	Log     *slog.Logger
	Version string
	// OnBatch, if set, is called by Run after files were replaced and nothing is on its way any more: the place for
	// notifications. It must not block for long.
	OnBatch func(context.Context, Batch)
	// Refresh, if set, asks for every token to be replaced now.
	Refresh <-chan os.Signal
}

// token is the state of one token.
type token struct {
	spec api.TokenSpec
	mode fs.FileMode

	// What lies on disk; exists is false when it is not ours or not there.
	exists      bool
	received    instant
	lifetime    time.Duration
	expires     time.Time
	lastSuccess time.Time

	// pending was minted but could not be written: the next attempt writes it and asks for nothing.
	pending *result

	// The next attempt is due when `after` has passed since `from`; from `early` on it goes along with others.
	from         instant
	after, early time.Duration
	cause        cause
	inFlight     bool
	// again has the token asked for once more when the request in flight has ended.
	again bool

	failures int
	lastErr  *Error
	loggedAt instant
}

// cause is why a token is asked for.
type cause string

const (
	causeMissing   cause = "Missing"   // no file
	causeUnusable  cause = "Unusable"  // a file that is not the one that is wanted
	causeScheduled cause = "Scheduled" // it is time
	causeAsked     cause = "Asked"     // somebody asked for it
)

type result struct {
	token  *token
	asked  instant
	minted Token
	err    error
}

// New prepares a Sidecar; it does no I/O. The config must be valid.
func New(c config.Config, deps Deps) *Sidecar {
	started := time.Now()
	s := &Sidecar{
		config:  c,
		minter:  deps.Minter,
		writer:  deps.Writer,
		log:     deps.Log,
		version: deps.Version,
		onBatch: deps.OnBatch,
		refresh: deps.Refresh,
		clock: func() instant {
			now := time.Now()
			return instant{monotonic: now.Sub(started), wall: now.Round(0)}
		},
		random:  rand.Float64,
		results: make(chan result, concurrency),
	}
	for _, spec := range c.Tokens {
		mode, _ := config.ParseMode(spec.Mode) // the config is valid
		s.tokens = append(s.tokens, &token{spec: spec, mode: mode})
	}
	return s
}

// Run keeps the tokens until ctx ends, whatever fails. It then returns at once and leaves the files where they are;
// the error is an *IncompleteError when a token never existed.
func (s *Sidecar) Run(ctx context.Context) error {
	s.logStart()
	if err := s.writer.Clean(); err != nil {
		s.log.Warn("Removing temporary files of an earlier run failed", "error", err.Error())
	}
	for _, t := range s.tokens {
		s.inspect(t)
	}
	s.saveStatus()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.launch(ctx)
		pause := s.pause()
		if s.running == 0 {
			s.endBatch(ctx, pause)
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return s.incomplete()
		case r := <-s.results:
			s.finish(r)
			s.saveStatus()
		case <-s.refresh:
			s.makeDue()
		case <-timer.C:
		}
	}
}

// makeDue has every token asked for now, also those that wait after a failure.
func (s *Sidecar) makeDue() {
	now := s.clock()
	for _, t := range s.tokens {
		// An answer that is on its way, or was never written, may be older than the reason for asking.
		t.again, t.pending = t.inFlight, nil
		if !t.inFlight {
			t.dueNow(now)
		}
	}
}

func (t *token) dueNow(now instant) {
	t.from, t.after, t.early, t.cause, t.again = now, 0, 0, causeAsked, false
}

// launch starts the requests that are due. When it is one token's regular time, all whose time is near go along; a
// retry takes nobody along.
func (s *Sidecar) launch(ctx context.Context) {
	now := s.clock()
	together := slices.ContainsFunc(s.tokens, func(t *token) bool {
		return !t.inFlight && t.failures == 0 && now.since(t.from) >= t.after
	})
	for _, t := range s.tokens {
		wanted := t.after
		if together {
			wanted = t.early
		}
		if t.inFlight || now.since(t.from) < wanted || s.running >= concurrency {
			continue
		}
		if t.pending != nil && now.since(t.pending.asked) < t.pendingLifetime()/2 {
			s.store(*t.pending)
			s.saveStatus()
			continue
		}
		t.inFlight, t.pending = true, nil
		s.running++
		s.connected = true
		go func() {
			minted, err := s.minter.Mint(ctx, t.spec)
			s.results <- result{token: t, asked: now, minted: minted, err: err}
		}()
	}
}

// pause is how long nothing will be due.
func (s *Sidecar) pause() time.Duration {
	pause := maxSleep
	if s.running >= concurrency {
		return pause
	}
	now := s.clock()
	for _, t := range s.tokens {
		if !t.inFlight {
			pause = min(pause, t.after-now.since(t.from))
		}
	}
	return max(pause, 0)
}

// lingering is how long a connection may stay open when the next attempt is that near.
const lingering = 2 * time.Second

func (s *Sidecar) endBatch(ctx context.Context, pause time.Duration) {
	if s.connected && pause > lingering {
		s.minter.Idle()
		s.connected = false
	}
	if len(s.batch.Written) == 0 {
		return
	}
	batch := s.batch
	s.batch = Batch{}
	slices.Sort(batch.Written)
	if s.onBatch != nil {
		s.onBatch(ctx, batch)
	}
}

func (s *Sidecar) finish(r result) {
	s.running--
	r.token.inFlight = false
	if r.err != nil {
		s.fail(r.token, asError(r.err, ClassNetwork))
	} else {
		s.store(r)
	}
	if r.token.again {
		r.token.dueNow(s.clock())
	}
}

// store writes a minted token and plans its replacement.
func (s *Sidecar) store(r result) {
	t := r.token
	if err := s.writer.Write(t.spec.Path, []byte(r.minted.Secret), t.mode); err != nil {
		t.pending = &r
		s.fail(t, asError(err, ClassFile))
		return
	}
	t.pending = nil
	expires := expiry(r.minted.Claims, r.minted.Expires)
	cause, failures, first := t.cause, t.failures, !t.exists
	s.adopt(t, r.asked, expires, expires.Sub(r.minted.Claims.IssuedAt))
	s.batch.Written = append(s.batch.Written, t.spec.Name)
	s.log.Info("Token written",
		"token", t.spec.Name, "path", t.spec.Path, "audiences", t.spec.Audiences, "cause", cause, "failures", failures,
		"jti", r.minted.Claims.ID, "expiresAt", expires, "refreshAt", t.nextAt())
	s.compareWithRequest(t, r, first)
}

// adopt makes a token on disk the current one.
func (s *Sidecar) adopt(t *token, received instant, expires time.Time, lifetime time.Duration) {
	t.exists, t.received, t.expires, t.lifetime = true, received, expires, lifetime
	t.lastSuccess = s.clock().wall
	t.failures, t.lastErr, t.loggedAt = 0, nil, instant{}
	t.from, t.cause = received, causeScheduled
	t.early, t.after = refresh(lifetime, t.spec.RefreshAtPercent, s.random())
}

// fail plans the next attempt.
func (s *Sidecar) fail(t *token, err *Error) {
	now := s.clock()
	changed := t.lastErr == nil || t.lastErr.Class != err.Class
	hadLeft := t.lastErr != nil && t.left(t.from) > 0
	t.failures++
	t.lastErr, t.from = err, now
	left := t.left(now)
	t.after = backoff(err, t.failures, left, s.random())
	t.early = t.after
	s.logFailure(t, now, left, changed || hadLeft && left <= 0)
}

// left is what remains of the token on disk; 0 or less for none.
func (t *token) left(now instant) time.Duration {
	if !t.exists {
		return 0
	}
	return t.lifetime - now.since(t.received)
}

func (t *token) pendingLifetime() time.Duration {
	claims := t.pending.minted.Claims
	return expiry(claims, t.pending.minted.Expires).Sub(claims.IssuedAt)
}

// nextAt is the wall clock's time of the next attempt.
func (t *token) nextAt() time.Time { return t.from.wall.Add(t.after).UTC().Truncate(time.Millisecond) }

// inspect looks at the file that a predecessor may have left, and plans the first attempt.
func (s *Sidecar) inspect(t *token) {
	now := s.clock()
	t.from, t.cause = now, causeUnusable
	f, err := status.ReadFile(s.config.Dir, t.spec.Path)
	if errors.Is(err, fs.ErrNotExist) {
		t.cause = causeMissing
		return
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	} else {
		problem = s.mismatch(t, f)
	}
	claims := f.Claims
	expires := expiry(claims, time.Time{})
	// The file's time is by this node's clock, the claims' by the API server's: the older one counts.
	age := max(now.wall.Sub(claims.IssuedAt), now.wall.Sub(f.Modified), 0)
	lifetime := expires.Sub(claims.IssuedAt)
	if problem == "" && (age >= lifetime || !expires.After(now.wall)) {
		problem = "it expired"
	}
	if problem != "" {
		s.log.Info("Token file replaced", "token", t.spec.Name, "path", t.spec.Path, "problem", problem)
		return
	}
	s.adopt(t, now.back(age), expires, lifetime)
	if f.Mode != t.mode {
		if err := s.rewrite(t); err != nil {
			s.fail(t, asError(err, ClassFile))
			t.after, t.early = 0, 0
			return
		}
	}
	s.log.Info("Token kept",
		"token", t.spec.Name, "path", t.spec.Path, "audiences", t.spec.Audiences,
		"jti", claims.ID, "expiresAt", expires, "refreshAt", t.nextAt())
}

// mismatch is why the token in a file is not the one that is wanted; empty when it is.
func (s *Sidecar) mismatch(t *token, f status.File) string {
	pod, claims := s.config.Pod, f.Claims
	switch {
	case claims.PodUID != pod.UID || claims.PodName != pod.Name || claims.Namespace != pod.Namespace:
		return "it is bound to another pod"
	case claims.ServiceAccountName != pod.ServiceAccount:
		return "it is of another ServiceAccount"
	case !claims.HasAudiences(t.spec.Audiences):
		return "it has other audiences"
	}
	return ""
}
