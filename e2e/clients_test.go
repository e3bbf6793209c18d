package e2e

import (
	"context"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"

	"github.com/podtoken/podtoken/pkg/api"
)

// What the services of ./clients trust, and so what their users write into annotations.
const (
	awsRole        = "arn:aws:iam::123456789012:role/billing"
	azureClient    = "00000000-1111-2222-3333-444444444444"
	azureTenant    = "55555555-6666-7777-8888-999999999999"
	googleProvider = "projects/123456789012/locations/global/workloadIdentityPools/clusters/providers/cluster-1"
	googleAccount  = "billing@project.iam.gserviceaccount.com"
	vaultRole      = "billing"
)

const servicesName = "services"

// clientRow is a client in a pod, with what its author writes: annotations, and variables of the container.
type clientRow struct {
	command     []string
	annotations []string
	env         map[string]string
	// token is the file that holds the bare token.
	token string
	// within is how long a client may use the token that it has read once. Default: five minutes, of which a busy machine may need most.
	within time.Duration
}

// Clients that people use get along with what presets and formats give them, and nothing else but where the service is: they
// authenticate with the first token, and with the next one after a refresh. The services verify tokens as the real ones do,
// which TestServicesOfTheClientsRefuse holds.
func TestClients(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	image, url := n.startServices()
	own := func(path string) string { return api.DefaultMountPath + "/" + path }
	azure := []string{"azure-client-id.azure", azureClient, "azure-tenant-id.azure", azureTenant, "azure-authority-host.azure", url + "/"}
	whoami := map[string]string{"WHOAMI_URL": url + "/whoami"}
	rows := map[string]clientRow{
		"aws": {
			annotations: []string{"aws-role-arn.aws", awsRole, "aws-region.aws", "eu-central-1", "expiration.aws", "10m"},
			env:         map[string]string{"AWS_ENDPOINT_URL_STS": url + "/aws"},
			token:       own("aws"),
		},
		"azure": {annotations: azure, env: whoami, token: own("azure")},
		// The SDK reads the file again after ten minutes.
		"azure-kept": {annotations: azure, env: whoami, token: own("azure"), within: 12 * time.Minute},
		"google": {
			annotations: []string{"gcp-provider.gcp", googleProvider, "expiration", "10m", "gcp-token-url.gcp", url + "/google/v1/token",
				"gcp-service-account.gcp", url + "/google/v1/projects/-/serviceAccounts/" + googleAccount + ":generateAccessToken"},
			env:   whoami,
			token: own("gcp"),
		},
		"vault":   {annotations: []string{"vault-role.vault", vaultRole, "vault-addr.vault", url, "expiration", "10m"}, token: own("vault")},
		"openbao": {annotations: []string{"vault-role.vault", vaultRole, "vault-addr.vault", url, "expiration", "10m"}, token: own("vault")},
		"kubeconfig": {
			command:     []string{probePath, "kubernetes"},
			annotations: []string{"audience.k8s", apiAudience, "format.k8s", "kubeconfig", "env.k8s", "KUBECONFIG", "expiration", "10m"},
			token:       own(".podtoken-token-k8s"),
		},
		// client-go runs the command again when the credential has expired, which is after ten minutes.
		"exec-credential": {
			command:     []string{probePath, "kubernetes"},
			annotations: []string{"audience.k8s", apiAudience, "format.k8s", "exec-credential", "expiration", "10m"},
			env:         map[string]string{"KUBECONFIG": "/config/kubeconfig"},
			token:       own(".podtoken-token-k8s"),
			within:      12 * time.Minute,
		},
		"curl": {
			command:     []string{"sh", "-c", `while sleep 1; do curl -sS -H @"$BILLING_HEADER_FILE" "$BILLING_URL"; done`},
			annotations: []string{"audience.billing", "https://billing.example.com", "format.billing", "header", "env.billing", "BILLING_HEADER_FILE", "expiration", "10m"},
			env:         map[string]string{"BILLING_URL": url + "/invoices"},
			token:       own(".podtoken-token-billing"),
		},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := n.in(t)
			if r.command == nil {
				r.command = []string{probePath, name}
			}
			if r.within == 0 {
				r.within = 5 * time.Minute
			}
			n.create(name, annotations(r.annotations...), clientSpec(image, r))
			n.ready(name)
			first := n.tokenID(name, r.token)
			within(t, r.within, "the service knows the client by its first token", func(context.Context) (bool, error) {
				return n.knownAs(name) == first, nil
			})

			n.refresh(name)
			refreshed := time.Now()
			if n.tokenID(name, r.token) == first {
				t.Fatal("the token was not replaced")
			}
			var next string
			within(t, r.within, "the service knows the client by another token", func(context.Context) (bool, error) {
				next = n.knownAs(name)
				return next != first, nil
			})
			t.Logf("uses the new token %s after the refresh", time.Since(refreshed).Round(time.Second))
			// In ten minutes there was a refresh besides ours.
			if want := n.tokenID(name, r.token); next != want {
				t.Errorf("the service knows the client by the token %s, want the one in the file, %s", next, want)
			}
			// A gap between the tokens, or a token that was used too long, would be an error of the service.
			if text := n.logs(name, "app"); strings.Contains(text, "error") || strings.Contains(text, "curl:") {
				t.Errorf("the client met an error:\n%s", text)
			}
		})
	}
}

