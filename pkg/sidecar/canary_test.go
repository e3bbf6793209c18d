package sidecar

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/api"
)

// slowMinter answers each token after another time.
type slowMinter struct{ *apiServer }

func (m slowMinter) Mint(ctx context.Context, s api.TokenSpec) (Token, error) {
	select {
	case <-time.After(time.Duration(s.Name[0]) * 10 * time.Millisecond):
	case <-ctx.Done():
	}
	return m.apiServer.Mint(ctx, s)
}

// kubelet replaces the credential file by one of the API server as it is now.
func (b *bench) kubelet() {
	b.api.set(func(a *apiServer) { a.credential.Signer = Signer{a.key, a.account, time.Now()} })
}

func TestAnotherSignerReplacesEveryTokenAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*apiServer)
		cause  Cause
	}{
		"a new key":                  {func(a *apiServer) { a.key = "key-2" }, CauseKeyRotated},
		"a ServiceAccount made anew": {func(a *apiServer) { a.account = "account-2" }, CauseServiceAccountRecreated},
		"both":                       {func(a *apiServer) { a.key, a.account = "key-2", "account-2" }, CauseServiceAccountRecreated},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, spec("a", 3600), spec("b", 86400))
				b.sidecar.random = func() float64 { return most }
				b.sidecar.phase = 0
				b.kubelet()
				b.run()
				b.pass(10 * time.Minute)
				b.api.set(c.change)
				b.pass(5 * time.Minute)
				if n := b.requests(); n != 2 {
					t.Fatalf("%d requests before the canary", n)
				}
				b.kubelet()
				b.pass(time.Minute + canaryJitter)
				if n := b.requests(); n != 4 {
					t.Errorf("%d requests", n)
				}
				// The kubelet's next file says the same, and nothing more is done.
				b.pass(8 * time.Minute)
				b.kubelet()
				b.pass(8 * time.Minute)
				if n := b.requests(); n != 4 {
					t.Errorf("%d requests", n)
				}
				for _, one := range b.snapshot.Load().Tokens {
					if one.Refreshes[c.cause] != 1 {
						t.Errorf("%+v", one)
					}
				}
				if diff := cmp.Diff([]string{"a+b", "a+b"}, *b.batches.Load()); diff != "" {
					t.Error(diff)
				}
				_ = b.stop()
				if n := strings.Count(b.log.String(), "Tokens are outdated"); n != 1 {
					t.Errorf("%d lines", n)
				}
			})
		})
	}
}

// The regular refresh of one token may show the new key before the kubelet's file does.
func TestAMintedTokenIsACanaryToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("a", 600), spec("b", 3600))
		b.sidecar.minter = lifetimes{b.api}
		b.run()
		b.api.set(func(a *apiServer) { a.key = "key-2" })
		b.pass(8*time.Minute + canaryJitter)
		if n := len(b.api.times("b", b.start)); n != 2 {
			t.Errorf("%d requests", n)
		}
		if one := b.snapshot.Load().Tokens[1]; one.Refreshes[CauseKeyRotated] != 1 {
			t.Errorf("%+v", one)
		}
		_ = b.stop()
	})
}

// lifetimes grants what is asked.
type lifetimes struct{ *apiServer }

func (m lifetimes) Mint(_ context.Context, s api.TokenSpec) (token Token, _ error) {
	m.set(func(a *apiServer) {
		a.asked = append(a.asked, ask{s.Name, time.Now()})
		a.lifetime = time.Duration(s.ExpirationSeconds) * time.Second
		token = a.mint(s)
	})
	return token, nil
}

func TestAFileWithAnOlderKeySaysNothingAboutYoungerTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.kubelet() // with the old key
		b.api.key = "key-2"
		b.pass(time.Minute)
		b.run()
		b.pass(40 * time.Minute)
		if n := b.requests(); n != 1 {
			t.Errorf("%d requests", n)
		}
		_ = b.stop()
	})
}

// After a restart the tokens on disk are compared with the credential right away.
func TestARestartSeesAKeyThatChangedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600)).run()
		_ = b.stop()
		b.pass(time.Minute)
		b.api.key = "key-2"
		b.kubelet()
		b.restart(spec("vault", 3600))
		b.run()
		b.pass(canaryJitter)
		if n := b.requests(); n != 2 {
			t.Errorf("%d requests", n)
		}
		_ = b.stop()
	})
}

// While API servers sign with different keys in a rollout, every token and every file may show another key than the one
// before. In an hour of that a pod asks for its 5 tokens some times more, not thousands; and once it is over every token
// has the key that stayed, within the time of two files of the kubelet and the rest between two rounds.
func TestARolloutOfKeysIsNoStorm(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 4))
				var tokens []api.TokenSpec
				for i := range 5 {
					tokens = append(tokens, spec(fmt.Sprintf("t%d", i), 86400))
				}
				b := newBench(t, tokens...)
				balancer := &anyKey{apiServer: b.api, random: rand.New(rand.NewPCG(seed, 6))}
				b.sidecar.minter = balancer
				b.api.lifetime = 24 * time.Hour
				b.sidecar.random = rand.New(rand.NewPCG(seed, 5)).Float64
				b.run()
				var perMinute []int
				for range 60 {
					before := b.requests()
					b.api.set(func(a *apiServer) { a.key = fmt.Sprint("key-", random.IntN(2)) })
					b.kubelet() // more often than any
					b.pass(time.Minute)
					perMinute = append(perMinute, b.requests()-before)
				}
				if most := slices.Max(perMinute); most > 2*len(tokens) || b.requests() > 5*len(tokens) {
					t.Errorf("%d requests, %d in a minute", b.requests(), most)
				}
				b.api.set(func(a *apiServer) { balancer.random, a.key = nil, "key-1" }) // the rollout is over
				for range 15 {
					b.pass(8 * time.Minute)
					b.kubelet()
				}
				b.pass(time.Minute)
				_ = b.stop()
				for _, token := range b.sidecar.tokens {
					if token.signer.KeyID != "key-1" {
						t.Errorf("%s has %s", token.spec.Name, token.signer.KeyID)
					}
				}
			})
		})
	}
}

// anyKey is a load balancer before API servers that sign with different keys.
type anyKey struct {
	*apiServer
	random *rand.Rand // nil: there is one key
}

func (m *anyKey) Mint(_ context.Context, s api.TokenSpec) (token Token, _ error) {
	m.set(func(a *apiServer) {
		a.asked = append(a.asked, ask{s.Name, time.Now()})
		if m.random != nil {
			a.key = fmt.Sprint("key-", m.random.IntN(2))
		}
		token = a.mint(s)
	})
	return token, nil
}

// A token that must be replaced because of its signer is asked for as one that is missing, not with the patience of one
// that has half an hour left.
func TestAnOutdatedTokenIsNotPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.sidecar.random = func() float64 { return most }
		b.sidecar.phase = 0
		b.run()
		b.api.set(func(a *apiServer) { a.key = "key-2"; a.err = &Error{Class: ClassServer, Status: 500, Message: "no"} })
		b.pass(time.Second)
		b.kubelet()
		b.pass(10 * time.Minute)
		b.api.set(func(a *apiServer) { a.err = nil })
		b.pass(15 * time.Second)
		_ = b.stop()
		if got := b.sidecar.tokens[0]; got.signer.KeyID != "key-2" || got.refreshed[CauseKeyRotated] != 1 {
			t.Errorf("%s, %v", got.signer.KeyID, got.refreshed)
		}
	})
}
