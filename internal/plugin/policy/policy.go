// Package policy is the command `kubectl podtoken policy`: who may mint what, by the installation's policy and by RBAC.
package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/access"
	"github.com/podtoken/podtoken/internal/plugin/installation"
	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
)

const long = `Prints who may mint what: the grants that the controller has written for the ServiceAccounts of running pods, and which rule of the
policy allows each audience.

"policy rules" prints the policy itself. "policy check" asks policy and RBAC about audiences of one ServiceAccount; its exit code is 1
when the policy allows one of them not.`

const example = `  kubectl podtoken policy -A
  kubectl podtoken policy -A --audience vault
  kubectl podtoken policy rules
  kubectl podtoken policy check my-serviceaccount vault https://billing.example.com`

// Grant is what a ServiceAccount may mint by a grant.
type Grant struct {
	Namespace      string   `json:"namespace"`
	ServiceAccount string   `json:"serviceAccount"`
	Audience       string   `json:"audience"`
	Lifetimes      []string `json:"lifetimeSeconds"`
	// Policy is the rule that allows it; "RBAC decides", or "refused" where none does any more.
	Policy string `json:"policy"`
}

type options struct {
	all              bool
	audience, output string
	namespace        *string
}

// New returns the command.
func New(e *plugin.Env, podtokenNamespace *string) *cobra.Command {
	o := &options{namespace: podtokenNamespace}
	command := &cobra.Command{
		Use: "policy", Short: "Print who may mint what", Long: long, Example: example, Args: plugin.NoArguments,
		RunE: func(command *cobra.Command, _ []string) error { return o.grants(command.Context(), e) },
	}
	command.PersistentFlags().StringVarP(&o.output, "output", "o", "", "`format`: json, or nothing for a table")
	flags := command.Flags()
	flags.BoolVarP(&o.all, "all-namespaces", "A", false, "grants of all namespaces")
	flags.StringVar(&o.audience, "audience", "", "only who may mint this `audience`")
	command.AddCommand(&cobra.Command{
		Use: "rules", Short: "Print the rules of the policy", Args: plugin.NoArguments,
		RunE: func(command *cobra.Command, _ []string) error { return o.rules(command.Context(), e) },
	}, &cobra.Command{
		Use: "check SERVICEACCOUNT AUDIENCE...", Short: "Ask whether a ServiceAccount may have tokens for audiences",
		ValidArgsFunction: e.CompleteAccounts,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) < 2 {
				return errors.New("name a ServiceAccount and at least one audience")
			}
			return o.check(command.Context(), e, args[0], args[1:])
		},
	})
	return command
}

// open connects and reads the policy.
func (o *options) open(ctx context.Context, e *plugin.Env) (*plugin.Cluster, *installation.Installation, error) {
	if err := plugin.CheckOutput(o.output); err != nil {
		return nil, nil, err
	}
	c, err := e.Connect()
	if err != nil {
		return nil, nil, err
	}
	found, err := installation.Find(ctx, c, *o.namespace)
	if err != nil {
		return nil, nil, err
	}
	if found.PolicyErr != nil {
		return nil, nil, fmt.Errorf("reading the policy: %w", found.PolicyErr)
	}
	return c, found, nil
}

func (o *options) grants(ctx context.Context, e *plugin.Env) error {
	c, found, err := o.open(ctx, e)
	if err != nil {
		return err
	}
	namespace := c.Namespace
	if o.all {
		namespace = metav1.NamespaceAll
	}
	roles, err := c.Client.RbacV1().Roles(namespace).List(ctx, metav1.ListOptions{LabelSelector: api.LabelGrant + "=true"})
	if err != nil {
		return err
	}
	grants := []Grant{}
	for i := range roles.Items {
		for _, grant := range grantsOf(&roles.Items[i], found) {
			if o.audience == "" || o.audience == grant.Audience {
				grants = append(grants, grant)
			}
		}
	}
	if o.output == plugin.OutputJSON {
		return plugin.PrintJSON(e.Out, map[string]any{"grants": grants})
	}
	if len(grants) == 0 {
		_, _ = fmt.Fprintln(e.ErrOut, "No ServiceAccount may mint anything by a grant: grants exist while injected pods do.")
		return nil
	}
	table := plugin.Table(e.Out)
	table.Row("NAMESPACE", "SERVICEACCOUNT", "AUDIENCE", "LIFETIMES", "POLICY")
	for _, grant := range grants {
		table.Row(grant.Namespace, grant.ServiceAccount, grant.Audience, strings.Join(grant.Lifetimes, ","), grant.Policy)
	}
	table.Flush()
	return nil
}

