package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// TestCertificates follows the chain from what API servers trust to what the webhook serves.
func TestCertificates(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		if name := filepath.Base(path); name == "secret.yaml" || name == "selfmanaged.yaml" {
			withoutCertManager(t, path, objects)
			return
		}
		certificates, issuers := map[string]*certificate{}, map[string]*issuer{}
		for _, c := range all[*certificate](objects) {
			certificates[c.Name] = c
			if key := c.Spec.PrivateKey; key.Algorithm != "ECDSA" || key.Size != 256 {
				t.Errorf("%s has a key %+v", c.Name, c.Spec.PrivateKey)
			}
			if c.Spec.RenewBefore.Duration >= c.Spec.Duration.Duration || c.Spec.Duration.Duration < time.Hour {
				t.Errorf("%s lasts %v and is renewed %v before", c.Name, c.Spec.Duration, c.Spec.RenewBefore)
			}
		}
		for _, i := range all[*issuer](objects) {
			issuers[i.Name] = i
		}

		leaf := certificates["podtoken-webhook-tls"]
		if leaf == nil {
			t.Fatal("there is no certificate podtoken-webhook-tls")
		}
		service := named[*corev1.Service](t, objects, "podtoken-webhook")
		if want := []string{service.Name + "." + service.Namespace + ".svc"}; !slices.Equal(leaf.Spec.DNSNames, want) {
			t.Errorf("the certificate is for %q, want %q", leaf.Spec.DNSNames, want)
		}
		if leaf.Spec.PrivateKey.RotationPolicy != "Always" {
			t.Errorf("the leaf's key is rotated %q", leaf.Spec.PrivateKey.RotationPolicy)
		}
		volume := named[*appsv1.Deployment](t, objects, "podtoken-webhook").Spec.Template.Spec.Volumes[0].Secret
		if volume.SecretName != leaf.Spec.SecretName {
			t.Errorf("the certificate is in Secret %q, the pods mount %q", leaf.Spec.SecretName, volume.SecretName)
		}

		if strings.HasSuffix(path, "full.yaml") {
			if want := (issuerRef{"company-ca", "ClusterIssuer", "cert-manager.io"}); leaf.Spec.IssuerRef != want || len(issuers) != 0 {
				t.Errorf("the issuer is %+v, want %+v, beside %d issuers of the chart", leaf.Spec.IssuerRef, want, len(issuers))
			}
			return
		}
		authority := issuers[leaf.Spec.IssuerRef.Name]
		if authority == nil || authority.Spec.CA == nil {
			t.Fatalf("the issuer %+v is no CA", leaf.Spec.IssuerRef)
		}
		ca := certificates[authority.Spec.CA.SecretName]
		if ca == nil || !ca.Spec.IsCA || ca.Spec.SecretName != authority.Spec.CA.SecretName || ca.Spec.CommonName == "" {
			t.Fatalf("Secret %q does not come from a CA certificate", authority.Spec.CA.SecretName)
		}
		// The reason stands in templates/certificate.yaml.
		if ca.Spec.PrivateKey.RotationPolicy != "Never" {
			t.Errorf("the CA's key is rotated %q: leaves would lose their trust when the CA is renewed", ca.Spec.PrivateKey.RotationPolicy)
		}
		if ca.Spec.RenewBefore.Duration < leaf.Spec.Duration.Duration {
			t.Errorf("the CA may end before a leaf: renewed %v before its end, a leaf lasts %v", ca.Spec.RenewBefore, leaf.Spec.Duration)
		}
		if root := issuers[ca.Spec.IssuerRef.Name]; root == nil || root.Spec.SelfSigned == nil {
			t.Errorf("the CA's issuer %+v does not self-sign", ca.Spec.IssuerRef)
		}
	}, golden, install)
}

// withoutCertManager: nothing of cert-manager is there, and the pods mount the Secret of whoever makes it.
func withoutCertManager(t *testing.T, path string, objects objects) {
	t.Helper()
	for line := range strings.Lines(strings.ToLower(strings.Join(documents(read(t, strings.TrimPrefix(path, root))), "\n"))) {
		if strings.Contains(line, "cert-manager") {
			t.Errorf("cert-manager is named: %s", line)
		}
	}
	want := map[string]string{"secret.yaml": "company-webhook", "selfmanaged.yaml": "podtoken-webhook-tls"}[filepath.Base(path)]
	volume := named[*appsv1.Deployment](t, objects, "podtoken-webhook").Spec.Template.Spec.Volumes[0].Secret
	// The items keep the CA's key out of the webhook.
	wantItems := []corev1.KeyToPath{{Key: "tls.crt", Path: "tls.crt"}, {Key: "tls.key", Path: "tls.key"}}
	if volume.SecretName != want || !slices.Equal(volume.Items, wantItems) || volume.Optional != nil {
		t.Errorf("the pods mount %+v, want %v of Secret %q", volume, wantItems, want)
	}
	if secrets := all[*corev1.Secret](objects); len(secrets) > 0 {
		t.Errorf("the chart renders Secret %q", secrets[0].Name)
	}
}

// TestRightsOnTheServingCertificate: of the controller, in mode selfManaged and in no other.
func TestRightsOnTheServingCertificate(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		isSelfManaged := filepath.Base(path) == "selfmanaged.yaml"
		var got []rbacv1.PolicyRule
		collect := func(name string, rules []rbacv1.PolicyRule) {
			for _, rule := range rules {
				if slices.Contains(rule.Resources, "secrets") || slices.Contains(rule.Resources, "mutatingwebhookconfigurations") {
					if name != "podtoken-controller" && !slices.Equal(rule.Verbs, []string{"delete"}) {
						t.Errorf("%s has %+v", name, rule)
					}
					if name == "podtoken-controller" {
						got = append(got, rule)
					}
				}
			}
		}
		for _, role := range all[*rbacv1.ClusterRole](objects) {
			collect(role.Name, role.Rules)
		}
		for _, role := range all[*rbacv1.Role](objects) {
			collect(role.Name, role.Rules)
		}
		var want []rbacv1.PolicyRule
		if isSelfManaged {
			want = []rbacv1.PolicyRule{
				{
					APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"mutatingwebhookconfigurations"},
					ResourceNames: []string{"podtoken"}, Verbs: []string{"get", "list", "watch", "patch"},
				},
				{
					APIGroups: []string{""}, Resources: []string{"secrets"},
					ResourceNames: []string{"podtoken-webhook-tls"}, Verbs: []string{"get", "list", "watch", "update"},
				},
				{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create"}},
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("rights (-want +got):\n%s", diff)
		}
		guard := named[*admissionregistrationv1.ValidatingAdmissionPolicy](t, objects, "podtoken-controller-guard")
		if looked := len(guard.Spec.MatchConstraints.ResourceRules) == 4; looked != isSelfManaged {
			t.Errorf("the guard of the controller looks at %d kinds of requests", len(guard.Spec.MatchConstraints.ResourceRules))
		}
		for _, job := range all[*batchv1.Job](objects) {
			named := slices.Contains(job.Spec.Template.Spec.Containers[0].Args, "--serving-certificate-secret=podtoken-webhook-tls")
			if named != isSelfManaged {
				t.Errorf("the uninstallation's arguments are %q", job.Spec.Template.Spec.Containers[0].Args)
			}
		}
	}, golden, install)
}
