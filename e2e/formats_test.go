package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientauthentication "k8s.io/client-go/pkg/apis/clientauthentication/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/podtoken/podtoken/pkg/api"
)

// formattedToken reads the token out of a file in one of the formats.
type formattedToken func(t *testing.T, content string) (token string, expiry time.Time)

var formats = map[string]formattedToken{
	"json": func(t *testing.T, content string) (string, time.Time) {
		var document struct {
			Token      string
			Audiences  []string
			Expiration time.Time
		}
		must(t, json.Unmarshal([]byte(content), &document), "decoding the JSON")
		if len(document.Audiences) != 1 || document.Audiences[0] != "of-json" {
			t.Errorf("the JSON has the audiences %q", document.Audiences)
		}
		return document.Token, document.Expiration
	},
	"header": func(t *testing.T, content string) (string, time.Time) {
		token, ok := strings.CutPrefix(content, "Authorization: Bearer ")
		if !ok {
			t.Errorf("the header begins with %.20q", content)
		}
		return token, time.Time{}
	},
	"exec-credential": func(t *testing.T, content string) (string, time.Time) {
		var credential clientauthentication.ExecCredential
		must(t, json.Unmarshal([]byte(content), &credential), "decoding the ExecCredential")
		if credential.APIVersion != "client.authentication.k8s.io/v1" || credential.Kind != "ExecCredential" {
			t.Errorf("the ExecCredential is a %s of %s", credential.Kind, credential.APIVersion)
		}
		return credential.Status.Token, credential.Status.ExpirationTimestamp.Time
	},
	"template": func(t *testing.T, content string) (string, time.Time) {
		var token string
		var expires int64
		_, err := fmt.Sscanf(content, "token=%s\nexpires=%d\n", &token, &expires)
		must(t, err, "reading what the template made")
		return token, time.Unix(expires, 0)
	},
}

// Every format holds the present token, through a refresh and a restart of the sidecar, which asks for nothing. A second token
// of the pod, in the plain format, goes along.
func TestFormats(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec()
	spec.ShareProcessNamespace = ptr(true) // for restartSidecar
	a := annotations("audience.plain", "plain", "template.template", "token={{.token}}\nexpires={{unix .expiry}}\nfor={{.pod.name}}\n", "metrics-port", metricsPort)
	for format := range formats {
		a["podtoken.dev/audience."+format] = "of-" + format
		if format != "template" {
			a["podtoken.dev/format."+format] = format
		}
	}
	n.create("pod", a, spec)
	pod := n.ready("pod")
	read := func() map[string]string {
		t.Helper()
		tokens := map[string]string{"plain": n.token("pod", "app", api.DefaultMountPath+"/plain")}
		for format, parse := range formats {
			content := n.file("pod", format)
			token, expiry := parse(t, content)
			tokens[format] = token
			assertReview(t, token, "of-"+format, pod)
			if end := claimsOf(t, token).Expires; !expiry.IsZero() && expiry.Unix() != end {
				t.Errorf("%s: the expiry is %s, the token's %s", format, expiry, time.Unix(end, 0))
			}
			if hidden := n.file("pod", ".podtoken-token-"+format); hidden != token {
				t.Errorf("%s: the hidden file has another token", format)
			}
			stat, err := n.exec("pod", "app", probePath, "stat", api.DefaultMountPath+"/"+format, api.DefaultMountPath+"/.podtoken-token-"+format)
			must(t, err, "looking at the files")
			if strings.Count(stat, `"mode":"0400"`) != 2 {
				t.Errorf("%s: the files are %s", format, stat)
			}
		}
		return tokens
	}
	first := read()
	if content := n.file("pod", "template"); !strings.HasSuffix(content, "\nfor=pod\n") {
		t.Errorf("the template made a file that does not end with the pod's name")
	}
	n.refresh("pod")
	second := read()
	for name := range first {
		if first[name] == second[name] {
			t.Errorf("the token %q was not replaced", name)
		}
	}

	n.restartSidecar("pod")
	eventually(t, pollShort, "the restarted sidecar has kept all tokens", func(context.Context) (bool, error) {
		return len(n.said("pod", "Token kept")) == len(first), nil
	})
	for name, token := range read() {
		if token != second[name] {
			t.Errorf("the token %q was replaced by a restart", name)
		}
	}
	// What an application could do to a file is undone, for these as for others.
	report, err := n.exec("pod", api.ContainerName, api.SidecarBinary, api.CommandCheck)
	must(t, err, "running check in the sidecar")
	if strings.Count(report, " is fresh until ") != len(first) || !strings.Contains(report, "(file json, ") || strings.Contains(report, "eyJ") {
		t.Errorf("check printed:\n%s", report)
	}
	if log := n.logs("pod", api.ContainerName); strings.Contains(log, "eyJ") {
		t.Error("the sidecar's log contains the beginning of a JWT")
	}
}

