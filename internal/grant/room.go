package grant

import (
	"container/heap"
	"fmt"
	"runtime"
	"sync"
	"time"
	"weak"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
)

// errCrowded is the problem of pods for whose declaration the namespace has no room.
var errCrowded = fmt.Errorf("the pods of its namespace declare too many different tokens: podtoken keeps %d KiB of different declarations "+
	"in a namespace. Delete pods with tokens of their own, then this one", maxNamespaceBytes>>10)

// crowded and noRoom are shared by all of them.
var (
	crowded = &declaration{problem: errCrowded.Error()}
	noRoom  = newAnchor("")
)

// anchor is in all pods with the same declaration, and keeps it in memory as long as there is one of them.
type anchor struct {
	// kept is the list of init containers of each of them. Its one argument finds the declaration again.
	kept [1]corev1.Container
}

func newAnchor(key string) *anchor {
	return &anchor{kept: [1]corev1.Container{{Name: api.ContainerName, Args: []string{key}}}}
}

// precedence orders the declarations of a namespace that has no room for all. It depends on the pods, the Roles and the policy only,
// so that it does not matter in which order pods are seen, and a restart comes to the same.
type precedence struct {
	// forbidden is what the policy refuses, which comes last.
	forbidden bool
	rank      // of the oldest pod
}

func (p precedence) compare(other precedence) int {
	if p.forbidden != other.forbidden {
		if p.forbidden {
			return 1
		}
		return -1
	}
	return p.rank.compare(other.rank)
}

// standings are what precedence depends on beside the pods.
type standings struct {
	// policy returns the one of this moment.
	policy func() *policy.Policy
	// of reports whether the policy refuses the tokens, and whether the ServiceAccount's Role does not give them yet.
	of func(account types.NamespacedName, tokens []api.TokenSpec) (forbidden, fresh bool)
}

// declarations are all of them, each once for a ServiceAccount and as long as a pod has it.
type declarations struct {
	mu    sync.Mutex
	rooms map[roomName]*room
	// limit is maxNamespaceBytes, problems is maxProblemsBytes.
	limit, problems int
	// standings may be nil: then age alone counts.
	standings *standings
	collected time.Time
	// displaced are the ServiceAccounts whose declarations had to give way since this was read last.
	displaced map[types.NamespacedName]bool
}

func newDeclarations() *declarations {
	return &declarations{limit: maxNamespaceBytes, problems: maxProblemsBytes}
}

// declared are those of the pods in the cache, which this process has one of.
var declared = newDeclarations()

// roomName is a namespace, once for what it declares and once for what cannot be understood.
type roomName struct {
	namespace string
	problems  bool
}

// sortBy sets what precedence depends on.
func (s *declarations) sortBy(standings *standings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.standings = standings
}

// of returns what finds the declaration of a pod again, whose sidecar has these arguments: its init containers, and a key
// if there is no room for it now, because another pod may make it known.
func (s *declarations) of(pod *corev1.Pod, args []string) (kept []corev1.Container, key string) {
	d, size := newDeclaration(types.NamespacedName{Namespace: pod.Namespace, Name: serviceAccountOf(pod)}, args)
	own := rank{fresh: true, created: pod.CreationTimestamp.Time, uid: pod.UID}

	s.mu.Lock()
	defer s.mu.Unlock()
	name := roomName{namespace: pod.Namespace, problems: d.problem != ""}
	r := s.rooms[name]
	if r == nil {
		r = &room{limit: s.limit, all: map[string]*place{}}
		if name.problems {
			r.limit = s.problems
		}
		if s.rooms == nil {
			s.rooms = map[roomName]*room{}
		}
		s.rooms[name] = r
	}
	p := r.all[d.key]
	if p != nil && p.anchor.Value() == nil { // Its pods are gone.
		r.remove(d.key, p)
		p = nil
	}
	known := p != nil
	if !known {
		p = &place{bytes: size, precedence: precedence{rank: own}, index: -1}
	}
	if own.older(p.rank) {
		p.created, p.uid = own.created, own.uid
		if p.index >= 0 {
			heap.Fix(&r.order, p.index)
		}
	}
	if p.content == nil && !s.add(r, p, d) && !known {
		return noRoom.kept[:], d.key
	}
	a := p.anchor.Value()
	if a == nil {
		a = newAnchor(d.key)
		p.anchor = weak.Make(a)
		r.all[d.key] = p
		runtime.AddCleanup(a, func(key string) { s.drop(name, key) }, d.key)
	}
	return a.kept[:], ""
}

// add reports whether there is room for the declaration, maybe after others have given way.
func (s *declarations) add(r *room, p *place, d *declaration) bool {
	if r.bytes+p.bytes > r.limit {
		s.collect(r)
	}
	if r.order == nil && r.bytes+p.bytes <= r.limit {
		p.content = d
		r.bytes += p.bytes
		return true
	}
	s.sort(r)
	p.content = d
	s.judge(p)
	if r.end != nil && p.compare(*r.end) > 0 {
		p.content = nil
		return false
	}
	r.bytes += p.bytes
	heap.Push(&r.order, p)
	for r.bytes > r.limit {
		last := r.order[0]
		if s.judge(last) {
			heap.Fix(&r.order, 0)
			continue
		}
		if last != p && !last.forbidden {
			if s.displaced == nil {
				s.displaced = map[types.NamespacedName]bool{}
			}
			s.displaced[last.content.account] = true
		}
		r.giveWay(last)
	}
	return p.content != nil
}

