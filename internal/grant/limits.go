package grant

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
)

// rank orders what is declared: what the Role gives already comes first, so that nothing new takes it away, then what an
// older pod declares. It depends on the pods and the Role only, so that every replica and every start comes to the same.
type rank struct {
	fresh   bool // the Role does not give it yet
	created time.Time
	uid     types.UID
}

func (r rank) compare(other rank) int {
	if r.fresh != other.fresh {
		if r.fresh {
			return 1
		}
		return -1
	}
	return cmp.Or(r.created.Compare(other.created), strings.Compare(string(r.uid), string(other.uid)))
}

// older reports whether the pod is older than the other, whatever the Role gives.
func (r rank) older(than rank) bool {
	r.fresh = than.fresh
	return r.compare(than) < 0
}

// group are the pods of one ServiceAccount that declare the same. They stand or fall together: all pods of a Deployment do.
type group struct {
	*declaration
	rank // of its oldest pod
	pods []*corev1.Pod
	// refused tells why they are granted nothing, "" if they are.
	refused string
}

// groups returns the pods that declare something and have not ended, by rank.
func (o observed) groups(current content, rbac bool) []*group {
	byDeclaration := map[*declaration]*group{}
	var all []*group
	for i := range o.pods {
		pod := &o.pods[i]
		d := declared.get(pod)
		if d == nil {
			continue
		}
		own := rank{fresh: d.problem != "" || !current.covers(d.tokens, rbac), created: pod.CreationTimestamp.Time, uid: pod.UID}
		g := byDeclaration[d]
		if g == nil {
			g = &group{declaration: d, rank: own}
			byDeclaration[d] = g
			all = append(all, g)
		}
		if own.compare(g.rank) < 0 {
			g.rank = own
		}
		g.pods = append(g.pods, pod)
	}
	slices.SortFunc(all, func(a, b *group) int { return a.compare(b.rank) })
	return all
}

// judge sets refused of those that the policy refuses, and of those for which the ServiceAccount's limit has no room beside
// those before them. It returns what each of the others adds.
func (c check) judge(groups []*group) []addition {
	rbac, limit := c.policy.RBAC(c.Namespace), c.policy.MaxPerServiceAccount()
	var given union
	var added []addition
	for _, g := range groups {
		switch {
		case g.declaration == crowded:
			g.refused = g.problem
			continue
		case g.problem != "":
			g.refused = fmt.Sprintf("container %q cannot be understood: %s", api.ContainerName, g.problem)
			continue
		}
		if refusal := c.refusal(g.tokens); refusal != nil {
			g.refused = refusal.Message
			continue
		}
		weight, lifetimes := given.more(g.tokens, rbac)
		switch {
		case given.weight+weight > limit:
			g.refused = c.policy.Explain(policy.AudiencesOfServiceAccount, c.request(g.tokens)).Message
		case len(given.lifetimes)+lifetimes > limit:
			g.refused = c.policy.Explain(policy.LifetimesOfServiceAccount, c.request(g.tokens)).Message
		default:
			given.add(g.tokens, rbac)
			if weight > 0 {
				added = append(added, addition{rank: g.rank, weight: weight})
			}
		}
	}
	return added
}

// before refuses what comes at or after end, where the namespace's limit is reached, but for what is given without it too.
func (c check) before(end *rank, groups []*group) {
	if end == nil {
		return
	}
	rbac := c.policy.RBAC(c.Namespace)
	var given union
	for _, g := range groups {
		if g.refused != "" {
			continue
		}
		if weight, _ := given.more(g.tokens, rbac); weight > 0 && g.compare(*end) >= 0 {
			g.refused = c.policy.Explain(policy.AudiencesOfNamespace, c.request(g.tokens)).Message
			continue
		}
		given.add(g.tokens, rbac)
	}
}

// union is what several declarations give together.
type union struct {
	audiences map[string]bool
	lifetimes map[int64]bool
	weight    int
}

// more returns what the tokens would add: the weight of audiences, which where Roles of administrators decide are not
// in the grant, and the number of lifetimes.
func (u *union) more(tokens []api.TokenSpec, rbac bool) (weight, lifetimes int) {
	audiences, seconds := map[string]bool{}, map[int64]bool{}
	for i := range tokens {
		if t := tokens[i].ExpirationSeconds; !u.lifetimes[t] {
			seconds[t] = true
		}
		for _, audience := range tokens[i].Audiences {
			if !rbac && !u.audiences[audience] && !audiences[audience] {
				audiences[audience] = true
				weight += policy.Weight(audience)
			}
		}
	}
	return weight, len(seconds)
}

func (u *union) add(tokens []api.TokenSpec, rbac bool) {
	if u.audiences == nil {
		u.audiences, u.lifetimes = map[string]bool{}, map[int64]bool{}
	}
	weight, _ := u.more(tokens, rbac)
	u.weight += weight
	for i := range tokens {
		u.lifetimes[tokens[i].ExpirationSeconds] = true
		if rbac {
			continue
		}
		for _, audience := range tokens[i].Audiences {
			u.audiences[audience] = true
		}
	}
}

