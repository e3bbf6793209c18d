package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
)

const registrationYAML = `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: podtoken},
  webhooks: [{name: pods.podtoken.dev, clientConfig: {service: {name: podtoken-webhook, namespace: podtoken-system}}}]}`

const servingSecretKey = "podtoken-system/podtoken-webhook-tls"

// The program makes the certificate, has API servers trust its CA, and repairs both when somebody takes them away; with no
// right but those of the chart.
func TestServingCertificate(t *testing.T) {
	t.Parallel()
	f := newGuarded(t)
	p := start(t, f, "--serving-certificate-secret=podtoken-webhook-tls", "--serving-certificate-name=podtoken-webhook.podtoken-system.svc")
	ready(t, p)
	secret := func() (s corev1.Secret) {
		_ = json.Unmarshal([]byte(f.get("secrets", servingSecretKey)), &s)
		return s
	}
	eventually(t, "the Secret", 20*time.Second, func() bool { return len(secret().Data["tls.crt"]) > 0 })
	bundle := func() string {
		var r admissionv1.MutatingWebhookConfiguration
		_ = json.Unmarshal([]byte(f.get("mutatingwebhookconfigurations", "/podtoken")), &r)
		if len(r.Webhooks) == 0 {
			return ""
		}
		return string(r.Webhooks[0].ClientConfig.CABundle)
	}
	trusted := func() bool { return bundle() == string(secret().Data["ca.crt"]) }
	f.add(t, "mutatingwebhookconfigurations", registrationYAML)
	eventually(t, "the CA is trusted", 20*time.Second, trusted)
	f.add(t, "mutatingwebhookconfigurations", registrationYAML) // as `helm upgrade --force-replace` does
	eventually(t, "the CA is trusted again", 20*time.Second, trusted)
	f.delete("secrets", servingSecretKey)
	eventually(t, "another Secret", 20*time.Second, func() bool { return len(secret().Data["ca.key"]) > 0 })
	eventually(t, "both CAs are trusted", 20*time.Second, func() bool { return strings.Count(bundle(), "BEGIN CERTIFICATE") == 2 })
	if len(secret().Data["tls.crt"]) > 0 {
		t.Error("a certificate of a CA that nobody trusts yet")
	}
	if got := p.metric(`podtoken_serving_certificate_steps_total{result="success",step="Authority"}`); got != "1" {
		t.Errorf("the metric of the step says %q, want 1", got)
	}
	for request := range f.counts() {
		if fields := strings.Fields(request); (fields[1] == "secrets" || fields[1] == "mutatingwebhookconfigurations") && !strings.Contains(" get list watch post put patch ", " "+fields[0]+" ") {
			t.Errorf("request %q, for which it has no right", request)
		}
	}
	if log := p.log.String(); strings.Contains(log, "PRIVATE KEY") {
		t.Errorf("log:\n%s", log)
	}
}
