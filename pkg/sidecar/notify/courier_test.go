package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// application is what couriers tell in these tests.
type application struct {
	mu sync.Mutex
	// answer decides about attempt n, counted from 1.
	answer func(n int) error
	// heard has the tokens of each attempt, and when it was, counted from the beginning.
	heard []string
	at    []time.Duration
	begun time.Time
}

func (a *application) deliver(_ context.Context, tokens []string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = append(a.heard, strings.Join(tokens, " "))
	a.at = append(a.at, time.Since(a.begun))
	return a.answer(len(a.heard))
}

// attempts has what was heard, and when.
func (a *application) attempts() ([]string, []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.heard), slices.Clone(a.at)
}

// lines is a log without times.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.b.String()), "\n")
}

// tellApplication runs a courier in a bubble.
func tellApplication(t *testing.T, answer func(n int) error, test func(c *courier, a *application, log *lines)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := &application{answer: answer, begun: time.Now()}
		log := &lines{}
		c := &courier{kind: KindHTTP, deliver: a.deliver, random: func() float64 { return 0 }, log: log.logger(), wake: make(chan struct{}, 1)}
		n := &Notifier{couriers: []*courier{c}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			n.Run(ctx)
			close(ended)
		}()
		test(c, a, log)
		cancel()
		<-ended
	})
}

// pass lets time pass, until everything rests.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func wantEqual(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

var errBroken = errors.New("broken")

func TestEveryChangeIsToldOnce(t *testing.T) {
	tellApplication(t, func(int) error { return nil }, func(c *courier, a *application, log *lines) {
		c.changed([]string{"vault", "billing"})
		synctest.Wait()
		pass(time.Hour) // Nothing more is said of it, however long one waits.
		c.changed([]string{"vault"})
		c.changed(nil)
		pass(time.Hour)
		heard, _ := a.attempts()
		wantEqual(t, "heard", []string{"billing vault", "vault"}, heard)
		wantEqual(t, "count", []Count{{Kind: KindHTTP, Successes: 2}}, (&Notifier{couriers: []*courier{c}}).Counts())
		wantEqual(t, "log", []string{`level=INFO msg="Application told" tokens="[billing vault]"`}, log.all())
	})
}

// Changes that come while an attempt is on its way join into one.
func TestChangesDuringAnAttempt(t *testing.T) {
	var c *courier
	tellApplication(t, func(n int) error {
		if n == 1 {
			c.changed([]string{"b"})
			c.changed([]string{"a", "c"})
			c.changed([]string{"a"})
		}
		return nil
	}, func(courier *courier, a *application, _ *lines) {
		c = courier
		c.changed([]string{"a"})
		pass(time.Hour)
		heard, at := a.attempts()
		wantEqual(t, "heard", []string{"a", "a b c"}, heard)
		wantEqual(t, "at", []time.Duration{0, 0}, at)
	})
}

// The delays double up to half a minute, and end after about five minutes; what was not told goes along with the next change.
func TestAttemptsAreBounded(t *testing.T) {
	broken := true
	tellApplication(t, func(int) error {
		if broken {
			return errBroken
		}
		return nil
	}, func(c *courier, a *application, log *lines) {
		c.changed([]string{"a"})
		pass(time.Hour)
		heard, at := a.attempts()
		if len(heard) != 20 {
			t.Fatalf("%d attempts, want 20", len(heard))
		}
		var delays []string
		for i := 1; i < len(at); i++ {
			delays = append(delays, (at[i] - at[i-1]).String())
		}
		wantEqual(t, "delays without jitter", "125ms 250ms 500ms 1s 2s 4s 8s"+strings.Repeat(" 15s", 12), strings.Join(delays, " "))
		wantEqual(t, "pending", []Count{{Kind: KindHTTP, Failures: 20, Pending: 1}}, (&Notifier{couriers: []*courier{c}}).Counts())

		broken = false
		c.changed([]string{"b"})
		pass(time.Hour)
		heard, _ = a.attempts()
		wantEqual(t, "heard", []string{"a b"}, heard[20:])
		wantEqual(t, "pending", []Count{{Kind: KindHTTP, Successes: 1, Failures: 20}}, (&Notifier{couriers: []*courier{c}}).Counts())
		wantEqual(t, "log", []string{
			`level=WARN msg="Telling the application failed" tokens=[a] error=broken`,
			`level=WARN msg="Application not told, giving up until the next change" tokens=[a] attempts=20 error=broken`,
			`level=INFO msg="Application told" tokens="[a b]"`,
		}, log.all())
	})
}

