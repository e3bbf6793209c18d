package status

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
)

// volume is a directory with a status file.
func volume(t *testing.T, tokens ...Token) string {
	t.Helper()
	dir := t.TempDir()
	content, err := json.Marshal(Status{Version: "v1", Tokens: tokens})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, ".podtoken-status.json", string(content))
	return dir
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func fresh() string { return token(time.Now()) }

// token lives for an hour.
func token(issued time.Time) string {
	return jwttest.Encode(jwt.Claims{IssuedAt: issued, Expires: issued.Add(time.Hour)})
}

func TestWaitReturnsAsSoonAsEveryFileCanBeUsed(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration
		most  time.Duration // how much later it may return
	}{
		"at once":      {0, 0},
		"after 23 ms":  {23 * time.Millisecond, 5 * time.Millisecond},
		"after 30.1 s": {30100 * time.Millisecond, 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := volume(t, Token{Name: "a", Path: "a"}, Token{Name: "b", Path: "b"})
				write(t, dir, "a", fresh())
				content := fresh()
				if c.after == 0 {
					write(t, dir, "b", content)
				} else {
					go func() {
						time.Sleep(c.after)
						write(t, dir, "b", content)
					}()
				}
				started := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := Wait(ctx, dir); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(started); took < c.after || took > c.after+c.most {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

func TestWaitGivesUpWithTheReasons(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T) (dir string)
		want    string
	}{
		"no answer yet": {
			func(t *testing.T) string { return volume(t, Token{Name: "a", Path: "a"}) },
			`token "a" does not exist yet: no answer of the API server yet`,
		},
		"the last error of each that is missing, and nothing about others": {
			func(t *testing.T) string {
				dir := volume(t, Token{Name: "a", Path: "a", LastError: "Forbidden (HTTP 403): no", Failures: 7},
					Token{Name: "b", Path: "b", LastError: "Network: refused", Failures: 2}, Token{Name: "c", Path: "c", LastError: "old", Failures: 1})
				write(t, dir, "c", fresh())
				return dir
			},
			"token \"a\" does not exist yet: failed 7 times, last: Forbidden (HTTP 403): no\ntoken \"b\" does not exist yet: failed 2 times, last: Network: refused",
		},
		"an expired file": {
			func(t *testing.T) string {
				dir := volume(t, Token{Name: "a", Path: "a", LastError: "Network: refused", Failures: 2})
				write(t, dir, "a", token(time.Now().Add(-time.Hour)))
				return dir
			},
			`token "a" expired at 2000-01-01T00:00:00Z by this node's clock: failed 2 times, last: Network: refused`,
		},
		"a node whose clock is far ahead": {
			func(t *testing.T) string {
				dir := volume(t, Token{Name: "a", Path: "a", LastSuccess: time.Now()})
				write(t, dir, "a", token(time.Now().Add(-time.Hour)))
				return dir
			},
			`token "a" expired at 2000-01-01T00:00:00Z by this node's clock: written at 2000-01-01T00:00:00Z without an error`,
		},
		"a file that is not complete": {
			func(t *testing.T) string {
				dir := volume(t, Token{Name: "a", Path: "a"})
				write(t, dir, "a", "eyJ")
				return dir
			},
			`token "a" cannot be used: "a" is not complete: a token has 3 segments, this has 1: no answer of the API server yet`,
		},
		"a folder": {
			func(t *testing.T) string {
				dir := volume(t, Token{Name: "a", Path: "a"})
				_ = os.Mkdir(filepath.Join(dir, "a"), 0o755)
				return dir
			},
			`token "a" cannot be used: "a" is not a regular file: no answer of the API server yet`,
		},
		"no sidecar": {
			func(*testing.T) string { return "/nowhere" },
			`no status in "/nowhere": is the sidecar running in this container?`,
		},
		"a status of nothing": {
			func(t *testing.T) string { return volume(t) },
			`decoding the sidecar's status: it names no token`,
		},
		"a status that leads out": {
			func(t *testing.T) string { return volume(t, Token{Name: "a", Path: "../a"}) },
			`decoding the sidecar's status: token "a" has the path "../a"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := c.prepare(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				started := time.Now()
				err := Wait(ctx, dir)
				if err == nil || err.Error() != c.want {
					t.Errorf("got %v, want %s", err, c.want)
				}
				if took := time.Since(started); took != time.Minute {
					t.Errorf("gave up after %s", took)
				}
			})
		})
	}
}

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().UTC().Add(time.Hour)
		dir := volume(t,
			Token{Name: "a", Path: "a", Audiences: []string{"x", "y"}, ExpiresAt: end, RefreshAt: end.Add(-12 * time.Minute)},
			Token{Name: "b", Path: "b", Audiences: []string{"z"}, ExpiresAt: end, RefreshAt: end.Add(-time.Minute), LastError: "Network: refused", Failures: 3},
			Token{Name: "c", Path: "c", Audiences: []string{"z"}, RefreshAt: end.Add(-time.Minute), LastError: "Forbidden (HTTP 403): no", Failures: 9})
		write(t, dir, "a", fresh())
		write(t, dir, "b", fresh())
		lines, ok, err := Check(dir, time.Now())
		want := []string{
			`token "a" is fresh until 2000-01-01T01:00:00Z (file a, audiences x y, next request by 2000-01-01T00:48:00Z)`,
			`token "b" is fresh until 2000-01-01T01:00:00Z, but its refresh failed 3 times, last: Network: refused (file b, audiences z, next request by 2000-01-01T00:59:00Z)`,
			`token "c" does not exist yet: failed 9 times, last: Forbidden (HTTP 403): no (file c, audiences z, next request by 2000-01-01T00:59:00Z)`,
		}
		if !slices.Equal(lines, want) || ok || err != nil {
			t.Errorf("%v %v\n%q", ok, err, lines)
		}
		write(t, dir, "c", fresh())
		if _, ok, err := Check(dir, time.Now()); !ok || err != nil {
			t.Errorf("%v %v", ok, err)
		}
		if _, _, err := Check("/nowhere", time.Now()); err == nil {
			t.Error("no error without a sidecar")
		}
	})
}

// How far the node's clock is from the API server's does not matter to the life of a token, as long as both go on.
func TestATokensLifeIsMeasuredByTheNodesClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for name, c := range map[string]struct {
			issued, requested time.Time
			want              string
		}{
			"node ahead by more than the life, just issued": {now.Add(-2 * time.Hour), now, ""},
			"node ahead, expired": {now.Add(-3 * time.Hour), now.Add(-time.Hour),
				"expired at 2000-01-01T00:00:00Z by this node's clock"},
			"node behind by more than the life, expired": {now.Add(2 * time.Hour), now.Add(-61 * time.Minute),
				"expired at 1999-12-31T23:59:00Z by this node's clock"},
		} {
			dir := t.TempDir()
			write(t, dir, "a", token(c.issued))
			if got := (Token{Name: "a", Path: "a", RequestedAt: c.requested}).Problem(dir, now); got != c.want {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
		}
	})
}

// After the clock went ahead and back, what was asked for in between is not what somebody asks for now.
func TestARequestOfTheFutureIsNoReplacement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := volume(t, Token{Name: "a", Path: "a", RequestedAt: time.Now().AddDate(1, 0, 0)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := WaitReplaced(ctx, dir, time.Now()); err == nil {
			t.Error("nothing was replaced")
		}
		again := volume(t, Token{Name: "a", Path: "a", RequestedAt: time.Now().Add(-time.Second)})
		if err := WaitReplaced(t.Context(), again, time.Now().Add(-time.Minute)); err != nil {
			t.Error(err)
		}
	})
}

// A token with other files can be used when those are there, too.
func TestProblemOfOtherFiles(t *testing.T) {
	dir := t.TempDir()
	token := Token{Name: "a", Path: ".podtoken-token-a", Files: []string{"a"}}
	write(t, dir, ".podtoken-token-a", fresh())
	if got := token.Problem(dir, time.Now()); got != `has no file "a"` {
		t.Errorf("got %q", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := token.Problem(dir, time.Now()); got != `cannot be used: "a" is not a regular file` {
		t.Errorf("got %q", got)
	}
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "a", "x")
	if got := token.Problem(dir, time.Now()); got != "" {
		t.Errorf("got %q", got)
	}
}

// A status that names files outside of the directory, or of podtoken's own, is not believed.
func TestPathsInTheStatus(t *testing.T) {
	for name, c := range map[string]struct {
		token Token
		good  bool
	}{
		"plain":                       {Token{Name: "a", Path: "a", Files: []string{"a.json"}}, true},
		"hidden":                      {Token{Name: "a", Path: ".podtoken-token-a", Files: []string{"a"}}, true},
		"another token's hidden file": {Token{Name: "a", Path: ".podtoken-token-b", Files: []string{"a"}}, false},
		"a file that is hidden":       {Token{Name: "a", Path: "a", Files: []string{".podtoken-token-a"}}, false},
		"a file outside":              {Token{Name: "a", Path: "a", Files: []string{"../a"}}, false},
	} {
		if _, err := Read(volume(t, c.token)); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
