package mutate

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientauthentication "k8s.io/client-go/pkg/apis/clientauthentication/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

var formatValues = func() tokenfile.Values {
	end := time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC)
	claims := jwt.Claims{KeyID: "k", Audiences: []string{"a"}, IssuedAt: end.Add(-time.Hour), Expires: end, Namespace: "shop", ServiceAccountName: "cart", PodName: "cart-1", PodUID: "u"}
	return tokenfile.Values{
		Token: jwttest.Encode(claims), Audiences: claims.Audiences, Expiry: end,
		Pod:     tokenfile.Pod{Name: "cart-1", Namespace: "shop", UID: "u", ServiceAccount: "cart"},
		Cluster: tokenfile.Cluster{Server: "https://10.0.0.1:443", CA: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"},
	}
}()

// texts are the files, by path, that the sidecar makes for the only token of a pod with the annotations, which it gets as JSON.
func texts(t *testing.T, annotations map[string]string) map[string]string {
	t.Helper()
	pod := &Pod{Metadata: Metadata{Annotations: map[string]string{}}, Spec: Spec{Containers: []Container{{Name: "app"}}}}
	for key, value := range annotations {
		pod.Metadata.Annotations["podtoken.dev/"+key] = value
	}
	result := Mutate(Input{Pod: pod, Operation: "CREATE", Config: parsedConfig(t, defaultConfig)})
	if result.Outcome != api.OutcomeInjected {
		t.Fatal(result.Message)
	}
	var token api.TokenSpec
	if err := json.Unmarshal([]byte(config.FormatToken(result.Tokens[0])), &token); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, file := range token.Files {
		text, err := tokenfile.Execute(file.Steps, formatValues)
		if err != nil {
			t.Fatal(err)
		}
		all[file.Path] = text
	}
	return all
}

func TestFormats(t *testing.T) {
	token := formatValues.Token
	for format, want := range map[string]map[string]string{
		"raw":    {},
		"json":   {"a": `{"token":"` + token + `","audiences":["a"],"expiration":"2026-11-26T10:00:00Z"}`},
		"header": {"a": "Authorization: Bearer " + token},
	} {
		if diff := cmp.Diff(want, texts(t, map[string]string{"audience.a": "a", "format.a": format})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", format, diff)
		}
	}
}

func TestExecCredentialIsClientGos(t *testing.T) {
	text := texts(t, map[string]string{"audience.a": "a", "format.a": "exec-credential"})["a"]
	var got clientauthentication.ExecCredential
	if err := yaml.UnmarshalStrict([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := clientauthentication.ExecCredential{
		TypeMeta: metav1.TypeMeta{APIVersion: clientauthentication.SchemeGroupVersion.String(), Kind: "ExecCredential"},
		Status:   &clientauthentication.ExecCredentialStatus{Token: formatValues.Token, ExpirationTimestamp: &metav1.Time{Time: formatValues.Expiry}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestKubeconfigIsClientGos(t *testing.T) {
	data, err := os.ReadFile("testdata/format-kubeconfig-other-cluster.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var example Pod
	if err := yaml.Unmarshal(txtar.Parse(data).Files[0].Data, &example); err != nil {
		t.Fatal(err)
	}
	ca := strings.TrimSpace(example.Metadata.Annotations["podtoken.dev/kubeconfig-ca.other"]) + "\n"
	type want struct{ Host, Token, TokenFile, CA, Namespace string }
	for name, c := range map[string]struct {
		annotations map[string]string
		want        want
	}{
		"the own cluster": {nil, want{Host: "https://10.0.0.1:443", CA: formatValues.Cluster.CA, Namespace: "shop"}},
		"another cluster": {map[string]string{"kubeconfig-server.k": "https://other:6443", "kubeconfig-ca.k": ca}, want{Host: "https://other:6443", CA: ca, Namespace: "default"}},
		"in base64, with line breaks": {map[string]string{"kubeconfig-server.k": "https://other:6443", "kubeconfig-ca.k": base64.StdEncoding.EncodeToString([]byte("# a comment\n"+ca)) + "\n"},
			want{Host: "https://other:6443", CA: ca, Namespace: "default"}},
		"a public authority": {map[string]string{"kubeconfig-server.k": "https://other"}, want{Host: "https://other", Namespace: "default"}},
	} {
		t.Run(name, func(t *testing.T) {
			annotations := map[string]string{"audience.k": "a", "format.k": "kubeconfig", "mount-path": "/etc/tokens"}
			for key, value := range c.annotations {
				annotations[key] = value
			}
			path := filepath.Join(t.TempDir(), "kubeconfig")
			if err := os.WriteFile(path, []byte(texts(t, annotations)["k"]), 0o600); err != nil {
				t.Fatal(err)
			}
			loaded, err := clientcmd.LoadFromFile(path)
			if err != nil {
				t.Fatal(err)
			}
			client := clientcmd.NewDefaultClientConfig(*loaded, nil)
			config, err := client.ClientConfig()
			if err != nil {
				t.Fatal(err)
			}
			namespace, _, err := client.Namespace()
			if err != nil {
				t.Fatal(err)
			}
			c.want.Token, c.want.TokenFile = formatValues.Token, "/etc/tokens/.podtoken-token-k"
			got := want{config.Host, config.BearerToken, config.BearerTokenFile, string(config.CAData), namespace}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFilesOfPresets(t *testing.T) {
	const provider = "projects/1/locations/global/workloadIdentityPools/p/providers/q"
	for name, c := range map[string]struct {
		annotations map[string]string
		want        map[string]string
	}{
		"Google": {
			map[string]string{"gcp-provider.g": provider, "gcp-service-account.g": "a@p.iam.gserviceaccount.com"},
			map[string]string{"g.json": `{
  "type": "external_account",
  "audience": "//iam.googleapis.com/` + provider + `",
  "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
  "token_url": "https://sts.googleapis.com/v1/token",
  "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@p.iam.gserviceaccount.com:generateAccessToken",
  "credential_source": {
    "file": "/var/run/secrets/podtoken.dev/g",
    "format": {
      "type": "text"
    }
  }
}`},
		},
		"Google without a service account, elsewhere": {
			map[string]string{"gcp-provider.g": provider, "gcp-token-url.g": "https://sts.example.com/token", "path.g": "x/y", "mount-path": "/tokens"},
			map[string]string{"x/y.json": `{
  "type": "external_account",
  "audience": "//iam.googleapis.com/` + provider + `",
  "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
  "token_url": "https://sts.example.com/token",
  "credential_source": {
    "file": "/tokens/x/y",
    "format": {
      "type": "text"
    }
  }
}`},
		},
		"Vault": {
			map[string]string{"vault-role.v": "app", "vault-addr.v": "https://v:8200", "vault-namespace.v": "team", "vault-auth-path.v": "auth/k"},
			map[string]string{"v.hcl": `vault {
  address = "https://v:8200"
}

auto_auth {
  method "jwt" {
    mount_path = "auth/k"
    namespace = "team"

    config = {
      path = "/var/run/secrets/podtoken.dev/v"
      role = "app"
      remove_jwt_after_reading = false
    }
  }
}`},
		},
		"AWS": {map[string]string{"aws-role-arn.a": "arn:aws:iam::123456789012:role/a"}, map[string]string{}},
	} {
		if diff := cmp.Diff(c.want, texts(t, c.annotations)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
