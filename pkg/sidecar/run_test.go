package sidecar

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
	"github.com/podtoken/podtoken/pkg/sidecar/status"
)

var testPod = config.Pod{Namespace: "shop", Name: "cart-1", UID: "u-p", ServiceAccount: "cart"}

// apiServer is a Minter in memory.
type apiServer struct {
	mu       sync.Mutex
	lifetime time.Duration
	err      error
	hang     time.Duration
	asked    []ask
	now, top int // requests at a time
	idle     int
	// tokens are signed by key, for the account.
	key, account string
	credential   Credential
	renewals     []time.Time
	renewErr     error
}

type ask struct {
	name string
	at   time.Time
}

func (a *apiServer) Mint(ctx context.Context, spec api.TokenSpec) (Token, error) {
	a.mu.Lock()
	a.asked = append(a.asked, ask{spec.Name, time.Now()})
	a.now++
	a.top = max(a.top, a.now)
	hang := a.hang
	a.mu.Unlock()
	select {
	case <-time.After(hang):
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now--
	if a.err != nil {
		return Token{}, a.err
	}
	return a.mint(spec), nil
}

func (a *apiServer) mint(spec api.TokenSpec) Token {
	token := mint(spec.Audiences, time.Now(), a.lifetime)
	token.Claims.KeyID, token.Claims.ServiceAccountUID = a.key, a.account
	token.Secret = Secret(jwttest.Encode(token.Claims))
	return token
}

func (a *apiServer) Credential() Credential {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.credential
}

func (a *apiServer) Renew(context.Context) (Signer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.renewals = append(a.renewals, time.Now())
	if a.renewErr != nil {
		return Signer{}, a.renewErr
	}
	a.credential.RenewIn = 30 * time.Minute
	return Signer{a.key, a.account, time.Now()}, nil
}

func (a *apiServer) Idle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.idle++
}

func (a *apiServer) set(change func(*apiServer)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

// times are how long after start the token was asked for.
func (a *apiServer) times(name string, start time.Time) (times []time.Duration) {
	a.set(func(a *apiServer) {
		for _, one := range a.asked {
			if one.name == name {
				times = append(times, one.at.Sub(start))
			}
		}
	})
	return times
}

func mint(audiences []string, issued time.Time, lifetime time.Duration) Token {
	claims := jwt.Claims{
		KeyID: "key-1", ID: "jti-" + fmt.Sprint(issued.Unix()), Audiences: audiences, IssuedAt: issued, Expires: issued.Add(lifetime),
		Namespace: testPod.Namespace, ServiceAccountName: testPod.ServiceAccount, PodName: testPod.Name, PodUID: testPod.UID,
	}
	return Token{Secret: Secret(jwttest.Encode(claims)), Claims: claims, Expires: claims.Expires}
}

// disk is a Writer without the promises of internal/atomicfile.
type disk struct {
	dir string
	err atomic.Pointer[error]
}

func (d *disk) Write(path string, content []byte, mode fs.FileMode) (fs.FileInfo, error) {
	if err := d.err.Load(); err != nil && path != ".podtoken-status.json" {
		return nil, *err
	}
	name := filepath.Join(d.dir, path)
	err := errors.Join(
		os.MkdirAll(filepath.Dir(name), 0o755),
		os.WriteFile(name+".new", content, 0o600), os.Chmod(name+".new", mode))
	info, statErr := os.Stat(name + ".new")
	return info, errors.Join(err, statErr, os.Rename(name+".new", name))
}

func (d *disk) Clean() error { return nil }

// bench is a Sidecar in a bubble, with everything around it.
type bench struct {
	t        *testing.T
	api      *apiServer
	disk     *disk
	sidecar  *Sidecar
	log      *bytes.Buffer // read it after stop
	batches  atomic.Pointer[[]string]
	snapshot atomic.Pointer[Snapshot]
	start    time.Time
	offset   atomic.Int64 // of the wall clock

	cancel context.CancelFunc
	ended  chan error
}

func spec(name string, seconds int64) api.TokenSpec {
	return api.TokenSpec{Name: name, Audiences: []string{"aud-" + name}, ExpirationSeconds: seconds, Path: name, Mode: "0400", RefreshAtPercent: 80}
}

func newBench(t *testing.T, tokens ...api.TokenSpec) *bench {
	b := &bench{t: t, api: &apiServer{lifetime: time.Hour, key: "key-1", account: "account-1", credential: Credential{RenewIn: 100 * time.Hour}}, disk: &disk{dir: t.TempDir()}, start: time.Now()}
	b.restart(tokens...)
	return b
}

// restart makes a new Sidecar over the same directory.
func (b *bench) restart(tokens ...api.TokenSpec) {
	b.log = new(bytes.Buffer)
	b.sidecar = New(config.Config{Pod: testPod, Tokens: tokens, Dir: b.disk.dir}, Deps{
		Minter: b.api, Writer: b.disk, Version: "v1.2.3", Log: slog.New(slog.NewJSONHandler(b.log, nil)),
		OnSnapshot: func(snapshot Snapshot) { b.snapshot.Store(&snapshot) },
		OnBatch: func(_ context.Context, batch Batch) {
			all := []string{strings.Join(batch.Written, "+")}
			if old := b.batches.Load(); old != nil {
				all = append(slices.Clone(*old), all...)
			}
			b.batches.Store(&all)
		},
	})
	b.sidecar.random = func() float64 { return 0 } // refreshes as late, and retries as early, as they can be
	b.sidecar.phase = 0
	clock := b.sidecar.clock
	b.sidecar.clock = func() instant {
		now := clock()
		now.wall = now.wall.Add(time.Duration(b.offset.Load()))
		return now
	}
	b.cancel = nil
}

func (b *bench) run() *bench {
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.ended = cancel, make(chan error, 1)
	go func() { b.ended <- b.sidecar.Run(ctx) }()
	synctest.Wait()
	return b
}

// pass lets time pass.
func (b *bench) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) stop() error {
	b.cancel()
	synctest.Wait()
	select {
	case err := <-b.ended:
		return err
	default:
		b.t.Fatal("Run did not end at once")
		return nil
	}
}

