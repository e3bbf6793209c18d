package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/e2e/attack"
	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

const (
	// controlPrefix begins the name of the namespace that is guarded by the guard that lets go.
	controlPrefix = allowedPrefix + "control-"
	lettingGo     = "podtoken-guard-that-lets-go"
	raceLifetime  = 3600
	// raceRemovalDelay is short, because the races wait for it.
	raceRemovalDelay = 2 * time.Second
)

// Token requests that are on their way while the right to make them goes, however it goes: none gives a token that the pod does not
// declare. Each race is run in two namespaces at the same time: one has the guard, the other, the control, a guard that lets go, which
// shows that the race meets the withdrawals. In a cluster of its own, whose end is the last race. Serial: it is as busy as it can.
func TestRacesAgainstWithdrawals(t *testing.T) {
	w := emptyWorld(t, "races")
	must(t, w.cluster.InstallChart(t.Context(), chartValues(
		"--set", "webhook.replicas=1", "--set", "controller.replicas=1", "--set", "controller.removalDelay="+raceRemovalDelay.String(),
		"--set", "controller.withdrawalDelaySeconds=65", // the default: requests of the last race live for 28 s
	)...), "installing podtoken")
	a := w.arena(t)
	a.deletedBySomebody(t)
	a.removedByTheController(t)
	a.takenByThePolicy(t)
	a.accountMadeAnew(t)
	a.compromisedController(t)
	a.copiedGrant(t)
	a.handedOn(t)
	a.uninstalled(t)
}

// arena is the place of the races.
type arena struct {
	*world
	guarded, control *testNamespace
	// markStays: when the controller took a right away, it left the mark for a while.
	markStays bool
}

func (a *arena) sides() []*testNamespace { return []*testNamespace{a.guarded, a.control} }

// arena makes the two namespaces.
func (w *world) arena(t *testing.T) *arena {
	t.Helper()
	w.letGo(t)
	a := &arena{world: w, guarded: w.newNamespace(t, allowedPrefix, nil), control: w.newNamespace(t, controlPrefix, nil)}
	for policy, n := range map[string]*testNamespace{guardPolicy: a.guarded, lettingGo: a.control} {
		n.attacker(serviceAccount)
		eventually(t, pollShort, "the guard of "+n.name+" is "+policy, func(context.Context) (bool, error) {
			got := n.mintIn(keeper(serviceAccount), mintRequest{spec: map[string]any{"audiences": []string{audienceDeclared}, "expirationSeconds": raceLifetime}})
			return got.Code == 403 && strings.Contains(got.Message, "'"+policy+"'"), fmt.Errorf("%d %s", got.Code, got.Message)
		})
	}
	return a
}

// letGo takes the namespaces of controls out of podtoken's guards, and gives them one that lets go.
func (w *world) letGo(t *testing.T) {
	t.Helper()
	ctx, policies := t.Context(), w.client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	control := "request.namespace.startsWith('" + controlPrefix + "')"
	list, err := policies.List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=podtoken"})
	must(t, err, "listing policies")
	for _, guard := range list.Items {
		if !strings.HasPrefix(guard.Name, guardPolicy) {
			continue
		}
		_, err := policies.Patch(ctx, guard.Name, types.JSONPatchType, mustJSON(t, []any{map[string]any{
			"op": "add", "path": "/spec/matchConditions/0", "value": admissionv1.MatchCondition{Name: "no-control", Expression: "!" + control},
		}}), metav1.PatchOptions{})
		must(t, err, "taking controls out of policy %q", guard.Name)
	}
	text, err := os.ReadFile("testdata/guard-that-lets-go.yaml")
	must(t, err, "reading a guard")
	var before admissionv1.ValidatingAdmissionPolicy
	must(t, yaml.UnmarshalStrict(text, &before), "decoding a guard")
	before.Spec.MatchConditions = append([]admissionv1.MatchCondition{{Name: "control", Expression: control}}, before.Spec.MatchConditions...)
	_, err = policies.Create(ctx, &before, metav1.CreateOptions{})
	must(t, err, "creating policy %q", before.Name)
	_, err = w.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: before.Name},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: before.Name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}, metav1.CreateOptions{})
	must(t, err, "binding policy %q", before.Name)
}

