package sidecar

import (
	"errors"
	"io/fs"
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar/status"
)

// inspect looks at the file that a predecessor may have left, and plans the first attempt.
func (s *Sidecar) inspect(t *token) {
	now := s.clock()
	t.from, t.cause = now, CauseUnusable
	f, content, err := status.ReadToken(s.config.Dir, t.spec.Path)
	if errors.Is(err, fs.ErrNotExist) {
		t.cause = CauseMissing
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
		s.log.Info("Token file replaced", "token", t.spec.Name, "path", t.path(), "problem", problem)
		return
	}
	t.content, t.file, t.signer = Secret(content), f.Info, SignerOf(claims)
	t.expires, t.lastSuccess = expires, now.wall
	t.cause = CauseScheduled
	t.succeed(now.back(age), lifetime, s.random(), s.phase)
	s.canary.mark(t.signer)
	if f.Modified.After(now.wall) {
		// The clock was set back since the file was written, so nobody knows how old it is.
		t.dueIn(now, 0, CauseUnusable)
	}
	if f.Mode != t.mode {
		info, err := s.writer.Write(t.spec.Path, content, t.mode)
		if err != nil {
			s.fail(t, asError(err, ClassFile))
			t.after, t.early = 0, 0
			return
		}
		t.file = info
		s.log.Info("Token file's mode corrected", "token", t.spec.Name, "path", t.spec.Path, "mode", t.spec.Mode)
	}
	if err := s.remake(t, claims); err != nil {
		s.fail(t, asError(err, ClassFile))
		t.after, t.early = 0, 0
		return
	}
	s.log.Info("Token kept",
		"token", t.spec.Name, "path", t.path(), "audiences", t.spec.Audiences,
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
