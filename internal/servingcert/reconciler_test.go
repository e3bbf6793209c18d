package servingcert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const secretName = "podtoken-webhook-tls"

// cluster is one in memory, and what was written to it.
type cluster struct {
	t *testing.T
	client.WithWatch
	r      *Reconciler
	now    time.Time
	log    bytes.Buffer
	writes []string
	// before, if set, is called before a write; its error is the answer.
	before func(write string) error
}

func newCluster(t *testing.T, objects ...client.Object) *cluster {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, admissionv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c := &cluster{t: t, now: start}
	write := func(what string, object client.Object) error {
		what += " " + strings.TrimPrefix(fmt.Sprintf("%T", object), "*v1.")
		c.writes = append(c.writes, what)
		if c.before != nil {
			return c.before(what)
		}
		return nil
	}
	c.WithWatch = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, w client.WithWatch, o client.Object, options ...client.CreateOption) error {
			if err := write("create", o); err != nil {
				return err
			}
			return w.Create(ctx, o, options...)
		},
		Update: func(ctx context.Context, w client.WithWatch, o client.Object, options ...client.UpdateOption) error {
			if err := write("update", o); err != nil {
				return err
			}
			return w.Update(ctx, o, options...)
		},
		Patch: func(ctx context.Context, w client.WithWatch, o client.Object, patch client.Patch, options ...client.PatchOption) error {
			if err := write("patch", o); err != nil {
				return err
			}
			return w.Patch(ctx, o, patch, options...)
		},
	}).Build()
	c.r = &Reconciler{
		live: c, writer: c, secret: types.NamespacedName{Namespace: "podtoken-system", Name: secretName}, registration: "podtoken", dnsName: dnsName,
		now: func() time.Time { return c.now }, metrics: newMetrics(prometheus.NewRegistry()), logger: slog.New(slog.NewTextHandler(&c.log, nil)),
	}
	return c
}

func registration() *admissionv1.MutatingWebhookConfiguration {
	return &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "podtoken", Labels: map[string]string{"a": "b"}},
		Webhooks: []admissionv1.MutatingWebhook{
			{Name: "pods.podtoken.dev", ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Name: "podtoken-webhook"}}},
			{Name: "second.podtoken.dev"},
		},
	}
}

func (c *cluster) reconcile() (reconcile.Result, error) {
	c.writes = nil
	return c.r.Reconcile(c.t.Context(), reconcile.Request{})
}

func (c *cluster) secret() *corev1.Secret {
	c.t.Helper()
	secret := &corev1.Secret{}
	if err := c.Get(c.t.Context(), c.r.secret, secret); err != nil {
		c.t.Fatal(err)
	}
	return secret
}

func (c *cluster) bundles() [][]byte {
	c.t.Helper()
	got := &admissionv1.MutatingWebhookConfiguration{}
	if err := c.Get(c.t.Context(), types.NamespacedName{Name: "podtoken"}, got); err != nil {
		c.t.Fatal(err)
	}
	want := registration()
	want.ResourceVersion = got.ResourceVersion
	var bundles [][]byte
	for i := range got.Webhooks {
		bundles = append(bundles, got.Webhooks[i].ClientConfig.CABundle)
		got.Webhooks[i].ClientConfig.CABundle = nil
	}
	if diff := cmp.Diff(want, got); diff != "" {
		c.t.Errorf("more than caBundle was changed (-want +got):\n%s", diff)
	}
	return bundles
}