// keeper and declarer are the pods of a ServiceAccount: the attacker's, which runs and has nothing to do with podtoken, and the one
// that declares a token.
func keeper(account string) string   { return "keep-" + account }
func declarer(account string) string { return "declare-" + account }

// attacker makes both, and the ServiceAccount if there is none.
func (n *testNamespace) attacker(account string) {
	n.t.Helper()
	n.plain(account)
	n.declares(account)
	n.granted(account, audienceDeclared)
}

func (n *testNamespace) declares(account string) {
	n.t.Helper()
	n.create(declarer(account), annotations("audience.vault", audienceDeclared), gated(account))
}

// plain makes the attacker's pod only.
func (n *testNamespace) plain(account string) {
	n.t.Helper()
	if account != serviceAccount {
		n.account(account)
	}
	spec := podSpec()
	spec.ServiceAccountName = account
	n.create(keeper(account), nil, spec)
	n.ready(keeper(account))
}

// grant is what the attacker's pod may have.
func (n *testNamespace) grant(account string) attack.Grant {
	n.t.Helper()
	return n.allowedTo(n.ready(keeper(account)), raceLifetime, audienceDeclared)
}

// race is a withdrawal that is run again and again under a flood of requests.
type race struct {
	name string
	// account of the attacker in a run.
	account func(run int) string
	runs    int
	// rounds are the withdrawals of a run, and every how long they come.
	rounds int
	every  time.Duration
	// take takes the right away on one side, and reports whether there was anything to take; back gives it back.
	take func(n *testNamespace, account string) bool
	back func(n *testNamespace, account string)
	// takeAll and backAll do it on both sides.
	takeAll, backAll func(t *testing.T)
	// change makes it another flood than the usual.
	change func(n *testNamespace, race *attack.Race)
	// from is where the attacker's pods are, on either side by default.
	from *testNamespace
	// neverAllowed: the attacker has no grant at any time.
	neverAllowed bool
	// byController: the controller withdraws. When it takes the right first and the mark much later, even a guard that lets go holds.
	byController bool
}

// raceTime ends the withdrawals of a run, on a machine that has other things to do: the requests and the withdrawals have to share it.
const raceTime = 8 * time.Second

// raceTries is how often a race is run until the guard that lets go has let go.
const raceTries = 4

func (a *arena) run(t *testing.T, r race) {
	t.Helper()
	start := time.Now()
	var guarded, control attack.Result
	withdrawals := 0
	safe := func() bool { return r.byController && a.markStays }
	for run := 0; run < r.runs || !safe() && control.All().Sum(attack.Violations...) == 0 && run < max(r.runs, raceTries); run++ {
		g, c, taken := a.once(t, r, r.account(run))
		guarded.Add(g)
		control.Add(c)
		withdrawals += taken
	}
	forms := func(result attack.Result) string {
		return fmt.Sprintf("whole %v, half %v", result.Whole.ByOutcome(), result.Half.ByOutcome())
	}
	bad, found, total := guarded.All().Sum(attack.Violations...), control.All().Sum(attack.Violations...), guarded.All()
	t.Logf("%s: %d withdrawals in %s. Guarded: %d of %d requests gave what they must not (%s). A guard that lets go: %d of %d (%s)",
		r.name, withdrawals, time.Since(start).Round(time.Second), bad, total.Sum(), forms(guarded), found, control.All().Sum(), forms(control))
	if bad > 0 {
		t.Errorf("%s: %d tokens were issued that must not be, as %v", r.name, bad, guarded.Loot)
	}
	if found == 0 && !safe() {
		t.Errorf("%s: a guard that lets go did not let go in %d requests: this race tests nothing", r.name, control.All().Sum())
	}
	if total.Sum(attack.ByGuard) == 0 || total.Sum(attack.ByRBAC, attack.ByAuthentication) == 0 || !r.neverAllowed && total.Sum(attack.Allowed) == 0 {
		t.Errorf("%s: the requests have not met the withdrawal: %v", r.name, total.ByOutcome())
	}
}

