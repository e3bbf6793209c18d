package grant

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// proven is a world whose guard is proven as in a replica, by API servers that answer what the test says.
type proven struct {
	*world
	answers atomic.Pointer[[]server]
	rounds  atomic.Int64
}

func newProven(t *testing.T) *proven {
	p := &proven{world: newWorld(t, guardPolicy(), guardBinding(), cartAccount("uid-1"), pod("cart-1", 3600, "vault"))}
	p.unproven = true
	p.say(answers(answerDenied, answerDenied))
	p.r.guard.proof.settle = settleTime
	p.r.guard.proof.probe = func(context.Context) []server {
		p.rounds.Add(1)
		return *p.answers.Load()
	}
	return p
}

func (p *proven) say(servers ...server) { p.answers.Store(&servers) }

func (p *proven) start(elected <-chan struct{}) {
	go func() { _ = (&proofs{guard: p.r.guard, elected: elected}).Start(p.t.Context()) }()
	synctest.Wait()
}

// granted reconciles shop/cart after a while, and reports whether that granted anything.
func (p *proven) granted(after time.Duration) bool {
	p.t.Helper()
	time.Sleep(after)
	synctest.Wait()
	p.reconcile()
	return slices.Contains(p.taken(), "apply Role")
}

// restore takes the guard's binding away and makes it again, which is another one then.
func (p *proven) restore() {
	p.t.Helper()
	binding := guardBinding()
	p.remove(guardBinding())
	binding.UID = "uid-restored"
	p.add(binding)
}

// An API server that has not taken up the guard yet, or that still has the one before, is waited for.
func TestNothingIsGrantedBeforeTheGuardIsProven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProven(t)
		p.say(answers(answerAllowed, answerDenied))
		p.start(nil)
		if p.granted(settleTime - time.Millisecond) {
			t.Fatal("granted although the API server allows the probe")
		}
		expect(t, "events while API servers take it up", 0, len(p.events))
		expect(t, "guard", 0, p.values()["podtoken_guard_present"])
		if p.granted(time.Second) {
			t.Fatal("granted although the API server still allows the probe")
		}
		expect(t, "events", []string{`GuardMissing cart-1: podtoken: no grant yet: API server 10.96.0.1 does not enforce ValidatingAdmissionPolicy ` +
			`"podtoken-guard": it allowed a dry run that this policy must deny. Run "helm upgrade" if the policy is missing, and enable the admission ` +
			`plugin ValidatingAdmissionPolicy in every API server. Without this guard the ServiceAccount could mint any token. The grant follows automatically`}, p.events)
		expect(t, "API servers", 1, p.values()["podtoken_guard_api_servers NotEnforcing"])
		p.say(answers(answerDenied, answerDenied))
		if p.granted(settleTime / 2) { // Its last other answer is up to a second old.
			t.Fatal("granted before the API server has denied for the time in which it may let go again")
		}
		if !p.granted(2*settleTime) || len(p.events) != 1 {
			t.Fatalf("not granted although the guard is proven; events %q", p.events)
		}
		expect(t, "guard", 1, p.values()["podtoken_guard_present"])
		expect(t, "API servers", 1, p.values()["podtoken_guard_api_servers Enforcing"])
		select {
		case <-p.r.guard.proof.news:
		default:
			t.Error("the ServiceAccounts that wait are not looked at when the guard is proven")
		}
	})
}

// A guard that was away is proven again, at once when its objects are there, and what is granted stays.
func TestARestoredGuardIsProvenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProven(t)
		p.start(nil)
		if !p.granted(settleTime) {
			t.Fatal("not granted although the guard is proven")
		}
		p.add(pod("cart-2", 600, "sts"))
		p.restore()
		if p.granted(0) {
			t.Fatal("granted by the proof of the guard before")
		}
		expect(t, "audiences that stay", []string{"vault"}, contentOf(p.role()).audiences)
		p.reconcile()
		expect(t, "writes", nil, p.taken())
		if p.r.guard.problem(t.Context()) != proving {
			t.Fatal("the guard is not being proven")
		}
		p.add(pod("cart-3", 600, "sts"))
		time.Sleep(settleTime)
		synctest.Wait()
		p.reconcile()
		expect(t, "writes when it is proven", []string{"force Role"}, p.taken())
		expect(t, "events", 0, len(p.events))
	})
}

