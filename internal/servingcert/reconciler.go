package servingcert

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// maxSteps is more than any way to the end has: the longest are Doubt, Bundle, Trusted and Bundle, Trusted, Certificate.
const maxSteps = 8

// errNoEnd is returned when somebody else changes the same objects again and again.
var errNoEnd = errors.New("the Secret or the registration changed during every step")

// Reconciler does the steps. It reads from the API server and not from a cache: a decision on what was true a moment ago
// could take a CA out of the registration that has just come in. It looks a few times in a rotation and once an hour.
type Reconciler struct {
	live         client.Reader
	writer       client.Writer
	secret       types.NamespacedName
	registration string
	dnsName      string
	now          func() time.Time
	metrics      *metrics
	logger       *slog.Logger
}

// Reconcile goes on until there is nothing to do, and comes again when there is.
func (r *Reconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	for range maxSteps {
		secret, registration, err := r.look(ctx)
		if err != nil {
			return reconcile.Result{}, err
		}
		view := r.view(secret, registration)
		r.metrics.looked(view)
		decision := Decide(view)
		if decision.Step == StepNone {
			// Never early: the clock of the queue and the one that is compared are not the same.
			return reconcile.Result{RequeueAfter: decision.Wait + time.Second}, nil
		}
		if err := r.do(ctx, view, decision, secret, registration); err != nil {
			r.metrics.did(decision.Step, err)
			return reconcile.Result{}, fmt.Errorf("step %s: %w", decision.Step, err)
		}
		r.metrics.did(decision.Step, nil)
		r.logger.Info("Serving certificate: step done", "step", string(decision.Step), "why", decision.Why)
	}
	return reconcile.Result{}, errNoEnd
}

// look reads both objects; nil for one that is not there.
func (r *Reconciler) look(ctx context.Context) (*corev1.Secret, *admissionv1.MutatingWebhookConfiguration, error) {
	secret, registration := &corev1.Secret{}, &admissionv1.MutatingWebhookConfiguration{}
	if err := r.live.Get(ctx, r.secret, secret); apierrors.IsNotFound(err) {
		secret = nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("reading Secret %q: %w", r.secret.Name, err)
	}
	if err := r.live.Get(ctx, types.NamespacedName{Name: r.registration}, registration); apierrors.IsNotFound(err) {
		registration = nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("reading MutatingWebhookConfiguration %q: %w", r.registration, err)
	}
	return secret, registration, nil
}

func (r *Reconciler) view(secret *corev1.Secret, registration *admissionv1.MutatingWebhookConfiguration) View {
	view := View{DNSName: r.dnsName, Now: r.now()}
	if secret != nil {
		view.State = stateOf(secret)
	}
	if registration != nil {
		for _, webhook := range registration.Webhooks {
			view.Bundles = append(view.Bundles, webhook.ClientConfig.CABundle)
		}
	}
	return view
}

// do writes what a step is about. Both writes fail when the object is not the one that was looked at.
func (r *Reconciler) do(ctx context.Context, view View, decision Decision, secret *corev1.Secret, registration *admissionv1.MutatingWebhookConfiguration) error {
	if decision.Step == StepBundle {
		patch, err := bundlePatch(registration, decision.Bundle)
		if err != nil {
			return err
		}
		return r.writer.Patch(ctx, registration, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(fieldOwner))
	}
	state, err := view.next(decision.Step)
	if err != nil {
		return err
	}
	if secret != nil {
		state.into(secret)
		return r.writer.Update(ctx, secret, client.FieldOwner(fieldOwner))
	}
	secret = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: r.secret.Namespace, Name: r.secret.Name,
			Labels: map[string]string{"app.kubernetes.io/managed-by": "podtoken", "app.kubernetes.io/part-of": "podtoken"},
		},
		// Not of the type for certificates, which must have one: for a while there may be a CA only.
		Type: corev1.SecretTypeOpaque,
	}
	state.into(secret)
	return r.writer.Create(ctx, secret, client.FieldOwner(fieldOwner))
}

// bundlePatch changes the caBundles and nothing else.
func bundlePatch(registration *admissionv1.MutatingWebhookConfiguration, bundle []byte) ([]byte, error) {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	operations := []operation{{"test", "/metadata/resourceVersion", registration.ResourceVersion}}
	for i := range registration.Webhooks {
		operations = append(operations, operation{"add", fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), base64.StdEncoding.EncodeToString(bundle)})
	}
	return json.Marshal(operations)
}
