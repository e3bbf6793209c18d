package kubeconfig

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
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

// Where the context's server is reached through a proxy, so is the file's. Those of the environment stay there.
func TestServerBehindAProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://elsewhere:3128")
	for _, want := range []string{"", "http://proxy:3128", "socks5://user@proxy:1080"} {
		context := file(&clientcmdapi.Cluster{Server: "https://10.0.0.1", ProxyURL: want}, "default", "deployer", "")
		config, err := clientcmd.NewDefaultClientConfig(*context, nil).ClientConfig()
		if err != nil {
			t.Fatal(err)
		}
		if server, err := serverOf(config); err != nil || server.ProxyURL != want {
			t.Errorf("got %+v, %v, want the proxy %q", server, err, want)
		}
	}
}

// A disk that is full leaves nothing that looks like a kubeconfig.
func TestNoPartOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	err := writeNew(path, []byte("apiVersion: v1"))
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Errorf("got %v, want %v", err, syscall.EFBIG)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file is left: %v", err)
	}
	if err := writeNew(path, []byte("apiVersion: v1")); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}
