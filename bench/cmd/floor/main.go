// Command floor is the least that can keep tokens fresh with Go's standard library: a loop around net/http that knows
// nothing of failures, restarts or rotated keys. Nothing that does the job in Go takes much less; what podtoken's sidecar
// takes more is the price of what it promises. It understands the sidecar's flags, and is for measurements only.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type spec struct {
	Audiences         []string `json:"audiences"`
	ExpirationSeconds int64    `json:"expirationSeconds"`
	Path              string   `json:"path"`
}

func main() {
	fmt.Fprintln(os.Stderr, run(os.Args[2:])) // after "run"; it ends with an error only
	os.Exit(1)
}

func run(args []string) error {
	flags := flag.NewFlagSet("floor", flag.ContinueOnError)
	dir, apiDir := flags.String("dir", "", ""), flags.String("api-dir", "", "")
	_ = flags.String("termination-log", "", "")
	var specs []spec
	flags.Func("token", "", func(value string) error {
		var one spec
		err := json.Unmarshal([]byte(value), &one)
		specs = append(specs, one)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	authority, err := os.ReadFile(filepath.Join(*apiDir, "ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGHUP)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	for {
		var life time.Duration
		for _, one := range specs {
			if life, err = mint(transport, one, *dir, *apiDir); err != nil {
				return err
			}
		}
		transport.CloseIdleConnections()
		select {
		case <-asked:
		case <-time.After(life * 4 / 5):
		}
	}
}

func mint(transport *http.Transport, s spec, dir, apiDir string) (life time.Duration, err error) {
	credential, err := os.ReadFile(filepath.Join(apiDir, "token")) //nolint:gosec // a flag
	if err != nil {
		return 0, err
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{
			"audiences": s.Audiences, "expirationSeconds": s.ExpirationSeconds,
			"boundObjectRef": map[string]string{"apiVersion": "v1", "kind": "Pod", "name": os.Getenv("PODTOKEN_POD_NAME"), "uid": os.Getenv("PODTOKEN_POD_UID")},
		},
	})
	if err != nil {
		return 0, err
	}
	url := fmt.Sprintf("https://%s/api/v1/namespaces/%s/serviceaccounts/%s/token",
		net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")), os.Getenv("PODTOKEN_POD_NAMESPACE"), os.Getenv("PODTOKEN_SERVICE_ACCOUNT"))
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body)) //nolint:noctx,gosec // it ends with the process, and the environment says where the API server is
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(credential)))
	request.Header.Set("Content-Type", "application/json")
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	var granted struct {
		Status struct {
			Token               string    `json:"token"`
			ExpirationTimestamp time.Time `json:"expirationTimestamp"`
		} `json:"status"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&granted); err != nil {
		return 0, err
	}
	name := filepath.Join(dir, s.Path)
	if err := os.WriteFile(name+".new", []byte(granted.Status.Token), 0o444); err != nil { //nolint:gosec // the mode of a token that any user of the pod reads
		return 0, err
	}
	return time.Until(granted.Status.ExpirationTimestamp), os.Rename(name+".new", name)
}
