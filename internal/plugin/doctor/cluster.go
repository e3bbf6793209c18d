package doctor

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/installation"
	ownversion "github.com/podtoken/podtoken/internal/version"
)

// oldestKubernetes is what the chart supports.
var oldestKubernetes = version.MustParseGeneric("1.33.0")

// versions compares those of Kubernetes, of the parts, and of this program.
func (d *doctor) versions(ctx context.Context) {
	server, err := d.cluster.Client.Discovery().ServerVersion()
	if err != nil {
		d.Add(plugin.Problem, "kubernetes version", "%s", plugin.Describe(err))
	} else if parsed, err := version.ParseGeneric(server.GitVersion); err != nil || parsed.LessThan(oldestKubernetes) {
		d.Add(plugin.Problem, "kubernetes version", "%s is older than 1.33: native sidecars and policies are not stable there", server.GitVersion)
	} else {
		d.Add(plugin.OK, "kubernetes version", "%s", server.GitVersion)
	}
	const check = "podtoken versions"
	deployments, err := d.cluster.Client.AppsV1().Deployments(d.found.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=podtoken"})
	if err != nil {
		d.Add(plugin.Note, check, "you may not list the Deployments in namespace %s: %v", d.found.Namespace, err)
		return
	}
	var seen, texts []string
	for i := range deployments.Items {
		labels := deployments.Items[i].Labels
		seen = append(seen, labels[installation.LabelVersion])
		texts = append(texts, labels[installation.LabelComponent]+" "+labels[installation.LabelVersion])
	}
	slices.Sort(seen)
	switch seen = slices.Compact(seen); {
	case len(texts) < 2:
		d.Add(plugin.Problem, check, "namespace %s has %d of the Deployments webhook and controller: run \"helm upgrade\"", d.found.Namespace, len(texts))
	case len(seen) > 1:
		d.Add(plugin.Problem, check, "they differ: %s; run \"helm upgrade\"", strings.Join(texts, ", "))
	case strings.TrimPrefix(ownversion.Version, "v") != seen[0]:
		d.Add(plugin.Note, check, "%s; this program is %s, and may decide otherwise", strings.Join(texts, ", "), ownversion.Version)
	default:
		d.Add(plugin.OK, check, "%s, and this program too", strings.Join(texts, ", "))
	}
}

// configuration parses what the webhook and the controller read.
func (d *doctor) configuration(context.Context) {
	for _, file := range []struct {
		check string
		err   error
		ok    func() (plugin.Level, string)
	}{
		{"configuration", d.found.ConfigErr, func() (plugin.Level, string) { return plugin.OK, "the sidecar is " + d.found.Config.Sidecar.Image }},
		{"policy", d.found.PolicyErr, d.describePolicy},
	} {
		switch {
		case file.err == nil:
			level, text := file.ok()
			d.Add(level, file.check, "%s", text)
		case apierrors.IsForbidden(file.err):
			d.Add(plugin.Note, file.check, "you may not read it: %v", file.err)
		default:
			d.Add(plugin.Problem, file.check, "%v: the running pods use the last good one; correct the chart's values and run \"helm upgrade\"", file.err)
		}
	}
}

func (d *doctor) describePolicy() (plugin.Level, string) {
	p := d.found.Policy
	for _, audience := range d.found.APIServerAudiences {
		if rule := p.Names(audience); rule != "" {
			return plugin.Warning, rule + " allows the API server's own audience " + audience + ": whoever gets such a token can call the API server as the pod"
		}
	}
	for _, rule := range p.List() {
		if slices.Contains(rule.Namespaces, "*") && slices.Contains(rule.ServiceAccounts, "*") && slices.Contains(rule.Audiences, "*") {
			return plugin.Warning, rule.Label + " allows every audience to everybody: narrow policy.allow in the chart's values"
		}
	}
	return plugin.OK, "it has rules, and none for everything"
}

// policies looks at the ValidatingAdmissionPolicies and their bindings.
func (d *doctor) policies(ctx context.Context) {
	const check = "admission policy"
	client := d.cluster.Client.AdmissionregistrationV1()
	for _, suffix := range []string{"-guard", "-controller-guard", "-grants", "-enforce", "-ephemeralcontainers"} {
		name := d.found.Name + suffix
		policy, err := client.ValidatingAdmissionPolicies().Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			var binding *admissionv1.ValidatingAdmissionPolicyBinding
			if binding, err = client.ValidatingAdmissionPolicyBindings().Get(ctx, name, metav1.GetOptions{}); err == nil {
				d.policy(policy, binding)
				continue
			}
		}
		switch {
		case apierrors.IsForbidden(err):
			d.Add(plugin.Note, check, "you may not read %s: %v", name, err)
		case apierrors.IsNotFound(err) && suffix == "-guard":
			d.Add(plugin.Warning, check, "%v: fine if API servers load it from disk (guard.static=true); else nothing new is granted, run \"helm upgrade\"", err)
		default:
			d.Add(plugin.Problem, check, "%v: run \"helm upgrade\"", err)
		}
	}
}

