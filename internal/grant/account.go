package grant

import (
	"maps"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// account is what is remembered of one ServiceAccount between two reconciliations. One reconciliation at a time has it.
type account struct {
	unneeded unneeded
	pods     map[types.UID]*podState
	told     int // pods with a text in told
	refused  int // pods that the policy refuses, as counted in accounts.refused
	waiting  int // pods whose grant is not there, as counted in accounts.waiting
	// later: there is something to do that no event of this ServiceAccount tells of.
	later bool
	// role and binding are what the cache must show before anything is decided.
	role, binding expectation
}

// podState is what is remembered of one pod.
type podState struct {
	// told is a hash of the last that was said about it, 0 after its grant. The text is as long as the pod's author likes.
	told uint64
	// granted: its grant was seen, so that a later repair is not taken for the first one.
	granted bool
}

func (a *account) state(pod *corev1.Pod) *podState {
	state := a.pods[pod.UID]
	if state == nil {
		state = &podState{}
		a.pods[pod.UID] = state
	}
	return state
}

// forgive forgets what was said about the pod.
func (a *account) forgive(state *podState) {
	if state.told != 0 {
		state.told = 0
		a.told--
	}
}

// keepOnly forgets pods that are not in the list.
func (a *account) keepOnly(pods []corev1.Pod) {
	here := make(map[types.UID]bool, len(pods))
	for i := range pods {
		here[pods[i].UID] = true
	}
	maps.DeleteFunc(a.pods, func(uid types.UID, state *podState) bool {
		if here[uid] {
			return false
		}
		a.forgive(state)
		return true
	})
}

// accounts are all of them.
type accounts struct {
	mu      sync.Mutex
	all     map[types.NamespacedName]*account
	refused atomic.Int64
	waiting atomic.Int64
}

func newAccounts() *accounts { return &accounts{all: map[types.NamespacedName]*account{}} }

func (a *accounts) get(name types.NamespacedName) *account {
	a.mu.Lock()
	defer a.mu.Unlock()
	one := a.all[name]
	if one == nil {
		one = &account{unneeded: unneeded{}, pods: map[types.UID]*podState{}}
		a.all[name] = one
	}
	return one
}

func (a *accounts) setRefused(one *account, refused int) {
	a.refused.Add(int64(refused - one.refused))
	one.refused = refused
}

func (a *accounts) setWaiting(one *account, waiting int) {
	a.waiting.Add(int64(waiting - one.waiting))
	one.waiting = waiting
}

// forget drops an account of which nothing is left.
func (a *accounts) forget(name types.NamespacedName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if one := a.all[name]; one != nil {
		a.setRefused(one, 0)
		a.setWaiting(one, 0)
		delete(a.all, name)
	}
}
