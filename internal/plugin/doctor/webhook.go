package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/installation"
	"github.com/podtoken/podtoken/pkg/api"
)

// Ports of the webhook's pods; the controller's have the plain one too.
const (
	portTLS   = 9443
	portPlain = 8080
)

// soon is how long before its end a certificate is worth a warning: every way to get certificates has replaced it by then.
const soon = 24 * time.Hour

// registration looks at the MutatingWebhookConfiguration.
func (d *doctor) registration(context.Context) {
	const check = "webhook registration"
	webhook := d.found.Webhook()
	switch {
	case d.found.RegistrationErr != nil:
		d.Add(plugin.Note, check, "you may not read it: %v", d.found.RegistrationErr)
		return
	case webhook == nil:
		d.Add(plugin.Problem, check, "there is no MutatingWebhookConfiguration with the webhook %s: nobody calls the webhook; run \"helm upgrade\"", installation.WebhookName)
		return
	}
	name := d.found.Registration.Name
	bad := len(d.Findings)
	if webhook.FailurePolicy != nil && *webhook.FailurePolicy != admissionv1.Fail {
		d.Add(plugin.Problem, check, "%s has failurePolicy %s instead of Fail: pods that ask for tokens start without them in an outage; run \"helm upgrade\"", name, *webhook.FailurePolicy)
	}
	if len(webhook.MatchConditions) == 0 {
		d.Add(plugin.Problem, check, "%s has no matchConditions: an outage of the webhook concerns every pod; run \"helm upgrade\"", name)
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(webhook.ClientConfig.CABundle) {
		d.Add(plugin.Problem, check, "%s has no caBundle: API servers do not trust the webhook; look at cert-manager's cainjector, or at the controller's log with tls.mode=selfManaged", name)
	}
	if len(d.Findings) == bad {
		d.Add(plugin.OK, check, "%s calls Service %s/%s", name, d.found.Namespace, d.serviceName())
	}
}

// serviceName is the webhook's Service.
func (d *doctor) serviceName() string {
	if webhook := d.found.Webhook(); webhook != nil && webhook.ClientConfig.Service != nil {
		return webhook.ClientConfig.Service.Name
	}
	return d.found.Name + "-webhook"
}

// pods of a component.
func (d *doctor) pods(ctx context.Context, component string) ([]corev1.Pod, error) {
	list, err := d.cluster.Client.CoreV1().Pods(d.found.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=podtoken," + installation.LabelComponent + "=" + component,
	})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// replicas looks at each pod of the webhook: whether it is ready, what it says is missing, and its certificate.
func (d *doctor) replicas(ctx context.Context) {
	const check = "webhook replica"
	pods, err := d.pods(ctx, "webhook")
	switch {
	case err != nil:
		d.Add(plugin.Note, check, "you may not list the pods in namespace %s: %v", d.found.Namespace, err)
		return
	case len(pods) == 0:
		d.Add(plugin.Problem, check, "the webhook has no pods in namespace %s: see \"kubectl -n %s describe deployment %s\"", d.found.Namespace, d.found.Namespace, d.serviceName())
		return
	}
	for i := range pods {
		pod := &pods[i]
		if !ready(pod) {
			d.Add(plugin.Problem, check, "%s is not ready: %s", pod.Name, d.unready(ctx, pod))
			continue
		}
		d.certificate(ctx, pod)
	}
}

func ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// unready is why a pod is not ready: as itself says, else as its status does.
func (d *doctor) unready(ctx context.Context, pod *corev1.Pod) string {
	for i := range pod.Status.ContainerStatuses {
		if waiting := pod.Status.ContainerStatuses[i].State.Waiting; waiting != nil {
			return strings.TrimSuffix(waiting.Reason+": "+waiting.Message, ": ")
		}
	}
	text, err := d.readyz(ctx, pod)
	if err != nil {
		return fmt.Sprintf("phase %s, and its /readyz cannot be read: %v", pod.Status.Phase, err)
	}
	return text
}

func (d *doctor) readyz(ctx context.Context, pod *corev1.Pod) (string, error) {
	body, err := d.plain(ctx, pod.Namespace, pod.Name, "/readyz", 4<<10)
	return strings.Join(strings.FieldsFunc(body, func(r rune) bool { return r == '\n' }), "; "), err
}

// plain reads a page of a pod's plain port, up to a limit.
func (d *doctor) plain(ctx context.Context, namespace, pod, path string, limit int64) (string, error) {
	address, stop, err := d.cluster.Forward(ctx, namespace, pod, portPlain)
	if err != nil {
		return "", err
	}
	defer stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		return "", err
	}
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, limit))
	return string(body), err
}

