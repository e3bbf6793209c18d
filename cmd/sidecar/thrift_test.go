package main

import (
	"syscall"
	"testing"
	"time"
)

const (
	// maxAnonymousKB is the budget of memory that pods cannot share, at rest. Half of it is what Go's runtime takes in any
	// program.
	maxAnonymousKB = 2600
	// maxGrowthKB: garbage is given back, whatever was done. Without that it would be some five thousand.
	maxGrowthKB = 1500
)

// TestMemoryIsGivenBack has the real binary replace its tokens fifty times, as in two days of tokens of an hour.
func TestMemoryIsGivenBack(t *testing.T) {
	t.Parallel()
	const replacements = 50
	p := newPod(t)
	storage := `{"name":"storage","audiences":["storage"],"expirationSeconds":3600,"path":"storage","mode":"0444","refreshAtPercent":80}`
	p.start(vault, billing, storage)
	p.eventually("three tokens", func() bool { return p.exists("vault") && p.exists("deep/er/billing.jwt") && p.exists("storage") })
	replace := func() {
		wanted := p.server.Requests() + 3
		if err := p.run.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		p.eventually("replaced", func() bool { return p.server.Requests() >= wanted && p.server.Open() == 0 })
		time.Sleep(2 * freeAfter)
	}
	rest := func() float64 {
		time.Sleep(10 * freeAfter)
		return processKB(t, p.run.Process.Pid, "RssAnon")
	}
	first := rest()
	for range replacements - 1 {
		replace()
	}
	// Timeouts of connections that were closed hold them for some seconds more; in life they are over before the next one.
	time.Sleep(6 * time.Second)
	replace()
	last := rest()
	t.Logf("anonymous memory: %.0f kB at first, %.0f kB after %d replacements", first, last, replacements)
	if first > maxAnonymousKB {
		t.Errorf("anonymous memory is %.0f kB, the budget is %d", first, maxAnonymousKB)
	}
	if last-first > maxGrowthKB {
		t.Errorf("anonymous memory grew by %.0f kB, the budget is %d", last-first, maxGrowthKB)
	}
	if n := p.server.Connections(); n != replacements+1 {
		t.Errorf("%d connections for %d times three tokens", n, replacements+1)
	}
	if n := p.server.Requests(); n != 3*(replacements+1) {
		t.Errorf("%d requests for %d times three tokens", n, replacements+1)
	}
}
