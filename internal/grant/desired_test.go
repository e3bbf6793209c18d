package grant

import (
	"cmp"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/api"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func token(seconds int64, audiences ...string) api.TokenSpec {
	return api.TokenSpec{Name: "token", Audiences: audiences, ExpirationSeconds: seconds, Path: "token", Mode: "0400", RefreshAtPercent: 80}
}

// A step is one reconciliation; the memory lives on from one to the next.
type step struct {
	// after the first step
	after    time.Duration
	declared []api.TokenSpec
	current  content
	rbac     bool
	noOwn    bool
	// forbidden audiences and lifetimes
	forbiddenAudience string
	maxLifetime       int64
	// limit and room are 100 if not given; -1 is none.
	limit, room int

	want  content
	again time.Duration
}

const delay = 10 * time.Minute

func TestDesired(t *testing.T) {
	own := []string{"api"}
	vault := content{lifetimes: []int64{3600}, own: own, audiences: []string{"vault"}}
	both := content{lifetimes: []int64{600, 3600}, own: own, audiences: []string{"sts", "vault"}}
	tests := map[string][]step{
		"nothing declared, nothing granted": {
			{want: content{}},
		},
		"the union of all pods, sorted, lifetimes by number": {
			{
				declared: []api.TokenSpec{token(10000, "vault", "sts"), token(3600, "a"), token(3600, "vault")},
				want:     content{lifetimes: []int64{3600, 10000}, own: own, audiences: []string{"a", "sts", "vault"}},
			},
		},
		"what is granted already is granted again": {
			{declared: []api.TokenSpec{token(3600, "vault")}, current: vault, want: vault},
		},
		"what is not needed stays for the retention, then goes": {
			{declared: []api.TokenSpec{token(3600, "vault")}, current: both, want: both, again: delay},
			{after: delay - time.Second, declared: []api.TokenSpec{token(3600, "vault")}, current: both, want: both, again: time.Second},
			{after: delay, declared: []api.TokenSpec{token(3600, "vault")}, current: both, want: vault},
		},
		"each thing has its own clock": {
			{declared: []api.TokenSpec{token(3600, "vault", "sts")}, current: both, want: both, again: delay},
			{after: time.Minute, declared: []api.TokenSpec{token(3600, "vault")}, current: both, want: both, again: delay - time.Minute},
			{after: delay, declared: []api.TokenSpec{token(3600, "vault")}, current: both,
				want: content{lifetimes: []int64{3600}, own: own, audiences: []string{"sts", "vault"}}, again: time.Minute},
		},
		"needed again in time, the clock starts again": {
			{current: vault, want: vault, again: delay},
			{after: time.Minute, declared: []api.TokenSpec{token(3600, "vault")}, current: vault, want: vault},
			{after: 2 * time.Minute, current: vault, want: vault, again: delay},
		},
		"a grant without pods goes as a whole": {
			{current: vault, want: vault, again: delay},
			{after: delay, current: vault, want: content{}},
		},
		"a late cache does not start the clock again": {
			{current: vault, want: vault, again: delay},
			{after: delay, current: vault, want: content{}},
			{after: delay + time.Second, current: vault, want: content{}},
		},
		"a grant that is gone and comes again has a new clock": {
			{current: vault, want: vault, again: delay},
			{after: delay, current: content{}, want: content{}},
			{after: 2 * delay, current: vault, want: vault, again: delay},
		},
		"an audience that the policy forbids goes at once": {
			{declared: []api.TokenSpec{token(3600, "vault")}, current: both, forbiddenAudience: "sts",
				want: content{lifetimes: []int64{600, 3600}, own: own, audiences: []string{"vault"}}, again: delay},
		},
		"a lifetime that the policy forbids goes at once": {
			{declared: []api.TokenSpec{token(600, "vault", "sts")}, current: both, maxLifetime: 1800,
				want: content{lifetimes: []int64{600}, own: own, audiences: []string{"sts", "vault"}}},
		},
		"without pods, a grant of forbidden audiences goes at once": {
			{current: vault, forbiddenAudience: "vault", want: content{}},
		},
		"without pods, a grant of forbidden lifetimes goes at once": {
			{current: vault, maxLifetime: 1800, want: content{}},
		},
		"the API server's audiences are always today's": {
			{declared: []api.TokenSpec{token(3600, "vault")}, current: content{lifetimes: []int64{3600}, own: []string{"old"}, audiences: []string{"vault"}}, want: vault},
		},
		"while the API server's audiences are unknown there is no grant": {
			{declared: []api.TokenSpec{token(3600, "vault")}, noOwn: true, want: content{}},
		},
		"what is not needed makes room for what is declared, that which was needed last goes last": {
			{declared: []api.TokenSpec{token(3600, "sts")}, current: both, limit: 2, want: both, again: delay},
			{after: time.Minute, declared: []api.TokenSpec{token(3600, "a")}, current: both, limit: 2,
				want: content{lifetimes: []int64{600, 3600}, own: own, audiences: []string{"a", "sts"}}, again: delay - time.Minute},
			{after: time.Minute, declared: []api.TokenSpec{token(3600, "a"), token(700, "b")}, current: both, limit: 2,
				want: content{lifetimes: []int64{700, 3600}, own: own, audiences: []string{"a", "b"}}},
		},
		"an audience that is not needed needs room in the namespace": {
			{declared: []api.TokenSpec{token(3600, "sts")}, current: both, room: 1, want: both, again: delay},
			{declared: []api.TokenSpec{token(3600, "sts")}, current: both, room: -1,
				want: content{lifetimes: []int64{600, 3600}, own: own, audiences: []string{"sts"}}, again: delay},
		},
		"where Roles decide, no audience is granted and none stays": {
			{declared: []api.TokenSpec{token(3600, "vault")}, rbac: true, current: both,
				want: content{lifetimes: []int64{600, 3600}, own: own}, again: delay},
		},
		"where Roles decide, a grant without pods goes after the delay too": {
			{rbac: true, current: content{lifetimes: []int64{3600}, own: own}, want: content{lifetimes: []int64{3600}, own: own}, again: delay},
			{after: delay, rbac: true, current: content{lifetimes: []int64{3600}, own: own}, want: content{}},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			memory := unneeded{}
			for i, step := range steps {
				s := situation{
					declared: step.declared, current: step.current, own: own, rbac: step.rbac, delay: delay, now: epoch.Add(step.after),
					limit: cmp.Or(step.limit, 100), room: max(cmp.Or(step.room, 100), 0),
					allowed: func(audience string, lifetime int64) bool {
						return audience != step.forbiddenAudience && (step.maxLifetime == 0 || lifetime <= step.maxLifetime)
					},
				}
				if step.noOwn {
					s.own = nil
				}
				want, again := memory.desired(s)
				if diff := gocmp.Diff(step.want, want, gocmp.AllowUnexported(content{})); diff != "" {
					t.Errorf("step %d (-want +got):\n%s", i, diff)
				}
				if again != step.again {
					t.Errorf("step %d: again after %v, want %v", i, again, step.again)
				}
			}
		})
	}
}

