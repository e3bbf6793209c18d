// Package fakeapi is an API server for tests and benchmarks: it answers TokenRequests, over TLS and with its own CA, as
// kube-apiserver does. Only tests and benchmarks may import it.
package fakeapi

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
)

// Identity of the ServiceAccount and pod that the server knows.
const (
	Namespace         = "shop"
	ServiceAccount    = "cart"
	ServiceAccountUID = "1f0c5a3e-0000-4000-8000-00000000000a"
	PodName           = "cart-6d5f"
	PodUID            = "9a0b7c1d-0000-4000-8000-00000000000b"
)

// Server is a fake API server. Its methods may be called at any time.
type Server struct {
	Host, Port string
	// CA is its authority as PEM.
	CA []byte

	close func()

	mu          sync.Mutex
	credential  string
	accept      func(credential string) bool
	lifetime    time.Duration
	handler     http.HandlerFunc
	hold        func()
	change      func(*jwt.Claims)
	bodies      []string
	issued      []string
	connections int // all that were ever made
	open        int
}

// Start runs a Server on 127.0.0.1 until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartAt(t, "127.0.0.1")
}

// StartAt runs a Server on another loopback address.
func StartAt(t testing.TB, host string) *Server {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("no listener on %s: %v", host, err)
	}
	s, err := Serve(listener)
	check(t, err)
	t.Cleanup(s.Close)
	return s
}

// Serve runs a Server on the listener until it is closed, for programs that are no tests.
func Serve(listener net.Listener) (*Server, error) {
	s := &Server{lifetime: time.Hour, credential: Credential("first")}
	var certificate tls.Certificate
	var err error
	if s.CA, certificate, err = authority(); err != nil {
		return nil, err
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	_ = server.Listener.Close()
	server.Listener = listener
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch state {
		case http.StateNew:
			s.connections++
			s.open++
		case http.StateClosed:
			s.open--
		}
	}
	server.StartTLS()
	s.close = server.Close
	address := listener.Addr().(*net.TCPAddr)
	s.Host, s.Port = address.IP.String(), strconv.Itoa(address.Port)
	return s, nil
}

// Close ends the Server.
func (s *Server) Close() { s.close() }

// Credential makes an API credential; its name tells it from others.
func Credential(name string) string {
	now := time.Now()
	return jwttest.Encode(jwt.Claims{
		ID: "credential-" + name, Audiences: []string{"https://kubernetes.default.svc"}, IssuedAt: now, Expires: now.Add(10 * time.Minute),
		Namespace: Namespace, ServiceAccountName: ServiceAccount, PodName: PodName, PodUID: PodUID,
	})
}

// SetCredential changes which credential is accepted.
func (s *Server) SetCredential(credential string) { s.locked(func() { s.credential = credential }) }

// Accept lets a function decide which credentials are accepted, instead of SetCredential; nil for that again.
func (s *Server) Accept(accept func(credential string) bool) { s.locked(func() { s.accept = accept }) }

// SetLifetime changes what is granted, whatever is asked.
func (s *Server) SetLifetime(lifetime time.Duration) { s.locked(func() { s.lifetime = lifetime }) }

// SetClaims changes the tokens that are granted.
func (s *Server) SetClaims(change func(*jwt.Claims)) { s.locked(func() { s.change = change }) }

// Handle lets handler answer authenticated requests; nil grants tokens again.
func (s *Server) Handle(handler http.HandlerFunc) { s.locked(func() { s.handler = handler }) }

// Requests is how many requests came.
func (s *Server) Requests() (n int) { s.locked(func() { n = len(s.bodies) }); return n }

// Bodies are the requests that came.
func (s *Server) Bodies() (bodies []string) {
	s.locked(func() { bodies = slices.Clone(s.bodies) })
	return bodies
}

// Connections is how many connections were opened.
func (s *Server) Connections() (n int) { s.locked(func() { n = s.connections }); return n }

// Open is how many connections there are now.
func (s *Server) Open() (n int) { s.locked(func() { n = s.open }); return n }

// Issued are all tokens that were granted.
func (s *Server) Issued() (issued []string) {
	s.locked(func() { issued = slices.Clone(s.issued) })
	return issued
}