// weigh returns what audiences weigh together.
func weigh(audiences []string) int {
	weight := 0
	for _, audience := range audiences {
		weight += policy.Weight(audience)
	}
	return weight
}

// addition is how much one declaration adds to the audiences of a namespace.
type addition struct {
	rank
	weight int
}

// ledger counts the audiences of namespaces, so that a reconciliation need not look at the pods of other ServiceAccounts.
type ledger struct {
	mu         sync.Mutex
	namespaces map[string]*namespaceLedger
}

type namespaceLedger struct {
	// policy and own are what it was made with. Others make a new one.
	policy   *policy.Policy
	own      []string
	accounts map[string]share
	// declared and retained are the sums of all accounts.
	declared, retained int
}

// share is that of one ServiceAccount.
type share struct {
	added    []addition
	declared int
	// retained are audiences that no pod needs any more.
	retained int
}

func (n *namespaceLedger) set(account string, s share) {
	before := n.accounts[account]
	n.declared += s.declared - before.declared
	n.retained += s.retained - before.retained
	n.accounts[account] = s
	if len(s.added) == 0 && s.retained == 0 {
		delete(n.accounts, account)
	}
}

// declare takes note of what the ServiceAccount's pods add. It returns where the limit of the namespace is reached, nil if it
// is not, and how much there is room for besides what pods declare. others returns the additions of all ServiceAccounts in the
// namespace; it is called once for a policy.
func (l *ledger) declare(c check, added []addition, others func() (map[string][]addition, error)) (end *rank, room int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.namespaces[c.Namespace]
	if n == nil || n.policy != c.policy || !slices.Equal(n.own, c.own) {
		n = &namespaceLedger{policy: c.policy, own: c.own, accounts: map[string]share{}}
		all, err := others()
		if err != nil {
			return nil, 0, err
		}
		for account, added := range all {
			n.set(account, shareOf(added))
		}
		if l.namespaces == nil {
			l.namespaces = map[string]*namespaceLedger{}
		}
		l.namespaces[c.Namespace] = n
	}
	mine := shareOf(added)
	mine.retained = n.accounts[c.Name].retained
	n.set(c.Name, mine)
	limit := c.policy.MaxPerNamespace()
	if n.declared <= limit {
		return nil, limit - n.declared - (n.retained - mine.retained), nil
	}
	return n.end(limit), 0, nil
}

// end returns the rank of the first declaration for which there is no room.
func (n *namespaceLedger) end(limit int) *rank {
	var all []addition
	for _, s := range n.accounts {
		all = append(all, s.added...)
	}
	slices.SortFunc(all, func(a, b addition) int { return a.compare(b.rank) })
	sum := 0
	for i := range all {
		if sum += all[i].weight; sum > limit {
			return &all[i].rank
		}
	}
	return nil
}

func shareOf(added []addition) share {
	s := share{added: added}
	for _, one := range added {
		s.declared += one.weight
	}
	return s
}

// retain takes note of what the ServiceAccount's grant keeps although no pod needs it.
func (l *ledger) retain(name types.NamespacedName, weight int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.namespaces[name.Namespace]; n != nil {
		s := n.accounts[name.Name]
		s.retained = weight
		n.set(name.Name, s)
	}
}

// forget drops a ServiceAccount of which nothing is left.
func (l *ledger) forget(name types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.namespaces[name.Namespace]; n != nil {
		n.set(name.Name, share{})
		if len(n.accounts) == 0 {
			delete(l.namespaces, name.Namespace)
		}
	}
}

// additions returns those of all ServiceAccounts in the namespace.
func (r *Reconciler) additions(ctx context.Context, c check) (map[string][]addition, error) {
	var pods corev1.PodList
	if err := r.cache.List(ctx, &pods, client.InNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("listing the pods of the namespace: %w", err)
	}
	byAccount := map[string][]corev1.Pod{}
	for i := range pods.Items {
		account := serviceAccountOf(&pods.Items[i])
		byAccount[account] = append(byAccount[account], pods.Items[i])
	}
	all := map[string][]addition{}
	for account, pods := range byAccount {
		o, err := r.observeGrant(ctx, types.NamespacedName{Namespace: c.Namespace, Name: account})
		if err != nil {
			return nil, err
		}
		if !o.exists {
			continue
		}
		o.pods = pods
		other := check{policy: c.policy, own: c.own, owner: o.owner}
		all[account] = other.judge(o.groups(o.current(), other.policy.RBAC(c.Namespace)))
	}
	return all, nil
}

// standings are those of the declarations in the cache. Roles are read from it, once they are there.
func (r *Reconciler) standings(ctx context.Context) *standings {
	return &standings{policy: r.policy, of: func(account types.NamespacedName, tokens []api.TokenSpec) (forbidden, fresh bool) {
		c := check{policy: r.policy(), own: set(r.audiences()), owner: owner{NamespacedName: account}}
		role := &rbacv1.Role{}
		if err := r.cache.Get(ctx, client.ObjectKey{Namespace: account.Namespace, Name: nameOf(account.Name)}, role); err != nil {
			role = &rbacv1.Role{} // There is none, or the process ends.
		}
		return c.refusal(tokens) != nil, !contentOf(role).covers(tokens, c.policy.RBAC(account.Namespace))
	}}
}
