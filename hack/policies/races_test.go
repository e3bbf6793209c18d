package policies

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// A request is authorized when its headers are there, and admitted when its body is: rights come and go in between, and between
// two questions of a guard.

// moment is what a caller may do from one moment on.
type moment struct {
	name string
	rights
}

func set[T comparable](values ...T) map[T]bool {
	all := map[T]bool{}
	for _, value := range values {
		all[value] = true
	}
	return all
}

func granted(create bool, reason string, mark bool) rights {
	return rights{create: create, reason: reason, mark: mark, lifetimes: set[int64](3600), audiences: set("vault"), renewals: set("api")}
}

// What the controller makes of a grant: Role and RoleBinding, the mark alone for a while, nothing.
var (
	full     = moment{"full grant", granted(true, byGrant, true)}
	markOnly = moment{"mark only", rights{mark: true}}
	nothing  = moment{"nothing", rights{}}
	another  = moment{"grant of another token", rights{create: true, reason: byGrant, mark: true, lifetimes: set[int64](600), audiences: set("other"), renewals: set("api")}}
	copied   = moment{"copied grant", granted(true, byCopy, true)}
	unmarked = moment{"copied grant without its mark", granted(true, byCopy, false)}
	byHands  = moment{"Role by hand", rights{create: true, reason: byHand}}
	beside   = moment{"Role by hand beside the grant", granted(true, byHand, true)}
	exempted = moment{"grant and exemption", rights{create: true, reason: byGrant, mark: true, unguarded: true}}
	wildcard = moment{"everything", rights{everything: true, reason: byAdmin}}
)

// unlimited reports whether a token that no grant allows is right at this moment: something else than a grant of podtoken allows it.
func (m *moment) unlimited() bool {
	return m.everything || m.create && (m.unguarded || classify(m.reason) != byPodtoken)
}

// clock is an authorizer whose answers change: history[seen[i]] answers the i-th question, and the last of seen all further ones. As
// in the API server, the same question has the same answer for the time of one request.
type clock struct {
	*tokenCase
	t       testing.TB
	history []moment
	seen    []int
	asked   int
}

func (c *clock) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	now := c.history[c.seen[min(c.asked, len(c.seen)-1)]]
	c.asked++
	answering := *c.tokenCase
	answering.now = now.rights
	return at{&answering, c.t}.Authorize(ctx, a)
}

// lets reports whether a guard lets the request through, and how many questions it needed.
func (c *clock) lets(guard *Policy) (passed bool, asked int) {
	c.asked = 0
	result := c.evaluate(c.t.Context(), guard, c)
	for _, decision := range result.Decisions {
		if decision.Evaluation == validating.EvalError {
			c.t.Errorf("an error: %s", decision.Message)
		}
	}
	return denials(result) == "", c.asked
}

// schedules calls f with every way in which a history of at most four moments is seen by a number of questions: sequences of indexes
// with at most three changes. The request was authorized before, or in the first of them.
func schedules(moments, questions int, f func([]int)) {
	seen := make([]int, 0, questions)
	var next func(changes int)
	next = func(changes int) {
		if len(seen) == questions {
			f(seen)
			return
		}
		for index := range moments {
			more := changes
			if len(seen) > 0 && index != seen[len(seen)-1] {
				more++
			}
			if more <= 3 {
				seen = append(seen, index)
				next(more)
				seen = seen[:len(seen)-1]
			}
		}
	}
	next(0)
}

// passes tries all schedules, and returns those in which the guard lets the request through though no moment that it saw allows it by
// anything but a grant. The names are of the moments that the questions saw.
func passes(t testing.TB, guard *Policy, c *tokenCase, history ...moment) (wrong []string, tried, right int) {
	t.Helper()
	// One evaluation for each moment tells the most questions that the guard asks.
	questions := 0
	for index := range history {
		watch := &clock{tokenCase: c, t: t, history: history, seen: []int{index}}
		_, asked := watch.lets(guard)
		questions = max(questions, asked)
	}
	known := map[string]bool{} // by the moments that were seen: questions that are not asked change nothing
	schedules(len(history), max(questions, 1), func(seen []int) {
		for n := range seen {
			if known[fmt.Sprint(seen[:n+1])] {
				return
			}
		}
		run := &clock{tokenCase: c, t: t, history: history, seen: seen}
		passed, asked := run.lets(guard)
		saw := seen[:min(max(asked, 1), len(seen))]
		if asked > len(seen) {
			t.Fatalf("%d questions, %d planned", asked, len(seen))
		}
		known[fmt.Sprint(saw)] = true
		tried++
		switch {
		case passed && !slices.ContainsFunc(saw, func(i int) bool { return history[i].unlimited() }):
			var names []string
			for _, index := range saw {
				names = append(names, history[index].name)
			}
			wrong = append(wrong, strings.Join(names, ", "))
		case passed:
			right++
		}
	})
	return wrong, tried, right
}

// theft is the request of the review: unbound, for 136 years.
func theft(by string) *tokenCase {
	return forShop(caller(by), tokenRequest(false, 1<<32, "anything"), rights{})
}

