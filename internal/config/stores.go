package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podtoken/podtoken/pkg/mutate"
)

// Names of the files in the certificate directory: those of a Secret of type kubernetes.io/tls.
const (
	certificateFile = "tls.crt"
	keyFile         = "tls.key"
)

// ErrNoCertificate is what a TLS handshake fails with before the first good certificate was read.
var ErrNoCertificate = errors.New("no serving certificate was read yet")

// NewRules returns the Store of the webhook's configuration file.
func NewRules(path string, registry prometheus.Registerer, logger *slog.Logger) *Store[mutate.Config] {
	return newStore(settings[mutate.Config]{
		noun:   "config",
		paths:  []string{path},
		parse:  func(contents [][]byte) (*mutate.Config, error) { return mutate.ParseConfig(contents[0]) },
		advice: "correct the file (with the Helm chart: the values it is made from)",
		describe: func(rules *mutate.Config) []any {
			return []any{"sidecarImage", rules.Sidecar.Image, "maxExpiration", rules.Tokens.MaxExpiration.Duration.String()}
		},
	}, registry, logger)
}

// Certificate is the Store of the webhook's serving certificate.
type Certificate struct {
	*Store[tls.Certificate]
}

// NewCertificate returns the Store of the certificate and key in a directory.
func NewCertificate(directory string, registry prometheus.Registerer, logger *slog.Logger) *Certificate {
	c := &Certificate{newStore(settings[tls.Certificate]{
		noun:  "certificate",
		paths: []string{filepath.Join(directory, certificateFile), filepath.Join(directory, keyFile)},
		parse: func(contents [][]byte) (*tls.Certificate, error) { return parsePair(contents[0], contents[1]) },
		advice: "the directory must hold tls.crt and tls.key, a certificate and its own key in PEM " +
			"(with cert-manager: see the status of the Certificate)",
		describe: func(pair *tls.Certificate) []any {
			return []any{"serial", pair.Leaf.SerialNumber.Text(16), "notAfter", pair.Leaf.NotAfter}
		},
	}, registry, logger)}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "podtoken_certificate_expiry_timestamp_seconds",
		Help: "Unix time at which the serving certificate in use expires; 0 before the first one was read.",
	}, func() float64 {
		if pair := c.Current(); pair != nil {
			return float64(pair.Leaf.NotAfter.Unix())
		}
		return 0
	}))
	return c
}

// GetCertificate is for tls.Config.
func (c *Certificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if pair := c.Current(); pair != nil {
		return pair, nil
	}
	return nil, ErrNoCertificate
}

// parsePair returns the pair with its Leaf set.
func parsePair(certificate, key []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	if pair.Leaf == nil { // GODEBUG=x509keypairleaf=0
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &pair, nil
}
