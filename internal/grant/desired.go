package grant

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
)

// item is one audience or one lifetime of a grant.
type item struct {
	audience string
	lifetime int64
}

// unneeded remembers since when items of a grant are not needed any more. It is lost when the process ends, which
// starts the delays again.
type unneeded map[item]time.Time

// situation is all that a grant's content depends on.
type situation struct {
	// declared are the tokens of the pods that count.
	declared []api.TokenSpec
	// current is what the Role on the server gives; the zero value if there is none.
	current content
	// own are the API server's audiences, sorted.
	own []string
	// rbac tells that Roles of administrators decide about audiences.
	rbac bool
	// allowed reports whether the policy lets the ServiceAccount have a token of that audience and lifetime today.
	allowed func(audience string, lifetime int64) bool
	// delay is how long something stays that is not needed any more.
	delay time.Duration
	now   time.Time
	// limit is the most that the audiences of the grant may weigh, and the most lifetimes in it. What is declared is within it.
	limit int
	// room is how much more than what is declared the audiences may weigh because of others in the namespace.
	room int
}

// anyAudience and anyLifetime stand for the other half of what is asked when one half is to be known: a lifetime where
// the policy leaves audiences to Roles, and an audience for the shortest time.
const (
	anyAudience = "podtoken"
	anyLifetime = api.MinExpirationSeconds
)

// desired returns the content of the grant, empty for no grant, and after what time to ask again, 0 for never.
//
//	declared by a pod that counts                    granted
//	only in the Role, the policy forbids it          goes at once
//	only in the Role, for less than the delay        stays
//	only in the Role, for the delay or longer        goes
//	only in the Role, no room within the limits      goes at once, what is not needed for longest first
//	audiences where Roles of administrators decide   never granted, gone at once
//	the API server's audiences                       always exactly today's
//
// Audiences without a lifetime or lifetimes without an audience are no grant.
func (u unneeded) desired(s situation) (want content, again time.Duration) {
	audiences, lifetimes := map[string]bool{}, map[int64]bool{}
	for _, token := range s.declared {
		lifetimes[token.ExpirationSeconds] = true
		for _, audience := range token.Audiences {
			audiences[audience] = !s.rbac
		}
	}
	extra := map[item]bool{}
	keep := func(i item) bool {
		extra[i] = true
		if _, ok := u[i]; !ok {
			u[i] = s.now
		}
		return s.delay-s.now.Sub(u[i]) > 0
	}
	var retained []item
	for _, audience := range s.current.audiences {
		if i := (item{audience: audience}); !s.rbac && !audiences[audience] && s.allowed(audience, anyLifetime) && keep(i) {
			retained = append(retained, i)
		}
	}
	if s.rbac {
		audiences = map[string]bool{}
	}
	room := min(s.limit-weigh(chosen(audiences)), s.room)
	for _, i := range u.latest(retained) {
		if room -= policy.Weight(i.audience); room < 0 {
			break
		}
		audiences[i.audience] = true
		again = sooner(again, s.delay-s.now.Sub(u[i]))
	}
	want.audiences = chosen(audiences)
	probe := anyAudience
	if len(want.audiences) > 0 {
		probe = want.audiences[0]
	}
	retained = nil
	for _, lifetime := range s.current.lifetimes {
		if i := (item{lifetime: lifetime}); !lifetimes[lifetime] && s.allowed(probe, lifetime) && keep(i) {
			retained = append(retained, i)
		}
	}
	for _, i := range u.latest(retained) {
		if len(lifetimes) >= s.limit {
			break
		}
		lifetimes[i.lifetime] = true
		again = sooner(again, s.delay-s.now.Sub(u[i]))
	}
	want.lifetimes = chosen(lifetimes)
	// Only what is in the Role has a clock. An item whose delay is over keeps its clock until the cache shows that it is gone.
	maps.DeleteFunc(u, func(i item, _ time.Time) bool { return !extra[i] })
	if len(want.lifetimes) == 0 || len(s.own) == 0 || (!s.rbac && len(want.audiences) == 0) {
		return content{}, 0
	}
	want.own = s.own
	return want, again
}

// latest sorts items by the time since which they are not needed, the latest first: the others make room.
func (u unneeded) latest(items []item) []item {
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(u[b].Compare(u[a]), strings.Compare(a.audience, b.audience), cmp.Compare(a.lifetime, b.lifetime))
	})
	return items
}

// narrowed returns what both a and b give.
func narrowed(a, b content) content {
	return content{
		lifetimes: intersection(a.lifetimes, b.lifetimes),
		own:       intersection(a.own, b.own),
		audiences: intersection(a.audiences, b.audiences),
	}
}

// gives reports whether c gives all of what other gives.
func (c content) gives(other content) bool {
	less := narrowed(c, other)
	return slices.Equal(less.lifetimes, other.lifetimes) && slices.Equal(less.own, other.own) && slices.Equal(less.audiences, other.audiences)
}

// covers reports whether the grant gives all of the tokens, as far as it is the grant that gives it.
func (c content) covers(tokens []api.TokenSpec, rbac bool) bool {
	for _, token := range tokens {
		if _, ok := slices.BinarySearch(c.lifetimes, token.ExpirationSeconds); !ok {
			return false
		}
		for _, audience := range token.Audiences {
			if _, ok := slices.BinarySearch(c.audiences, audience); !ok && !rbac {
				return false
			}
		}
	}
	return true
}

// chosen returns the sorted keys whose value is true, nil for none.
func chosen[T cmp.Ordered](all map[T]bool) []T {
	var list []T
	for key, yes := range all {
		if yes {
			list = append(list, key)
		}
	}
	slices.Sort(list)
	return list
}

// set returns the values sorted and without duplicates, nil for none.
func set[T cmp.Ordered](values []T) []T {
	all := map[T]bool{}
	for _, value := range values {
		all[value] = true
	}
	return chosen(all)
}

// intersection of two sorted lists.
func intersection[T cmp.Ordered](a, b []T) []T {
	both := map[T]bool{}
	for _, value := range a {
		_, both[value] = slices.BinarySearch(b, value)
	}
	return chosen(both)
}
