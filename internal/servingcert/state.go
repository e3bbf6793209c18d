package servingcert

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Keys of the Secret. The webhook's pods mount the first two and no others.
const (
	keyCertificate    = corev1.TLSCertKey
	keyCertificateKey = corev1.TLSPrivateKeyKey
	keyAuthority      = "ca.crt"
	keyAuthorityKey   = "ca.key"
	keyPrevious       = "previous-ca.crt"
)

// annotationSince is the time of the Secret's last step, from which the delays count. Who wants a rotation to end sooner,
// and knows that all pods and API servers have seen the last step, may set it to an earlier time.
const annotationSince = "podtoken.dev/serving-certificate-since"

// State is what the Secret holds, all in PEM.
type State struct {
	Certificate, CertificateKey []byte
	// Authority signs. Its certificate is trusted, and so are those in Previous.
	Authority, AuthorityKey []byte
	Previous                []byte
	// Since is when the authority was first seen to be trusted, or when it last signed; zero before.
	Since time.Time
}

// stateOf reads a Secret; what is not there, or cannot be read, is empty.
func stateOf(secret *corev1.Secret) State {
	s := State{
		Certificate: secret.Data[keyCertificate], CertificateKey: secret.Data[keyCertificateKey],
		Authority: secret.Data[keyAuthority], AuthorityKey: secret.Data[keyAuthorityKey],
		Previous: secret.Data[keyPrevious],
	}
	s.Since, _ = time.Parse(time.RFC3339, secret.Annotations[annotationSince])
	return s
}

// into writes a state into a Secret. Whatever else is in it stays.
func (s State) into(secret *corev1.Secret) {
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	for key, value := range map[string][]byte{
		keyCertificate: s.Certificate, keyCertificateKey: s.CertificateKey,
		keyAuthority: s.Authority, keyAuthorityKey: s.AuthorityKey, keyPrevious: s.Previous,
	} {
		if len(value) == 0 {
			delete(secret.Data, key) // A mounted key that is empty would replace a good file; one that is missing does not.
		} else {
			secret.Data[key] = value
		}
	}
	if s.Since.IsZero() {
		delete(secret.Annotations, annotationSince)
	} else {
		metav1.SetMetaDataAnnotation(&secret.ObjectMeta, annotationSince, s.Since.UTC().Format(time.RFC3339))
	}
}

// union returns the certificates in PEM texts that have not ended, each once, in their order. What is no certificate is
// left out.
func union(now time.Time, texts ...[]byte) []*x509.Certificate {
	var all []*x509.Certificate
	for _, text := range texts {
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err == nil && now.Before(certificate.NotAfter) && !contains(all, certificate) {
				all = append(all, certificate)
			}
		}
	}
	return all
}

func contains(all []*x509.Certificate, one *x509.Certificate) bool {
	for _, certificate := range all {
		if certificate.Equal(one) {
			return true
		}
	}
	return false
}

func encode(certificates []*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, certificate := range certificates {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: certificate.Raw}))
	}
	return text.Bytes()
}