// certificate connects to a replica as an API server does.
func (d *doctor) certificate(ctx context.Context, pod *corev1.Pod) {
	const check = "webhook certificate"
	address, stop, err := d.cluster.Forward(ctx, pod.Namespace, pod.Name, portTLS)
	if err != nil {
		d.Add(plugin.Note, check, "%s is ready; you may not connect to it: %v", pod.Name, err)
		return
	}
	defer stop()
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: d.serviceName() + "." + d.found.Namespace + ".svc", Time: d.now}
	if webhook := d.found.Webhook(); webhook != nil {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(webhook.ClientConfig.CABundle)
	}
	connection, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if verification, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		d.Add(plugin.Problem, check, "API servers do not trust what %s serves: %v", pod.Name, verification.Err)
		return
	}
	if err != nil {
		d.Add(plugin.Problem, check, "%s does not answer: %v", pod.Name, err)
		return
	}
	defer func() { _ = connection.Close() }()
	leaf := connection.(*tls.Conn).ConnectionState().PeerCertificates[0] // a server always has one
	level, left := plugin.OK, leaf.NotAfter.Sub(d.now())
	text := ""
	if left < soon {
		level, text = plugin.Warning, ": nobody has replaced it in time, see docs/runbook.md"
	}
	d.Add(level, check, "%s serves one of %s that ends at %s%s", pod.Name, leaf.Issuer.CommonName, leaf.NotAfter.UTC().Format(time.RFC3339), text)
}

// admission has the API server call the webhook, with a pod that is never stored.
func (d *doctor) admission(ctx context.Context) {
	const check = "webhook call"
	namespace := d.cluster.Namespace
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "podtoken-doctor-", Annotations: map[string]string{api.AnnotationAudience: "podtoken-doctor"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "podtoken.dev/doctor", SecurityContext: restricted()}}, SecurityContext: restrictedPod()},
	}
	created, err := d.cluster.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	switch text := fmt.Sprint(err); {
	case err == nil && created.Labels[api.LabelInjected] == "true":
		d.Add(plugin.OK, check, "a pod in namespace %s was injected (dry run)", namespace)
	case err == nil:
		d.Add(plugin.Problem, check, "a pod in namespace %s with an annotation of podtoken was admitted without tokens (dry run): neither webhook nor policy %s-enforce were asked", namespace, d.found.Name)
	case strings.Contains(text, `"`+installation.WebhookName+`" denied the request`):
		d.Add(plugin.OK, check, "API servers reach the webhook: it refused a pod in namespace %s (dry run): %s", namespace, text)
	case strings.Contains(text, "failed calling webhook"):
		d.Add(plugin.Problem, check, "API servers do not reach the webhook: %s", text)
	case strings.Contains(text, d.found.Name+"-enforce"):
		d.Add(plugin.Problem, check, "the webhook was not called for a pod in namespace %s (dry run): %s", namespace, text)
	case apierrors.IsForbidden(err):
		d.Add(plugin.Note, check, "a pod in namespace %s is refused for another reason, so that nothing was seen; name another namespace with -n: %s", namespace, text)
	default:
		d.Add(plugin.Warning, check, "a dry run of a pod in namespace %s failed: %s", namespace, text)
	}
}

// restricted and restrictedPod are what Pod Security "restricted" asks for.
func restricted() *corev1.SecurityContext {
	no := false
	return &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
}

func restrictedPod() *corev1.PodSecurityContext {
	yes, user := true, int64(65532)
	return &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
}