// A newer change takes the place of one that is being retried: at once, with all names, and with attempts of its own.
func TestLatestWins(t *testing.T) {
	tellApplication(t, func(n int) error {
		if n <= 25 {
			return errBroken
		}
		return nil
	}, func(c *courier, a *application, log *lines) {
		c.changed([]string{"a"})
		pass(2*time.Minute + 16*time.Second) // In the middle of a delay of 15 s.
		earlier, _ := a.attempts()
		before := len(earlier)
		c.changed([]string{"b"})
		synctest.Wait()
		if all, at := a.attempts(); len(all) != before+1 || at[before] != 2*time.Minute+16*time.Second {
			t.Errorf("the newer change was told of at %v, want at once", at[before:])
		}
		pass(time.Hour)
		all, _ := a.attempts()
		wantEqual(t, "attempts", 26, len(all))
		for i, heard := range all {
			if want := map[bool]string{false: "a", true: "a b"}[i >= before]; heard != want {
				t.Errorf("attempt %d told of %q, want %q", i+1, heard, want)
			}
		}
		wantEqual(t, "log", []string{
			`level=WARN msg="Telling the application failed" tokens=[a] error=broken`,
			`level=INFO msg="Application told" tokens="[a b]"`,
		}, log.all())
	})
}

// The tokens of most pods exist before the application listens: that is no warning. What comes after it is.
func TestAbsentApplication(t *testing.T) {
	tellApplication(t, func(n int) error {
		switch n {
		case 1, 2:
			return absentError{errors.New("refused")}
		case 3, 4:
			return errBroken
		}
		return nil
	}, func(c *courier, a *application, log *lines) {
		c.changed([]string{"a"})
		pass(time.Hour)
		heard, _ := a.attempts()
		wantEqual(t, "attempts", 5, len(heard))
		wantEqual(t, "log", []string{
			`level=INFO msg="Application is not there yet, telling it later" tokens=[a] error=refused`,
			`level=WARN msg="Telling the application failed" tokens=[a] error=broken`,
			`level=INFO msg="Application told" tokens=[a]`,
		}, log.all())
	})
}

// Nobody is told twice because somebody else could not be told.
// Whoever started after the change has read the new files: that is no failure, and no success.
func TestANeedlessNotificationIsNotRetriedAndNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &application{begun: time.Now(), answer: func(int) error { return needlessError{errors.New("it is new")} }}
		log := &lines{}
		c := &courier{kind: KindSignal, deliver: a.deliver, random: func() float64 { return 0 }, log: log.logger(), wake: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		go c.run(ctx)
		c.changed([]string{"a"})
		time.Sleep(time.Hour)
		cancel()
		synctest.Wait()
		heard, _ := a.attempts()
		if len(heard) != 1 || c.count.Successes+c.count.Failures != 0 || len(c.telling)+len(c.untold) != 0 {
			t.Errorf("%q, %+v, still to tell %q", heard, c.count, c.telling)
		}
		if want := "level=INFO msg=\"Application needs not be told\" tokens=[a] reason=\"it is new\"\n"; log.b.String() != want {
			t.Errorf("log %q", log.b.String())
		}
	})
}

func TestFinalErrorIsNotRetried(t *testing.T) {
	tellApplication(t, func(int) error { return finalError{errBroken} }, func(c *courier, a *application, log *lines) {
		c.changed([]string{"a"})
		pass(time.Hour)
		c.changed([]string{"b"})
		pass(time.Hour)
		heard, _ := a.attempts()
		wantEqual(t, "heard", []string{"a", "b"}, heard)
		wantEqual(t, "count", []Count{{Kind: KindHTTP, Failures: 2}}, (&Notifier{couriers: []*courier{c}}).Counts())
		wantEqual(t, "lines in the log", 2, len(log.all()))
	})
}

// A change is handed over at once while an attempt hangs, and the end does not wait for it either.
func TestNothingIsBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lines{}
		c := &courier{kind: KindHTTP, random: func() float64 { return 0 }, log: log.logger(), wake: make(chan struct{}, 1)}
		c.deliver = func(ctx context.Context, _ []string) error {
			<-ctx.Done()
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			c.run(ctx)
			close(ended)
		}()
		begun := time.Now()
		for i := range 100 {
			c.changed([]string{fmt.Sprint("token-", i)})
		}
		cancel()
		<-ended
		if took := time.Since(begun); took != 0 || log.all()[0] != "" {
			t.Errorf("it took %s, and said %q", took, log.all())
		}
	})
}

func TestDelay(t *testing.T) {
	for _, c := range []struct {
		attempts int
		random   float64
		want     time.Duration
	}{
		{1, 0, 125 * time.Millisecond}, {1, 1, 250 * time.Millisecond}, {2, 1, 500 * time.Millisecond},
		{7, 1, 16 * time.Second}, {8, 1, 30 * time.Second}, {8, 0, 15 * time.Second}, {1000, 0.5, 22500 * time.Millisecond},
	} {
		if got := delay(c.attempts, c.random); got != c.want {
			t.Errorf("delay(%d, %v) is %s, want %s", c.attempts, c.random, got, c.want)
		}
	}
}
