package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/keyutil"
)

// That a client of TestClients authenticates proves something only if the services refuse everything else: other audiences and
// ServiceAccounts, tokens that have ended, signatures of others, other issuers.
func TestServicesOfTheClientsRefuse(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.account("stranger")
	image, address := n.startServices()
	n.create("curl", nil, clientSpec(image, clientRow{command: []string{"sleep", "1000"}}))
	n.ready("curl")

	form := func(keysAndValues ...string) func(string) []string {
		return func(token string) []string {
			values := url.Values{}
			for i := 0; i < len(keysAndValues); i += 2 {
				values.Set(keysAndValues[i], keysAndValues[i+1])
			}
			return []string{"--data", strings.ReplaceAll(values.Encode(), "TOKEN", token)}
		}
	}
	services := map[string]struct {
		path, audience string
		arguments      func(token string) []string
	}{
		"aws": {"/aws", "sts.amazonaws.com",
			form("Action", "AssumeRoleWithWebIdentity", "RoleArn", awsRole, "RoleSessionName", "s", "WebIdentityToken", "TOKEN")},
		"azure": {"/" + azureTenant + "/oauth2/v2.0/token", "api://AzureADTokenExchange",
			form("grant_type", "client_credentials", "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
				"client_id", azureClient, "client_assertion", "TOKEN")},
		"google": {"/google/v1/token", "https://iam.googleapis.com/" + googleProvider,
			form("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token_type", "urn:ietf:params:oauth:token-type:jwt",
				"audience", "//iam.googleapis.com/"+googleProvider, "subject_token", "TOKEN")},
		"vault": {"/v1/auth/jwt/login", "vault", func(token string) []string {
			return []string{"--data", `{"role":"` + vaultRole + `","jwt":"` + token + `"}`}
		}},
		"plain": {"/invoices", "https://billing.example.com", func(token string) []string {
			return []string{"--header", "Authorization: Bearer " + token}
		}},
	}
	for name, service := range services {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := n.in(t)
			ask := func(what, token string, accepted bool) {
				t.Helper()
				arguments := append([]string{"curl", "--silent", "--show-error", "--write-out", "\n%{http_code}"}, service.arguments(token)...)
				out, err := n.exec("curl", "app", append(arguments, address+service.path)...)
				must(t, err, "asking the service")
				if strings.HasSuffix(out, "\n200") != accepted {
					t.Errorf("%s: accepted is not %v: %s", what, accepted, out)
				}
			}
			good := n.mintFor(serviceAccount, service.audience)
			ask("the right token", good, true)
			ask("another audience", n.mintFor(serviceAccount, "https://other.example.com"), false)
			ask("another ServiceAccount", n.mintFor("stranger", service.audience), false)

			foreign, err := rsa.GenerateKey(rand.Reader, 2048)
			must(t, err, "making a key")
			ask("a foreign signature", resigned(t, good, foreign, nil), false)
			if !n.cluster.Owned() {
				return // only our own API server lends its key
			}
			file, err := os.ReadFile(n.cluster.Path("pki", "sa.key"))
			must(t, err, "reading the cluster's key")
			parsed, err := keyutil.ParsePrivateKeyPEM(file)
			must(t, err, "reading the cluster's key")
			key := parsed.(*rsa.PrivateKey)
			ended := time.Now().Add(-10 * time.Minute) // Vault lets a minute pass, for clocks that differ
			begun := ended.Add(-10 * time.Minute).Unix()
			ask("the same, signed again", resigned(t, good, key, nil), true)
			ask("one that has ended", resigned(t, good, key, map[string]any{"exp": ended.Unix(), "iat": begun, "nbf": begun}), false)
			ask("another issuer", resigned(t, good, key, map[string]any{"iss": "https://other.example.com"}), false)
		})
	}
}

// mintFor asks for a token as an administrator.
func (n *testNamespace) mintFor(account, audience string) string {
	n.t.Helper()
	answer, err := n.client.CoreV1().ServiceAccounts(n.name).CreateToken(n.t.Context(), account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: ptr(int64(600))}}, metav1.CreateOptions{})
	must(n.t, err, "minting a token")
	return answer.Status.Token
}

// resigned is the token with other claims and the signature of that key, of which the header says what the old one's said.
func resigned(t *testing.T, token string, key *rsa.PrivateKey, changes map[string]any) string {
	t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(t, err, "decoding the claims")
	var claims map[string]any
	must(t, json.Unmarshal(payload, &claims), "decoding the claims")
	maps.Copy(claims, changes)
	payload, err = json.Marshal(claims)
	must(t, err, "encoding the claims")
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	must(t, err, "signing")
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}
