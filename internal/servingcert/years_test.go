package servingcert

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestYears lets thirty years pass, in which the controller looks seldom and crashes between steps, somebody deletes parts of
// the Secret, and API servers and pods hear of changes as late as they may. At no moment is there a pod whose certificate one
// of the API servers does not trust.
func TestYears(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			h := newHistory(t, seed)
			h.run(start.Add(30 * 365 * 24 * time.Hour))
			t.Logf("%v", h.done)
			if h.done[StepAuthority] < 3 || h.done[StepCertificate] < 120 || h.done[StepForget] < 3 || h.checks < 1000 {
				t.Errorf("too little happened: %v, %d checks", h.done, h.checks)
			}
		})
	}
}

// follower is an API server or a pod: what it goes by, and what it is yet to hear of.
type follower struct {
	now     []byte
	pending []change
	slowest time.Duration
}

type change struct {
	at   time.Time
	what []byte
}

// hear tells of a change, at a time of its own but in the right order.
func (f *follower) hear(r *rand.Rand, now time.Time, what []byte) {
	at := now.Add(time.Duration(r.Int64N(int64(f.slowest))))
	if n := len(f.pending); n > 0 && f.pending[n-1].at.After(at) {
		at = f.pending[n-1].at
	}
	f.pending = append(f.pending, change{at, slices.Clone(what)})
}

type history struct {
	t         *testing.T
	random    *rand.Rand
	view      View
	servers   []*follower
	pods      []*follower
	look      time.Time // the controller's next
	disturb   time.Time // the administrator's next
	done      map[Step]int
	checks    int
	last      []string // what was done, for a failure
	knownGood map[string]time.Time
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{
		t: t, random: rand.New(rand.NewPCG(seed, 1)), done: map[Step]int{}, knownGood: map[string]time.Time{},
		view: View{DNSName: dnsName, Now: start, Bundles: [][]byte{nil}}, look: start, disturb: start.Add(time.Hour),
	}
	for range 3 {
		// A second less: times in the Secret have no fractions.
		h.servers = append(h.servers, &follower{slowest: trustDelay - time.Second})
		h.pods = append(h.pods, &follower{slowest: fileDelay - trustDelay})
	}
	return h
}

func (h *history) run(end time.Time) {
	for !h.t.Failed() {
		next := h.look
		if h.disturb.Before(next) {
			next = h.disturb
		}
		for _, f := range slices.Concat(h.servers, h.pods) {
			if len(f.pending) > 0 && f.pending[0].at.Before(next) {
				next = f.pending[0].at
			}
		}
		if next.After(end) {
			return
		}
		h.view.Now = next
		for _, f := range slices.Concat(h.servers, h.pods) {
			for len(f.pending) > 0 && !f.pending[0].at.After(next) {
				f.now, f.pending = f.pending[0].what, f.pending[1:]
				h.check()
			}
		}
		if !h.look.After(next) {
			h.reconcile()
		}
		if !h.disturb.After(next) {
			h.tamper()
		}
		h.check()
	}
}

// reconcile does one step; the next look may be soon or, after a crash, late.
func (h *history) reconcile() {
	decision := Decide(h.view)
	h.done[decision.Step]++
	now := h.view.Now
	switch decision.Step {
	case StepNone:
		h.look = now.Add(decision.Wait)
		if decision.Wait == lookAgain {
			h.look = now.Add(time.Duration(h.random.Int64N(int64(20 * 24 * time.Hour))))
		}
		return
	case StepBundle:
		h.view.Bundles = [][]byte{decision.Bundle}
		for _, server := range h.servers {
			server.hear(h.random, now, decision.Bundle)
		}
	default:
		before := h.view.State.Certificate
		state, err := h.view.next(decision.Step)
		if err != nil {
			h.t.Fatal(err)
		}
		state.Since = state.Since.Truncate(time.Second)
		h.view.State = state
		if string(state.Certificate) != string(before) {
			for _, pod := range h.pods {
				pod.hear(h.random, now, state.Certificate)
			}
		}
	}
	h.note(string(decision.Step) + ": " + decision.Why)
	h.look = now
	if h.random.IntN(4) == 0 {
		h.look = now.Add(time.Duration(h.random.Int64N(int64(20 * time.Minute))))
	}
}

// tamper deletes something, as an administrator may who wants a rotation, often in the middle of another one.
func (h *history) tamper() {
	s := &h.view.State
	what := []func(){
		func() { s.AuthorityKey = nil }, func() { s.Authority = nil }, func() { s.CertificateKey = nil }, func() { s.Certificate = nil },
		func() { s.Previous = nil }, func() { *s = State{} }, func() { s.Since = time.Time{} },
	}
	i := h.random.IntN(len(what))
	what[i]()
	h.note(fmt.Sprintf("tamper %d", i))
	h.disturb = h.view.Now.Add(time.Duration(h.random.Int64N(int64(400 * 24 * time.Hour))))
	if h.random.IntN(2) == 0 {
		h.disturb = h.view.Now.Add(time.Duration(h.random.Int64N(int64(15 * time.Minute))))
	}
	h.look = h.view.Now // a watch tells
}

func (h *history) note(what string) {
	h.last = append(h.last, h.view.Now.Format(time.RFC3339)+" "+what)
	h.last = h.last[max(0, len(h.last)-25):]
}

// check has every API server call every pod. Before the first installation is complete there is no pod.
func (h *history) check() {
	for _, server := range h.servers {
		for _, pod := range h.pods {
			if pod.now == nil || server.now == nil {
				continue
			}
			h.checks++
			pair := string(server.now) + string(pod.now)
			until, known := h.knownGood[pair]
			if !known {
				until = h.goodUntil(server.now, pod.now)
				h.knownGood[pair] = until
			}
			if !h.view.Now.Before(until) {
				h.t.Fatalf("at %s a pod's certificate is not trusted; before that:\n%q", h.view.Now, h.last)
			}
		}
	}
}

// goodUntil returns when a certificate stops to be trusted, in the past if it is not.
func (h *history) goodUntil(bundle, certificate []byte) time.Time {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	leaves := union(h.view.Now, certificate)
	if len(leaves) != 1 {
		return time.Time{}
	}
	chains, err := leaves[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: dnsName, CurrentTime: h.view.Now})
	if err != nil {
		return time.Time{}
	}
	var until time.Time
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, c := range chain {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(until) {
			until = end
		}
	}
	return until
}