// The guard of an API server that stops to enforce it, or of one that answers otherwise, is found within a minute, and the proof is
// tried again at intervals that grow.
func TestTheProofIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProven(t)
		p.start(nil)
		time.Sleep(settleTime)
		synctest.Wait()
		before := p.rounds.Load()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		expect(t, "rounds in ten minutes", 10, p.rounds.Load()-before)
		p.say(answers(answerDenied, answerDenied), server{address: "10.0.0.2:6443", verdicts: answers(answerDenied, answerAllowed).verdicts})
		if p.granted(proofInterval) {
			t.Error("granted although one of two API servers does not enforce the controller's own guard")
		}
		if len(p.events) != 1 || !strings.Contains(p.events[0], `API server 10.0.0.2:6443 does not enforce ValidatingAdmissionPolicy "podtoken-controller-guard"`) {
			t.Errorf("events %q", p.events)
		}
		before = p.rounds.Load()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if rounds := p.rounds.Load() - before; rounds < 60 || rounds > 64 {
			t.Errorf("%d rounds in ten minutes without a proof, want one in ten seconds", rounds)
		}
		p.say(answers(answerDenied, answerDenied))
		if !p.granted(lastProofRetry + settleTime) {
			t.Error("not granted although every API server enforces the guards")
		}
	})
}

// A new leader asks once more. What it knows of the time before needs no waiting.
func TestANewLeaderProves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProven(t)
		elected := make(chan struct{})
		p.start(elected)
		time.Sleep(settleTime)
		synctest.Wait()
		before := p.rounds.Load()
		close(elected)
		if !p.granted(0) {
			t.Error("not granted at once")
		}
		expect(t, "rounds", 1, p.rounds.Load()-before)
	})
}

// What the API server of the Service answers decides; others only when they allow what they must deny.
func TestWhatServersProve(t *testing.T) {
	unknown := func(s server) server {
		for i := range s.verdicts {
			if s.verdicts[i].answer == answerUnknown {
				s.verdicts[i].reason = "no answer in time"
			}
		}
		return s
	}
	other := func(a answer) server {
		s := unknown(answers(a, answerDenied))
		s.address, s.service = "10.0.0.2:6443", false
		return s
	}
	for name, test := range map[string]struct {
		servers []server
		want    string // begin of the problem
	}{
		"both deny":                        {[]server{answers(answerDenied, answerDenied), other(answerDenied)}, ""},
		"one is out of reach":              {[]server{answers(answerDenied, answerDenied), other(answerUnknown)}, ""},
		"one does not enforce":             {[]server{answers(answerDenied, answerDenied), other(answerAllowed)}, "API server 10.0.0.2:6443 does not enforce"},
		"the Service is out of reach":      {[]server{unknown(answers(answerUnknown, answerDenied)), other(answerDenied)}, `whether API server 10.96.0.1 enforces ValidatingAdmissionPolicy "podtoken-guard" is unknown: no answer in time`},
		"the controller's is not known of": {[]server{unknown(answers(answerDenied, answerUnknown))}, `whether API server 10.96.0.1 enforces ValidatingAdmissionPolicy "podtoken-controller-guard" is unknown`},
		"allowed weighs more than unknown": {[]server{unknown(answers(answerUnknown, answerAllowed))}, "API server 10.96.0.1 does not enforce"},
	} {
		if got := problemOfServers(test.servers); !strings.HasPrefix(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%s: problem %q, want %q", name, got, test.want)
		}
	}
}

// A busy API server that answers probes late takes nothing from a guard that is proven, for ten minutes. One that answers wrongly does.
func TestASilentAPIServerLeavesTheProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProven(t)
		p.start(nil)
		if !p.granted(2 * settleTime) {
			t.Fatal("not granted although the guard is proven")
		}
		p.say(answers(answerUnknown, answerUnknown))
		time.Sleep(proofValidity - 2*proofInterval)
		synctest.Wait()
		if problem := p.r.guard.problem(t.Context()); problem != "" {
			t.Errorf("after %v without an answer: %s", proofValidity-2*proofInterval, problem)
		}
		time.Sleep(4 * proofInterval)
		synctest.Wait()
		if problem := p.r.guard.problem(t.Context()); problem == "" {
			t.Errorf("after more than %v without an answer the guard still counts as proven", proofValidity)
		}

		p.say(answers(answerDenied, answerDenied))
		time.Sleep(proofInterval)
		synctest.Wait()
		p.say(answers(answerAllowed, answerDenied))
		time.Sleep(2 * proofInterval)
		synctest.Wait()
		p.say(answers(answerUnknown, answerUnknown))
		time.Sleep(proofInterval)
		synctest.Wait()
		if problem := p.r.guard.problem(t.Context()); problem == "" {
			t.Error("an API server that let a probe pass and is silent now counts as proven")
		}
	})
}