func (s *Server) locked(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// CredentialDir makes a directory like the projected volume: token and ca.crt behind a symbolic link.
func (s *Server) CredentialDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	s.WriteCredential(t, dir, s.credential)
	return dir
}

// WriteCredential replaces the files in dir as the kubelet does.
func (s *Server) WriteCredential(t testing.TB, dir, credential string) {
	t.Helper()
	check(t, s.PutCredential(dir, credential))
}

// PutCredential is WriteCredential for programs that are no tests.
func (s *Server) PutCredential(dir, credential string) error {
	data, err := os.MkdirTemp(dir, "..data-")
	if err != nil {
		return err
	}
	next := filepath.Join(dir, "..data_tmp")
	if err := errors.Join(
		os.WriteFile(filepath.Join(data, "token"), []byte(credential), 0o600),
		os.WriteFile(filepath.Join(data, "ca.crt"), s.CA, 0o600),
		os.Symlink(filepath.Base(data), next),
		os.Rename(next, filepath.Join(dir, "..data")),
	); err != nil {
		return err
	}
	for _, name := range []string{"token", "ca.crt"} {
		_ = os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)) // there already, the second time
	}
	return nil
}

// Refuse answers with a Status, as kube-apiserver does.
func Refuse(code int, reason, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{}, "status": "Failure",
			"message": message, "reason": reason, "code": code,
		})
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.bodies = append(s.bodies, string(body))
	credential, accept, handler, hold := s.credential, s.accept, s.handler, s.hold
	s.mu.Unlock()
	if hold != nil {
		hold()
	}
	if accept == nil {
		accept = func(given string) bool { return given == credential }
	}
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/api/v1/namespaces/"+Namespace+"/serviceaccounts/"+ServiceAccount+"/token":
		Refuse(http.StatusNotFound, "NotFound", "the server could not find the requested resource")(w, r)
	case !accept(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")):
		Refuse(http.StatusUnauthorized, "Unauthorized", "Unauthorized")(w, r)
	case handler != nil:
		r.Body = io.NopCloser(bytes.NewReader(body))
		handler(w, r)
	default:
		s.grant(w, r, body)
	}
}

// Hold has the function called before each answer; nil for none.
func (s *Server) Hold(hold func()) { s.locked(func() { s.hold = hold }) }

// Grant answers as the server does without Handle.
func (s *Server) Grant(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.grant(w, r, body)
}

func (s *Server) grant(w http.ResponseWriter, r *http.Request, body []byte) {
	var request map[string]any
	var typed struct {
		Spec struct {
			Audiences      []string `json:"audiences"`
			BoundObjectRef struct {
				Kind, APIVersion, Name, UID string
			} `json:"boundObjectRef"`
		} `json:"spec"`
	}
	if json.Unmarshal(body, &request) != nil || json.Unmarshal(body, &typed) != nil {
		Refuse(http.StatusBadRequest, "BadRequest", "the request cannot be decoded")(w, r)
		return
	}
	if ref := typed.Spec.BoundObjectRef; ref.Kind != "Pod" || ref.APIVersion != "v1" || ref.Name != PodName || ref.UID != PodUID {
		Refuse(http.StatusConflict, "Conflict", "the UID in the bound object reference does not match")(w, r)
		return
	}
	s.mu.Lock()
	now := time.Now()
	claims := jwt.Claims{
		KeyID: "key-1", ID: rand.Text(), Audiences: typed.Spec.Audiences, IssuedAt: now, Expires: now.Add(s.lifetime),
		Namespace: Namespace, ServiceAccountName: ServiceAccount, ServiceAccountUID: ServiceAccountUID, PodName: PodName, PodUID: PodUID,
	}
	if s.change != nil {
		s.change(&claims)
	}
	token := jwttest.Encode(claims)
	s.issued = append(s.issued, token)
	end := now.Add(s.lifetime).UTC().Truncate(time.Second)
	s.mu.Unlock()
	request["status"] = map[string]any{"token": token, "expirationTimestamp": end.Format(time.RFC3339)}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(request)
}

// authority makes a CA and a serving certificate of it, both ECDSA P-256.
func authority() (caPEM []byte, serving tls.Certificate, err error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, serving, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fake CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, serving, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, serving, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, DNSNames: []string{"localhost"},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return nil, serving, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}, nil
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
