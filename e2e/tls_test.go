package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podtoken/podtoken/e2e/cluster"
)

const registration = "podtoken"

// Both ways to do without cert-manager, in a cluster that has none; the others' cluster is installed with it.
func TestWithoutCertManager(t *testing.T) {
	t.Parallel()
	w := emptyWorld(t, "tls", func(o *cluster.Options) { o.NoCertManager = true })
	t.Run("the chart says what is missing", w.saysWhatIsMissing)
	t.Run("secret", w.certificateOfTheUser)
	t.Run("selfManaged", w.certificateOfItsOwn)
}

func (w *world) saysWhatIsMissing(t *testing.T) {
	for _, mode := range []string{"install", "upgrade"} {
		arguments := []string{mode, cluster.Release, filepath.Join(w.root(t), "charts", "podtoken"), "--namespace", cluster.Namespace, "--dry-run=server"}
		if mode == "upgrade" {
			arguments = append(arguments, "--install")
		}
		_, err := w.cluster.Helm(t.Context(), arguments...)
		if err == nil || !strings.Contains(err.Error(), "this cluster has no cert-manager") || strings.Contains(err.Error(), "no matches for kind") {
			t.Errorf("helm %s: %v, want one sentence about cert-manager", mode, err)
		}
	}
}

func (w *world) root(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	must(t, err, "finding the repository")
	return root
}

// A certificate of the user's, in a Secret of the user's: renewed by the user, and still there after the end.
func (w *world) certificateOfTheUser(t *testing.T) {
	ctx := t.Context()
	const name = "company-webhook"
	ca := newCompanyCA(t)
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(bundle, ca.bundle, 0o600), "writing the CA")
	_, err := w.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: releaseNamespace}}, metav1.CreateOptions{})
	must(t, err, "making the namespace")
	secrets := w.client.CoreV1().Secrets(releaseNamespace)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeTLS, Data: ca.issue(t)}
	_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
	must(t, err, "making the Secret")
	must(t, w.cluster.InstallChart(ctx, chartValues("--set", "controller.replicas=1", "--set", "tls.mode=secret", "--set", "tls.secret.name="+name,
		"--set-file", "tls.secret.caBundle="+bundle)...), "installing podtoken")

	n := w.newNamespace(t, allowedPrefix, nil)
	n.worksFor("pod")
	pods := n.stream(20)
	secret.Data = ca.issue(t)
	_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	must(t, err, "renewing the certificate")
	w.serve(t, w.webhookPods(t), secret.Data["tls.crt"])
	pods.stop()

	w.uninstall(t, "secrets "+releaseNamespace+"/"+name)
	must(t, secrets.Delete(ctx, name, metav1.DeleteOptions{}), "deleting the Secret, which is the user's and still there")
}

// A CA and a certificate that the controller makes. They are replaced as an administrator would have it, podtoken is upgraded
// at the same time, and not one creation of a pod fails.
func (w *world) certificateOfItsOwn(t *testing.T) {
	ctx := t.Context()
	install := func(more ...string) {
		t.Helper()
		must(t, w.cluster.InstallChart(ctx, chartValues(append(more, "--set", "tls.mode=selfManaged")...)...), "installing podtoken")
	}
	start := time.Now()
	install()
	t.Logf("installed, and a pod is admitted, after %s", time.Since(start).Round(time.Second))
	n := w.newNamespace(t, allowedPrefix, nil)
	n.worksFor("pod")
	first := w.servingSecret(t)
	if w.bundle(t) != string(first.Data["ca.crt"]) {
		t.Error("API servers do not trust the CA and it alone")
	}

	replicas := w.webhookPods(t)
	pods := n.stream(200)
	w.hurry(t)
	w.removeKey(t, "tls.key")
	renewed := w.untilRenewed(t, first)
	if !bytes.Equal(renewed.Data["ca.key"], first.Data["ca.key"]) {
		t.Error("a new certificate came with a new CA")
	}
	w.serve(t, replicas, renewed.Data["tls.crt"])

	w.removeKey(t, "ca.key")
	eventually(t, pollShort, "the new CA is trusted beside the old one", func(context.Context) (bool, error) {
		return strings.Count(w.bundle(t), "BEGIN CERTIFICATE") == 2, nil
	})
	if !bytes.Equal(w.servingSecret(t).Data["tls.crt"], renewed.Data["tls.crt"]) {
		t.Error("a certificate of the new CA came at once, before every API server can have heard of the CA")
	}
	rotated := w.untilRenewed(t, renewed)
	if !strings.Contains(w.bundle(t), string(first.Data["ca.crt"])) {
		t.Error("the old CA is not trusted any more, although pods still serve its certificate")
	}
	w.serve(t, replicas, rotated.Data["tls.crt"])

	w.upgradeKeepsTheBundle(t, func() { install("--set", "webhook.logLevel=debug") })

	w.hurry(t)
	eventually(t, pollShort, "the old CA is not trusted any more", func(context.Context) (bool, error) {
		return w.bundle(t) == string(rotated.Data["ca.crt"]), nil
	})
	pods.stop()
	n.worksFor("after")

	must(t, w.client.CoreV1().Secrets(releaseNamespace).Delete(ctx, servingSecret, metav1.DeleteOptions{}), "deleting the whole Secret")
	eventually(t, pollShort, "there is another one", func(ctx context.Context) (bool, error) {
		secret, err := w.client.CoreV1().Secrets(releaseNamespace).Get(ctx, servingSecret, metav1.GetOptions{})
		return err == nil && len(secret.Data["ca.key"]) > 0, err
	})
	if err := n.tryDryRun(annotations("audience", audienceDefault)); err != nil {
		t.Errorf("without the Secret the pods serve what they have: %v", err)
	}
	w.controllerWritesNothingElse(t)
	w.uninstall(t)
}

