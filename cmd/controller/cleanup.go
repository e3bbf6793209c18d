package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podtoken/podtoken/pkg/api"
)

// The kinds that a cleanup deletes. Nothing but their metadata is ever read.
var (
	kindWebhook    = schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "MutatingWebhookConfiguration"}
	kindDeployment = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	kindSecret     = schema.GroupVersionKind{Version: "v1", Kind: "Secret"}
	kindLease      = schema.GroupVersionKind{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"}
	kindBinding    = schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"}
	kindRole       = schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"}
	kindPolicy     = schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicy"}
	kindInForce    = schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicyBinding"}
)

const (
	// cleanupPage is how many objects are listed at a time: metadata alone can be 1.5 MB, which takes five times as much memory.
	cleanupPage = 5
	// cleanupInterval is how often to look whether something is gone, and to try again.
	cleanupInterval = 500 * time.Millisecond
	// maxNamed is how many objects an error names, and maxFinalizerBytes how much of the finalizers of each.
	maxNamed          = 10
	maxFinalizerBytes = 256
)

// cleanup removes an installation in the order in which nothing comes again: first what injects pods, then what grants,
// then the grants, and what holds these last of all. What is not there any more is done already.
type cleanup struct {
	options *cleanupOptions
	client  client.Client
	logger  *slog.Logger
}

func runCleanup(ctx context.Context, o *cleanupOptions, stderr io.Writer) error {
	cluster, err := clusterConfig(o.kubeconfig)
	if err != nil {
		return err
	}
	logger := newLogger(o.logLevel, stderr)
	direct, err := client.New(cluster, client.Options{Scheme: cleanupScheme(), Mapper: cleanupMapper()})
	if err != nil {
		return fmt.Errorf("making the client: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not done after %v, the value of --timeout", o.timeout))
	defer cancel()
	return (&cleanup{options: o, client: direct, logger: logger}).Run(ctx)
}

// cleanupScheme has no kinds but those of requests and answers themselves: options, and the Status that a deletion ends with.
func cleanupScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	for _, kind := range []schema.GroupVersionKind{kindWebhook, kindDeployment, kindLease, kindBinding} {
		metav1.AddToGroupVersion(scheme, kind.GroupVersion())
	}
	return scheme
}

// cleanupMapper knows the resources of the kinds, so that the API server need not be asked for them.
func cleanupMapper() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []schema.GroupVersionKind{kindWebhook, kindPolicy, kindInForce} {
		mapper.Add(kind, meta.RESTScopeRoot)
	}
	for _, kind := range []schema.GroupVersionKind{kindDeployment, kindSecret, kindLease, kindBinding, kindRole} {
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	return mapper
}

// Run does all steps. Where one fails the later ones are not tried, because an earlier part would undo them.
func (c *cleanup) Run(ctx context.Context) error {
	policies := fmt.Sprintf("%q", c.policies())
	steps := []struct {
		// left is what there still is when the step fails.
		left string
		do   func(context.Context) error
	}{
		{fmt.Sprintf("MutatingWebhookConfiguration %q and everything after it", c.options.webhookConfiguration), func(ctx context.Context) error {
			return c.deleteOne(ctx, kindWebhook, "", c.options.webhookConfiguration)
		}},
		{fmt.Sprintf("Deployment %q in namespace %q and every grant", c.options.deployment, c.options.namespace), func(ctx context.Context) error {
			return c.deleteOne(ctx, kindDeployment, c.options.namespace, c.options.deployment)
		}},
		{fmt.Sprintf("pods of Deployment %q in namespace %q and every grant", c.options.deployment, c.options.namespace), c.isGone},
		{"RoleBindings and Roles with the label " + api.LabelGrant, func(ctx context.Context) error { return c.deleteGrants(ctx, kindBinding) }},
		{"Roles with the label " + api.LabelGrant, func(ctx context.Context) error { return c.deleteGrants(ctx, kindRole) }},
		{fmt.Sprintf("Lease %q in namespace %q", c.options.lease, c.options.namespace), func(ctx context.Context) error {
			return c.deleteOne(ctx, kindLease, c.options.namespace, c.options.lease)
		}},
		// As late as that, because the webhook's pods may still be there and start again.
		{fmt.Sprintf("Secret %q in namespace %q", c.options.secret, c.options.namespace), func(ctx context.Context) error {
			if c.options.secret == "" {
				return nil
			}
			return c.deleteOne(ctx, kindSecret, c.options.namespace, c.options.secret)
		}},
		// API servers may have authorized requests by these grants whose bodies are still to come: the guard rejects them.
		{"ValidatingAdmissionPolicyBindings and ValidatingAdmissionPolicies " + policies, c.waitForRequests},
		// Helm keeps them, because it knows nothing of the grants.
		{"ValidatingAdmissionPolicyBindings and ValidatingAdmissionPolicies " + policies, func(ctx context.Context) error {
			return c.deletePolicies(ctx, kindInForce)
		}},
		{"ValidatingAdmissionPolicies " + policies, func(ctx context.Context) error { return c.deletePolicies(ctx, kindPolicy) }},
	}
	for _, step := range steps {
		if err := c.untilDone(ctx, step.do); err != nil {
			return fmt.Errorf("cleaning up, left are %s: %w", step.left, err)
		}
	}
	c.logger.Info("Cleaned up")
	return nil
}