// Every history of at most four moments, at every question: no token but what a grant declares, unless something else than a grant
// of podtoken allows it at a moment that the guard sees.
func TestGuardHasNoRace(t *testing.T) {
	t.Parallel()
	guard := load(t, guardFile)
	for name, row := range map[string]struct {
		by      string
		history []moment
		right   bool // some histories let it through, and may
	}{
		"the grant goes and comes":         {shop, []moment{full, markOnly, nothing}, false},
		"another grant":                    {shop, []moment{full, another, markOnly, nothing}, false},
		"copied grants":                    {other, []moment{full, copied, unmarked, markOnly, nothing}, false},
		"a person has a copied grant":      {"jane", []moment{copied, unmarked, markOnly, nothing}, false},
		"rights of others come and go too": {shop, []moment{full, markOnly, nothing, byHands, wildcard}, true},
		"exemptions come and go":           {shop, []moment{full, nothing, beside, exempted}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wrong, tried, right := passes(t, guard, theft(row.by), row.history...)
			t.Logf("%d schedules, %d of them rightly let through", tried, right)
			if len(wrong) > 0 {
				t.Errorf("%d of %d schedules let an unbound token of 136 years through, as: %s", len(wrong), tried, wrong[0])
			}
			if (right > 0) != row.right {
				t.Errorf("%d schedules let it through rightly, want some: %v", right, row.right)
			}
		})
	}
}

// The same search finds the holes of the guard that the review broke, and of the fix that it proposed: it can fail.
func TestOlderGuardsHaveRaces(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]struct{ finds, not string }{
		// The mark goes with the right.
		"testdata/guard-before.yaml": {finds: "nothing"},
		// The mark is gone when the guard asks for it, and the grant is there again when it asks for that.
		"testdata/guard-proposed.yaml": {finds: "nothing, full grant", not: "nothing"},
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			wrong, tried, _ := passes(t, load(t, file), theft(shop), full, markOnly, nothing)
			t.Logf("%d of %d schedules: %q", len(wrong), tried, wrong)
			begins := func(with string) bool {
				return slices.ContainsFunc(wrong, func(names string) bool { return names == with || strings.HasPrefix(names, with+", ") })
			}
			if !begins(want.finds) {
				t.Errorf("not found: %s", want.finds)
			}
			if want.not != "" && slices.ContainsFunc(wrong, func(names string) bool { return strings.Trim(names, want.not+", ") == "" }) {
				t.Errorf("found: %s", want.not)
			}
		})
	}
}

// FuzzGuardRaces: rights of any kind change at any question, for any request.
func FuzzGuardRaces(f *testing.F) {
	for seed := range uint64(32) {
		bytes, text, another := randomScript(seed + 1000)
		f.Add(bytes, text, another)
	}
	guard := load(f, guardFile)
	f.Fuzz(func(t *testing.T, bytes []byte, text, another string) {
		race(t, guard, &script{bytes: bytes, text: text, another: another})
	})
}

// race plays one history, and checks what a token that gets through may be. It reports whether one did.
func race(t testing.TB, guard *Policy, s *script) bool {
	t.Helper()
	s.calm = s.yes()
	play := &clock{t: t, seen: []int{0}}
	for range 1 + s.pick(4) {
		m := oneOf(s, full, full, markOnly, nothing, nothing, another, copied, unmarked, byHands, beside, exempted, wildcard)
		if s.pick(4) == 3 {
			m = moment{"any", decode(s).now}
		}
		play.history = append(play.history, m)
	}
	for range 20 { // The moment of the next question is the same, or a later one.
		play.seen = append(play.seen, min(play.seen[len(play.seen)-1]+s.pick(3), len(play.history)-1))
	}
	play.tokenCase = decode(s)
	passed, asked := play.lets(guard)
	if asked > 20 {
		t.Errorf("%d questions", asked)
	}
	if !passed {
		return false
	}
	var saw []moment
	for i := range asked {
		saw = append(saw, play.history[play.seen[min(i, len(play.seen)-1)]])
	}
	// What all grants that were seen allow together: each question has one answer, of one moment.
	union := granted(true, byGrant, true)
	clear(union.lifetimes)
	clear(union.audiences)
	clear(union.renewals)
	created := false
	for _, m := range saw {
		if m.unlimited() {
			return true
		}
		created = created || m.create
		for seconds := range m.lifetimes {
			union.lifetimes[seconds] = true
		}
		for audience := range m.audiences {
			union.audiences[audience] = true
		}
		for audience := range m.renewals {
			union.renewals[audience] = true
		}
		union.mintsAnything = union.mintsAnything || m.mintsAnything
	}
	if want := modelOf(play.by, play.namespace, play.name, &play.spec, &union); !want.allowed || want.row != 1 && !created {
		var names []string
		for _, m := range saw {
			names = append(names, fmt.Sprintf("%s %+v", m.name, m.rights))
		}
		t.Errorf("let through, though neither a grant (row %d: %q) nor anything else allows it: %s\n%s", want.row, want.message, play.tokenCase, strings.Join(names, "\n"))
	}
	return true
}

// The same with random inputs, for every run of the tests.
func TestGuardRacesAtRandom(t *testing.T) {
	t.Parallel()
	guard := load(t, guardFile)
	passed := 0
	for seed := range uint64(500) {
		bytes, text, another := randomScript(seed + 5000)
		if race(t, guard, &script{bytes: bytes, text: text, another: another}) {
			passed++
		}
	}
	if passed < 40 {
		t.Errorf("%d random histories let a token through: the test sees too few", passed)
	}
}