// grantsOf are what a Role of the controller allows, see pkg/api/grant.go.
func grantsOf(role *rbacv1.Role, found *installation.Installation) []Grant {
	account := strings.TrimPrefix(role.Name, api.GrantPrefix)
	minted := func(resource string) (names []string) {
		for _, rule := range role.Rules {
			if slices.Contains(rule.APIGroups, api.RBACGroup) && slices.Contains(rule.Resources, resource) && slices.Contains(rule.Verbs, api.VerbMint) {
				names = append(names, rule.ResourceNames...)
			}
		}
		return names
	}
	var grants []Grant
	for _, audience := range minted(api.ResourceAudiences) {
		grants = append(grants, Grant{
			Namespace: role.Namespace, ServiceAccount: account, Audience: audience, Lifetimes: minted(api.ResourceLifetimes),
			Policy: found.AllowedBy(role.Namespace, account, audience),
		})
	}
	if grants == nil && found.Policy.RBAC(role.Namespace) {
		grants = append(grants, Grant{
			Namespace: role.Namespace, ServiceAccount: account, Audience: "(by other Roles)", Lifetimes: minted(api.ResourceLifetimes), Policy: "RBAC decides",
		})
	}
	return grants
}

func (o *options) rules(ctx context.Context, e *plugin.Env) error {
	_, found, err := o.open(ctx, e)
	if err != nil {
		return err
	}
	rules := found.Policy.List()
	if o.output == plugin.OutputJSON {
		return plugin.PrintJSON(e.Out, map[string]any{
			"rules": rules, "excludedNamespaces": found.Policy.Excluded(), "apiServerAudiences": found.APIServerAudiences,
		})
	}
	table := plugin.Table(e.Out)
	table.Row("RULE", "NAMESPACES", "SERVICEACCOUNTS", "AUDIENCES")
	for _, rule := range rules {
		table.Row(strings.TrimPrefix(rule.Label, "rule "), strings.Join(rule.Namespaces, ","), strings.Join(rule.ServiceAccounts, ","), strings.Join(rule.Audiences, ","))
	}
	table.Flush()
	e.Printf("\nnamespaces without tokens: %s\n", strings.Join(found.Policy.Excluded(), ", "))
	if len(found.APIServerAudiences) > 0 {
		e.Printf("the API server's audiences, allowed only by a rule without '*': %s\n", strings.Join(found.APIServerAudiences, ", "))
	}
	return nil
}

// Checked is the answer about one audience.
type Checked struct {
	Audience string `json:"audience"`
	Policy   string `json:"policy"`
	// RBAC tells whether the ServiceAccount may mint it now.
	RBAC   access.Answer `json:"rbac"`
	Reason string        `json:"reason,omitempty"`
}

func (o *options) check(ctx context.Context, e *plugin.Env, name string, audiences []string) error {
	c, found, err := o.open(ctx, e)
	if err != nil {
		return err
	}
	account := access.Account{Namespace: c.Namespace, Name: name}
	var answers []Checked
	refused := false
	for _, audience := range audiences {
		answer := Checked{Audience: audience, Policy: found.AllowedBy(c.Namespace, name, audience)}
		refusal := found.Policy.Check(policy.Request{
			Namespace: c.Namespace, ServiceAccount: name, APIServerAudiences: found.APIServerAudiences,
			Tokens: []api.TokenSpec{{Name: api.DefaultTokenName, Audiences: []string{audience}, ExpirationSeconds: api.MinExpirationSeconds}},
		})
		if refusal != nil {
			answer.Policy, answer.Reason, refused = installation.Refused, refusal.Message, true
		}
		if answer.RBAC, err = account.MayMint(ctx, c.Client, audience); err != nil {
			return err
		}
		answers = append(answers, answer)
	}
	if o.output == plugin.OutputJSON {
		err = plugin.PrintJSON(e.Out, map[string]any{"serviceAccount": account.String(), "audiences": answers})
	} else {
		table := plugin.Table(e.Out)
		table.Row("AUDIENCE", "POLICY", "MAY MINT NOW")
		for _, answer := range answers {
			table.Row(answer.Audience, answer.Policy, string(answer.RBAC))
		}
		table.Flush()
		for _, answer := range answers {
			if answer.Reason != "" {
				_, _ = fmt.Fprintln(e.ErrOut, plugin.Plain(answer.Reason))
			}
		}
	}
	if err == nil && refused {
		return plugin.Silent{}
	}
	return err
}
