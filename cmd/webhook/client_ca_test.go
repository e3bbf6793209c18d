package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// authority signs client certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := &authority{key: key}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

// client returns a certificate for a client, or for what usage says.
func (a *authority) client(t *testing.T, usage x509.ExtKeyUsage, notAfter time.Time) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// reviewAs posts a review with a client certificate, which may be nil.
func (p *process) reviewAs(certificate *tls.Certificate) error {
	config := &tls.Config{InsecureSkipVerify: true}
	// Sent whatever authorities the server names.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if certificate == nil {
			return &tls.Certificate{}, nil
		}
		return certificate, nil
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}
	response, err := (&http.Client{Transport: transport}).Post("https://"+p.webhook+"/mutate?timeout=5s", "application/json", strings.NewReader(review))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || !bytes.Contains(text, []byte(`"patch":`)) {
		return fmt.Errorf("%s: %s: %w", response.Status, text, err)
	}
	return nil
}

// With a CA of client certificates only their owners are answered, the probes go on, and a new CA is taken into use.
func TestClientCertificates(t *testing.T) {
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	p, args := prepare(t)
	p.write(t, "client-ca.crt", first.pem)
	p.start(t, append(args, "--client-ca-file="+filepath.Join(p.dir, "client-ca.crt")))
	eventually(t, "ready", p.ready)
	hour := time.Now().Add(time.Hour)
	mine := first.client(t, x509.ExtKeyUsageClientAuth, hour)
	if err := p.reviewAs(mine); err != nil {
		t.Errorf("with a certificate of the CA: %v", err)
	}
	for name, certificate := range map[string]*tls.Certificate{
		"no certificate":                 nil,
		"one of another CA":              second.client(t, x509.ExtKeyUsageClientAuth, hour),
		"one that is for a server":       first.client(t, x509.ExtKeyUsageServerAuth, hour),
		"one that has expired":           first.client(t, x509.ExtKeyUsageClientAuth, time.Now().Add(-time.Minute)),
		"the webhook's own, self-signed": ownCertificate(t, p),
	} {
		if err := p.reviewAs(certificate); err == nil {
			t.Errorf("%s: answered", name)
		}
	}
	eventually(t, "the failed handshakes are logged", func() error {
		if !regexp.MustCompile(`"TLS handshake failed","remoteAddress":"127.0.0.1:[0-9]+","error":"tls: client didn't provide a certificate"`).MatchString(p.log.String()) {
			return errors.New("they are not")
		}
		return nil
	})

	p.write(t, "client-ca.crt", second.pem)
	theirs := second.client(t, x509.ExtKeyUsageClientAuth, hour)
	eventually(t, "the second CA", func() error { return p.reviewAs(theirs) })
	if err := p.reviewAs(mine); err == nil {
		t.Error("a certificate of the first CA is still taken")
	}
	p.write(t, "client-ca.crt", first.pem+second.pem)
	eventually(t, "both", func() error { return errors.Join(p.reviewAs(mine), p.reviewAs(theirs)) })
	p.write(t, "client-ca.crt", "no certificate")
	eventually(t, "the bad file is counted", func() error { return p.hasMetric("podtoken_client_ca_last_reload_successful 0") })
	if err := errors.Join(p.reviewAs(mine), p.ready()); err != nil {
		t.Errorf("with a bad file: %v", err)
	}
}

// The probes' handshakes with ourselves fail, which is nothing to log.
func TestProbesAreNotLogged(t *testing.T) {
	p, args := prepare(t)
	p.write(t, "client-ca.crt", newAuthority(t, "first").pem)
	p.start(t, append(args, "--client-ca-file="+filepath.Join(p.dir, "client-ca.crt")))
	eventually(t, "ready", p.ready)
	for range 20 {
		if err := p.ready(); err != nil {
			t.Fatal(err)
		}
	}
	_ = p.reviewAs(nil)
	eventually(t, "the other handshake is logged", func() error {
		if !strings.Contains(p.log.String(), "TLS handshake failed") {
			return errors.New("it is not")
		}
		return nil
	})
	if n := strings.Count(p.log.String(), "TLS handshake failed"); n != 1 {
		t.Errorf("%d failed handshakes in the log, want one", n)
	}
}

func ownCertificate(t *testing.T, p *process) *tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(p.dir, "tls.crt"), filepath.Join(p.dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}
