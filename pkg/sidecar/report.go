package sidecar

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/status"
)

// repeatEvery is how often a failure that stays the same is logged.
const repeatEvery = time.Minute

// maxSkew is the difference between the node's clock and the API server's that is worth a warning.
const maxSkew = time.Minute

// statusAttempts and statusPause are how often, and how long apart, the status is written on a full volume.
const (
	statusAttempts = 5
	statusPause    = 50 * time.Millisecond
)

// IncompleteError is what Run returns when it ended before every token existed.
type IncompleteError struct {
	// Lines has one line per missing token: its last error. No secrets.
	Lines []string
}

func (e *IncompleteError) Error() string { return strings.Join(e.Lines, "\n") }

func (s *Sidecar) incomplete() error {
	var lines []string
	for _, t := range s.tokens {
		if !t.exists {
			lines = append(lines, t.status().Describe("was never written"))
		}
	}
	if lines == nil {
		return nil
	}
	return &IncompleteError{Lines: lines}
}

func (t *token) status() status.Token {
	line := status.Token{
		Name:        t.spec.Name,
		Path:        t.spec.Path,
		Audiences:   t.spec.Audiences,
		Files:       config.Paths(t.spec)[1:],
		ExpiresAt:   t.expires.UTC(),
		RefreshAt:   t.nextAt(),
		LastSuccess: t.lastSuccess.UTC(),
		Failures:    t.failures,
	}
	if t.exists {
		line.RequestedAt = t.received.wall.UTC()
	}
	err := t.lastErr
	if err == nil && t.broken.failures > 0 {
		err, line.Failures = t.broken.err, t.broken.failures
	}
	if err != nil {
		line.LastError, line.LastErrorClass = err.Error(), string(err.Class)
	}
	return line
}

// saveStatus never stops anything: `wait` and `check` suffer when it fails, the tokens do not.
func (s *Sidecar) saveStatus() {
	all := status.Status{Version: s.version, PID: os.Getpid()}
	for _, t := range s.tokens {
		all.Tokens = append(all.Tokens, t.status())
	}
	content, err := json.Marshal(all)
	s.status = nil
	if err == nil {
		content = append(content, '\n')
		s.status, err = s.writer.Write(api.StatusFile, content, status.Mode)
		if errors.Is(err, syscall.ENOSPC) && os.Remove(filepath.Join(s.config.Dir, api.StatusFile)) == nil {
			// The room of the old one is enough. Who looks meanwhile finds none; who looked later would find a lie.
			// One who has it open still holds the room, for a moment.
			for range statusAttempts {
				if s.status, err = s.writer.Write(api.StatusFile, content, status.Mode); !errors.Is(err, syscall.ENOSPC) {
					break
				}
				time.Sleep(statusPause)
			}
		}
	}
	if err != nil {
		s.log.Warn("Writing the status failed", "error", err.Error())
	}
}

func (s *Sidecar) logStart() {
	names := make([]string, 0, len(s.tokens))
	for _, t := range s.tokens {
		names = append(names, t.spec.Name)
	}
	pod := s.config.Pod
	s.log.Info("Starting", "version", s.version, "namespace", pod.Namespace, "pod", pod.Name, "podUID", pod.UID,
		"serviceAccount", pod.ServiceAccount, "tokens", names)
}

// logFailure logs the first failure, each change, and then once in a while: as an error while no token is valid, as a
// warning otherwise.
func (s *Sidecar) logFailure(t *token, now instant, left time.Duration, changed bool) {
	if !changed && now.since(t.loggedAt) < repeatEvery {
		return
	}
	t.loggedAt = now
	log := s.log.Warn
	switch {
	case !changed:
		log = s.log.Info
	case left <= 0:
		log = s.log.Error
	}
	attributes := []any{
		"token", t.spec.Name, "path", t.path(), "audiences", t.spec.Audiences, "cause", t.cause,
		"errorClass", t.lastErr.Class, "error", t.lastErr.Error(), "failures", t.failures, "retryAt", t.nextAt(),
	}
	if t.exists {
		attributes = append(attributes, "expiresAt", t.expires)
	}
	log("Token not refreshed", attributes...)
}

// compareWithRequest tells, once, when the API server granted less than asked, and always when its clock is not ours.
func (s *Sidecar) compareWithRequest(t *token, r result, first bool) {
	asked := time.Duration(t.spec.ExpirationSeconds) * time.Second
	if first && t.lifetime < asked-time.Second {
		s.log.Info("Lifetime shortened by the API server",
			"token", t.spec.Name, "askedSeconds", int(asked.Seconds()), "grantedSeconds", int(t.lifetime.Seconds()))
	}
	if skew := r.minted.Claims.IssuedAt.Sub(r.asked.wall); skew.Abs() > maxSkew {
		s.log.Warn("Clock of the node differs from the API server's", "token", t.spec.Name, "skewSeconds", int(skew.Seconds()))
	}
}
