package sidecar

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/status"
)

func TestTheFirstTokenIsAskedForFastAndOftenAfterADenial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.sidecar.random = func() float64 { return 1 - 1e-12 }
		b.api.err = &Error{Class: ClassForbidden, Status: 403, Reason: "Forbidden", Message: "no"}
		b.run()
		b.pass(10 * time.Second)
		var got []time.Duration
		for _, at := range b.api.times("vault", b.start) {
			got = append(got, at.Round(time.Millisecond))
		}
		// The delays are 250 ms, 500 ms, 1 s, 2 s, 4 s.
		want := []time.Duration{0, 250 * time.Millisecond, 750 * time.Millisecond, 1750 * time.Millisecond, 3750 * time.Millisecond, 7750 * time.Millisecond}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		b.api.set(func(a *apiServer) { a.err = nil })
		b.pass(15 * time.Second)
		if left := b.left("vault"); left < 59*time.Minute {
			t.Errorf("the file has %s left", left)
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
		// One line for the first failure, not six.
		if diff := cmp.Diff([]string{"INFO Starting", "ERROR Token not refreshed", "INFO Token written"}, b.messages()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAnOutageLeavesTheOldFileAndAttemptsComeFasterAsItsEndNears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600)).run()
		b.sidecar.random = func() float64 { return 1 - 1e-12 }
		content, err := os.ReadFile(filepath.Join(b.disk.dir, "vault"))
		if err != nil {
			t.Fatal(err)
		}
		b.api.set(func(a *apiServer) { a.err = &Error{Class: ClassConfiguration, Status: 422, Message: "no"} })
		b.pass(24 * time.Hour)
		now, err := os.ReadFile(filepath.Join(b.disk.dir, "vault"))
		if err != nil || string(now) != string(content) {
			t.Errorf("the old file is gone: %v", err)
		}
		times := b.api.times("vault", b.start)
		var before, after int
		shortest := time.Hour
		for i, at := range times[1:] {
			if at < time.Hour {
				before++
				if i > 0 {
					shortest = min(shortest, at-times[i])
				}
			} else {
				after++
			}
		}
		// 12 minutes are left at the first failure; the delays are a tenth of what is left, down to a second.
		if before < 30 || before > 60 || shortest < time.Second || shortest > 1100*time.Millisecond {
			t.Errorf("%d attempts before the end, shortest delay %s", before, shortest)
		}
		// After it, as for a first token: every 2 minutes.
		if after < 600 || after > 700 {
			t.Errorf("%d attempts after the end", after)
		}
		b.api.set(func(a *apiServer) { a.err = nil })
		b.pass(2 * time.Minute)
		if left := b.left("vault"); left < 50*time.Minute {
			t.Errorf("the file has %s left", left)
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
		// A warning first, an error when it expired, then once in a while a line of no alarm.
		messages := b.messages()
		if n := strings.Count(strings.Join(messages, "\n"), "ERROR"); n != 1 || messages[2] != "WARN Token not refreshed" {
			t.Errorf("%d errors in %q", n, messages)
		}
	})
}

func TestAChangeOfTheErrorIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600)).run()
		b.api.set(func(a *apiServer) { a.err = errors.New("connection refused") })
		b.pass(48*time.Minute + 10*time.Millisecond)
		b.api.set(func(a *apiServer) {
			a.err = &Error{Class: ClassForbidden, Status: 403, Reason: "Forbidden", Message: "no"}
		})
		b.pass(10 * time.Second)
		status := b.status().Tokens[0]
		if status.LastErrorClass != "Forbidden" || status.LastError != "Forbidden (HTTP 403): no" || status.Failures < 3 {
			t.Errorf("%+v", status)
		}
		if status.ExpiresAt.IsZero() || !status.RefreshAt.After(time.Now()) {
			t.Errorf("%+v", status)
		}
		b.api.set(func(a *apiServer) { a.err = nil })
		b.pass(time.Minute)
		if status := b.status().Tokens[0]; status.LastError != "" || status.LastErrorClass != "" || status.Failures != 0 {
			t.Errorf("%+v", status)
		}
		_ = b.stop()
		want := []string{"INFO Starting", "INFO Token written", "WARN Token not refreshed", "WARN Token not refreshed", "INFO Token written"}
		if diff := cmp.Diff(want, b.messages()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOneTokensFailureDoesNotHoldTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("a", 3600), spec("b", 3600))
		b.sidecar.minter = minterFunc{b.api, func(name string) error {
			if name == "a" {
				return &Error{Class: ClassConfiguration, Status: 400, Message: "no"}
			}
			return nil
		}}
		b.run()
		b.pass(49 * time.Minute)
		if left := b.left("b"); left < 58*time.Minute {
			t.Errorf("b has %s left", left)
		}
		err := b.stop()
		var incomplete *IncompleteError
		if !errors.As(err, &incomplete) || len(incomplete.Lines) != 1 ||
			!strings.HasPrefix(incomplete.Lines[0], `token "a" was never written: failed `) || !strings.HasSuffix(incomplete.Lines[0], "times, last: Configuration (HTTP 400): no") {
			t.Errorf("%v", err)
		}
	})
}