func (d *doctor) policy(policy *admissionv1.ValidatingAdmissionPolicy, binding *admissionv1.ValidatingAdmissionPolicyBinding) {
	const check = "admission policy"
	switch {
	case policy.Spec.FailurePolicy != nil && *policy.Spec.FailurePolicy != admissionv1.Fail:
		d.Add(plugin.Problem, check, "%s has failurePolicy %s instead of Fail: run \"helm upgrade\"", policy.Name, *policy.Spec.FailurePolicy)
	case binding.Spec.PolicyName != policy.Name || !slices.Contains(binding.Spec.ValidationActions, admissionv1.Deny) || binding.Spec.MatchResources != nil:
		d.Add(plugin.Problem, check, "the binding %s binds another policy, does not deny, or leaves requests out: run \"helm upgrade\"", binding.Name)
	case len(policy.Status.Conditions) > 0 || policy.Status.TypeChecking != nil && len(policy.Status.TypeChecking.ExpressionWarnings) > 0:
		d.Add(plugin.Warning, check, "the API server has warnings about %s: see \"kubectl describe validatingadmissionpolicy %s\"", policy.Name, policy.Name)
	default:
		d.Add(plugin.OK, check, "%s denies", policy.Name)
	}
}

// leader looks for the controller that leads.
func (d *doctor) leader(ctx context.Context) {
	const check = "controller"
	name := d.found.Name + "-controller"
	lease, err := d.cluster.Client.CoordinationV1().Leases(d.found.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err):
		d.Add(plugin.Note, check, "you may not read its Lease: %v", err)
	case err != nil:
		d.Add(plugin.Problem, check, "nobody has led yet, so nothing is granted: %v; see the log of the controller", err)
	case d.expired(lease):
		d.Add(plugin.Problem, check, "nobody leads, so nothing is granted: the Lease was renewed last at %s; see the log of the controller", renewed(lease).UTC().Format(time.RFC3339))
	default:
		d.leading = holder(lease)
		d.Add(plugin.OK, check, "%s leads", d.leading)
	}
}

// expired allows for clocks that differ.
func (d *doctor) expired(lease *coordinationv1.Lease) bool {
	return holder(lease) == "" || d.now().Sub(renewed(lease)) > time.Minute
}

func renewed(lease *coordinationv1.Lease) time.Time {
	if lease.Spec.RenewTime == nil {
		return time.Time{}
	}
	return lease.Spec.RenewTime.Time
}

// holder is the pod's name out of "<pod>_<uid>".
func holder(lease *coordinationv1.Lease) string {
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return name
}

// issuer looks at what validating services need: discovery document and keys.
func (d *doctor) issuer(ctx context.Context) {
	const check = "issuer"
	discovery, err := installation.Discover(ctx, d.cluster)
	switch {
	case apierrors.IsForbidden(err):
		d.Add(plugin.Note, check, "you may not read its discovery document: %v", err)
	case err != nil:
		d.Add(plugin.Problem, check, "its discovery document cannot be read: %v", err)
	case !strings.HasPrefix(discovery.Issuer, "https://"):
		d.Add(plugin.Warning, check, "%s is no https URL: receivers that look for its keys find none", discovery.Issuer)
	default:
		d.Add(plugin.OK, check, "%s, with keys at %s", discovery.Issuer, discovery.JWKSURI)
	}
	if len(d.found.APIServerAudiences) == 0 {
		d.Add(plugin.Note, "API server audiences", "not known: no grant has them, and the issuer cannot be read")
	} else {
		d.Add(plugin.OK, "API server audiences", "%s, from %s", strings.Join(d.found.APIServerAudiences, ", "), d.found.AudiencesFrom)
	}
}

// maxSkew is the difference of clocks that is worth a warning; the sidecar warns of the same.
const maxSkew = time.Minute

// clock compares the API server's with ours.
func (d *doctor) clock(ctx context.Context) {
	const check = "clock"
	before := d.now()
	answer, err := d.get(ctx, "/version", "application/json")
	if err != nil {
		d.Add(plugin.Note, check, "the API server's cannot be read: %s", plugin.Describe(err))
		return
	}
	_ = answer.Body.Close()
	served, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		d.Add(plugin.Note, check, "the API server does not tell the time")
		return
	}
	if skew := served.Sub(before).Round(time.Second); skew.Abs() > maxSkew {
		d.Add(plugin.Warning, check, "this machine's differs from the API server's by %v: compare with the nodes', whose sidecars log such a difference", skew)
		return
	}
	d.Add(plugin.OK, check, "this machine's and the API server's agree within a minute")
}

// get requests a path of the API server that is no resource.
func (d *doctor) get(ctx context.Context, path, accept string) (*http.Response, error) {
	client, err := rest.HTTPClientFor(d.cluster.Config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(d.cluster.Config.Host, "/")+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", accept)
	return client.Do(request)
}
