// Package status is what `run` tells `wait` and `check`, separate processes in the same container, through a file, and
// what those make of it. A token counts when its own file says so; the status says which files there are, and why one
// is missing. It holds no secrets.
//
// The package runs in every pod of podtoken's users: the standard library and pkg/... only.
package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

// Mode lets every user that can enter a container of the pod read the status.
const Mode fs.FileMode = 0o444

// Status is the content of the status file.
type Status struct {
	Version string `json:"version"`
	// PID of run, in the process namespace that run and those who read this share.
	PID    int     `json:"pid"`
	Tokens []Token `json:"tokens"`
}

// Token is one token's part of Status.
type Token struct {
	Name      string   `json:"name"`
	Path      string   `json:"path"`
	Audiences []string `json:"audiences"`
	// Files are made out of the token, and written before its own.
	Files []string `json:"files,omitempty"`
	// ExpiresAt is the end of the token on disk; absent for none.
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
	// RefreshAt is when the API server is asked next, at the latest, also after failures.
	RefreshAt time.Time `json:"refreshAt,omitzero"`
	// RequestedAt is when the API server was asked for the token on disk.
	RequestedAt time.Time `json:"requestedAt,omitzero"`
	// LastSuccess is when this process wrote, or kept, the file.
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	// LastError and LastErrorClass are empty after a success; Failures counts those since.
	LastError      string `json:"lastError,omitempty"`
	LastErrorClass string `json:"lastErrorClass,omitempty"`
	Failures       int    `json:"failures"`
}

// Read reads the status file in dir.
func Read(dir string) (Status, error) {
	var status Status
	content, err := os.ReadFile(filepath.Join(dir, api.StatusFile))
	if err != nil {
		return status, fmt.Errorf("reading the sidecar's status: %w", err)
	}
	if err := json.Unmarshal(content, &status); err != nil {
		return status, fmt.Errorf("decoding the sidecar's status: %w", err)
	}
	if len(status.Tokens) == 0 {
		return status, errors.New("decoding the sidecar's status: it names no token")
	}
	for _, token := range status.Tokens {
		for i, path := range append([]string{token.Path}, token.Files...) {
			if !config.IsFilePath(path) && (i > 0 || !config.IsHidden(token.Name, path)) {
				return status, fmt.Errorf("decoding the sidecar's status: token %q has the path %q", token.Name, path)
			}
		}
	}
	return status, nil
}

// maxTokenBytes bounds what is read of a file.
const maxTokenBytes = 1 << 20

// File is a token file as it lies on disk.
type File struct {
	Claims   jwt.Claims
	Mode     fs.FileMode
	Modified time.Time
	Info     fs.FileInfo
}

// ReadFile reads one token file. What is not a complete token is an error that says so, without its content.
func ReadFile(dir, path string) (File, error) {
	f, _, err := ReadToken(dir, path)
	return f, err
}

// ReadToken is ReadFile with the token's text.
func ReadToken(dir, path string) (File, []byte, error) {
	content, info, err := ReadContent(dir, path)
	if err != nil {
		return File{}, nil, err
	}
	claims, err := jwt.Parse(string(content))
	if err != nil {
		return File{}, nil, fmt.Errorf("%q is not complete: %w", path, err)
	}
	return File{Claims: claims, Mode: info.Mode().Perm(), Modified: info.ModTime(), Info: info}, content, nil
}

// ReadContent reads a regular file.
func ReadContent(dir, path string) ([]byte, fs.FileInfo, error) {
	name := filepath.Join(dir, filepath.FromSlash(path))
	info, err := os.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%q is not a regular file", path)
	}
	// Should a link or a pipe take its place right now, it is not followed and not waited for.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxTokenBytes))
	if err != nil {
		return nil, nil, err
	}
	if info, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	return content, info, nil
}

// Problem is why the token's file cannot be used at the given time; empty when it can: the file exists, is a complete
// token, and its end lies ahead. Files that are made out of the token are older than its own, so they only need to be there.
func (t Token) Problem(dir string, now time.Time) string {
	f, err := ReadFile(dir, t.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist yet"
	case err != nil:
		return "cannot be used: " + err.Error()
	}
	end := f.Claims.Expires
	if !t.RequestedAt.IsZero() {
		// Both times are this node's: how far its clock is from the API server's does not matter.
		end = t.RequestedAt.Add(f.Claims.Expires.Sub(f.Claims.IssuedAt)).UTC()
	}
	if !end.After(now) {
		return "expired at " + end.UTC().Format(time.RFC3339) + " by this node's clock"
	}
	for _, path := range t.Files {
		info, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(path)))
		switch {
		case err != nil:
			return fmt.Sprintf("has no file %q", path)
		case !info.Mode().IsRegular():
			return fmt.Sprintf("cannot be used: %q is not a regular file", path)
		}
	}
	return ""
}

// shown are the paths of the files that applications read.
func (t Token) shown() []string {
	if config.IsHidden(t.Name, t.Path) {
		return t.Files
	}
	return append([]string{t.Path}, t.Files...)
}