// minterFunc is an apiServer that fails for some tokens.
type minterFunc struct {
	*apiServer
	fail func(name string) error
}

func (m minterFunc) Mint(ctx context.Context, s api.TokenSpec) (Token, error) {
	if err := m.fail(s.Name); err != nil {
		return Token{}, err
	}
	return m.apiServer.Mint(ctx, s)
}

func TestAFileThatCannotBeWrittenIsWrittenLaterWithoutAskingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.sidecar.random = func() float64 { return 1 - 1e-12 }
		full := error(syscall.ENOSPC)
		b.disk.err.Store(&full)
		b.run()
		b.pass(5 * time.Minute)
		if got := b.api.times("vault", b.start); len(got) != 1 {
			t.Errorf("asked at %v", got)
		}
		if status := b.status().Tokens[0]; status.LastErrorClass != "File" || status.LastError != "File: no space left on device" {
			t.Errorf("%+v", status)
		}
		// A token that grew old in memory is not worth writing.
		b.pass(26 * time.Minute)
		if got := b.api.times("vault", b.start); len(got) != 2 {
			t.Errorf("asked at %v", got)
		}
		b.disk.err.Store(nil)
		b.pass(time.Minute)
		if left := b.left("vault"); left < 57*time.Minute {
			t.Errorf("the file has %s left", left)
		}
		if got := b.api.times("vault", b.start); len(got) != 2 {
			t.Errorf("asked at %v", got)
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestStopEndsAtOnceWhateverIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.api.hang = 10 * time.Second
		b.run()
		b.pass(time.Second)
		err := b.stop()
		if err == nil || err.Error() != `token "vault" was never written: no answer of the API server yet` {
			t.Errorf("%v", err)
		}
	})
}

func TestStatusIsThereBeforeTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.api.hang = 10 * time.Second
		b.run()
		want := status.Status{Version: "v1.2.3", PID: os.Getpid(), Tokens: []status.Token{{
			Name: "vault", Path: "vault", Audiences: []string{"aud-vault"}, RefreshAt: b.start.UTC(),
		}}}
		if diff := cmp.Diff(want, b.status()); diff != "" {
			t.Error(diff)
		}
		b.pass(10 * time.Second)
		want.Tokens[0].ExpiresAt = b.start.Add(time.Hour + 10*time.Second).UTC()
		want.Tokens[0].RefreshAt = b.start.Add(48 * time.Minute).UTC()
		want.Tokens[0].RequestedAt = b.start.UTC()
		want.Tokens[0].LastSuccess = b.start.Add(10 * time.Second).UTC()
		if diff := cmp.Diff(want, b.status()); diff != "" {
			t.Error(diff)
		}
		info, err := os.Stat(filepath.Join(b.disk.dir, ".podtoken-status.json"))
		if err != nil || info.Mode().Perm() != 0o444 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		_ = b.stop()
	})
}

