package tokensource

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

// maxFileBytes bounds what is read: a token has one or two thousand.
const maxFileBytes = 1 << 20

// File is the Source of a token file of podtoken's, or of any file with a JWT that somebody else replaces, as those of a
// projected volume. It is always the token that is in the file now: the file is read for each call, which takes
// microseconds, since it is in memory; a change is noticed without any watch, and there is nothing to close.
//
// Do not put it into oauth2.ReuseTokenSource, nor into oauth2.NewClient, which does so: that keeps a token until just
// before its end, and misses that it was replaced earlier, say because the signing key was.
type File struct {
	path string

	mu      sync.Mutex
	content string
	token   oauth2.Token
}

// NewFile returns the Source of a file. The file need not exist yet.
func NewFile(path string) *File { return &File{path: path} }

// Token implements oauth2.TokenSource.
func (f *File) Token() (*oauth2.Token, error) { return f.TokenContext(context.Background()) }

// TokenContext returns the token that is in the file now, and its expiry. A file that is missing or holds no complete token, and
// a token that has expired (ErrExpired), are errors.
func (f *File) TokenContext(ctx context.Context) (*oauth2.Token, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	content, err := readFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("reading the token: %w", err)
	}
	token, err := f.parsed(content)
	if err != nil {
		return nil, fmt.Errorf("reading the token in %q: %w", f.path, err)
	}
	if now := time.Now(); !token.Expiry.After(now) {
		return nil, fmt.Errorf("reading the token in %q: %w: at %s, and it is %s", f.path, ErrExpired,
			token.Expiry.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return token, nil
}

// Refused implements Source. There is nothing to forget: the next call reads the file.
func (f *File) Refused(string) {}

// parsed is the token in the content. It decodes what has changed only.
func (f *File) parsed(content string) (*oauth2.Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if content != f.content {
		claims, err := jwt.Parse(content)
		if err != nil {
			return nil, err
		}
		f.content, f.token = content, oauth2.Token{AccessToken: content, TokenType: "Bearer", Expiry: claims.Expires}
	}
	token := f.token // the caller's own
	return &token, nil
}

func readFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, maxFileBytes))
	return string(content), err
}
