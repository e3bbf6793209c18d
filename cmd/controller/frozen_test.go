package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Pods whose audiences make a Role that the API server does not take neither keep what another pod needed, nor what the policy
// has taken away; an event reports it on them.
func TestAGrantIsNotFrozen(t *testing.T) {
	t.Parallel()
	f := newGuarded(t)
	f.add(t, "pods", podYAML("shop", "first", "cart", "to-be-revoked", 3600))
	f.add(t, "pods", podYAML("shop", "second", "cart", "vault", 3600))
	p := start(t, f, "--removal-delay=1s")
	write(t, p.policy, strings.Replace(policyYAML, `"vault", "sts.example.com"`, `"*"`, 1))
	has := func(audience string) func() bool {
		return func() bool { return strings.Contains(f.get("roles", "shop/podtoken:cart"), audience) }
	}
	eventually(t, "grant", 20*time.Second, func() bool { return has("to-be-revoked")() && has("vault")() })

	f.mu.Lock()
	f.most = 20_000
	f.mu.Unlock()
	for i := range 60 {
		f.add(t, "pods", podYAML("shop", fmt.Sprintf("hostile-%d", i), "cart", fmt.Sprintf("%d-%s", i, strings.Repeat("x", 508)), 3600))
	}
	eventually(t, "a grant that cannot be written", 20*time.Second, func() bool {
		return strings.Contains(p.log.String(), "request is too large")
	})
	f.delete("pods", "shop/first")
	eventually(t, "removal of what no pod needs", 20*time.Second, func() bool { return !has("to-be-revoked")() })
	eventually(t, "an event of why there is no grant", 20*time.Second, func() bool {
		for _, name := range f.names("events") {
			if event := f.get("events", name); strings.Contains(event, "GrantFailed") && strings.Contains(event, "request is too large") {
				return true
			}
		}
		return false
	})
	write(t, p.policy, strings.Replace(policyYAML, `"vault", "sts.example.com"`, `"*-x*"`, 1))
	eventually(t, "removal of what the policy takes away", 20*time.Second, func() bool { return !has("vault")() })
	if got := p.metric("podtoken_grant_unbound_total"); got != "0" {
		t.Errorf("podtoken_grant_unbound_total = %s", got)
	}
}
