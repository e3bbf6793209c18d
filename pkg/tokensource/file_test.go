package tokensource

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
)

// newToken is a token that ends after lifetime.
func newToken(lifetime time.Duration) string {
	now := time.Now()
	return jwttest.Encode(jwt.Claims{
		KeyID: "k", ID: "id", Audiences: []string{"vault"}, IssuedAt: now, Expires: now.Add(lifetime),
		Namespace: "default", ServiceAccountName: "app", ServiceAccountUID: "1", PodName: "pod", PodUID: "2",
	})
}

// replace does what the sidecar does: a new file takes the old one's place.
func replace(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// A File is what is in the file now, also before the token that it had before has expired.
func TestFileFollowsItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault")
	source := NewFile(path)
	if _, err := source.Token(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that does not exist: %v", err)
	}
	for range 3 {
		want := newToken(time.Hour)
		replace(t, path, want)
		for range 2 {
			got, err := source.Token()
			if err != nil {
				t.Fatal(err)
			}
			if got.AccessToken != want || got.Type() != "Bearer" || !got.Valid() || time.Until(got.Expiry) < 59*time.Minute {
				t.Errorf("the source has another token than the file, or type %q and end %s", got.Type(), got.Expiry)
			}
			got.AccessToken = "the caller's to change"
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Token(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was deleted: %v, want an error and not the token of before", err)
	}
}

// An expired token comes with an error only, to the second; a new file ends that.
func TestFileNeverGivesAnExpiredToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "vault")
		token := newToken(10 * time.Minute)
		replace(t, path, token)
		source := NewFile(path)
		time.Sleep(10*time.Minute - time.Second)
		if _, err := source.Token(); err != nil {
			t.Errorf("one second before its end: %v", err)
		}
		time.Sleep(time.Second)
		got, err := source.Token()
		if got != nil || !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "2000-01-01T00:10:00Z") {
			t.Errorf("at its end: %v, %v", got != nil, err)
		}
		replace(t, path, newToken(10*time.Minute))
		if _, err := source.Token(); err != nil {
			t.Errorf("after a new one came: %v", err)
		}
	})
}

// What is no complete token is an error that quotes nothing of it.
func TestFileRefusesWhatIsNoToken(t *testing.T) {
	token := newToken(time.Hour)
	for name, content := range map[string]string{
		"empty":           "",
		"part of a token": token[:len(token)/2],
		"a line break":    token + "\n",
		"something else":  "SECRET-SECRET-SECRET",
		"three words":     "SECRET.SECRET.SECRET",
	} {
		path := filepath.Join(t.TempDir(), "vault")
		replace(t, path, content)
		_, err := NewFile(path).Token()
		if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "eyJ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewFile(t.TempDir()).Token(); err == nil {
		t.Error("a directory is no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "vault")
	replace(t, path, token)
	if _, err := NewFile(path).TokenContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// Readers of the same File during replacements see complete tokens only.
func TestFileConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault")
	tokens := map[string]bool{}
	for range 8 {
		tokens[newToken(time.Hour)] = true
	}
	for token := range tokens {
		replace(t, path, token)
	}
	source := NewFile(path)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 500 {
				token, err := source.Token()
				if err != nil || !tokens[token.AccessToken] {
					t.Errorf("a token that was never written, or %v", err)
					return
				}
			}
		})
	}
	for range 50 {
		for token := range tokens {
			replace(t, path, token)
		}
	}
	readers.Wait()
}

func BenchmarkFile(b *testing.B) {
	path := filepath.Join(b.TempDir(), "vault")
	if err := os.WriteFile(path, []byte(newToken(time.Hour)), 0o600); err != nil {
		b.Fatal(err)
	}
	source := NewFile(path)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := source.Token(); err != nil {
			b.Fatal(err)
		}
	}
}