// untilDone repeats a step until it succeeds. What we may not do stays forbidden, so that is not repeated.
func (c *cleanup) untilDone(ctx context.Context, do func(context.Context) error) error {
	for {
		err := do(ctx)
		if err == nil || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
			return err
		}
		if ctx.Err() == nil && !errors.Is(err, errStillThere) {
			c.logger.Warn("Trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(cleanupInterval):
		}
	}
}

// errStillThere: the API server was asked to delete it, and it is on its way.
var errStillThere = errors.New("it is still there")

// deleteOne deletes an object.
func (c *cleanup) deleteOne(ctx context.Context, kind schema.GroupVersionKind, namespace, name string) error {
	err := c.client.Delete(ctx, object(kind, namespace, name), client.PropagationPolicy(metav1.DeletePropagationForeground))
	switch {
	case apierrors.IsNotFound(err):
		c.logger.Info("Gone already", "kind", kind.Kind, "namespace", namespace, "name", name)
	case err != nil && !runtime.IsNotRegisteredError(err): // The answer can be the object, whose type is not needed here.
		return fmt.Errorf("deleting %s %q: %w", kind.Kind, name, err)
	default:
		c.logger.Info("Deleted", "kind", kind.Kind, "namespace", namespace, "name", name)
	}
	return nil
}

// policies are the names of those that limit what grants allow.
func (c *cleanup) policies() []string {
	return slices.DeleteFunc([]string{c.options.guard, c.options.grantsPolicy}, func(name string) bool { return name == "" })
}

// deletePolicies deletes them, or what puts them in force, as far as they are in the API.
func (c *cleanup) deletePolicies(ctx context.Context, kind schema.GroupVersionKind) error {
	for _, name := range c.policies() {
		if err := c.deleteOne(ctx, kind, "", name); err != nil {
			return err
		}
	}
	return nil
}

// waitForRequests waits until every request has ended that an API server may have authorized by a grant.
func (c *cleanup) waitForRequests(ctx context.Context) error {
	if c.options.guard == "" {
		return nil
	}
	c.logger.Info("Waiting for requests that were authorized by a grant", "duration", c.options.withdrawalDelay.String())
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(c.options.withdrawalDelay):
		return nil
	}
}

// isGone returns nil when the controller's Deployment is gone, and with it, because the deletion is a foreground one,
// all of its pods.
func (c *cleanup) isGone(ctx context.Context) error {
	name := client.ObjectKey{Namespace: c.options.namespace, Name: c.options.deployment}
	err := c.client.Get(ctx, name, object(kindDeployment, "", ""))
	if apierrors.IsNotFound(err) {
		c.logger.Info("Gone", "kind", kindDeployment.Kind, "namespace", name.Namespace, "name", name.Name)
		return nil
	}
	if err == nil {
		err = errStillThere
	}
	return fmt.Errorf("waiting for the end of Deployment %q: %w", name.Name, err)
}

// deleteGrants deletes all of podtoken's objects of one kind, and returns nil when a list shows none.
func (c *cleanup) deleteGrants(ctx context.Context, kind schema.GroupVersionKind) error {
	found, kept, next := 0, 0, ""
	var named []string
	for {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		err := c.client.List(ctx, list, client.MatchingLabels{api.LabelGrant: "true"}, client.Limit(cleanupPage), client.Continue(next))
		if err != nil { // An expired page is one reason: then the next round begins at the start.
			return fmt.Errorf("listing %ss with label %s: %w", kind.Kind, api.LabelGrant, err)
		}
		for i := range list.Items {
			item := object(kind, list.Items[i].Namespace, list.Items[i].Name)
			uid := list.Items[i].UID
			if list.Items[i].DeletionTimestamp != nil && len(list.Items[i].Finalizers) > 0 {
				if kept++; kept <= maxNamed {
					named = append(named, fmt.Sprintf("%s/%.300s %s", item.Namespace, item.Name, quoted(list.Items[i].Finalizers)))
				}
			}
			if err := c.client.Delete(ctx, item, client.Preconditions{UID: &uid}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return fmt.Errorf("deleting %s %q in namespace %q: %w", kind.Kind, item.Name, item.Namespace, err)
			}
		}
		found += len(list.Items)
		if next = list.Continue; next == "" {
			break
		}
	}
	if kept > 0 {
		return fmt.Errorf("finalizers keep %d of the %ss with label %s: %s; remove the finalizers (foregroundDeletion: or the dependents for which the deletion waits): %w",
			kept, kind.Kind, api.LabelGrant, strings.Join(named, ", "), errStillThere)
	}
	if found > 0 {
		c.logger.Info("Deleted", "kind", kind.Kind, "count", found)
		return fmt.Errorf("looking for more %ss with label %s: %w", kind.Kind, api.LabelGrant, errStillThere)
	}
	c.logger.Info("None left", "kind", kind.Kind, "label", api.LabelGrant)
	return nil
}

// quoted returns the finalizers as far as an error has room for them.
func quoted(finalizers []string) string {
	text := fmt.Sprintf("%q", finalizers)
	if len(text) > maxFinalizerBytes {
		text = strings.ToValidUTF8(text[:maxFinalizerBytes], "") + "..."
	}
	return text
}

func object(kind schema.GroupVersionKind, namespace, name string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	o.SetGroupVersionKind(kind)
	return o
}
