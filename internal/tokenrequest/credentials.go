package tokenrequest

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

const (
	// fileMargin is the life of the kubelet's file that is left when we begin to renew. The kubelet replaces a file of
	// 600 s at an age of 471 to 480 s plus up to 90 s, seldom more than 80 of them: with 45 s a healthy pod renews a few
	// times a day, and there is time for several attempts.
	fileMargin = 45 * time.Second
	// lateMargin is the same for the renewed one while the file has not run out: the kubelet is only late.
	lateMargin = 2 * time.Minute
	// Once the file has run out the kubelet has stopped, or leaves the pod alone: the renewed one is replaced at half of
	// its life, so that an outage of the API server that long does not lock us out.
	stoppedPart = 2
	// never is the RenewIn of what cannot be renewed.
	never = time.Duration(math.MaxInt64)
)

// credentials are our own API credentials: the kubelet's file, and one that we renewed ourselves, in memory. Each is the
// other's fallback. By what is known the file comes first while it lasts; but nothing that is known of a credential's life
// keeps it from being tried when no other works, because only the API server's clock decides.
type credentials struct {
	path string

	mu sync.Mutex
	// info is the file that was read last; a file that has not changed is not read again.
	info    fs.FileInfo
	problem error // of reading it
	file    credential
	memory  credential // no text: none
}

type credential struct {
	text   string
	claims jwt.Claims // zero when it is no token that we can read
	// begin is when it was issued, by this node's clocks.
	begin time.Time
	// refused by the API server: it comes last.
	refused bool
}

func newCredentials(path string) *credentials { return &credentials{path: path} }

// lifetime is 0 when it is unknown.
func (c *credential) lifetime() time.Duration {
	if c.claims.Expires.IsZero() {
		return 0
	}
	return c.claims.Expires.Sub(c.claims.IssuedAt)
}

// left is what should be left of it by this node's clocks: 0 or less for a credential that is unlikely to work. A refusal
// does not count: an API server that cannot look up the pod, or does not know another's key yet, refuses what it takes the
// next time.
func (c *credential) left(now time.Time) time.Duration {
	if c.text == "" || c.claims.Expires.IsZero() {
		return 0
	}
	// The clock that says more counts: one stands still with the node, the other may be set back.
	return c.lifetime() - max(now.Sub(c.begin), now.Round(0).Sub(c.begin.Round(0)))
}

// read looks at the file, and reads it when it has changed. The lock is held.
func (c *credentials) read(now time.Time) {
	info, statErr := os.Stat(c.path)
	if statErr == nil && c.problem == nil && c.info != nil && os.SameFile(info, c.info) && info.Size() == c.info.Size() && info.ModTime().Equal(c.info.ModTime()) {
		return
	}
	content, err := readFile(c.path)
	if err == nil {
		err = statErr
	}
	text := strings.TrimSpace(string(content))
	if err == nil && text == "" {
		err = errors.New("the token file is empty")
	}
	if err == nil && strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == unicode.MaxASCII }) {
		err = errors.New("the token file has blanks or control characters: it is no token")
	}
	c.info, c.problem = info, err
	if err != nil || text == c.file.text {
		// What was read before may still work.
		return
	}
	old := c.file
	c.file = credential{text: text}
	if claims, err := jwt.Parse(text); err == nil {
		// Both times are the node's: how far its clock is from the API server's does not matter.
		c.file.claims, c.file.begin = claims, now.Add(-max(now.Round(0).Sub(info.ModTime()), 0))
	} else if old.left(now) > c.memory.left(now) {
		// Something is wrong with the file: what it was until now is worth more.
		c.memory = old
	}
}

// candidates are the credentials to try, the best first.
func (c *credentials) candidates() ([]string, error) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read(now)
	both := []*credential{&c.file, &c.memory}
	// Stable: of two that are equally good the file is the first.
	slices.SortStableFunc(both, func(a, b *credential) int { return a.rank(now) - b.rank(now) })
	var texts []string
	for _, one := range both {
		if one.text != "" {
			texts = append(texts, one.text)
		}
	}
	if texts == nil {
		return nil, &sidecar.Error{Class: sidecar.ClassCredential, Message: "reading the API credential: " + c.problem.Error()}
	}
	return texts, nil
}

// rank is lower for what is tried first.
func (c *credential) rank(now time.Time) int {
	switch {
	case c.refused:
		return 2
	case c.left(now) <= 0:
		return 1
	}
	return 0
}

// judge remembers whether the API server refused a credential. A file that was refused is the first again once it has
// changed, a renewed one once it was renewed, and both once they were taken after all.
func (c *credentials) judge(text string, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range []*credential{&c.file, &c.memory} {
		if one.text == text {
			one.refused = refused
		}
	}
}

// keep takes a renewed credential into use.
func (c *credentials) keep(token sidecar.Token, asked time.Time) {
	claims := token.Claims
	if token.Expires.Before(claims.Expires) {
		claims.Expires = token.Expires
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.memory = credential{text: string(token.Secret), claims: claims, begin: asked}
}

// audiences are those of our own credential: the API server's.
func (c *credentials) audiences() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.file.claims.Audiences) > 0 {
		return c.file.claims.Audiences
	}
	return c.memory.claims.Audiences
}

func (c *credentials) look() sidecar.Credential {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read(now)
	state := sidecar.Credential{Signer: sidecar.SignerOf(c.file.claims), RenewIn: c.renewIn(now), Left: max(c.file.left(now), c.memory.left(now))}
	if c.problem != nil {
		state.Problem = c.problem.Error()
	}
	return state
}

// renewIn is when a renewal is due, if nothing changes until then.
func (c *credentials) renewIn(now time.Time) time.Duration {
	file, memory := c.file.left(now), c.memory.left(now)
	if file <= 0 && memory <= 0 {
		if len(c.file.claims.Audiences)+len(c.memory.claims.Audiences) == 0 {
			return never // there is nothing to renew it with
		}
		return 0 // if not even that works, our clock is right; only the API server's decides
	}
	if c.problem != nil {
		file = 0 // nobody replaces a file that cannot be read
	}
	margin := lateMargin
	if file <= 0 {
		margin = c.memory.lifetime() / stoppedPart
	}
	if memory <= 0 {
		return max(file-fileMargin, 0)
	}
	return max(file-fileMargin, memory-margin, 0)
}