// once floods both sides while the right goes, round after round.
func (a *arena) once(t *testing.T, r race, account string) (guarded, control attack.Result, taken int) {
	t.Helper()
	var floods []*flood
	for _, side := range a.sides() {
		from := side.in(t)
		if r.from != nil {
			from = r.from.in(t)
		}
		own := from.grant(account)
		flood := attack.Race{
			Namespace: side.name, Account: account, Grant: own, Requests: own.RaceRequests(),
			Whole: 8, Half: 100, Pause: 20 * time.Millisecond, HeldMax: 800 * time.Millisecond, Time: 5 * time.Minute, Count: 200_000,
		}
		if r.neverAllowed {
			flood.Grant = attack.Grant{}
		}
		if r.change != nil {
			r.change(side, &flood)
		}
		floods = append(floods, from.flood(keeper(account), flood))
	}
	start := time.Now()
	for round := 0; round < r.rounds && (round == 0 || time.Since(start) < raceTime); round++ {
		if r.takeAll != nil {
			r.takeAll(t)
			taken++
		}
		for _, side := range a.sides() {
			if r.take != nil && r.take(side.in(t), account) {
				taken++
			}
		}
		time.Sleep(r.every)
		for _, side := range a.sides() {
			if r.back != nil {
				r.back(side.in(t), account)
			}
		}
		if r.backAll != nil {
			r.backAll(t)
		}
	}
	return floods[0].stop(), floods[1].stop(), taken
}

// always is the same attacker in each run.
func always(account string) func(int) string { return func(int) string { return account } }

// gone reports whether a deletion found something; what is not there is being made again.
func gone(t *testing.T, err error) bool {
	t.Helper()
	if apierrors.IsNotFound(err) {
		return false
	}
	must(t, err, "deleting")
	return true
}

func (n *testNamespace) deleteBinding(account string) bool {
	n.t.Helper()
	return gone(n.t, n.client.RbacV1().RoleBindings(n.name).Delete(n.t.Context(), api.GrantPrefix+account, metav1.DeleteOptions{}))
}

func (n *testNamespace) deleteRole(account string) bool {
	n.t.Helper()
	return gone(n.t, n.client.RbacV1().Roles(n.name).Delete(n.t.Context(), api.GrantPrefix+account, metav1.DeleteOptions{}))
}

// whole waits until the ServiceAccount may have its tokens again.
func (n *testNamespace) whole(account string) {
	n.t.Helper()
	eventually(n.t, time.Minute, "ServiceAccount "+account+" may mint again", func(context.Context) (bool, error) {
		return n.mayMint(account) && n.may(account, api.VerbMint, api.RBACGroup, api.ResourceAudiences, "", audienceDeclared), nil
	})
}

func (n *testNamespace) mayMint(account string) bool {
	n.t.Helper()
	return n.may(account, "create", "", "serviceaccounts", "token", account)
}

// Parts of the grant are deleted, and the controller makes them again in a moment.
func (a *arena) deletedBySomebody(t *testing.T) {
	for name, take := range map[string]func(*testNamespace, string) bool{
		"RoleBinding deleted": (*testNamespace).deleteBinding,
		"Role deleted":        (*testNamespace).deleteRole,
		"both deleted": func(n *testNamespace, account string) bool {
			binding := n.deleteBinding(account)
			return n.deleteRole(account) || binding
		},
	} {
		a.run(t, race{
			name: name, account: always(serviceAccount), runs: 2, rounds: 25, every: 200 * time.Millisecond, take: take,
		})
	}
	for _, side := range a.sides() {
		side.in(t).whole(serviceAccount)
	}
}

// The last pod that declares a token is gone, as its author likes.
func (a *arena) removedByTheController(t *testing.T) {
	a.run(t, race{
		name: "removed after the last pod", byController: true, account: always(serviceAccount), runs: 1, rounds: 3, every: 300 * time.Millisecond,
		takeAll: func(t *testing.T) {
			for _, side := range a.sides() {
				side.in(t).delete(declarer(serviceAccount))
			}
			a.rightsAreGone(t, serviceAccount)
		},
		back: func(n *testNamespace, account string) {
			n.declares(account)
			n.whole(account)
		},
	})
}

// rightsAreGone waits until no side may mint any more, and notes whether the mark is still there.
func (a *arena) rightsAreGone(t *testing.T, account string) {
	t.Helper()
	for _, side := range a.sides() {
		eventually(t, 3*time.Minute, "the right of "+side.name+" is gone", func(context.Context) (bool, error) { return !side.in(t).mayMint(account), nil })
	}
	a.markStays = a.control.in(t).may(account, api.VerbMint, api.RBACGroup, api.ResourceTokens, "", account)
}

