package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"testing"
)

func TestIssuedCertificatesServeBothSides(t *testing.T) {
	authority, err := NewAuthority("test-ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(Identity{
		User:      "system:node:node1",
		Groups:    []string{"system:nodes"},
		Names:     []string{"node1"},
		Addresses: []net.IP{net.IPv4(198, 18, 0, 10)},
	})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM)
	leaf := loaded.Leaf
	for _, name := range []string{"node1", "198.18.0.10"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("as a server called %s: %v", name, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("as a client: %v", err)
	}
	if leaf.Subject.CommonName != "system:node:node1" || len(leaf.Subject.Organization) != 1 || leaf.Subject.Organization[0] != "system:nodes" {
		t.Errorf("subject is %v", leaf.Subject)
	}
	if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key is a %T, want ECDSA P-256", leaf.PublicKey)
	}
}

func TestClientCertificateIsNoServer(t *testing.T) {
	authority, err := NewAuthority("test-ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(Identity{User: "admin", Groups: []string{"system:masters"}})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM)
	if _, err := loaded.Leaf.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
		t.Error("a client's certificate is accepted from a server")
	}
}

func TestAnotherAuthorityIsNotTrusted(t *testing.T) {
	trusted, err := NewAuthority("test-ca")
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewAuthority("test-ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := other.Issue(Identity{User: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted.PEM)
	if _, err := loaded.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("a certificate of another authority with the same name is accepted")
	}
}

func TestSigningKeyIsRSA(t *testing.T) {
	private, public, err := NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	privateBlock, _ := pem.Decode(private)
	parsed, err := x509.ParsePKCS8PrivateKey(privateBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() != 2048 {
		t.Fatalf("private key is a %T, want RSA with 2048 bits", parsed)
	}
	publicBlock, _ := pem.Decode(public)
	half, err := x509.ParsePKIXPublicKey(publicBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(half) {
		t.Error("the public half is another key's")
	}
}
