package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/e2e/cluster"
)

// documentedDirectory is where docs/installation.md puts the API servers' files.
const documentedDirectory = "/etc/kubernetes/admission"

// docs/installation.md, "The API servers' client certificate", step by step: in a cluster of its own, whose API server has the documents'
// files. The webhook answers it and no other client.
func TestClientCertificateOfAPIServers(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	write := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(directory, name)
		must(t, os.WriteFile(path, content, 0o600), "writing %s", name)
		return path
	}
	ca, other := newCompanyCA(t), newCompanyCA(t)
	certificates := func(ca *companyCA) {
		t.Helper()
		pair := ca.issueFor(t, x509.ExtKeyUsageClientAuth)
		write("client.crt", pair[corev1.TLSCertKey])
		write("client.key", pair[corev1.TLSPrivateKeyKey])
	}
	certificates(ca)
	documented := func(name, after string) string {
		t.Helper()
		return write(name, []byte(strings.ReplaceAll(codeBlock(t, "installation.md", after), documentedDirectory, directory)))
	}
	documented("webhooks.kubeconfig", "so that no other webhook gets the certificate:\n")
	admission := documented("admission.yaml", "`admission.yaml`:\n")
	w := emptyWorld(t, "clientca", func(o *cluster.Options) { o.APIServerArgs = []string{"--admission-control-config-file=" + admission} })

	install := func(more ...string) {
		t.Helper()
		values := append([]string{"--set", "webhook.replicas=1", "--set", "controller.replicas=1"}, more...)
		must(t, w.cluster.InstallChart(t.Context(), chartValues(values...)...), "installing podtoken")
		w.settled(t)
	}
	install() // step 3: nothing changes yet
	n := w.newNamespace(t, allowedPrefix, nil)
	n.strangers(map[string]*companyCA{"without a certificate, which is not required": nil}, "")
	install("--set-file", "webhook.clientCA="+write("client-ca.crt", ca.bundle))
	n.worksFor("pod")
	if stdout, stderr, code := n.plugin("", "doctor"); code != 0 || strings.Contains(stdout, "problem") {
		t.Errorf("doctor ends with exit code %d:\n%s%s", code, stdout, stderr)
	}
	w.helm(t, "test", cluster.Release, "--timeout", "2m")
	n.strangers(map[string]*companyCA{"with a certificate": ca}, "")
	n.strangers(map[string]*companyCA{"without a certificate": nil}, "remote error: tls: certificate required")
	n.strangers(map[string]*companyCA{"with a certificate of another CA": other}, "remote error: tls: ")

	// It is the certificate that the API server is answered for. Connections that there are stay.
	release := n.inRelease()
	certificates(other)
	release.delete(release.podOf("webhook").Name)
	w.settled(t)
	eventually(t, time.Minute, "the API server is not answered with a certificate of another CA", func(context.Context) (bool, error) {
		err := n.injectedDryRun()
		return err != nil && strings.Contains(err.Error(), "remote error: tls: "), err
	})
	certificates(ca)
	eventually(t, time.Minute, "the API server uses its renewed certificate", func(context.Context) (bool, error) {
		err := n.injectedDryRun()
		return err == nil, err
	})
}

// codeBlock returns the block of code in a document of docs that follows a text.
func codeBlock(t *testing.T, document, after string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", document))
	must(t, err, "reading %s", document)
	_, rest, found := strings.Cut(string(text), after)
	if !found {
		t.Fatalf("docs/%s has no %q", document, after)
	}
	const indent = "        "
	var block strings.Builder
	for line := range strings.Lines(strings.TrimLeft(rest, "\n")) {
		code, ok := strings.CutPrefix(line, indent)
		if !ok {
			break
		}
		block.WriteString(code)
	}
	if block.Len() == 0 {
		t.Fatalf("docs/%s has no code after %q", document, after)
	}
	return block.String()
}

// strangers calls the webhook from the network of the node, with a certificate of each CA (nil: none), and wants an answer, or an error.
func (n *testNamespace) strangers(callers map[string]*companyCA, want string) {
	n.t.Helper()
	address := n.inRelease().podOf("webhook").Status.PodIP + ":9443"
	for name, ca := range callers {
		eventually(n.t, pollShort, fmt.Sprintf("a client %s gets %q", name, want), func(ctx context.Context) (bool, error) {
			err := n.callWebhook(ctx, address, ca)
			if err == nil {
				return want == "", nil
			}
			return want != "" && strings.Contains(err.Error(), want), err
		})
	}
}

// callWebhook requests a path of the webhook that does not exist; an answer of any kind means that the handshake succeeded.
func (n *testNamespace) callWebhook(ctx context.Context, address string, ca *companyCA) error {
	config := &tls.Config{InsecureSkipVerify: true}
	if ca != nil {
		pair := ca.issueFor(n.t, x509.ExtKeyUsageClientAuth)
		certificate, err := tls.X509KeyPair(pair[corev1.TLSCertKey], pair[corev1.TLSPrivateKeyKey])
		must(n.t, err, "reading a certificate")
		// Sent whatever authorities the server names.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	var connection net.Conn
	err := n.cluster.InNamespace(func() (err error) {
		connection, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
	secure := tls.Client(connection, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://webhook/", nil)
	must(n.t, err, "making a request")
	if err := request.Write(secure); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(secure), request)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}