// An administrator takes the right away: by a policy that allows nothing, and one that excludes the namespaces.
func (a *arena) takenByThePolicy(t *testing.T) {
	configMaps := a.client.CoreV1().ConfigMaps(releaseNamespace)
	policy, err := configMaps.Get(t.Context(), "podtoken-policy", metav1.GetOptions{})
	must(t, err, "reading the policy")
	const file = "policy.yaml"
	before := policy.Data[file]
	write := func(t *testing.T, text string) {
		t.Helper()
		_, err := configMaps.Patch(t.Context(), policy.Name, types.MergePatchType, mustJSON(t, map[string]any{"data": map[string]string{file: text}}), metav1.PatchOptions{})
		must(t, err, "changing the policy")
		// The kubelet looks again at the volumes of a pod that changes; otherwise it takes a minute.
		for _, pod := range a.installationPods(t) {
			_, err := a.client.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, types.MergePatchType,
				mustJSON(t, map[string]any{"metadata": map[string]any{"annotations": map[string]string{"podtoken.test/look": time.Now().String()}}}), metav1.PatchOptions{})
			must(t, err, "changing pod %q", pod.Name)
		}
	}
	for name, change := range map[string]func(content map[string]any){
		"policy narrowed to nothing": func(content map[string]any) { content["allow"] = []any{} },
		"namespace excluded": func(content map[string]any) {
			content["excludeNamespaces"] = append(content["excludeNamespaces"].([]any), a.guarded.name, a.control.name)
		},
	} {
		var content map[string]any
		must(t, yaml.Unmarshal([]byte(before), &content), "decoding the policy")
		change(content)
		after, err := yaml.Marshal(content)
		must(t, err, "encoding the policy")
		a.run(t, race{
			name: name, byController: true, account: always(serviceAccount), runs: 1, rounds: 1, every: 500 * time.Millisecond,
			takeAll: func(t *testing.T) {
				write(t, string(after))
				a.rightsAreGone(t, serviceAccount)
			},
			backAll: func(t *testing.T) {
				write(t, before)
				for _, side := range a.sides() {
					side.in(t).whole(serviceAccount)
				}
			},
		})
	}
}

// The ServiceAccount is re-created: another uid, whose grant is re-created as well, and is deleted a few times more.
func (a *arena) accountMadeAnew(t *testing.T) {
	const runs = 2
	account := func(run int) string { return fmt.Sprintf("anew-%d", run) }
	for run := range raceTries {
		for _, side := range a.sides() {
			side.in(t).attacker(account(run))
		}
	}
	made := map[string]bool{}
	a.run(t, race{
		name: "ServiceAccount re-created", account: account, runs: runs, rounds: 20, every: 100 * time.Millisecond,
		take: func(n *testNamespace, account string) bool {
			if !made[n.name+account] {
				made[n.name+account] = true
				must(n.t, n.client.CoreV1().ServiceAccounts(n.name).Delete(n.t.Context(), account, metav1.DeleteOptions{}), "deleting ServiceAccount %q", account)
				n.account(account)
			}
			return n.deleteBinding(account)
		},
	})
}

// Code execution in the controller makes and removes grants at will, for a ServiceAccount of which it has a pod.
func (a *arena) compromisedController(t *testing.T) {
	const account = "puppet"
	for _, side := range a.sides() {
		side.in(t).plain(account)
	}
	stolen := a.as(t, a.credentialOf(t, releaseNamespace, controllerName))
	turn := 0
	a.run(t, race{
		name: "compromised controller", account: always(account), runs: 2, rounds: 20, every: 50 * time.Millisecond,
		take: func(n *testNamespace, account string) bool {
			turn++
			return n.puppet(stolen, account, turn)
		},
	})
}

