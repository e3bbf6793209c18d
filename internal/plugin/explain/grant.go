package explain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/access"
	"github.com/podtoken/podtoken/internal/plugin/sidecar"
	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
)

// copyAdvice is how a copy of a Pod is made that the webhook looks at.
const copyAdvice = `"kubectl debug --copy-to NAME --keep-annotations"`

// need is what the sidecar of a Pod needs of its grant and does not have, as the API server's authorizer answers.
type need struct {
	// audiences that it may not mint; others are the request itself, and lifetimes.
	audiences, others []string
	// unknown: the authorizer may not be asked.
	unknown bool
}

func (n *need) add(list *[]string, answer access.Answer, what string) {
	n.unknown = n.unknown || answer == access.Unknown
	if answer == access.No && !slices.Contains(*list, what) {
		*list = append(*list, what)
	}
}

// ask returns what the ServiceAccount lacks for the tokens of a report, whose audiences were asked for before.
func (x *explainer) ask(ctx context.Context, account access.Account, tokens []Token) (*need, error) {
	n := &need{}
	answer, err := account.MayCreateTokens(ctx, x.cluster.Client)
	if err != nil {
		return nil, err
	}
	n.add(&n.others, answer, "verb create on serviceaccounts/token")
	for i := range tokens {
		seconds := tokens[i].ExpirationSeconds
		if answer, err = account.MayMintLifetime(ctx, x.cluster.Client, seconds); err != nil {
			return nil, err
		}
		n.add(&n.others, answer, fmt.Sprintf("lifetime %d s", seconds))
		for _, grant := range tokens[i].Grants {
			n.add(&n.audiences, access.Answer(grant.RBAC), quotedAudience(grant.Audience))
		}
	}
	return n, nil
}

func quotedAudience(audience string) string { return fmt.Sprintf("audience %q", audience) }

// grant says what stands between a running sidecar and its grant. The controller counts Pods with podtoken's label and sidecar
// (internal/grant/cache.go), and grants what they declare. Of other Pods it knows nothing, whatever runs in them.
func (x *explainer) grant(ctx context.Context, s *subject, r *Report, specs []api.TokenSpec) error {
	account := access.Account{Namespace: s.Namespace, Name: r.ServiceAccount}
	refusal, rbac := "", false
	if p := x.found.Policy; p != nil {
		request := policy.Request{Namespace: account.Namespace, ServiceAccount: account.Name, Tokens: specs, APIServerAudiences: x.found.APIServerAudiences}
		if refused := p.Check(request); refused != nil {
			refusal = refused.Message
		}
		rbac = p.RBAC(s.Namespace)
		if slices.Contains(p.Excluded(), s.Namespace) {
			r.Findings.Add(plugin.Problem, checkNamespace, "%s", cmp.Or(refusal, "the installation excludes this namespace: use another one"))
			return nil
		}
	}
	others, err := x.othersThatCount(ctx, s, account)
	if err != nil {
		return err
	}
	label(s, r, account, others)
	switch _, err := x.cluster.Client.CoreV1().ServiceAccounts(account.Namespace).Get(ctx, account.Name, metav1.GetOptions{}); {
	case apierrors.IsNotFound(err):
		r.Findings.Add(plugin.Problem, checkGrant, "spec.serviceAccountName: ServiceAccount %s does not exist, so there are neither tokens nor a grant: create it again, and the grant follows", account)
		return nil
	case err != nil && !apierrors.IsForbidden(err):
		return err
	}
	n, err := x.ask(ctx, account, r.Tokens)
	if err != nil {
		return err
	}
	lacks := n.others
	if rbac {
		if len(n.audiences) > 0 {
			r.Findings.Add(plugin.Problem, checkGrant, "%s", rolesDecide(account, n.audiences))
		}
	} else {
		lacks = slices.Concat(lacks, n.audiences)
	}
	state, remedy, err := x.stateOfGrant(ctx, account)
	if err != nil || len(lacks) == 0 && (!n.unknown || state == "") {
		return err
	}
	text := "ServiceAccount " + account.String() + " has no grant"
	if len(lacks) > 0 {
		text = "ServiceAccount " + account.String() + " lacks " + strings.Join(lacks, ", ")
	}
	if state != "" {
		text = state + ", so " + text
	}
	r.Findings.Add(plugin.Problem, checkGrant, "%s: %s", text, cmp.Or(remedy, refusal, awaited(s.live, others)))
	return nil
}

