package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

// span is a time from which the API server answers until it does not.
type span struct{ from, to time.Time }

// weather is an API server with outages of every length around a lifetime, of every class, with slow answers.
type weather struct {
	*apiServer
	mu     sync.Mutex
	random *rand.Rand
	up     []span
}

// newWeather plans what happens until the end. Some outages end shortly before tokens do, as they all last about as long.
func newWeather(b *bench, random *rand.Rand, lifetime, until time.Duration) *weather {
	w := &weather{apiServer: b.api, random: random}
	now := b.start
	for now.Before(b.start.Add(until)) {
		up := time.Duration(random.Float64() * random.Float64() * float64(lifetime))
		w.up = append(w.up, span{now, now.Add(up)})
		now = now.Add(up + time.Duration(random.Float64()*1.3*float64(lifetime)))
	}
	w.up = append(w.up, span{now, now.Add(1000 * time.Hour)})
	return w
}

const slowest = 2 * time.Second

func (w *weather) Mint(ctx context.Context, s api.TokenSpec) (Token, error) {
	w.mu.Lock()
	answer := time.Duration(w.random.Float64() * float64(slowest))
	class := Classes()[w.random.IntN(len(Classes())-1)] // files come later
	w.mu.Unlock()
	now := time.Now()
	select {
	case <-time.After(answer):
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
	for _, one := range w.up {
		if !now.Before(one.from) && time.Now().Before(one.to) {
			return w.apiServer.Mint(ctx, s)
		}
	}
	return Token{}, &Error{Class: class, Status: 500, Message: "outage"}
}

// history is a Writer that remembers what readers could read.
type history struct {
	*disk
	written []Token
	at      []time.Time
}

func (h *history) Write(path string, content []byte, mode fs.FileMode) (fs.FileInfo, error) {
	if path == api.StatusFile {
		return nil, nil // nobody reads it here
	}
	info, err := h.disk.Write(path, content, mode)
	if claims, parseErr := jwt.Parse(string(content)); err == nil && parseErr == nil {
		h.written = append(h.written, Token{Claims: claims})
		h.at = append(h.at, time.Now())
	}
	return info, err
}

// The promise to every reader: as long as the API server answers at any time in the last part of a token's life, for as
// long as a delay may be then, no reader ever holds an expired token. A delay may be three quarters of the life that is left,
// twelve minutes at most; a tenth of it in the last twentieth of the life, but never less than a second.
func TestNoReaderHoldsAnExpiredTokenIfTheServerAnswersInTime(t *testing.T) {
	var tokens, survived, expired int
	for seed := range uint64(48) {
		random := rand.New(rand.NewPCG(seed, 4))
		lifetime := []time.Duration{10 * time.Minute, time.Hour, 2 * time.Hour, 24 * time.Hour}[seed%4]
		percent := []int{20, 50, 80, 90}[random.IntN(4)]
		t.Run(fmt.Sprintf("seed %d, %s at %d percent", seed, lifetime, percent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				one := spec("vault", int64(lifetime.Seconds()))
				one.RefreshAtPercent = percent
				b := newBench(t, one)
				b.api.lifetime = lifetime
				b.sidecar.random = random.Float64
				b.sidecar.phase = random.Float64()
				times := 10
				if lifetime > 2*time.Hour {
					times = 3 // each minute of it costs
				}
				long := time.Duration(times) * lifetime
				w := newWeather(b, rand.New(rand.NewPCG(seed, 5)), lifetime, long)
				written := &history{disk: b.disk}
				b.sidecar.minter, b.sidecar.writer = w, written
				b.run()
				b.pass(long + 2*lifetime)
				_ = b.stop()
				if !written.written[len(written.written)-1].Claims.Expires.After(time.Now()) {
					t.Fatal("the last token has expired, though the server was there")
				}
				for i, token := range written.written[:len(written.written)-1] {
					tokens++
					end := token.Claims.Expires
					last := end.Add(-lifetime * time.Duration(100-percent) / 100)
					chance := w.chance(last, end, lifetime)
					switch ended := written.at[i+1].After(end); {
					case ended && chance != "":
						t.Errorf("a token of %s expired at %s; the next came at %s, but %s", token.Claims.IssuedAt, end, written.at[i+1], chance)
					case ended:
						expired++
					case chance != "" && written.at[i+1].After(last):
						survived++
					}
				}
			})
		})
	}
	t.Logf("%d tokens: %d were replaced late but in time, %d expired because nobody answered", tokens, survived, expired)
	if survived < 20 || expired < 20 {
		t.Error("the outages are not what they should be")
	}
}