// left is the life that is left to the file.
func (b *bench) left(path string) time.Duration {
	b.t.Helper()
	f, err := status.ReadFile(b.disk.dir, path)
	if err != nil {
		b.t.Fatal(err)
	}
	return time.Until(f.Claims.Expires)
}

func (b *bench) put(path string, content string, mode fs.FileMode) {
	b.t.Helper()
	if _, err := b.disk.Write(path, []byte(content), mode); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) status() status.Status {
	b.t.Helper()
	all, err := status.Read(b.disk.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// messages are the lines of the log, as level and message.
func (b *bench) messages() (lines []string) {
	for line := range strings.Lines(b.log.String()) {
		var entry struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			b.t.Fatal(err)
		}
		lines = append(lines, entry.Level+" "+entry.Msg)
	}
	return lines
}

func TestDaysOfRefreshes(t *testing.T) {
	for name, c := range map[string]struct {
		granted time.Duration
		percent int
		asked   int64
		random  float64
		every   time.Duration
	}{
		"an hour at 80 percent":                             {time.Hour, 80, 3600, 0, 48 * time.Minute},
		"an hour with all the jitter":                       {time.Hour, 80, 3600, 1, 43*time.Minute + 12*time.Second},
		"ten minutes at 20 percent":                         {10 * time.Minute, 20, 600, 0, 2 * time.Minute},
		"the API server grants less than was asked":         {time.Hour, 80, 86400, 0, 48 * time.Minute},
		"the API server grants more than was asked":         {2 * time.Hour, 80, 3600, 0, 96 * time.Minute},
		"a month is refreshed once a day":                   {30 * 24 * time.Hour, 80, 30 * 86400, 0, 24 * time.Hour},
		"a month with half of the jitter is still about it": {30 * 24 * time.Hour, 80, 30 * 86400, 0.5, 22*time.Hour + 48*time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const days = 2 * 24 * time.Hour
				token := spec("vault", c.asked)
				token.RefreshAtPercent = c.percent
				b := newBench(t, token)
				b.api.lifetime = c.granted
				b.sidecar.random = func() float64 { return c.random }
				b.run()
				var want []time.Duration
				for at := time.Duration(0); at <= days; at += c.every {
					want = append(want, at)
				}
				b.pass(c.every - time.Nanosecond)
				if got := b.api.times("vault", b.start); len(got) != 1 {
					t.Fatalf("asked %d times before the time", len(got))
				}
				b.pass(days - c.every + time.Nanosecond)
				if diff := cmp.Diff(want, b.api.times("vault", b.start)); diff != "" {
					t.Error(diff)
				}
				if left := b.left("vault"); left < c.granted-c.every-time.Second {
					t.Errorf("the file has %s left", left)
				}
				if err := b.stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestTokensOfOneLifetimeAreRefreshedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("a", 3600), spec("b", 3600), spec("c", 3600))
		jitter := []float64{0.1, 0.9, 0.5}
		var n int
		b.sidecar.random = func() float64 { n++; return jitter[n%3] }
		b.run()
		b.pass(3 * time.Hour)
		if diff := cmp.Diff([]string{"a+b+c", "a+b+c", "a+b+c", "a+b+c", "a+b+c"}, *b.batches.Load()); diff != "" {
			t.Error(diff)
		}
		_ = b.stop()
		if b.api.idle == 0 {
			t.Error("the connection was never closed")
		}
	})
}

func TestRequestsAtATimeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tokens []api.TokenSpec
		for i := range 16 {
			tokens = append(tokens, spec(fmt.Sprintf("t%d", i), 3600))
		}
		b := newBench(t, tokens...)
		b.api.hang = time.Second
		b.run()
		b.pass(4 * time.Second)
		if b.api.top != 4 || len(b.api.asked) != 16 {
			t.Errorf("%d requests, %d at a time", len(b.api.asked), b.api.top)
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestASuspendedNodeRefreshesWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600)).run()
		b.pass(time.Minute)
		b.offset.Store(int64(8 * time.Hour)) // timers did not move
		b.pass(time.Minute)
		if got := b.api.times("vault", b.start); len(got) != 2 {
			t.Errorf("asked at %v", got)
		}
		_ = b.stop()
	})
}

func TestAWallClockThatIsSetBackPostponesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600)).run()
		b.pass(time.Minute)
		b.offset.Store(-int64(8 * time.Hour))
		b.pass(47 * time.Minute)
		if diff := cmp.Diff([]time.Duration{0, 48 * time.Minute}, b.api.times("vault", b.start)); diff != "" {
			t.Error(diff)
		}
		_ = b.stop()
	})
}

func TestAClockUnlikeTheAPIServersIsToldAndHarmless(t *testing.T) {
	for name, offset := range map[string]time.Duration{"ahead": 3 * time.Hour, "behind": -3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, spec("vault", 3600))
				b.offset.Store(int64(offset))
				b.run()
				b.pass(48*time.Minute - time.Nanosecond)
				if got := b.api.times("vault", b.start); len(got) != 1 {
					t.Errorf("asked at %v", got)
				}
				_ = b.stop()
				if !slices.Contains(b.messages(), "WARN Clock of the node differs from the API server's") {
					t.Error(b.messages())
				}
			})
		})
	}
}