// clientSpec is a pod of the client, which trusts the services' certificate.
func clientSpec(image string, r clientRow) corev1.PodSpec {
	spec := podSpec(r.command...)
	spec.AutomountServiceAccountToken = ptr(false) // podtoken's are the only tokens
	spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: servicesName}}}}}
	app := &spec.Containers[0]
	app.Image = image
	app.VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/config", ReadOnly: true}}
	app.Env = []corev1.EnvVar{{Name: "SSL_CERT_FILE", Value: "/config/" + corev1.TLSCertKey}}
	for name, value := range r.env {
		app.Env = append(app.Env, corev1.EnvVar{Name: name, Value: value})
	}
	return spec
}

// tokenID is the ID of the token that the client's pod has at the moment.
func (n *testNamespace) tokenID(pod, path string) string {
	n.t.Helper()
	token, err := n.exec(pod, "app", "cat", path)
	must(n.t, err, "reading the token")
	id := claimsOf(n.t, token).ID
	if id == "" {
		n.t.Fatal("the token has no ID")
	}
	return id
}

// knownAs is the ID of the token by which the service knows the client now.
func (n *testNamespace) knownAs(pod string) string {
	n.t.Helper()
	all := knownID.FindAllStringSubmatch(n.logs(pod, "app"), -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}

var knownID = regexp.MustCompile(`"id":"([^"]+)"`)

// clientsImage has the program of ./clients, and curl with a shell. It is built once.
var clientsImage = sync.OnceValues(func() (string, error) {
	return testCluster.BuildGoImage(context.Background(), "clients", ".", "podtoken.test/clients:1", "curl")
})

// startServices runs the services of ./clients and returns the image, which has their clients too, and the services' URL. The
// ConfigMap that all clients mount has the services' certificate, and a kubeconfig with an exec plugin.
func (n *testNamespace) startServices() (image, url string) {
	n.t.Helper()
	ctx := n.t.Context()
	image, err := clientsImage()
	must(n.t, err, "building the clients")

	meta := metav1.ObjectMeta{Name: servicesName, Labels: map[string]string{"app": servicesName}}
	service, err := n.client.CoreV1().Services(n.name).Create(ctx, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Selector: meta.Labels, Ports: []corev1.ServicePort{{Port: 8443}}}}, metav1.CreateOptions{})
	must(n.t, err, "creating the Service")
	address := service.Spec.ClusterIP
	certificate, key, err := certutil.GenerateSelfSignedCertKey(address, []net.IP{net.ParseIP(address)}, nil)
	must(n.t, err, "making a certificate")
	_, err = n.client.CoreV1().Secrets(n.name).Create(ctx, &corev1.Secret{ObjectMeta: meta, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: key}}, metav1.CreateOptions{})
	must(n.t, err, "creating the Secret")
	_, err = n.client.CoreV1().ConfigMaps(n.name).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta,
		Data: map[string]string{corev1.TLSCertKey: string(certificate), "kubeconfig": n.execKubeconfig()}}, metav1.CreateOptions{})
	must(n.t, err, "creating the ConfigMap")

	spec := podSpec(probePath, "serve", "-subject", "system:serviceaccount:"+n.name+":"+serviceAccount, "-cert", "/tls/"+corev1.TLSCertKey, "-key", "/tls/"+corev1.TLSPrivateKeyKey)
	spec.ServiceAccountName = "default" // any may read what the issuer publishes
	spec.Volumes = []corev1.Volume{{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: servicesName}}}}
	server := &spec.Containers[0]
	server.Image = image
	server.VolumeMounts = []corev1.VolumeMount{{Name: "tls", MountPath: "/tls", ReadOnly: true}}
	server.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8443)}}, PeriodSeconds: 1}
	_, err = n.client.CoreV1().Pods(n.name).Create(ctx, &corev1.Pod{ObjectMeta: meta, Spec: spec}, metav1.CreateOptions{})
	must(n.t, err, "creating the services' pod")
	n.ready(servicesName)
	return image, "https://" + net.JoinHostPort(address, "8443")
}

// execKubeconfig is what docs/formats.md shows for exec plugins, for this cluster.
func (n *testNamespace) execKubeconfig() string {
	n.t.Helper()
	ctx := n.t.Context()
	service, err := n.client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	must(n.t, err, "finding the API server")
	authorities, err := n.client.CoreV1().ConfigMaps(n.name).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
	must(n.t, err, "finding the cluster's authorities")
	config := clientcmdapi.NewConfig()
	config.Clusters["own"] = &clientcmdapi.Cluster{
		Server: "https://" + net.JoinHostPort(service.Spec.ClusterIP, "443"), CertificateAuthorityData: []byte(authorities.Data["ca.crt"]),
	}
	config.AuthInfos["podtoken"] = &clientcmdapi.AuthInfo{Exec: &clientcmdapi.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1", Command: "cat", Args: []string{api.DefaultMountPath + "/k8s"},
		InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
	}}
	config.Contexts["own"] = &clientcmdapi.Context{Cluster: "own", AuthInfo: "podtoken"}
	config.CurrentContext = "own"
	text, err := clientcmd.Write(*config)
	must(n.t, err, "writing a kubeconfig")
	return string(text)
}
