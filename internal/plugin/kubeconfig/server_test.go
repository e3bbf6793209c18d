package kubeconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// A kubeconfig by which a token could be read on its way, or that would not be used, is not made.
func TestServerWithoutTrust(t *testing.T) {
	for want, config := range map[string]*rest.Config{
		"does not verify":    {Host: "https://10.0.0.1", TLSClientConfig: rest.TLSClientConfig{Insecure: true}},
		"server without TLS": {Host: "http://localhost:8080"},
		"no such file":       {Host: "https://10.0.0.1", TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(t.TempDir(), "ca.crt")}},
	} {
		if server, err := serverOf(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %q", config.Host, server, err, want)
		}
	}
}

// The file has the CA itself: where it is used there is no file of that path.
func TestServerWithCAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, []byte("the CA"), 0o600); err != nil {
		t.Fatal(err)
	}
	server, err := serverOf(&rest.Config{Host: "https://10.0.0.1", TLSClientConfig: rest.TLSClientConfig{CAFile: path, ServerName: "api"}})
	if err != nil || string(server.CertificateAuthorityData) != "the CA" || server.CertificateAuthority != "" || server.TLSServerName != "api" {
		t.Errorf("got %+v, %v", server, err)
	}
}