// worksFor starts an annotated pod and reads its token.
func (n *testNamespace) worksFor(pod string) {
	n.t.Helper()
	n.create(pod, annotations("audience", audienceDefault), podSpec())
	n.ready(pod)
	n.token(pod, "app", tokenPath)
}

func (w *world) servingSecret(t *testing.T) *corev1.Secret {
	t.Helper()
	secret, err := w.client.CoreV1().Secrets(releaseNamespace).Get(t.Context(), servingSecret, metav1.GetOptions{})
	must(t, err, "reading the serving certificate")
	return secret
}

func (w *world) bundle(t *testing.T) string {
	t.Helper()
	configuration, err := w.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), registration, metav1.GetOptions{})
	must(t, err, "reading the registration")
	return string(configuration.Webhooks[0].ClientConfig.CABundle)
}

func (w *world) removeKey(t *testing.T, key string) {
	t.Helper()
	_, err := w.cluster.Kubectl(t.Context(), nil, "-n", releaseNamespace, "patch", "secret", servingSecret, "--type=json",
		"-p", `[{"op":"remove","path":"/data/`+key+`"}]`)
	must(t, err, "removing %s", key)
}

// hurry says that all pods and API servers have seen the last step of the controller, so that it need not wait.
func (w *world) hurry(t *testing.T) {
	t.Helper()
	_, err := w.cluster.Kubectl(t.Context(), nil, "-n", releaseNamespace, "annotate", "--overwrite", "secret", servingSecret,
		"podtoken.dev/serving-certificate-since="+time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
	must(t, err, "annotating the Secret")
}

func (w *world) untilRenewed(t *testing.T, before *corev1.Secret) *corev1.Secret {
	t.Helper()
	start := time.Now()
	var after *corev1.Secret
	eventually(t, 2*time.Minute, "there is a new certificate", func(context.Context) (bool, error) {
		after = w.servingSecret(t)
		return len(after.Data["tls.key"]) > 0 && !bytes.Equal(after.Data["tls.crt"], before.Data["tls.crt"]), nil
	})
	t.Logf("a new certificate after %s", time.Since(start).Round(100*time.Millisecond))
	return after
}

// upgradeKeepsTheBundle looks at every version of the webhook configuration that there is during an upgrade.
func (w *world) upgradeKeepsTheBundle(t *testing.T, upgrade func()) {
	t.Helper()
	before := w.bundle(t)
	watch, err := w.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + registration})
	must(t, err, "watching the registration")
	upgrade()
	watch.Stop()
	for event := range watch.ResultChan() {
		text, err := json.Marshal(event.Object)
		must(t, err, "encoding an event")
		var seen struct {
			Webhooks []struct {
				ClientConfig struct {
					CABundle []byte `json:"caBundle"`
				} `json:"clientConfig"`
			} `json:"webhooks"`
		}
		must(t, json.Unmarshal(text, &seen), "decoding an event")
		if len(seen.Webhooks) != 1 || string(seen.Webhooks[0].ClientConfig.CABundle) != before {
			t.Errorf("the upgrade changed the caBundle: %s %s", event.Type, text)
		}
	}
}