func TestFirstInstallation(t *testing.T) {
	c := newCluster(t)
	// Helm makes the registration last.
	result, err := c.reconcile()
	if err != nil || result.RequeueAfter != fileDelay+time.Second || !slices.Equal(c.writes, []string{"create Secret"}) {
		t.Fatalf("%v, %v, writes %q", result, err, c.writes)
	}
	if err := c.Create(t.Context(), registration()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.reconcile(); err != nil || !slices.Equal(c.writes, []string{"patch MutatingWebhookConfiguration"}) {
		t.Fatalf("%v, writes %q", err, c.writes)
	}
	secret := c.secret()
	for _, bundle := range c.bundles() {
		if !bytes.Equal(bundle, secret.Data["ca.crt"]) {
			t.Errorf("caBundle is %q, want the CA in the Secret", bundle)
		}
	}
	for _, key := range []string{"tls.crt", "tls.key", "ca.crt", "ca.key"} {
		if len(secret.Data[key]) == 0 {
			t.Errorf("the Secret has no %s", key)
		}
	}
	if _, err := c.reconcile(); err != nil || c.writes != nil {
		t.Errorf("%v, writes %q; want nothing more to do", err, c.writes)
	}
	for _, secret := range [][]byte{c.secret().Data["tls.key"], c.secret().Data["ca.key"]} {
		if lines := bytes.Split(secret, []byte("\n")); bytes.Contains(c.log.Bytes(), lines[1]) || bytes.Contains(c.log.Bytes(), []byte("PRIVATE")) {
			t.Error("a key is in the log")
		}
	}
}

// TestRotationInTheCluster: the steps are written in their order, and what else is in the Secret stays.
func TestRotationInTheCluster(t *testing.T) {
	c := newCluster(t, registration())
	if _, err := c.reconcile(); err != nil {
		t.Fatal(err)
	}
	c.now = start.Add(time.Hour)
	secret := c.secret()
	secret.Data["mine"] = []byte("x")
	delete(secret.Data, "ca.key")
	if err := c.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	const secretWrite, bundleWrite = "update Secret", "patch MutatingWebhookConfiguration"
	for i, stage := range []struct {
		writes []string
		wait   time.Duration
	}{
		{[]string{secretWrite, bundleWrite, secretWrite}, trustDelay},
		{[]string{secretWrite}, fileDelay},
		{[]string{secretWrite, bundleWrite}, lookAgain},
	} {
		result, err := c.reconcile()
		if err != nil || !slices.Equal(c.writes, stage.writes) || result.RequeueAfter != stage.wait+time.Second {
			t.Fatalf("stage %d: %v, wait %v, writes %q", i, err, result.RequeueAfter, c.writes)
		}
		c.now = c.now.Add(result.RequeueAfter)
	}
	if secret := c.secret(); string(secret.Data["mine"]) != "x" || secret.Data["previous-ca.crt"] != nil {
		t.Error("the Secret lost somebody's key, or kept a CA")
	}
	if bundles := c.bundles(); !bytes.Equal(bundles[0], c.secret().Data["ca.crt"]) || !bytes.Equal(bundles[0], bundles[1]) {
		t.Error("the new CA is not the only one that is trusted")
	}
}

// TestSomebodyElseWrites: a step that was decided on something else than what is there is refused, and decided anew.
func TestSomebodyElseWrites(t *testing.T) {
	for write, change := range map[string]func(*cluster) error{
		"create Secret": func(c *cluster) error {
			return c.Create(c.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "podtoken-system", Name: secretName}})
		},
		"update Secret": func(c *cluster) error {
			secret := c.secret()
			secret.Labels = map[string]string{"changed": "meanwhile"}
			return c.Update(c.t.Context(), secret)
		},
		"patch MutatingWebhookConfiguration": func(c *cluster) error {
			got := &admissionv1.MutatingWebhookConfiguration{}
			if err := c.Get(c.t.Context(), types.NamespacedName{Name: "podtoken"}, got); err != nil {
				return err
			}
			got.Webhooks[1].ClientConfig.CABundle = stranger
			return c.Update(c.t.Context(), got)
		},
	} {
		t.Run(write, func(t *testing.T) {
			c := newCluster(t, registration())
			if write == "update Secret" {
				if err := c.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "podtoken-system", Name: secretName}}); err != nil {
					t.Fatal(err)
				}
			}
			c.before = func(now string) error {
				if now != write {
					return nil
				}
				c.before = nil
				return change(c)
			}
			if _, err := c.reconcile(); err == nil {
				t.Fatal("the write went through")
			}
			if _, err := c.reconcile(); err != nil {
				t.Fatal(err)
			}
			for _, bundle := range c.bundles() {
				if !bytes.Contains(bundle, c.secret().Data["ca.crt"]) {
					t.Error("the CA is not trusted")
				}
			}
		})
	}
}

func TestFailuresAreReported(t *testing.T) {
	c := newCluster(t, registration())
	refused := apierrors.NewForbidden(corev1.Resource("secrets"), secretName, errors.New("no"))
	c.before = func(string) error { return refused }
	if _, err := c.reconcile(); !apierrors.IsForbidden(err) || !strings.HasPrefix(err.Error(), "step First: ") {
		t.Errorf("error = %v", err)
	}
	c.before = func(string) error { // Somebody who takes everything away, again and again.
		return client.IgnoreNotFound(c.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "podtoken-system", Name: secretName}}))
	}
	if _, err := c.reconcile(); err == nil {
		t.Error("it went on for ever, and was content")
	}
}
