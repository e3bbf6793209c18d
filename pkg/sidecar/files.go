package sidecar

import (
	"bytes"
	"io/fs"
	"strings"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/status"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

// made is a file that is made out of a token, as it must lie on disk.
type made struct {
	spec    api.FileSpec
	content Secret
	// file is nil before it was written.
	file fs.FileInfo
}

// kept is any file of a token.
type kept struct {
	path    string
	content Secret
	file    *fs.FileInfo
}

// kept are the files that lie on disk, the token's own first.
func (t *token) kept() []kept {
	all := []kept{{t.spec.Path, t.content, &t.file}}
	for i := range t.made {
		if m := &t.made[i]; m.file != nil {
			all = append(all, kept{m.spec.Path, m.content, &m.file})
		}
	}
	return all
}

// path is that of the file which applications read.
func (t *token) path() string {
	if config.IsHidden(t.spec.Name, t.spec.Path) {
		return t.spec.Files[0].Path
	}
	return t.spec.Path
}

// texts are those of the files that are made out of the token. They depend on nothing but the token and the cluster, so that
// after a restart they are the same.
func (s *Sidecar) texts(t *token, secret Secret, claims jwt.Claims) ([]Secret, tokenfile.Cluster, error) {
	var cluster tokenfile.Cluster
	if len(t.made) == 0 {
		return nil, cluster, nil
	}
	if t.usesCluster && s.cluster != nil {
		var err error
		if cluster, err = s.cluster(); err != nil {
			return nil, cluster, asError(err, ClassCredential)
		}
	}
	pod := s.config.Pod
	values := tokenfile.Values{
		Token: string(secret), Audiences: t.spec.Audiences, Expiry: expiry(claims, time.Time{}), Cluster: cluster,
		Pod: tokenfile.Pod{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ServiceAccount: pod.ServiceAccount},
	}
	texts := make([]Secret, 0, len(t.made))
	for _, m := range t.made {
		text, err := tokenfile.Execute(m.spec.Steps, values)
		if err != nil {
			return nil, cluster, &Error{Class: ClassFile, Message: "making " + m.spec.Path + ": " + err.Error()}
		}
		texts = append(texts, Secret(text))
	}
	return texts, cluster, nil
}

// writeAll writes the files that are made out of a token, and then the token's own: when that is there, all are. Nothing is
// written before all texts are known.
func (s *Sidecar) writeAll(t *token, secret Secret, claims jwt.Claims) (fs.FileInfo, error) {
	texts, cluster, err := s.texts(t, secret, claims)
	if err != nil {
		return nil, err
	}
	for i, text := range texts {
		if err := s.writeMade(t, i, text); err != nil {
			return nil, err
		}
	}
	t.cluster = cluster
	return s.writer.Write(t.spec.Path, []byte(secret), t.mode)
}

func (s *Sidecar) writeMade(t *token, i int, text Secret) error {
	m := &t.made[i]
	info, err := s.writer.Write(m.spec.Path, []byte(text), t.mode)
	if err != nil {
		return err
	}
	m.content, m.file = text, info
	return nil
}

// remake brings the files that a predecessor made to what they must be for the token that it left.
func (s *Sidecar) remake(t *token, claims jwt.Claims) error {
	texts, cluster, err := s.texts(t, t.content, claims)
	if err != nil {
		return err
	}
	for i, text := range texts {
		m := &t.made[i]
		content, info, err := status.ReadContent(s.config.Dir, m.spec.Path)
		if err == nil && bytes.Equal(content, []byte(text)) && info.Mode().Perm() == t.mode {
			m.content, m.file = text, info
			continue
		}
		if err := s.writeMade(t, i, text); err != nil {
			return err
		}
		s.log.Info("Token file written", "token", t.spec.Name, "path", m.spec.Path)
		s.note(t)
	}
	t.cluster = cluster
	return nil
}

// follow writes files anew whose text is another although the token is the same: the cluster has other authorities.
func (s *Sidecar) follow(t *token) {
	if !t.exists || !t.usesCluster || s.cluster == nil {
		return
	}
	if cluster, err := s.cluster(); err != nil || cluster == t.cluster {
		return // without a credential there is no new token either, and that is told elsewhere
	}
	claims, err := jwt.Parse(string(t.content))
	if err == nil {
		err = s.remake(t, claims)
	}
	if err != nil {
		s.log.Warn("Token file not written", "token", t.spec.Name, "path", t.path(), "error", err.Error())
	}
}

// usesCluster tells whether a value of the cluster may be in a file's text.
func usesCluster(steps []api.Step) bool {
	var uses func(e *api.Expr) bool
	uses = func(e *api.Expr) bool {
		found := e.Get == "." || strings.HasPrefix(e.Get, ".cluster") || strings.HasPrefix(e.Get, "$")
		for i := range e.Args {
			found = found || uses(&e.Args[i])
		}
		return found
	}
	for _, step := range steps {
		if step.Value != nil && uses(step.Value) || usesCluster(step.Then) || usesCluster(step.Else) {
			return true
		}
	}
	return false
}
