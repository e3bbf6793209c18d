package e2e

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/internal/tokenrequest"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

// clampToYear makes of every longer lifetime, after admission, the 3607 s out of which an API server makes a year.
const clampToYear = "--service-account-max-token-expiration=1h0m7s"

// checkClampedLifetime is for a cluster whose API server has the flag clampToYear: it does make tokens of one year, and the
// sidecar's client uses none. Other audiences, and lifetimes that are not shortened, are as always.
func checkClampedLifetime(t *testing.T, restConfig *rest.Config, admin kubernetes.Interface, pod *corev1.Pod) {
	t.Helper()
	ctx := t.Context()
	account, own := pod.Spec.ServiceAccountName, &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	request := func(who, audience string, bound *authenticationv1.BoundObjectReference) *authenticationv1.TokenRequest {
		answer, err := admin.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, who, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{audience}, ExpirationSeconds: ptr(int64(7200)), BoundObjectRef: bound,
		}}, metav1.CreateOptions{})
		must(t, err, "requesting a token of %s", who)
		return answer
	}
	answer := request(account, apiAudience, own)
	claims, err := jwt.Parse(answer.Status.Token)
	must(t, err, "reading the token")
	if got, year := claims.Expires.Sub(claims.IssuedAt), 365*24*time.Hour; got != year || *answer.Spec.ExpirationSeconds != api.ForbiddenExpirationSeconds {
		t.Fatalf("the API server granted %d s and made a token of %v, want %v: nothing is shown here", *answer.Spec.ExpirationSeconds, got, year)
	}

	// A ServiceAccount that may request tokens of others stands for the Pod's own grant, which does not matter here.
	const minter = "minter"
	_, err = admin.CoreV1().ServiceAccounts(pod.Namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: minter}}, metav1.CreateOptions{})
	must(t, err, "creating a ServiceAccount")
	_, err = admin.RbacV1().Roles(pod.Namespace).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: minter},
		Rules: []rbacv1.PolicyRule{rule("", "serviceaccounts/token", "create", account)}}, metav1.CreateOptions{})
	must(t, err, "creating a Role")
	_, err = admin.RbacV1().RoleBindings(pod.Namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: minter},
		RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: minter},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: minter, Namespace: pod.Namespace}},
	}, metav1.CreateOptions{})
	must(t, err, "creating a RoleBinding")
	directory := t.TempDir()
	must(t, os.WriteFile(filepath.Join(directory, "token"), []byte(request(minter, apiAudience, nil).Status.Token), 0o600), "writing the credential")
	must(t, os.WriteFile(filepath.Join(directory, "ca.crt"), authority(t, restConfig), 0o600), "writing the CA")
	host, err := url.Parse(restConfig.Host)
	must(t, err, "reading the API server's address")
	client, err := tokenrequest.New(tokenrequest.Config{
		Host: host.Hostname(), Port: host.Port(), CredentialDir: directory, UserAgent: "podtoken-e2e",
		Pod: config.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), ServiceAccount: account},
	})
	must(t, err, "making the sidecar's client")
	defer client.Idle()

	mint := func(audience string, seconds int64) (sidecar.Token, error) {
		return client.Mint(ctx, api.TokenSpec{Name: "vault", Audiences: []string{audience}, ExpirationSeconds: seconds})
	}
	eventually(t, pollShort, "the right to request tokens", func(context.Context) (bool, error) { // RBAC learns of it by a watch
		_, err := mint("vault", 3600)
		return err == nil, err
	})
	_, err = mint(apiAudience, 7200)
	if err == nil || !strings.Contains(err.Error(), "Configuration (HTTP 201): token not used: the API server granted 1h0m7s of the 2h0m0s requested, and then made it valid for 8760h0m0s") ||
		!strings.Contains(err.Error(), "--service-account-max-token-expiration is 1h0m7s") || strings.Contains(err.Error(), "eyJ") {
		t.Errorf("a token of one year: %v", err)
	}
	for what, attempt := range map[string]func() (sidecar.Token, error){
		"a lifetime that is not shortened": func() (sidecar.Token, error) { return mint(apiAudience, 3600) },
		"another audience":                 func() (sidecar.Token, error) { return mint("vault", 7200) },
	} {
		if token, err := attempt(); err != nil || token.Claims.Expires.Sub(token.Claims.IssuedAt) > time.Hour+7*time.Second {
			t.Errorf("%s: %v, %v", what, token.Claims, err)
		}
	}
}

// authority is the PEM of the API server's CA.
func authority(t *testing.T, config *rest.Config) []byte {
	t.Helper()
	if len(config.CAData) > 0 {
		return config.CAData
	}
	pem, err := os.ReadFile(config.CAFile)
	must(t, err, "reading the API server's CA")
	return pem
}
