package status

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// `wait` polls: a watch would link and start more than a look at a file in memory costs.
const (
	pollFast  = 5 * time.Millisecond
	pollSlow  = 50 * time.Millisecond
	fastPhase = time.Second
)

// Wait returns nil as soon as every token file in dir can be used. When ctx ends first, the error has one line for
// each token that is missing, with the last error of `run`.
func Wait(ctx context.Context, dir string) error {
	return poll(ctx, dir, ready, waitError)
}

// WaitReplaced returns nil as soon as every token in dir is one that was asked for after the given time. When ctx ends first, the
// error has one line for each that was not.
func WaitReplaced(ctx context.Context, dir string, after time.Time) error {
	// What was asked for in the future was asked for before the clock was set back.
	old := func(t Token) bool { return !t.RequestedAt.After(after) || t.RequestedAt.After(time.Now()) }
	replaced := func(_ string, status Status) bool { return !slices.ContainsFunc(status.Tokens, old) }
	return poll(ctx, dir, replaced, func(_ string, status Status, err error) error {
		lines := []error{err}
		for _, t := range status.Tokens {
			if old(t) {
				lines = append(lines, errors.New(t.Describe("was not replaced")))
			}
		}
		return errors.Join(lines...)
	})
}

// poll reads the status until it is as wanted. When ctx ends first, failure makes the error of the last reading.
func poll(ctx context.Context, dir string, wanted func(dir string, s Status) bool, failure func(dir string, s Status, err error) error) error {
	started := time.Now()
	for {
		status, err := Read(dir)
		if err == nil && wanted(dir, status) {
			return nil
		}
		pause := pollFast
		if time.Since(started) >= fastPhase {
			pause = pollSlow
		}
		select {
		case <-ctx.Done():
			return failure(dir, status, err)
		case <-time.After(pause):
		}
	}
}

func ready(dir string, status Status) bool {
	now := time.Now()
	for _, token := range status.Tokens {
		if token.Problem(dir, now) != "" {
			return false
		}
	}
	return true
}

func waitError(dir string, status Status, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no status in %q: is the sidecar running in this container?", dir)
	}
	if err != nil {
		return err
	}
	var lines []error
	now := time.Now()
	for _, token := range status.Tokens {
		if problem := token.Problem(dir, now); problem != "" {
			lines = append(lines, errors.New(token.Describe(problem)))
		}
	}
	return errors.Join(lines...)
}

// Describe is the one line about a token that is not as it should be, in `wait` and in the termination message.
func (t Token) Describe(problem string) string {
	switch {
	case t.LastError != "":
		return fmt.Sprintf("token %q %s: failed %d times, last: %s", t.Name, problem, t.Failures, t.LastError)
	case t.LastSuccess.IsZero():
		return fmt.Sprintf("token %q %s: no answer of the API server yet", t.Name, problem)
	}
	return fmt.Sprintf("token %q %s: written at %s without an error", t.Name, problem, t.LastSuccess.UTC().Format(time.RFC3339))
}

// Check describes every token of the status in dir, one line each, and tells whether all can be used.
func Check(dir string, now time.Time) (lines []string, fresh bool, err error) {
	status, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("no status in %q: is the sidecar running in this container?", dir)
	}
	if err != nil {
		return nil, false, err
	}
	fresh = true
	for _, token := range status.Tokens {
		var b strings.Builder
		if problem := token.Problem(dir, now); problem != "" {
			fresh = false
			b.WriteString(token.Describe(problem))
		} else {
			fmt.Fprintf(&b, "token %q is fresh until %s", token.Name, token.ExpiresAt.UTC().Format(time.RFC3339))
			if token.LastError != "" {
				fmt.Fprintf(&b, ", but its refresh failed %d times, last: %s", token.Failures, token.LastError)
			}
		}
		fmt.Fprintf(&b, " (file %s, audiences %s, next request by %s)",
			strings.Join(token.shown(), " "), strings.Join(token.Audiences, " "), token.RefreshAt.UTC().Format(time.RFC3339))
		lines = append(lines, b.String())
	}
	return lines, fresh, nil
}
