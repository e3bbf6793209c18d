package sidecar

import (
	"context"
	"slices"
	"time"
)

// concurrency bounds the requests for tokens at a time.
const concurrency = 4

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
	s.changed()
	alarm := s.alarm
	if alarm == nil {
		timer := time.NewTimer(0)
		defer timer.Stop()
		alarm = runtimeAlarm{timer}
	}
	for {
		s.look(ctx)
		s.launch(ctx)
		pause := s.pause()
		s.rest(pause)
		s.endBatch(ctx)
		alarm.Set(pause)
		select {
		case <-ctx.Done():
			return s.incomplete()
		case r := <-s.results:
			s.finish(r)
		case <-s.refresh:
			s.makeDue()
		case <-alarm.Rings():
		}
	}
}

// changed tells everybody outside of this process, and the parts of it that report, what is now so.
func (s *Sidecar) changed() {
	s.saveStatus()
	s.tell()
}

// makeDue has every token asked for now, also those that wait after a failure.
func (s *Sidecar) makeDue() {
	now := s.clock()
	for _, t := range s.tokens {
		// An answer that is on its way, or was never written, may be older than the reason for asking.
		t.again, t.pending = t.inFlight, nil
		if !t.inFlight {
			t.dueIn(now, 0, CauseAsked)
		}
	}
}

// launch starts the requests that are due. When it is one token's regular time, all whose time is near go along; a
// retry takes nobody along.
func (s *Sidecar) launch(ctx context.Context) {
	now := s.clock()
	together := slices.ContainsFunc(s.tokens, func(t *token) bool {
		return !t.inFlight && t.failures == 0 && t.due(now, false)
	})
	for _, t := range s.tokens {
		if t.inFlight || !t.due(now, together) || s.running >= concurrency {
			continue
		}
		if t.pending != nil && now.since(t.pending.asked) < t.pendingLifetime()/2 {
			s.store(*t.pending)
			s.changed()
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
	now := s.clock()
	pause := min(maxSleep, s.lookAfter-now.since(s.looked))
	if s.running < concurrency {
		for _, t := range s.tokens {
			if !t.inFlight {
				pause = min(pause, t.after-now.since(t.from))
			}
		}
	}
	if s.running > 0 && len(s.batch.Written) > 0 {
		pause = min(pause, maxBatch-now.since(s.batchBegan))
	}
	return max(pause, 0)
}

// lingering is how long a connection may stay open when the next attempt is that near.
const lingering = 2 * time.Second

// rest closes connections that nobody needs for a while.
func (s *Sidecar) rest(pause time.Duration) {
	if s.connected && s.running == 0 && !s.renewal.inFlight && pause > lingering {
		s.minter.Idle()
		s.connected = false
	}
}

// maxBatch is how long files that are in place may wait for others before the application is told of them. Those whose
// requests get no answer could keep it from ever being told.
const maxBatch = 10 * time.Second

func (s *Sidecar) endBatch(ctx context.Context) {
	if len(s.batch.Written) == 0 || s.running > 0 && s.clock().since(s.batchBegan) < maxBatch {
		return
	}
	batch := s.batch
	s.batch = Batch{}
	slices.Sort(batch.Written)
	batch.Written = slices.Compact(batch.Written)
	if s.onBatch != nil {
		s.onBatch(ctx, batch)
	}
}

func (s *Sidecar) finish(r result) {
	if r.token == nil {
		s.renewed(r)
		return
	}
	s.running--
	r.token.inFlight = false
	if r.err != nil {
		s.fail(r.token, asError(r.err, ClassNetwork))
	} else {
		s.store(r)
	}
	if r.token.again {
		r.token.dueIn(s.clock(), 0, CauseAsked)
	}
	s.changed()
}

// store writes a minted token and plans its replacement.
func (s *Sidecar) store(r result) {
	t := r.token
	info, err := s.writeAll(t, r.minted.Secret, r.minted.Claims)
	if err != nil {
		t.pending = &r
		s.fail(t, asError(err, ClassFile))
		return
	}
	t.pending, t.broken = nil, repair{}
	expires := expiry(r.minted.Claims, r.minted.Expires)
	cause, failures, first := t.cause, t.failures, !t.exists
	t.refreshed[cause]++
	t.content, t.file, t.signer = r.minted.Secret, info, SignerOf(r.minted.Claims)
	t.expires, t.lastSuccess = expires, s.clock().wall
	t.succeed(r.asked, expires.Sub(r.minted.Claims.IssuedAt), s.random(), s.phase)
	s.note(t)
	s.log.Info("Token written",
		"token", t.spec.Name, "path", t.path(), "audiences", t.spec.Audiences, "cause", cause, "failures", failures,
		"jti", r.minted.Claims.ID, "expiresAt", expires, "refreshAt", t.nextAt())
	s.compareWithRequest(t, r, first)
	s.observe(t.signer)
}

// note has the application told of the token's files.
func (s *Sidecar) note(t *token) {
	if len(s.batch.Written) == 0 {
		s.batchBegan = s.clock()
	}
	s.batch.Written = append(s.batch.Written, t.spec.Name)
}

// fail plans the next attempt.
func (s *Sidecar) fail(t *token, err *Error) {
	now := s.clock()
	changed := t.lastErr == nil || t.lastErr.Class != err.Class
	hadLeft := t.lastErr != nil && t.left(t.from) > 0
	t.failed[err.Class]++
	t.retry(now, err, s.random())
	left := t.left(now)
	s.logFailure(t, now, left, changed || hadLeft && left <= 0)
}
