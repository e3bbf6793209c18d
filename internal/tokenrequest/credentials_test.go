package tokenrequest

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/internal/tokenrequest/fakeapi"
	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
)

func minted(lifetime time.Duration) (string, jwt.Claims) {
	now := time.Now()
	claims := jwt.Claims{KeyID: "key-1", Audiences: []string{"api"}, IssuedAt: now, Expires: now.Add(lifetime), ServiceAccountUID: "account-1"}
	return jwttest.Encode(claims), claims
}

// kubelet is the owner of the credential file in a bubble.
type kubelet struct {
	t    *testing.T
	path string
}

func newKubelet(t *testing.T) (*kubelet, *credentials) {
	k := &kubelet{t, filepath.Join(t.TempDir(), "token")}
	k.replace()
	return k, newCredentials(k.path)
}

func (k *kubelet) replace() {
	k.t.Helper()
	text, _ := minted(10 * time.Minute)
	k.write(text)
}

func (k *kubelet) write(text string) {
	k.t.Helper()
	if err := os.WriteFile(k.path+".new", []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	if err := os.Chtimes(k.path+".new", time.Now(), time.Now()); err != nil {
		k.t.Fatal(err)
	}
	if err := os.Rename(k.path+".new", k.path); err != nil {
		k.t.Fatal(err)
	}
}

func renew(c *credentials, lifetime time.Duration) {
	text, claims := minted(lifetime)
	c.keep(sidecar.Token{Secret: sidecar.Secret(text), Claims: claims, Expires: claims.Expires}, time.Now())
}

func TestWhenARenewalIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, c := newKubelet(t)
		step := func(name string, pass, want time.Duration) {
			t.Helper()
			time.Sleep(pass)
			if got := c.look().RenewIn; got != want {
				t.Errorf("%s: renewal in %s, want %s", name, got, want)
			}
		}
		step("a new file", 0, 555*time.Second)
		step("the kubelet is in time", 500*time.Second, 55*time.Second)
		k.replace()
		step("it replaced the file", 0, 555*time.Second)
		step("the kubelet is late", 560*time.Second, 0)
		renew(c, time.Hour)
		step("a renewed one is enough while it is only late", 0, 58*time.Minute)
		step("the file has run out: half of the life", 10*time.Minute, 20*time.Minute)
		step("which is over", 20*time.Minute, 0)
		k.replace()
		step("the kubelet is back", 0, 28*time.Minute)
		step("and does its work", 9*time.Minute, 19*time.Minute)
		if err := os.Remove(k.path); err != nil {
			t.Fatal(err)
		}
		step("a file that is gone is of no use later", 0, 0)
		renew(c, time.Hour)
		step("the renewed one is", 0, 30*time.Minute)
		step("when all have run out only the API server knows", 2*time.Hour, 0)
		k.replace()
		step("a file that is new needs none", 0, 555*time.Second)
		k.write("not-a-token")
		renew(c, time.Hour)
		c.memory = credential{}
		step("what nobody can read cannot be renewed", time.Hour, never)
	})
}

// loop does what the sidecar does: a look every minute at least, and a renewal when it is due. It counts renewals, and the
// seconds without a credential.
func loop(c *credentials, d time.Duration, server func() bool) (renewals int, without time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		state := c.look()
		if state.Left <= 0 {
			without += time.Second
		}
		pause := min(time.Minute, max(state.RenewIn, time.Second))
		if state.RenewIn <= 0 && server() {
			renew(c, time.Hour)
			renewals++
		}
		if state.Left <= 0 {
			pause = time.Second
		}
		time.Sleep(pause)
	}
	return renewals, without
}

// A healthy kubelet replaces the file at 80 % of its life, up to 9 s before, at its next look at the pod: these come every
// 60 to 90 s. In a month of that the sidecar renews a few times a day, and no more.
func TestAHealthyPodRenewsSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 4))
		k, c := newKubelet(t)
		const days = 30
		done := make(chan struct{})
		go func() {
			defer close(done)
			written, period := time.Now(), time.Duration(60+30*random.Float64())*time.Second
			for start := time.Now(); time.Since(start) < days*24*time.Hour; {
				time.Sleep(period)
				if time.Since(written) >= 480*time.Second-time.Duration(random.IntN(10))*time.Second {
					k.replace()
					written = time.Now()
				}
				period = time.Duration(60+30*random.Float64()) * time.Second
			}
		}()
		renewals, without := loop(c, days*24*time.Hour, func() bool { return true })
		<-done
		t.Logf("%d renewals in %d days, beside %d of the kubelet a day", renewals, days, 24*3600/515)
		if without > 0 || renewals > 6*days {
			t.Errorf("%s without a credential, %d renewals", without, renewals)
		}
	})
}

// The kubelet has stopped. The credential outlives outages of the API server of half an hour, whenever they come, but for
// one in the first minutes, when there is only the file.
func TestAStoppedKubeletDoesNotLockUsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(2, 4))
		_, c := newKubelet(t)
		if n, without := loop(c, 20*time.Minute, func() bool { return true }); n != 1 || without > 0 {
			t.Fatalf("%d renewals, %s without a credential", n, without)
		}
		var down, until time.Time
		plan := func() {
			down = time.Now().Add(time.Duration(random.Float64() * float64(3*time.Hour)))
			until = down.Add(time.Duration(random.Float64() * float64(29*time.Minute)))
		}
		plan()
		renewals, without := loop(c, 10*24*time.Hour, func() bool {
			if time.Now().After(until.Add(35 * time.Minute)) { // time to recover from one before the next
				plan()
			}
			return time.Now().Before(down) || time.Now().After(until)
		})
		if without > 0 || renewals > 10*24*3 {
			t.Errorf("%d renewals, %s without a credential", renewals, without)
		}
	})
}