// chance tells when the server answered for long enough between two times.
func (w *weather) chance(from, end time.Time, lifetime time.Duration) string {
	for _, one := range w.up {
		start, stop := one.from, one.to
		if start.Before(from) {
			start = from
		}
		if stop.After(end) {
			stop = end
		}
		left := end.Sub(start)
		// The longest delay and two slow answers: the one that failed, and the one that does not.
		need := min(left*3/4, patience) + 2*slowest + time.Second
		if left <= lifetime/20 {
			need = max(lifetime/200, time.Second) + 2*slowest + time.Second
		}
		if stop.Sub(start) >= need {
			return fmt.Sprintf("the server answered from %s to %s", start, stop)
		}
	}
	return ""
}

// A reader checks every token through restarts at any moment, also between a request and its answer, and with an empty
// directory now and then, as after a reboot of the node.
func TestRestartsAtAnyMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(7, 4))
		b := newBench(t, spec("vault", 3600))
		realFiles(t, b)
		files := b.sidecar.writer
		b.api.hang = 3 * time.Second
		read, requests, missing := 0, 0, true
		for range 300 {
			b.restart(spec("vault", 3600))
			b.sidecar.writer, b.sidecar.random, b.sidecar.phase = files, rand.New(rand.NewPCG(random.Uint64(), 5)).Float64, random.Float64()
			before := b.requests()
			b.run()
			for end := time.Now().Add(time.Duration(random.Float64() * random.Float64() * float64(2*time.Hour))); time.Now().Before(end); {
				b.pass(time.Duration(random.Float64() * float64(time.Minute)))
				content, err := os.ReadFile(filepath.Join(b.disk.dir, "vault"))
				if errors.Is(err, fs.ErrNotExist) && missing {
					continue // the first answer is on its way
				}
				must(t, err)
				missing = false
				claims, err := jwt.Parse(string(content))
				must(t, err)
				if !claims.Expires.After(time.Now()) {
					t.Fatalf("expired %s ago", time.Since(claims.Expires))
				}
				read++
			}
			_ = b.stop()
			requests += b.requests() - before
			if random.IntN(10) == 0 {
				must(t, os.RemoveAll(filepath.Join(b.disk.dir, "vault")))
				missing = true
			}
			entries, err := os.ReadDir(b.disk.dir)
			must(t, err)
			if len(entries) > 2 {
				t.Fatalf("%v", entries)
			}
			b.pass(4 * time.Second)
		}
		t.Logf("%d reads, %d requests", read, requests)
		if read < 10000 || requests > 800 {
			t.Error("the restarts are not what they should be")
		}
	})
}

// A year of refreshes, a look every minute, leaves nothing behind: no goroutine, no file descriptor, no memory.
func TestAYear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(8, 4))
		b := newBench(t, spec("a", 86400))
		realFiles(t, b)
		b.api.lifetime = 24 * time.Hour
		b.sidecar.random = rand.New(rand.NewPCG(4, 8)).Float64 // not random: that is this goroutine's
		b.run()
		const day = 24 * time.Hour
		type use struct{ goroutines, descriptors, heap int }
		measure := func() use {
			b.log.Reset()
			b.batches.Store(nil)
			b.api.set(func(a *apiServer) { a.asked = nil })
			runtime.GC()
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			open, err := os.ReadDir("/proc/self/fd")
			must(t, err)
			return use{runtime.NumGoroutine(), len(open), int(memory.HeapAlloc)}
		}
		b.pass(10 * day)
		before := measure()
		refreshes := 0
		for range 12 {
			for range 30 {
				b.pass(day)
				// Now and then something happens.
				switch random.IntN(10) {
				case 0:
					b.api.set(func(a *apiServer) { a.err = &Error{Class: ClassServer, Status: 500, Message: "no"} })
					b.pass(2 * time.Hour)
					b.api.set(func(a *apiServer) { a.err = nil })
				case 1:
					must(t, os.Remove(filepath.Join(b.disk.dir, "a")))
				case 2:
					b.api.set(func(a *apiServer) { a.key = fmt.Sprint("key-", random.IntN(1000)) })
					b.kubelet()
				}
			}
			refreshes += b.requests()
			after := measure()
			if after.goroutines != before.goroutines || after.descriptors != before.descriptors || after.heap > before.heap+200<<10 {
				t.Fatalf("%+v, in the beginning %+v", after, before)
			}
		}
		_ = b.stop()
		after := measure()
		t.Logf("%d requests; in the beginning %+v, in the end %+v", refreshes, before, after)
		if refreshes < 365 || refreshes > 2*365 {
			t.Error("the year is not what it should be")
		}
		if left := b.sidecar.canary.seen; len(left) > maxSigners || slices.Contains(left, Signer{}) {
			t.Errorf("%v", left)
		}
	})
}
