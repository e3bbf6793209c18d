package sidecar

import (
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// ask sends what SIGHUP sends.
func (b *bench) ask(asks chan os.Signal) {
	asks <- syscall.SIGHUP
	synctest.Wait()
}

func newAskedBench(t *testing.T) (*bench, chan os.Signal) {
	b := newBench(t, spec("vault", 3600))
	asks := make(chan os.Signal, 1)
	b.sidecar.refresh = asks
	return b, asks
}

func (b *bench) requests() int {
	b.api.mu.Lock()
	defer b.api.mu.Unlock()
	return len(b.api.asked)
}

func TestARefreshThatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, asks := newAskedBench(t)
		b.run()
		b.pass(10 * time.Minute)
		b.ask(asks)
		if got := b.requests(); got != 2 {
			t.Errorf("%d requests, want 2", got)
		}
		if got, want := b.status().Tokens[0].RequestedAt, b.start.Add(10*time.Minute); !got.Equal(want) {
			t.Errorf("the token on disk was asked for at %s, want %s", got, want)
		}
		_ = b.stop()
	})
}

// A request that was on its way may have been answered by the old key: the token is asked for once more.
func TestARequestInFlightIsNoAnswerToWhoAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, asks := newAskedBench(t)
		b.api.hang = 10 * time.Second
		b.run()
		b.pass(5 * time.Second)
		b.ask(asks)
		b.pass(20 * time.Second)
		if got := b.requests(); got != 2 {
			t.Errorf("%d requests, want 2", got)
		}
		if got, want := b.status().Tokens[0].RequestedAt, b.start.Add(10*time.Second); !got.Equal(want) {
			t.Errorf("the token on disk was asked for at %s, want %s", got, want)
		}
		_ = b.stop()
	})
}

// A token that could not be written is not good enough for who asks for a new one.
func TestAnUnwrittenTokenIsNoAnswerToWhoAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, asks := newAskedBench(t)
		full := error(syscall.ENOSPC)
		b.disk.err.Store(&full)
		b.run()
		b.disk.err.Store(nil)
		b.ask(asks)
		if got := b.requests(); got != 2 {
			t.Errorf("%d requests, want 2", got)
		}
		_ = b.stop()
	})
}