// The controller's credential cannot write another Secret, or another field of the webhook configuration. What RBAC would refuse
// anyway is in the second table.
func (w *world) controllerWritesNothingElse(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	stolen := w.as(t, w.credentialOf(t, releaseNamespace, controllerName))
	dry := []string{metav1.DryRunAll}
	secrets := stolen.CoreV1().Secrets(releaseNamespace)
	create := func(name string, kind corev1.SecretType, annotations map[string]string) func() error {
		return func() error {
			_, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Type: kind}, metav1.CreateOptions{DryRun: dry})
			return err
		}
	}
	patch := func(name, operations string) func() error {
		return func() error {
			_, err := stolen.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, name, types.JSONPatchType, []byte(operations), metav1.PatchOptions{DryRun: dry})
			return err
		}
	}
	const one, bundleOnly = "writes no Secret but", "changes nothing of MutatingWebhookConfiguration podtoken but caBundle"
	for name, row := range map[string]struct {
		try  func() error
		want string
	}{
		"another Secret": {create("another", "", nil), one},
		"a ServiceAccount's token in a Secret": {
			create(servingSecret, corev1.SecretTypeServiceAccountToken, map[string]string{corev1.ServiceAccountNameKey: "default"}), one,
		},
		"a pod that starts without": {patch(registration, `[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]`), bundleOnly},
		"all pods":                  {patch(registration, `[{"op":"replace","path":"/webhooks/0/matchConditions","value":[]}]`), bundleOnly},
		"no condition":              {patch(registration, `[{"op":"remove","path":"/webhooks/0/matchConditions"}]`), bundleOnly},
		"all namespaces":            {patch(registration, `[{"op":"replace","path":"/webhooks/0/namespaceSelector","value":{}}]`), bundleOnly},
		"more than pods":            {patch(registration, `[{"op":"replace","path":"/webhooks/0/rules/0/resources","value":["pods","secrets"]}]`), bundleOnly},
		"another Service":           {patch(registration, `[{"op":"replace","path":"/webhooks/0/clientConfig/service/name","value":"mine"}]`), bundleOnly},
		"an address": {
			patch(registration, `[{"op":"remove","path":"/webhooks/0/clientConfig/service"},{"op":"add","path":"/webhooks/0/clientConfig/url","value":"https://mallory.example"}]`), bundleOnly,
		},
		"no webhook": {patch(registration, `[{"op":"remove","path":"/webhooks/0"}]`), bundleOnly},
		"a second webhook": {
			patch(registration, `[{"op":"copy","from":"/webhooks/0","path":"/webhooks/1"},{"op":"replace","path":"/webhooks/1/name","value":"second.podtoken.dev"}]`), bundleOnly,
		},
		"a label":      {patch(registration, `[{"op":"add","path":"/metadata/labels/a","value":"b"}]`), bundleOnly},
		"a finalizer":  {patch(registration, `[{"op":"add","path":"/metadata/finalizers","value":["example.com/a"]}]`), bundleOnly},
		"an injection": {patch(registration, `[{"op":"add","path":"/metadata/annotations","value":{"cert-manager.io/inject-ca-from":"a/b"}}]`), bundleOnly},
	} {
		if err := row.try(); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want a refusal with %q", name, err, row.want)
		}
	}
	for name, try := range map[string]func() error{
		"another Secret, read": func() error { _, err := secrets.Get(ctx, "another", metav1.GetOptions{}); return err },
		"all Secrets, read":    func() error { _, err := secrets.List(ctx, metav1.ListOptions{}); return err },
		"its Secret, deleted":  func() error { return secrets.Delete(ctx, servingSecret, metav1.DeleteOptions{DryRun: dry}) },
		"a Secret elsewhere": func() error {
			_, err := stolen.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: servingSecret}}, metav1.CreateOptions{DryRun: dry})
			return err
		},
		"the registration, deleted": func() error {
			return stolen.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, registration, metav1.DeleteOptions{DryRun: dry})
		},
		"all registrations, read": func() error {
			_, err := stolen.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
			return err
		},
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if err := patch(registration, `[{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":"`+
		"LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"+`"}]`)(); apierrors.IsForbidden(err) {
		t.Errorf("caBundle alone: %v", err) // The value itself is refused as no certificate, after the policy.
	}
}

// uninstall leaves nothing of podtoken but what is named.
func (w *world) uninstall(t *testing.T, stay ...string) {
	t.Helper()
	_, err := w.cluster.Helm(t.Context(), "uninstall", cluster.Release, "--namespace", cluster.Namespace, "--wait", "--timeout", "3m")
	must(t, err, "uninstalling the chart")
	// Helm does not wait for the pods, which drain; the next installation's must not be taken for them.
	w.leftovers(t, stay...)
}

// companyCA is the user's.
type companyCA struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	bundle      []byte
}

func newCompanyCA(t *testing.T) *companyCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err, "making a key")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "example company CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(2 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err, "making a CA")
	certificate, err := x509.ParseCertificate(der)
	must(t, err, "parsing the CA")
	return &companyCA{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue makes the content of the Secret.
func (ca *companyCA) issue(t *testing.T) map[string][]byte {
	t.Helper()
	return ca.issueFor(t, x509.ExtKeyUsageServerAuth)
}

// issueFor makes a certificate for a server, or for a client.
func (ca *companyCA) issueFor(t *testing.T, usage x509.ExtKeyUsage) map[string][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err, "making a key")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{webhookDeployment + "." + releaseNamespace + ".svc"},
		NotBefore: ca.certificate.NotBefore, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, key.Public(), ca.key)
	must(t, err, "making a certificate")
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err, "encoding the key")
	return map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
	}
}