// An API server that cannot look up the pod, or does not know another's key yet, refuses both once. Both may be taken the next
// time, and nobody else renews them.
func TestAPassingRefusalDoesNotLockUsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newKubelet(t)
		_, _ = loop(c, 45*time.Minute, func() bool { return true })
		for _, one := range []string{c.file.text, c.memory.text} {
			c.judge(one, true)
		}
		if n, without := loop(c, 24*time.Hour, func() bool { return true }); n < 40 || without > 0 {
			t.Errorf("%d renewals, %s without a credential", n, without)
		}
	})
}

func TestWhichCredentialIsTriedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, c := newKubelet(t)
		file, _ := os.ReadFile(k.path)
		renew(c, time.Hour)
		memory := c.memory.text
		step := func(name string, want ...string) {
			t.Helper()
			got, err := c.candidates()
			if err != nil || cmp.Diff(want, got) != "" {
				t.Errorf("%s: %v, %d credentials", name, err, len(got))
			}
		}
		step("the file", string(file), memory)
		c.judge(string(file), true)
		step("a file that was refused is the last", memory, string(file))
		c.judge(string(file), false)
		step("unless it was taken later", string(file), memory)
		time.Sleep(10 * time.Minute)
		step("a file that has run out is the last, but it is tried: our clock may be wrong", memory, string(file))
		k.replace()
		second, _ := os.ReadFile(k.path)
		step("a new file is the first", string(second), memory)
		k.write("nonsense")
		step("nonsense is the last", memory, "nonsense")
		k.write("")
		step("an empty file says nothing", memory, "nonsense")
		if got := c.look().Problem; got != "the token file is empty" {
			t.Error(got)
		}
		if err := os.Remove(k.path); err != nil {
			t.Fatal(err)
		}
		step("nor does one that is gone", memory, "nonsense")
		if got := c.look().Problem; !strings.Contains(got, "no such file") {
			t.Error(got)
		}
	})
}

func TestNonsenseDoesNotReplaceAFileThatWasGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, c := newKubelet(t)
		file, _ := os.ReadFile(k.path)
		_ = c.look()
		k.write("nonsense")
		if got, _ := c.candidates(); cmp.Diff([]string{string(file), "nonsense"}, got) != "" {
			t.Errorf("%d credentials", len(got))
		}
	})
}

func TestTheCanaryIsTheFilesSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newKubelet(t)
		got := c.look().Signer
		if got.KeyID != "key-1" || got.ServiceAccountUID != "account-1" || !got.IssuedAt.Equal(time.Now()) {
			t.Errorf("%+v", got)
		}
	})
}

func TestRenewAsksForWhatTheGuardAllows(t *testing.T) {
	server := fakeapi.Start(t)
	c, _ := client(t, server)
	_ = c.Credential()
	signer, err := c.Renew(t.Context())
	if err != nil || signer.KeyID != "key-1" || signer.ServiceAccountUID != fakeapi.ServiceAccountUID {
		t.Fatal(signer, err)
	}
	want := []string{`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":["https://kubernetes.default.svc"],` +
		`"expirationSeconds":3600,"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"cart-6d5f","uid":"9a0b7c1d-0000-4000-8000-00000000000b"}}}`}
	if diff := cmp.Diff(want, server.Bodies()); diff != "" {
		t.Error(diff)
	}
	if left := c.Credential().Left; left < 59*time.Minute {
		t.Errorf("%s are left", left)
	}
}

func TestRenewNeedsToKnowTheAudiences(t *testing.T) {
	server := fakeapi.Start(t)
	c, dir := client(t, server)
	server.WriteCredential(t, dir, "opaque")
	_ = c.Credential()
	if _, err := c.Renew(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "Credential: renewing the API credential") || server.Requests() != 0 {
		t.Error(err)
	}
}

// Each credential is the other's fallback, within the same request for a token; and what was refused is not tried first
// again and again.
func TestEachCredentialIsTheOthersFallback(t *testing.T) {
	server := fakeapi.Start(t)
	c, dir := client(t, server)
	_ = c.Credential()
	if _, err := c.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	file, memory := c.credentials.file.text, c.credentials.memory.text
	var mu sync.Mutex
	accepted := ""
	var given []string
	server.Accept(func(credential string) bool {
		mu.Lock()
		defer mu.Unlock()
		given = append(given, map[string]string{file: "file", memory: "memory"}[credential])
		return credential == accepted
	})
	mint := func(name, accept string, ok bool, want ...string) {
		t.Helper()
		mu.Lock()
		accepted, given = accept, nil
		mu.Unlock()
		_, err := c.Mint(t.Context(), vault)
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, given); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	mint("the file is taken", file, true, "file")
	mint("the file is refused", memory, true, "file", "memory")
	mint("and not tried first again", memory, true, "memory")
	mint("the renewed one is refused", file, true, "memory", "file")
	mint("and neither is it tried first again", file, true, "file")
	mint("both are refused", "", false, "file", "memory")
	replace("token", "sec\nret")(t, dir)
	mint("a file that is no header does not stop the other", memory, true, "file", "memory")
	remove("token")(t, dir)
	mint("nor one that is gone", memory, true, "memory")
}
