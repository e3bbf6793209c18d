package sidecar

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
)

// look is done at least every minute: are the files still ours, does our own credential last, and has the cluster another
// key or ServiceAccount? It asks the file system for the state of each file, and reads nothing that has not changed.
func (s *Sidecar) look(ctx context.Context) {
	now := s.clock()
	if now.since(s.looked) < s.lookAfter {
		return
	}
	s.looked, s.lookAfter = now, maxSleep
	for _, t := range s.tokens {
		s.guard(t, now)
		s.follow(t)
	}
	if s.status == nil || difference(s.status, s.lstat(api.StatusFile)) != "" {
		s.saveStatus()
	}
	s.tend(ctx, now)
	s.tell()
}

// lookWithin has the next look come early.
func (s *Sidecar) lookWithin(d time.Duration) { s.lookAfter = min(s.lookAfter, max(d, 0)) }

// repair is the state of a file that could not be put back.
type repair struct {
	failures int
	from     instant
	after    time.Duration
	err      *Error
}

// guard puts a file back that somebody else deleted, replaced, overwrote, or gave another mode. The token is as good as
// before, so the API server is not asked, and nobody is notified: the content is what they were told of.
func (s *Sidecar) guard(t *token, now instant) {
	if !t.exists {
		return
	}
	if t.broken.failures > 0 && now.since(t.broken.from) < t.broken.after {
		s.lookWithin(t.broken.after - now.since(t.broken.from))
		return
	}
	for _, f := range t.kept() {
		if !s.restore(t, f, now) {
			return
		}
	}
	t.broken = repair{}
}

// restore puts one file back, if it has to be, and tells whether it is as it must be now.
func (s *Sidecar) restore(t *token, f kept, now instant) bool {
	problem := difference(*f.file, s.lstat(f.path))
	if problem == "" {
		return true
	}
	info, err := s.writer.Write(f.path, []byte(f.content), t.mode)
	if err != nil {
		e := asError(err, ClassFile)
		t.failed[e.Class]++
		t.broken.failures++
		t.broken.from, t.broken.err = now, e
		t.broken.after = backoff(e, t.broken.failures, urgent, s.random())
		s.lookWithin(t.broken.after)
		if t.broken.failures == 1 {
			s.log.Warn("Token file not restored",
				"token", t.spec.Name, "path", f.path, "problem", problem, "errorClass", e.Class, "error", e.Error())
		}
		s.saveStatus()
		return false
	}
	*f.file, t.broken = info, repair{}
	t.restored++
	s.log.Warn("Token file restored",
		"token", t.spec.Name, "path", f.path, "problem", problem, "restored", t.restored)
	s.saveStatus()
	return true
}

// lstat is the file as it lies there; nil when there is none, or nobody can tell.
func (s *Sidecar) lstat(path string) fs.FileInfo {
	info, err := os.Lstat(filepath.Join(s.config.Dir, filepath.FromSlash(path)))
	if err != nil {
		return nil
	}
	return info
}

// difference is what somebody did to a file since it was written; empty for nothing. The group is not looked at: the kubelet may change it
// at the start of a container, for an fsGroup.
func difference(written, found fs.FileInfo) string {
	switch {
	case found == nil:
		return "it was deleted"
	case found.IsDir():
		return "a folder is in its place"
	case !found.Mode().IsRegular():
		return "a link or a special file is in its place"
	case inode(found) != inode(written):
		return "it was replaced"
	case found.Size() != written.Size() || !found.ModTime().Equal(written.ModTime()):
		return "it was overwritten"
	case found.Mode() != written.Mode():
		return "its mode was changed"
	}
	return ""
}

func inode(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}