// file reads a file below the mount directory, in the application's container.
func (n *testNamespace) file(pod, path string) string {
	n.t.Helper()
	content, err := n.exec(pod, "app", probePath, "cat", api.DefaultMountPath+"/"+path)
	must(n.t, err, "reading %s", path)
	return content
}

// A kubeconfig of the own cluster is one with which client-go calls the real API server as the pod's ServiceAccount, before
// and after a refresh; the file that it reads again holds the same token.
func TestKubeconfig(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience.k8s", "https://kubernetes.default.svc", "format.k8s", "kubeconfig", "env.k8s", "KUBECONFIG"), podSpec())
	pod := n.ready("pod")
	env, err := n.exec("pod", "app", probePath, "env")
	must(t, err, "reading the environment")
	variable := func(name string) string {
		_, rest, _ := strings.Cut("\n"+env, "\n"+name+"=")
		value, _, _ := strings.Cut(rest, "\n")
		return value
	}
	if got := variable("KUBECONFIG"); got != api.DefaultMountPath+"/k8s" {
		t.Errorf("KUBECONFIG is %q", got)
	}
	whoAmI := func() string {
		t.Helper()
		loaded, err := clientcmd.Load([]byte(n.file("pod", "k8s")))
		must(t, err, "loading the kubeconfig")
		client := clientcmd.NewDefaultClientConfig(*loaded, nil)
		config, err := client.ClientConfig()
		must(t, err, "reading the kubeconfig")
		if want := "https://" + variable("KUBERNETES_SERVICE_HOST") + ":" + variable("KUBERNETES_SERVICE_PORT"); config.Host != want {
			t.Errorf("the server is %q, want %q", config.Host, want)
		}
		if namespace, _, _ := client.Namespace(); namespace != n.name {
			t.Errorf("the namespace is %q, want %q", namespace, n.name)
		}
		if again := n.token("pod", "app", config.BearerTokenFile); again != config.BearerToken {
			t.Error("tokenFile holds another token")
		}
		// The cluster's addresses are in a network namespace: the API server is called the tests' way, with what is in the file.
		reachable := rest.AnonymousClientConfig(n.restConfig)
		reachable.BearerToken, reachable.CAData, reachable.CAFile = config.BearerToken, config.CAData, ""
		as, err := kubernetes.NewForConfig(reachable)
		must(t, err, "building a client")
		self, err := as.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		must(t, err, "asking the API server who we are")
		if got := self.Status.UserInfo; got.Username != "system:serviceaccount:"+n.name+":"+serviceAccount || got.Extra["authentication.kubernetes.io/pod-uid"][0] != string(pod.UID) {
			t.Errorf("the API server knows us as %+v", got)
		}
		return config.BearerToken
	}
	before := whoAmI()
	n.refresh("pod")
	if whoAmI() == before {
		t.Error("the kubeconfig has the old token")
	}
}

