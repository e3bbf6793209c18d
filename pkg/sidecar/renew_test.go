package sidecar

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func (b *bench) renewals() (times []time.Duration) {
	b.api.set(func(a *apiServer) {
		for _, at := range a.renewals {
			times = append(times, at.Sub(b.start).Round(time.Second))
		}
	})
	return times
}

// sorted is for lines whose order nobody promises.
func sorted(lines []string) []string {
	slices.Sort(lines)
	return lines
}

func TestTheCredentialIsRenewedWhenItIsDueAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600)).run()
		b.pass(10 * time.Minute)
		if got := b.renewals(); got != nil {
			t.Fatalf("renewed at %v", got)
		}
		// The file is not replaced any more: at the next look it has 30 seconds until a renewal is due.
		b.api.set(func(a *apiServer) { a.credential = Credential{RenewIn: 30 * time.Second, Left: 75 * time.Second} })
		b.pass(time.Minute)
		b.api.set(func(a *apiServer) { a.credential.RenewIn = 0 })
		b.pass(31 * time.Second)
		if diff := cmp.Diff([]time.Duration{11*time.Minute + 30*time.Second}, b.renewals()); diff != "" {
			t.Error(diff)
		}
		idle := b.api.idle
		if idle < 2 {
			t.Error("the connection was left open")
		}
		_ = b.stop()
		if diff := cmp.Diff([]string{"INFO Starting", "INFO Token written", "INFO API credential renewed"}, b.messages()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestARenewalThatFailsIsTriedUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.sidecar.random = func() float64 { return most }
		b.sidecar.phase = 0
		b.api.renewErr = &Error{Class: ClassNetwork, Message: "refused"}
		b.api.credential = Credential{Left: 45 * time.Second}
		b.run()
		for left := 44 * time.Second; left >= 0; left -= time.Second {
			b.pass(time.Second)
			b.api.set(func(a *apiServer) { a.credential.Left = left })
		}
		n := len(b.renewals())
		if n < 4 || n > 20 {
			t.Errorf("tried at %v", b.renewals())
		}
		b.api.set(func(a *apiServer) { a.renewErr = nil })
		b.pass(15 * time.Second)
		if got := b.renewals(); len(got) == n || got[n] > time.Minute {
			t.Errorf("tried at %v", got)
		}
		_ = b.stop()
		if diff := cmp.Diff([]string{"INFO API credential renewed", "INFO Starting", "INFO Token written", "WARN API credential not renewed"}, sorted(b.messages())); diff != "" {
			t.Error(diff)
		}
	})
}

// A Role that somebody wrote by hand may not allow it.
func TestARenewalThatIsRefusedIsLoggedOnceAndTriedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 86400))
		b.api.lifetime = 24 * time.Hour
		b.api.renewErr = &Error{Class: ClassForbidden, Status: 403, Message: "no"}
		b.api.credential = Credential{Left: 45 * time.Second}
		b.run()
		b.pass(2 * time.Hour)
		if n := len(b.renewals()); n < 12 || n > 28 {
			t.Errorf("%d attempts", n)
		}
		_ = b.stop()
		if diff := cmp.Diff([]string{"INFO Starting", "INFO Token written", "WARN API credential not renewed"}, sorted(b.messages())); diff != "" {
			t.Error(diff)
		}
	})
}

// An API server that has just started may refuse everything for a moment, when there is no time to lose.
func TestAPassingRefusalDoesNotEndTheRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.api.renewErr = &Error{Class: ClassForbidden, Status: 403, Message: "not yet ready to handle request"}
		b.api.credential = Credential{Left: 45 * time.Second}
		b.run()
		b.api.set(func(a *apiServer) { a.renewErr = nil })
		b.pass(44 * time.Second)
		if got := b.renewals(); len(got) != 2 {
			t.Errorf("tried at %v, want two times before the credential ends", got)
		}
		_ = b.stop()
	})
}

// A credential that should have ended may be good still, if it is the node's clock that is wrong; if not, trying costs little.
func TestWhatShouldHaveEndedIsTriedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.api.renewErr = &Error{Class: ClassUnauthorized, Status: 401, Message: "no"}
		b.api.credential = Credential{}
		b.run()
		b.pass(2 * time.Hour)
		if n := len(b.renewals()); n < 12 || n > 25 {
			t.Errorf("%d attempts", n)
		}
		_ = b.stop()
	})
}

// Whatever the API server grants, a renewal does not become a busy loop.
func TestARenewalThatDoesNotHelpIsNoLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.api.credential = Credential{Left: time.Second}
		b.sidecar.minter = alwaysDue{b.api}
		b.run()
		b.pass(10 * time.Minute)
		if n := len(b.renewals()); n < 15 || n > 21 {
			t.Errorf("%d renewals", n)
		}
		_ = b.stop()
	})
}

type alwaysDue struct{ *apiServer }

func (alwaysDue) Credential() Credential { return Credential{Left: time.Second} }

func TestAFileThatCannotBeReadIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, spec("vault", 3600))
		b.api.credential.Problem = "gone"
		b.run()
		b.pass(10 * time.Minute)
		b.api.set(func(a *apiServer) { a.credential.Problem = "" })
		b.pass(10 * time.Minute)
		_ = b.stop()
		want := []string{"INFO Starting", "WARN API credential's file cannot be used", "INFO Token written", "INFO API credential's file can be used again"}
		if diff := cmp.Diff(want, b.messages()); diff != "" {
			t.Error(diff)
		}
	})
}