// puppet makes a grant as the controller and removes it again, in one of the orders that there are.
func (n *testNamespace) puppet(stolen kubernetes.Interface, account string, turn int) bool {
	n.t.Helper()
	ctx := n.t.Context()
	owner, err := n.client.CoreV1().ServiceAccounts(n.name).Get(ctx, account, metav1.GetOptions{})
	must(n.t, err, "reading ServiceAccount %q", account)
	role := grantRole(account, func(r *rbacv1.Role) { r.OwnerReferences[0].UID = owner.UID })
	binding := grantBinding(n.name, account, func(b *rbacv1.RoleBinding) { b.OwnerReferences[0].UID = owner.UID })
	roles, bindings := stolen.RbacV1().Roles(n.name), stolen.RbacV1().RoleBindings(n.name)
	// The real controller is there as well, and removes what no pod declares.
	done := func(err error) bool {
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) {
			n.t.Errorf("as the controller: %v", err)
		}
		return err == nil
	}
	_, err = roles.Create(ctx, role, metav1.CreateOptions{})
	done(err)
	_, err = bindings.Create(ctx, binding, metav1.CreateOptions{})
	done(err)
	time.Sleep(100 * time.Millisecond)
	if turn%3 == 0 { // in the controller's own way: the rights first
		_, err = roles.Patch(ctx, role.Name, types.MergePatchType, mustJSON(n.t, map[string]any{"rules": role.Rules[1:2]}), metav1.PatchOptions{})
		done(err)
	}
	removals := []func() bool{
		func() bool { return done(bindings.Delete(ctx, binding.Name, metav1.DeleteOptions{})) },
		func() bool { return done(roles.Delete(ctx, role.Name, metav1.DeleteOptions{})) },
	}
	if turn%2 == 0 {
		removals[0], removals[1] = removals[1], removals[0]
	}
	first := removals[0]()
	return removals[1]() || first
}

// A tool with every right copies the grant of a ServiceAccount into another namespace, where it gives the original's ServiceAccount the
// right to mint for another: without podtoken's label, and with it, where the controller deletes the copy.
func (a *arena) copiedGrant(t *testing.T) {
	const account = "copied"
	parent := a.newNamespace(t, allowedPrefix, nil)
	parent.attacker(account)
	for _, side := range a.sides() {
		side.in(t).account(account)
	}
	copies := func(labels map[string]string) func(*testNamespace, string) bool {
		return func(n *testNamespace, account string) bool {
			ctx, meta := n.t.Context(), metav1.ObjectMeta{Name: api.GrantPrefix + account, Labels: labels}
			role := grantRole(account, func(r *rbacv1.Role) { r.ObjectMeta = meta })
			binding := grantBinding(parent.name, account, func(b *rbacv1.RoleBinding) { b.ObjectMeta = meta })
			n.deleteBinding(account) // or the controller does, where the label is
			n.deleteRole(account)    // the controller may have left the mark of it
			_, err := n.client.RbacV1().Roles(n.name).Create(ctx, role, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				n.t.Errorf("copying a Role: %v", err)
			}
			if _, err = n.client.RbacV1().RoleBindings(n.name).Create(ctx, binding, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
				n.t.Errorf("copying a RoleBinding: %v", err)
			}
			return true
		}
	}
	for _, r := range []race{
		{name: "copied grant", runs: 2, rounds: 15, every: 200 * time.Millisecond, take: copies(map[string]string{"hnc.x-k8s.io/inherited-from": parent.name})},
		{name: "copied grant with podtoken's label", runs: 2, rounds: 10, every: 400 * time.Millisecond, take: copies(grantRole(account, nil).Labels)},
	} {
		r.account, r.from, r.neverAllowed = always(account), parent, true
		a.run(t, r)
		for _, side := range a.sides() {
			side.in(t).deleteBinding(account)
			side.in(t).deleteRole(account)
		}
	}
}

// `helm uninstall` takes every grant at once, and the guard after them: with requests that wait for it for nearly as long as the API
// server lets them.
func (a *arena) uninstalled(t *testing.T) {
	for _, side := range a.sides() {
		side.in(t).whole(serviceAccount)
	}
	a.run(t, race{
		name: "uninstallation", account: always(serviceAccount), runs: 1, rounds: 1,
		change: func(_ *testNamespace, race *attack.Race) {
			race.Whole, race.Half, race.HeldMin, race.HeldMax = 1, 50, 5*time.Second, 28*time.Second
			race.Pause, race.Time = 100*time.Millisecond, 10*time.Minute
		},
		takeAll: func(t *testing.T) {
			time.Sleep(10 * time.Second) // so that what is on its way is of every age
			a.helm(t, "uninstall", cluster.Release, "--wait", "--timeout", "6m")
		},
	})
}