// sort orders what is in the room, which is done when it is full for the first time and when the policy has changed.
func (s *declarations) sort(r *room) {
	var now *policy.Policy
	if s.standings != nil {
		now = s.standings.policy()
	}
	if r.order != nil && r.policy == now {
		return
	}
	r.order, r.end, r.policy = make(lastFirst, 0, len(r.all)), nil, now
	for _, p := range r.all {
		if p.content != nil {
			s.judge(p)
			p.index = len(r.order)
			r.order = append(r.order, p)
		}
	}
	heap.Init(&r.order)
}

// judge reports whether the precedence has changed.
func (s *declarations) judge(p *place) bool {
	if s.standings == nil || p.content.problem != "" {
		return false
	}
	forbidden, fresh := s.standings.of(p.content.account, p.content.tokens)
	changed := forbidden != p.forbidden || fresh != p.fresh
	p.forbidden, p.fresh = forbidden, fresh
	return changed
}

// again judges a declaration, of whose ServiceAccount something has changed.
func (s *declarations) again(d *declaration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[roomName{namespace: d.account.Namespace}]
	if r == nil {
		return
	}
	if p := r.all[d.key]; p != nil && p.index >= 0 && s.judge(p) {
		heap.Fix(&r.order, p.index)
	}
}

// collect makes the room of those that no pod has any more.
func (s *declarations) collect(r *room) {
	if now := time.Now(); now.Sub(s.collected) >= collectInterval {
		runtime.GC()
		s.collected = now
	}
	if r.collected.Equal(s.collected) {
		return
	}
	r.collected = s.collected
	for key, p := range r.all {
		if p.anchor.Value() == nil {
			r.remove(key, p)
		}
	}
}

// drop forgets a declaration that is gone, unless it came again.
func (s *declarations) drop(name roomName, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[name]
	if r == nil {
		return
	}
	if p := r.all[key]; p != nil && p.anchor.Value() == nil {
		r.remove(key, p)
	}
	if len(r.all) == 0 {
		delete(s.rooms, name)
	}
}

// get returns the declaration of a pod out of the cache, nil if it declares nothing.
func (s *declarations) get(pod *corev1.Pod) *declaration {
	if len(pod.Spec.InitContainers) == 0 || len(pod.Spec.InitContainers[0].Args) == 0 {
		return nil
	}
	key := pod.Spec.InitContainers[0].Args[0]
	if key == "" {
		key = pod.Spec.NodeName
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, problems := range []bool{false, true} {
		if r := s.rooms[roomName{pod.Namespace, problems}]; r != nil {
			if p := r.all[key]; p != nil && p.content != nil {
				return p.content
			}
		}
	}
	return crowded
}

// gone takes note of a pod of the cache that was deleted. One without room may have been the one that younger ones wait for.
func (s *declarations) gone(pod *corev1.Pod) {
	if s.get(pod) != crowded {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, problems := range []bool{false, true} {
		if r := s.rooms[roomName{pod.Namespace, problems}]; r != nil {
			r.end = nil
		}
	}
}

// takeDisplaced returns the ServiceAccounts whose declarations had to give way since the last call.
func (s *declarations) takeDisplaced() map[types.NamespacedName]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	displaced := s.displaced
	s.displaced = nil
	return displaced
}

// room has the declarations of a namespace. When it is full, it has those that come first by precedence, up to the first for which
// there is no room: not smaller ones after it, for then it would depend on the order in which they are seen.
type room struct {
	limit, bytes int
	all          map[string]*place
	// order is nil until the room is full.
	order lastFirst
	// end is the first for which there was no room, nil after something has made room.
	end *precedence
	// policy is what the order was made with.
	policy *policy.Policy
	// collected is when garbage was last looked for in it.
	collected time.Time
}

// place is that of one declaration.
type place struct {
	precedence
	anchor weak.Pointer[anchor]
	// content is nil if it had to give way.
	content *declaration
	bytes   int
	index   int // in order, -1 if it is not there
}

// giveWay takes the content away.
func (r *room) giveWay(p *place) {
	if p.index >= 0 {
		heap.Remove(&r.order, p.index)
	}
	if p.content != nil {
		p.content = nil
		r.bytes -= p.bytes
	}
	if r.end == nil || p.compare(*r.end) < 0 {
		end := p.precedence
		r.end = &end
	}
}

// remove forgets a declaration without pods.
func (r *room) remove(key string, p *place) {
	delete(r.all, key)
	r.end = nil
	if p.index >= 0 {
		heap.Remove(&r.order, p.index)
	}
	if p.content != nil {
		r.bytes -= p.bytes
	}
	if r.bytes <= r.limit/2 {
		r.unsort()
	}
}

// unsort makes the room one that is not full.
func (r *room) unsort() {
	for _, p := range r.order {
		p.index = -1
	}
	r.order, r.policy = nil, nil
}

// lastFirst is a heap with what gives way first.
type lastFirst []*place

func (l lastFirst) Len() int           { return len(l) }
func (l lastFirst) Less(i, j int) bool { return l[i].compare(l[j].precedence) > 0 }
func (l lastFirst) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].index, l[j].index = i, j
}

// Push implements heap.Interface.
func (l *lastFirst) Push(x any) {
	p := x.(*place)
	p.index = len(*l)
	*l = append(*l, p)
}

// Pop implements heap.Interface.
func (l *lastFirst) Pop() any {
	old := *l
	p := old[len(old)-1]
	old[len(old)-1] = nil
	p.index = -1
	*l = old[:len(old)-1]
	return p
}