func TestARestart(t *testing.T) {
	const age = 10 * time.Minute
	good := func(b *bench) string { return string(mint([]string{"aud-vault"}, time.Now(), time.Hour).Secret) }
	for name, c := range map[string]struct {
		content func(b *bench) string
		mode    os.FileMode
		age     time.Duration
		mtime   time.Duration // how long before the restart the file was written, if not at the same time
		asks    int           // at once
		keeps   bool
		next    time.Duration // the first request after the restart, if not at once
		message string
	}{
		"keeps a fresh file and asks for nothing": {
			content: good, mode: 0o400, age: age, next: 38 * time.Minute, keeps: true, message: "INFO Token kept"},
		"corrects a mode without asking": {
			content: good, mode: 0o444, age: age, next: 38 * time.Minute, message: "INFO Token file's mode corrected"},
		"asks at once when the clock was set back since the file was written": {
			content: good, mode: 0o400, age: 0, mtime: -2 * time.Hour, asks: 1, message: "INFO Token kept"},
		"refreshes what is due": {
			content: good, mode: 0o400, age: 50 * time.Minute, asks: 1, message: "INFO Token kept"},
		"replaces what expired": {
			content: good, mode: 0o400, age: time.Hour, asks: 1, message: "INFO Token file replaced"},
		"counts the file's own age when the API server's clock is ahead": {
			content: good, mode: 0o400, age: 0, mtime: age, next: 38 * time.Minute, keeps: true, message: "INFO Token kept"},
		"replaces what is cut off": {
			content: func(b *bench) string { return good(b)[:100] }, mode: 0o400, age: age, asks: 1, message: "INFO Token file replaced"},
		"replaces what is empty": {
			content: func(*bench) string { return "" }, mode: 0o400, age: age, asks: 1, message: "INFO Token file replaced"},
		"replaces what has a newline": {
			content: func(b *bench) string { return good(b) + "\n" }, mode: 0o400, age: age, asks: 1, message: "INFO Token file replaced"},
		"replaces what lacks an audience": {
			content: func(*bench) string { return string(mint([]string{"other"}, time.Now(), time.Hour).Secret) },
			mode:    0o400, age: age, asks: 1, message: "INFO Token file replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, spec("vault", 3600))
				b.put("vault", c.content(b), c.mode)
				time.Sleep(c.age)
				before := c.age
				if c.mtime != 0 {
					before = c.mtime
				}
				written := time.Now().Add(-before)
				if err := os.Chtimes(filepath.Join(b.disk.dir, "vault"), written, written); err != nil {
					t.Fatal(err)
				}
				old, _ := os.Stat(filepath.Join(b.disk.dir, "vault"))
				b.start = time.Now()
				b.run()
				if got := b.api.times("vault", b.start); len(got) != c.asks {
					t.Fatalf("asked at %v", got)
				}
				after, err := os.Stat(filepath.Join(b.disk.dir, "vault"))
				if err != nil || after.Mode().Perm() != 0o400 {
					t.Errorf("%v, %v", after.Mode(), err)
				}
				if os.SameFile(old, after) != c.keeps {
					t.Error("the file is, or is not, the same")
				}
				if c.next > 0 {
					b.pass(time.Hour)
					if got := b.api.times("vault", b.start); len(got) == 0 || got[0] != c.next {
						t.Errorf("asked at %v, want %s", got, c.next)
					}
				}
				if err := b.stop(); err != nil {
					t.Error(err)
				}
				if !slices.Contains(b.messages(), c.message) {
					t.Errorf("%q is not in %q", c.message, b.messages())
				}
			})
		})
	}
}

func TestARestartInAnotherPodKeepsNothing(t *testing.T) {
	for name, change := range map[string]func(*config.Pod){
		"another uid":            func(p *config.Pod) { p.UID = "u-q" },
		"another name":           func(p *config.Pod) { p.Name = "cart-2" },
		"another namespace":      func(p *config.Pod) { p.Namespace = "store" },
		"another ServiceAccount": func(p *config.Pod) { p.ServiceAccount = "basket" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, spec("vault", 3600))
				b.put("vault", string(mint([]string{"aud-vault"}, time.Now(), time.Hour).Secret), 0o400)
				change(&b.sidecar.config.Pod)
				b.run()
				if got := b.api.times("vault", b.start); len(got) != 1 {
					t.Errorf("asked at %v", got)
				}
				_ = b.stop()
			})
		})
	}
}

func TestAFileThatIsNoneIsNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.put("elsewhere", string(mint([]string{"aud-vault"}, time.Now(), time.Hour).Secret), 0o400)
		if err := os.Symlink("elsewhere", filepath.Join(b.disk.dir, "vault")); err != nil {
			t.Fatal(err)
		}
		b.run()
		if got := b.api.times("vault", b.start); len(got) != 1 {
			t.Errorf("asked at %v", got)
		}
		_ = b.stop()
	})
}