// awaited is what has to happen before a grant has what a Pod declares, where nothing stands in the way of it.
func awaited(pod *corev1.Pod, others int) string {
	switch {
	case pod.Labels[api.LabelInjected] == labelTrue:
		return `the controller grants what this Pod declares within seconds; if it does not, see the Pod's events, and run "kubectl podtoken doctor"`
	case others > 0:
		return "the Pods that have the label do not declare it"
	default:
		return "no Pod that has the label declares it"
	}
}

// rolesDecide is about mode rbac.
func rolesDecide(account access.Account, audiences []string) string {
	return fmt.Sprintf("in this namespace Roles decide, and ServiceAccount %s has no verb %s on %s.%s for %s: ask an administrator for a Role and a RoleBinding that allow it",
		account, api.VerbMint, api.ResourceAudiences, api.RBACGroup, strings.Join(audiences, ", "))
}

// label says that the controller does not count a Pod that runs our sidecar.
func label(s *subject, r *Report, account access.Account, others int) {
	value, has := s.live.Labels[api.LabelInjected]
	if value == labelTrue {
		volumes := strings.Split(s.live.Annotations[api.AnnotationSafeToEvict], ",")
		if !asks(s.Pod) && !slices.Contains(volumes, api.VolumeTokens) {
			r.Findings.Add(plugin.Note, checkLabel, "metadata.annotations: the webhook was not called for this Pod, which has no annotation of podtoken or %s: %q. The controller counts it by its label, "+
				"but a cluster autoscaler takes its tokens for data: copy a Pod with %s", api.AnnotationInject, "false", copyAdvice)
		}
		return
	}
	what, overwrite := "is missing", ""
	if has {
		what, overwrite = fmt.Sprintf("is %q", value), " --overwrite"
	}
	counted := ""
	if others >= 0 {
		counted = fmt.Sprintf(" (counted now: %d)", others)
	}
	r.Findings.Add(plugin.Problem, checkLabel, "metadata.labels: %s %s, want %q: the controller does not count this Pod, so its tokens are granted only while other Pods of "+
		"ServiceAccount %s that have the label declare them%s, and for controller.removalDelay (10 minutes by default) after that; "+
		`run "kubectl label pod %s -n %s %s=%s%s", or copy the Pod with %s`,
		api.LabelInjected, what, labelTrue, account, counted, s.live.Name, s.Namespace, api.LabelInjected, labelTrue, overwrite, copyAdvice)
}

// othersThatCount returns how many other Pods of the ServiceAccount the controller counts; -1 if they may not be listed.
func (x *explainer) othersThatCount(ctx context.Context, s *subject, account access.Account) (int, error) {
	pods, err := x.cluster.Injected(ctx, s.Namespace, "")
	if apierrors.IsForbidden(err) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	count := 0
	for i := range pods {
		pod := &pods[i]
		if pod.Name != s.live.Name && cmp.Or(pod.Spec.ServiceAccountName, "default") == account.Name && sidecar.Runs(pod) && !finished(pod) {
			count++
		}
	}
	return count, nil
}

// stateOfGrant says what is wrong with the objects of the grant, and what to do if that is the reader's; empty if nothing is, or if they
// may not be read.
func (x *explainer) stateOfGrant(ctx context.Context, account access.Account) (state, remedy string, err error) {
	name := api.GrantPrefix + account.Name
	role, err := x.cluster.Client.RbacV1().Roles(account.Namespace).Get(ctx, name, metav1.GetOptions{})
	if state, remedy, err = stateOf("Role", name, role, err); state != "" || err != nil {
		return state, remedy, err
	}
	if since := role.Annotations[api.AnnotationWithdrawn]; since != "" {
		return fmt.Sprintf("Role %q was withdrawn at %s", name, since), "", nil
	}
	binding, err := x.cluster.Client.RbacV1().RoleBindings(account.Namespace).Get(ctx, name, metav1.GetOptions{})
	return stateOf("RoleBinding", name, binding, err)
}

// stateOf is about one of them; err is why it could not be read.
func stateOf(kind, name string, object metav1.Object, err error) (state, remedy string, _ error) {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("%s %q does not exist", kind, name), "", nil
	case apierrors.IsForbidden(err):
		return "", "", nil
	case err != nil:
		return "", "", err
	case object.GetLabels()[api.LabelGrant] != labelTrue:
		return fmt.Sprintf("%s %q without the label %s: %q is in the way of the grant", kind, name, api.LabelGrant, labelTrue),
			"delete or rename it, and the controller writes the grant within a minute", nil
	}
	return "", "", nil
}

// finished reports whether the Pod's containers have ended for good, after which it needs no grant.
func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
