package e2e

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/pkg/api"
)

// "It names one token": each annotation gives one file with a token that is this pod's and that one audience's.
func TestTokensAreBoundToThePodAndItsAudiences(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience.vault", "vault", "audience.billing", audienceDefault), podSpec())
	pod := n.ready("pod")

	for name, audience := range map[string]string{"vault": "vault", "billing": audienceDefault} {
		token := n.token("pod", "app", api.DefaultMountPath+"/"+name)
		assertReview(t, token, audience, pod)
		for _, other := range []string{"https://kubernetes.default.svc", "somebody-else"} {
			if status := review(t, token, other); status.Authenticated {
				t.Errorf("the token %q is accepted for audience %q", name, other)
			}
		}
		claims := claimsOf(t, token)
		if !slices.Equal(claims.Audiences, []string{audience}) {
			t.Errorf("aud is %q, want %q", claims.Audiences, audience)
		}
		if got, want := claims.Kubernetes.Pod.UID, string(pod.UID); got != want {
			t.Errorf("the token is bound to pod uid %q, want %q", got, want)
		}
		if life := claims.Expires - claims.IssuedAt; life != 3600 {
			t.Errorf("the token lives %d s, want the default of 3600", life)
		}
	}
	env, err := n.exec("pod", "app", probePath, "env")
	must(t, err, "reading the environment")
	for _, want := range []string{"VAULT_TOKEN_FILE=/var/run/secrets/podtoken.dev/vault", "BILLING_TOKEN_FILE=/var/run/secrets/podtoken.dev/billing"} {
		if !strings.Contains(env, want+"\n") {
			t.Errorf("the application's environment lacks %s", want)
		}
	}
	if pod.Labels[api.LabelInjected] != "true" {
		t.Errorf("label %s is %q, want \"true\"", api.LabelInjected, pod.Labels[api.LabelInjected])
	}
	if status := pod.Annotations[api.AnnotationStatus]; !strings.Contains(status, `"version":"v`) || !strings.Contains(status, `"tokens":["billing","vault"]`) {
		t.Errorf("annotation %s is %s, want version and tokens", api.AnnotationStatus, status)
	}
	log := n.logs("pod", api.ContainerName)
	if strings.Contains(log, "eyJ") {
		t.Error("the sidecar's log contains the beginning of a JWT")
	}
	report, err := n.exec("pod", api.ContainerName, api.SidecarBinary, api.CommandCheck)
	must(t, err, "running check in the sidecar")
	if !strings.Contains(report, "vault") || !strings.Contains(report, "billing") || strings.Contains(report, "eyJ") {
		t.Errorf("check printed:\n%s", report)
	}
}

// A relying party that knows only the issuer's public keys accepts the token.
func TestTokenVerifiesOffline(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience", audienceDefault), podSpec())
	pod := n.ready("pod")
	token := n.token("pod", "app", api.DefaultMountPath+"/token")

	transport, err := rest.TransportFor(restConfig)
	must(t, err, "building a transport")
	ctx := oidc.ClientContext(t.Context(), &http.Client{Transport: transport, Timeout: 10 * time.Second})
	keys := oidc.NewRemoteKeySet(ctx, strings.TrimSuffix(restConfig.Host, "/")+"/openid/v1/jwks")
	issuer := claimsOf(t, token).Issuer
	verified, err := oidc.NewVerifier(issuer, keys, &oidc.Config{ClientID: audienceDefault}).Verify(ctx, token)
	must(t, err, "verifying the token with go-oidc")
	if want := "system:serviceaccount:" + n.name + ":" + serviceAccount; verified.Subject != want {
		t.Errorf("sub is %q, want %q", verified.Subject, want)
	}
	var private struct {
		Kubernetes struct {
			Pod struct {
				UID string `json:"uid"`
			} `json:"pod"`
		} `json:"kubernetes.io"`
	}
	must(t, verified.Claims(&private), "reading the private claims")
	if private.Kubernetes.Pod.UID != string(pod.UID) {
		t.Errorf("the verified token is bound to pod %q, want %q", private.Kubernetes.Pod.UID, pod.UID)
	}
	if _, err := oidc.NewVerifier(issuer, keys, &oidc.Config{ClientID: "another"}).Verify(ctx, token); err == nil {
		t.Error("go-oidc accepts the token for another audience")
	}
}

// "One token, two audiences": both receivers take it, and the user was warned that one of them is the API server.
func TestOneTokenWithTwoAudiences(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	const apiServer = "https://kubernetes.default.svc"
	warnings := &warningCollector{}
	warned := clientWithWarnings(t, warnings)
	pod, err := warned.CoreV1().Pods(n.name).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod", Annotations: annotations("audience.both", "vault, "+apiServer)}, Spec: podSpec(),
	}, metav1.CreateOptions{})
	must(t, err, "creating the pod")
	if !strings.Contains(warnings.String(), apiServer) {
		t.Errorf("no admission warning names the API server's audience; got %q", warnings.String())
	}
	pod = n.ready(pod.Name)
	token := n.token("pod", "app", api.DefaultMountPath+"/both")
	assertReview(t, token, "vault", pod)
	assertReview(t, token, apiServer, pod)

	// As an API credential it works at the API server itself.
	as := rest.AnonymousClientConfig(restConfig)
	as.BearerToken = token
	client, err := rest.HTTPClientFor(as)
	must(t, err, "building a client with the token")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, strings.TrimSuffix(as.Host, "/")+"/apis/authentication.k8s.io/v1/selfsubjectreviews",
		strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`))
	must(t, err, "building a request")
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	must(t, err, "asking the API server with the token")
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusCreated {
		t.Errorf("the API server answers %s to the token", answer.Status)
	}
}

// A deleted pod's token is refused by whoever asks the API server, after its 60 seconds of leeway.
func TestTokenDiesWithItsPod(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience", audienceDefault), podSpec())
	pod := n.ready("pod")
	token := n.token("pod", "app", api.DefaultMountPath+"/token")
	assertReview(t, token, audienceDefault, pod)
	must(t, client.CoreV1().Pods(n.name).Delete(t.Context(), "pod", metav1.DeleteOptions{}), "deleting the pod")
	within(t, 100*time.Second, "the deleted pod's token is refused", func(context.Context) (bool, error) {
		return !review(t, token, audienceDefault).Authenticated, nil
	})
}
