// Package installation finds podtoken in a cluster and reads what it decides by: the webhook's registration, its
// configuration, the policy, and the audiences of the API server.
//
// Do not add: judgements. What is missing is nil, and the reason is beside it.
package installation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/decide"
	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// What the chart calls things.
const (
	DefaultNamespace = "podtoken-system"
	defaultName      = "podtoken"
	WebhookName      = "pods.podtoken.dev"
	ConfigKey        = "config.yaml"
	PolicyKey        = "policy.yaml"
	// LabelComponent of each object has the part that it belongs to.
	LabelComponent = "app.kubernetes.io/component"
	LabelVersion   = "app.kubernetes.io/version"
)

// ErrNotInstalled is for a cluster without any sign of podtoken.
var ErrNotInstalled = errors.New("podtoken is not installed in this cluster, or you may not see it")

// Installation is what was found.
type Installation struct {
	// Namespace and Name: the release's namespace, and the prefix of all names.
	Namespace, Name string
	// Registration of the webhook; nil if there is none. Its error is there if it cannot be read.
	Registration    *admissionv1.MutatingWebhookConfiguration
	RegistrationErr error
	// Config and Policy are nil if they cannot be read.
	Config    *mutate.Config
	ConfigErr error
	Policy    *policy.Policy
	PolicyErr error
	// Version of the chart's objects, as "v0.1.0".
	Version string
	// Audiences of the API server, and how they were found; none if they could not be.
	APIServerAudiences []string
	AudiencesFrom      string
}

// Find reads the installation. The namespace is looked at when the registration cannot tell.
func Find(ctx context.Context, c *plugin.Cluster, namespace string) (*Installation, error) {
	client := c.Client
	i := &Installation{Namespace: namespace, Name: defaultName}
	list, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	switch {
	case apierrors.IsForbidden(err):
		i.RegistrationErr = err
	case err != nil:
		return nil, err
	default:
		i.register(list.Items)
	}
	var configMap *corev1.ConfigMap
	if configMap, i.ConfigErr = i.configMap(ctx, client, "webhook"); i.ConfigErr == nil {
		i.Version = "v" + configMap.Labels[LabelVersion]
		i.Config, i.ConfigErr = mutate.ParseConfig([]byte(configMap.Data[ConfigKey]))
	}
	if configMap, i.PolicyErr = i.configMap(ctx, client, "policy"); i.PolicyErr == nil {
		i.Policy, i.PolicyErr = policy.Parse([]byte(configMap.Data[PolicyKey]))
	}
	if i.Registration == nil && apierrors.IsNotFound(i.ConfigErr) && apierrors.IsNotFound(i.PolicyErr) {
		return nil, fmt.Errorf("%w (looked for ConfigMap %q in namespace %q; --podtoken-namespace names another)", ErrNotInstalled, i.Name+"-webhook", i.Namespace)
	}
	i.APIServerAudiences, i.AudiencesFrom = audiences(ctx, c)
	return i, nil
}

// register takes over what the registration says about where everything else is.
func (i *Installation) register(list []admissionv1.MutatingWebhookConfiguration) {
	for n := range list {
		webhook := i.webhook(&list[n])
		if webhook == nil {
			continue
		}
		i.Registration, i.Name = &list[n], list[n].Name
		if service := webhook.ClientConfig.Service; service != nil {
			i.Namespace = service.Namespace
		}
		return
	}
}

func (i *Installation) webhook(registration *admissionv1.MutatingWebhookConfiguration) *admissionv1.MutatingWebhook {
	for n := range registration.Webhooks {
		if registration.Webhooks[n].Name == WebhookName {
			return &registration.Webhooks[n]
		}
	}
	return nil
}

// Webhook is our webhook in the registration; nil if there is none.
func (i *Installation) Webhook() *admissionv1.MutatingWebhook {
	if i.Registration == nil {
		return nil
	}
	return i.webhook(i.Registration)
}

func (i *Installation) configMap(ctx context.Context, client kubernetes.Interface, component string) (*corev1.ConfigMap, error) {
	return client.CoreV1().ConfigMaps(i.Namespace).Get(ctx, i.Name+"-"+component, metav1.GetOptions{})
}

// Rules are what the webhook decides by. Without its configuration there are none.
func (i *Installation) Rules() (decide.Rules, error) {
	if i.ConfigErr != nil {
		return decide.Rules{}, fmt.Errorf("reading the webhook's configuration: %w", i.ConfigErr)
	}
	if i.PolicyErr != nil {
		return decide.Rules{}, fmt.Errorf("reading the policy: %w", i.PolicyErr)
	}
	return decide.Rules{Config: i.Config, Policy: i.Policy, APIServerAudiences: i.APIServerAudiences, Version: i.Version}, nil
}

// Excluded tells whether the webhook is never called for the namespace: by the registration if it can be read, else by the policy.
func (i *Installation) Excluded(namespace *corev1.Namespace) bool {
	webhook := i.Webhook()
	if webhook == nil || webhook.NamespaceSelector == nil {
		return i.Policy != nil && slices.Contains(i.Policy.Excluded(), namespace.Name)
	}
	selector, err := metav1.LabelSelectorAsSelector(webhook.NamespaceSelector)
	return err == nil && !selector.Matches(labels.Set(namespace.Labels))
}

// audiences asks what already knows them: each grant lets its ServiceAccount renew credentials of these audiences. Without a
// grant it is the issuer, which is the default of the API server's flag.
func audiences(ctx context.Context, c *plugin.Cluster) (found []string, from string) {
	roles, err := c.Client.RbacV1().Roles(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: api.LabelGrant + "=true", Limit: 1})
	if err == nil {
		for _, role := range roles.Items {
			for _, rule := range role.Rules {
				if slices.Contains(rule.Verbs, api.VerbRenew) && slices.Contains(rule.Resources, api.ResourceAudiences) {
					return slices.Sorted(slices.Values(rule.ResourceNames)), fmt.Sprintf("the grant %s/%s", role.Namespace, role.Name)
				}
			}
		}
	}
	discovery, err := Discover(ctx, c)
	if err != nil || discovery.Issuer == "" {
		return nil, ""
	}
	return []string{discovery.Issuer}, "the issuer, which is the default of the API server's --api-audiences"
}

// Discovery is the issuer's OpenID configuration.
type Discovery struct {
	Issuer  string `json:"issuer"`
	JWKSURI string `json:"jwks_uri"`
}

// Discover reads it from the API server.
func Discover(ctx context.Context, c *plugin.Cluster) (Discovery, error) {
	var discovery Discovery
	content, err := c.Raw(ctx, "/.well-known/openid-configuration")
	if err != nil {
		return discovery, err
	}
	return discovery, json.Unmarshal(content, &discovery)
}

// AllowedBy is what the policy says about an audience of a ServiceAccount: the rule that allows it, "RBAC decides", "refused", or
// "unknown" without a policy.
func (i *Installation) AllowedBy(namespace, account, audience string) string {
	p := i.Policy
	switch {
	case p == nil:
		return "unknown"
	case slices.Contains(p.Excluded(), namespace):
		return Refused
	case p.RBAC(namespace):
		return "RBAC decides"
	}
	if rule := p.AllowedBy(namespace, account, audience, i.APIServerAudiences); rule != "" {
		return rule
	}
	return Refused
}

// Refused is AllowedBy's word for an audience that no rule allows.
const Refused = "refused"
