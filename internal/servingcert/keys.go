package servingcert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	blockCertificate = "CERTIFICATE"
	blockKey         = "PRIVATE KEY"
)

// Lifetimes, and how long before the end something is replaced. A CA has more time left than any certificate of it, so a
// certificate never ends earlier than it says.
const (
	authorityLifetime   = 10 * 365 * 24 * time.Hour
	authorityRenewal    = 365 * 24 * time.Hour
	certificateLifetime = 90 * 24 * time.Hour
	certificateRenewal  = 30 * 24 * time.Hour
	// backdate is for API servers whose clock is behind ours.
	backdate = time.Hour
)

// authority is a CA that can sign.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// parseAuthority returns the CA, or what is wrong with it.
func parseAuthority(certificate, key []byte, now time.Time) (*authority, error) {
	pair, err := parsePair(certificate, key, now)
	if err != nil {
		return nil, err
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	switch {
	case !ok || !pair.Leaf.IsCA:
		return nil, errors.New("it is not a CA")
	case !now.Before(pair.Leaf.NotAfter.Add(-authorityRenewal)):
		return nil, fmt.Errorf("it ends at %s", pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return &authority{pair.Leaf, signer}, nil
}

// parseCertificate returns the serving certificate, or what is wrong with it.
func parseCertificate(certificate, key []byte, dnsName string, now time.Time) (*x509.Certificate, error) {
	pair, err := parsePair(certificate, key, now)
	if err != nil {
		return nil, err
	}
	if err := pair.Leaf.VerifyHostname(dnsName); err != nil {
		return nil, err
	}
	if !now.Before(pair.Leaf.NotAfter.Add(-certificateRenewal)) {
		return nil, fmt.Errorf("it ends at %s", pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return pair.Leaf, nil
}

func parsePair(certificate, key []byte, now time.Time) (*tls.Certificate, error) {
	if len(certificate) == 0 || len(key) == 0 {
		return nil, errors.New("there is none, or its key is missing")
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, errors.New("certificate and key are not a pair in PEM") // The cause may quote what it could not parse.
	}
	if pair.Leaf == nil { // GODEBUG=x509keypairleaf=0
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, errors.New("the certificate cannot be parsed")
		}
	}
	if now.Before(pair.Leaf.NotBefore) {
		return nil, fmt.Errorf("it begins only at %s", pair.Leaf.NotBefore.Format(time.RFC3339))
	}
	return &pair, nil
}

// newAuthority makes a CA that signs itself.
func newAuthority(now time.Time) (certificate, key []byte, err error) {
	template := &x509.Certificate{
		// The time tells CAs apart for people; programs compare keys.
		Subject:               pkix.Name{CommonName: "podtoken webhook CA " + now.UTC().Format("2006-01-02")},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	return issue(template, nil)
}

// sign makes a serving certificate.
func (a *authority) sign(dnsName string, now time.Time) (certificate, key []byte, err error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "podtoken webhook"}, // A name of a Service can be longer than the 64 letters that fit here.
		DNSNames:    []string{dnsName},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(certificateLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	return issue(template, a)
}

// issue makes a P-256 key, of which a handshake costs a third of RSA's, and its certificate; by nil it signs itself.
func issue(template *x509.Certificate, by *authority) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, fmt.Errorf("making a serial number: %w", err)
	}
	parent, signer := template, crypto.Signer(private)
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("signing a certificate: %w", err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: encoded}), nil
}
