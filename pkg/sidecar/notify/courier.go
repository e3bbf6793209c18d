package notify

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// maxAttempts bounds the attempts for a change: about five minutes, with the delays below. An application that needs
	// longer to start reads its files when it does.
	maxAttempts = 20
	firstDelay  = 250 * time.Millisecond
	maxDelay    = 30 * time.Second
)

// deliverFunc tells of the tokens, once. Its errors may be absentError, finalError or needlessError.
type deliverFunc func(ctx context.Context, tokens []string) error

// absentError is that of an application that is not there (yet): nobody listens, or no process has the name. It is what
// the first notification of most pods meets, because the tokens exist before the application starts.
type absentError struct{ error }

// finalError is one after which another attempt would tell somebody twice.
type finalError struct{ error }

// needlessError says that whoever is there needs not be told.
type needlessError struct{ error }

// courier tells in one way.
type courier struct {
	kind    Kind
	deliver deliverFunc
	// onChange, if set, is called with each change.
	onChange func()
	random   func() float64
	log      *slog.Logger
	// wake is full exactly while untold has something.
	wake chan struct{}

	mu sync.Mutex
	// untold changed since the last attempt began. telling is what the attempt is about; when it was given up, that stays
	// and goes along with the next change.
	untold, telling []string
	count           Count

	// fine: the last attempt was a success, so that another one is no news. It is run's own.
	fine bool
}

func (c *courier) changed(tokens []string) {
	if len(tokens) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.onChange != nil {
		c.onChange()
	}
	c.untold = union(c.untold, tokens)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take begins an attempt. fresh: something changed since the last one began.
func (c *courier) take() (tokens []string, fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.wake:
	default:
	}
	fresh = len(c.untold) > 0
	c.telling, c.untold = union(c.telling, c.untold), nil
	return c.telling, fresh
}

// end counts an attempt, and tells whether the application needs to hear nothing more of it.
func (c *courier) end(err error) (told bool) {
	_, final := errors.AsType[finalError](err)
	_, needless := errors.AsType[needlessError](err)
	told = err == nil || final || needless
	c.mu.Lock()
	defer c.mu.Unlock()
	if told {
		c.telling = nil
	}
	switch {
	case err == nil:
		c.count.Successes++
	case !needless:
		c.count.Failures++
	}
	return told
}

func (c *courier) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			c.tell(ctx)
		}
	}
}

// tell tries until the application knows of every change, or the attempts for the newest one are used up. A newer change
// takes the place of one that is being retried, and brings its tokens along.
func (c *courier) tell(ctx context.Context) {
	var failure error
	for attempts := 1; ; attempts++ {
		tokens, fresh := c.take()
		if len(tokens) == 0 {
			return
		}
		if fresh {
			attempts = 1
		}
		err := c.deliver(ctx, tokens)
		if ctx.Err() != nil {
			return // Whatever the error is, it is about our own end.
		}
		told := c.end(err)
		if err == nil {
			c.logSuccess(tokens)
			failure = nil
			continue // There may be something new.
		}
		c.logFailure(tokens, err, failure)
		failure = err
		if told {
			continue
		}
		if attempts >= maxAttempts {
			c.log.Warn("Application not told, giving up until the next change", "tokens", tokens, "attempts", attempts, "error", err.Error())
			return
		}
		timer := time.NewTimer(delay(attempts, c.random()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-c.wake: // Who has news does not wait for the old ones' turn.
		case <-timer.C:
		}
		timer.Stop()
	}
}

// delay is that after the given number of failed attempts: doubling, half of it at random.
func delay(attempts int, random float64) time.Duration {
	top := firstDelay
	for i := 1; i < attempts && top < maxDelay; i++ {
		top *= 2
	}
	top = min(top, maxDelay)
	return top/2 + time.Duration(random*float64(top/2))
}

// logSuccess says the first success, and each that comes after a failure.
func (c *courier) logSuccess(tokens []string) {
	log := c.log.Info
	if c.fine {
		log = c.log.Debug
	}
	c.fine = true
	log("Application told", "tokens", tokens)
}

// logFailure says the first failure for a change, and one that turns out to be more than an application that has not
// started yet.
func (c *courier) logFailure(tokens []string, err, before error) {
	c.fine = false
	if _, needless := errors.AsType[needlessError](err); needless {
		c.log.Info("Application needs not be told", "tokens", tokens, "reason", err.Error())
		return
	}
	_, absent := errors.AsType[absentError](err)
	_, wasAbsent := errors.AsType[absentError](before)
	switch {
	case absent && before == nil:
		c.log.Info("Application is not there yet, telling it later", "tokens", tokens, "error", err.Error())
	case !absent && (before == nil || wasAbsent):
		c.log.Warn("Telling the application failed", "tokens", tokens, "error", err.Error())
	}
}

// union has each name once, sorted. It changes neither list.
func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}