// The presets set what the SDKs read, in every container, and leave alone what is there; their files lead to the token, before
// and after a refresh.
func TestPresets(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	const provider = "projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster"
	spec := podSpec()
	spec.Containers[0].Env = []corev1.EnvVar{{Name: "AWS_DEFAULT_REGION", Value: "us-east-1"}, {Name: "AWS_ENDPOINT_URL_STS", Value: "https://sts.example.com"}}
	n.create("pod", annotations("aws-role-arn.aws", "arn:aws:iam::123456789012:role/app", "aws-region.aws", "eu-central-1",
		"azure-client-id.azure", "00000000-1111-2222-3333-444444444444", "azure-tenant-id.azure", "contoso.example.com",
		"gcp-provider.gcp", provider, "vault-role.vault", "app", "vault-addr.vault", "https://vault.example.com"), spec)
	pod := n.ready("pod")
	env, err := n.exec("pod", "app", probePath, "env")
	must(t, err, "reading the environment")
	for _, want := range []string{
		"AWS_ROLE_ARN=arn:aws:iam::123456789012:role/app", "AWS_WEB_IDENTITY_TOKEN_FILE=/var/run/secrets/podtoken.dev/aws", "AWS_DEFAULT_REGION=us-east-1",
		"AWS_ENDPOINT_URL_STS=https://sts.example.com", "AWS_STS_REGIONAL_ENDPOINTS=regional",
		"AZURE_CLIENT_ID=00000000-1111-2222-3333-444444444444", "AZURE_TENANT_ID=contoso.example.com", "AZURE_FEDERATED_TOKEN_FILE=/var/run/secrets/podtoken.dev/azure",
		"AZURE_AUTHORITY_HOST=https://login.microsoftonline.com/", "GOOGLE_APPLICATION_CREDENTIALS=/var/run/secrets/podtoken.dev/gcp.json",
		"VAULT_ADDR=https://vault.example.com", "VAULT_ROLE=app", "VAULT_TOKEN_FILE=/var/run/secrets/podtoken.dev/vault",
	} {
		if !strings.Contains("\n"+env, "\n"+want+"\n") {
			t.Errorf("the application's environment lacks %s", want)
		}
	}
	if strings.Contains(env, "AWS_REGION=") {
		t.Error("the region is not the container's own")
	}
	for range 2 {
		for token, audience := range map[string]string{
			"aws": "sts.amazonaws.com", "azure": "api://AzureADTokenExchange", "gcp": "https://iam.googleapis.com/" + provider, "vault": "vault",
		} {
			assertReview(t, n.token("pod", "app", api.DefaultMountPath+"/"+token), audience, pod)
		}
		var credentials struct {
			Type             string
			Audience         string
			CredentialSource struct{ File string } `json:"credential_source"`
		}
		must(t, json.Unmarshal([]byte(n.file("pod", "gcp.json")), &credentials), "decoding the credential configuration")
		if credentials.Type != "external_account" || credentials.Audience != "//iam.googleapis.com/"+provider || credentials.CredentialSource.File != api.DefaultMountPath+"/gcp" {
			t.Errorf("the credential configuration is %+v", credentials)
		}
		if agent := n.file("pod", "vault.hcl"); !strings.Contains(agent, `path = "/var/run/secrets/podtoken.dev/vault"`) || !strings.Contains(agent, `role = "app"`) {
			t.Errorf("the agent's configuration is %s", agent)
		}
		n.refresh("pod")
	}
}

// Profiles of the installation apply as if the pod had written them, but for what the pod says itself.
func TestProfiles(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("profile", "team-vault, slow", "vault-role.vault", "mine", "audience.other", "other"), podSpec())
	n.ready("pod")
	for token, want := range map[string]int64{"vault": 900, "other": 7200} {
		claims := claimsOf(t, n.token("pod", "app", api.DefaultMountPath+"/"+token))
		if life := claims.Expires - claims.IssuedAt; life != want {
			t.Errorf("the token %q lives %d s, want %d", token, life, want)
		}
	}
	env, err := n.exec("pod", "app", probePath, "env")
	must(t, err, "reading the environment")
	for _, want := range []string{"VAULT_ADDR=https://vault.example.com\n", "VAULT_ROLE=mine\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("the application's environment lacks %s", want)
		}
	}
	if _, err := n.tryCreate("typo", annotations("profile", "team-vualt"), podSpec()); err == nil ||
		!strings.Contains(denial(t, err), `names "team-vualt", which is not a profile of this installation: it has "cloud", "slow", "team-vault"`) {
		t.Errorf("a profile that there is not: %v", err)
	}
}