func TestNoDelay(t *testing.T) {
	current := content{lifetimes: []int64{3600}, own: []string{"api"}, audiences: []string{"vault"}}
	want, again := unneeded{}.desired(situation{
		current: current, own: []string{"api"}, now: epoch, limit: 100, room: 100, allowed: func(string, int64) bool { return true },
	})
	if !want.empty() || again != 0 {
		t.Errorf("desired = %v again after %v, want nothing and never", want, again)
	}
}

func TestWithoutGuard(t *testing.T) {
	held := content{lifetimes: []int64{600, 3600}, own: []string{"api"}, audiences: []string{"sts", "vault"}}
	tests := map[string]struct{ want, expect content }{
		"the same stays":                      {held, held},
		"less is written":                     {content{lifetimes: []int64{600}, own: []string{"api"}, audiences: []string{"sts"}}, content{lifetimes: []int64{600}, own: []string{"api"}, audiences: []string{"sts"}}},
		"more is not":                         {content{lifetimes: []int64{600, 7200}, own: []string{"api"}, audiences: []string{"new", "sts"}}, content{lifetimes: []int64{600}, own: []string{"api"}, audiences: []string{"sts"}}},
		"other audiences: leave it":           {content{lifetimes: []int64{600}, own: []string{"api"}, audiences: []string{"new"}}, content{}},
		"other lifetimes: leave it":           {content{lifetimes: []int64{700}, own: []string{"api"}, audiences: []string{"sts"}}, content{}},
		"another API server: leave it":        {content{lifetimes: []int64{600}, own: []string{"new"}, audiences: []string{"sts"}}, content{}},
		"Roles decide now: audiences go":      {content{lifetimes: []int64{600}, own: []string{"api"}}, content{lifetimes: []int64{600}, own: []string{"api"}}},
		"what is wanted without a grant: not": {content{}, content{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := gocmp.Diff(test.expect, withoutGuard(test.want, held), gocmp.AllowUnexported(content{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCovers(t *testing.T) {
	c := content{lifetimes: []int64{600, 3600}, audiences: []string{"sts", "vault"}}
	tests := map[string]struct {
		tokens     []api.TokenSpec
		rbac, want bool
	}{
		"all of it":                              {[]api.TokenSpec{token(600, "vault"), token(3600, "sts", "vault")}, false, true},
		"another audience":                       {[]api.TokenSpec{token(600, "vault", "other")}, false, false},
		"another lifetime":                       {[]api.TokenSpec{token(700, "vault")}, false, false},
		"another audience, which a Role decides": {[]api.TokenSpec{token(600, "other")}, true, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := c.covers(test.tokens, test.rbac); got != test.want {
				t.Errorf("covers = %v, want %v", got, test.want)
			}
		})
	}
}

// A rule without resourceNames would be one for all names. No content makes one.
func TestNoRuleWithoutNames(t *testing.T) {
	for _, c := range []content{{}, {lifetimes: []int64{1}}, {own: []string{"a"}}, {audiences: []string{"a"}}} {
		for _, rule := range rules("x", c) {
			if len(rule.ResourceNames) == 0 {
				t.Errorf("rules(%v) has one for all names: %v", c, rule)
			}
		}
	}
}
