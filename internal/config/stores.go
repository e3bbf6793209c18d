package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/mutate"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

// Names of the files in the certificate directory: those of a Secret of type kubernetes.io/tls.
const (
	certificateFile = "tls.crt"
	keyFile         = "tls.key"
)

// ErrNoClientCA is what a TLS handshake fails with before the first good CA was read.
var ErrNoClientCA = errors.New("no CA of client certificates was read yet")

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
			return []any{"sidecarImage", rules.Sidecar.Image, "maxExpiration", rules.Tokens.MaxExpiration.Duration.String(),
				"profiles", slices.Sorted(maps.Keys(rules.Profiles))}
		},
	}, registry, logger)
}

// NewPolicy returns the Store of the installation's policy file.
func NewPolicy(path string, registry prometheus.Registerer, logger *slog.Logger) *Store[policy.Policy] {
	return newStore(settings[policy.Policy]{
		noun:     "policy",
		paths:    []string{path},
		parse:    func(contents [][]byte) (*policy.Policy, error) { return policy.Parse(contents[0]) },
		advice:   "correct the file (with the Helm chart: policy and tokens in its values)",
		describe: func(p *policy.Policy) []any { return []any{"rules", p.Rules()} },
	}, registry, logger)
}

// Identity is the Store of what our own token says about the API server. Who issues tokens names in one of the default
// audience what the API server accepts, so that it need not be configured. The token itself is not kept for any use.
type Identity struct {
	*Store[apiServer]
}

type apiServer struct {
	audiences []string
	// namespace and name of our ServiceAccount.
	namespace, name string
}

// NewIdentity returns the Store of a file with a token of our own ServiceAccount, of the default audience.
func NewIdentity(path string, registry prometheus.Registerer, logger *slog.Logger) *Identity {
	return &Identity{newStore(settings[apiServer]{
		noun:  "identity",
		paths: []string{path},
		parse: func(contents [][]byte) (*apiServer, error) { return parseIdentity(contents[0]) },
		advice: "the file must hold a ServiceAccount token of the default audience " +
			"(a projected volume with a serviceAccountToken that sets no audience)",
		describe: func(a *apiServer) []any { return []any{"apiServerAudiences", a.audiences} },
	}, registry, logger)}
}

// APIServerAudiences are the audiences that the API server accepts, sorted; none before the first token was read.
func (i *Identity) APIServerAudiences() []string {
	if current := i.Current(); current != nil {
		return current.audiences
	}
	return nil
}

// ServiceAccount is the one that we run as; empty before the first token was read, and of a token that does not name it.
func (i *Identity) ServiceAccount() types.NamespacedName {
	if current := i.Current(); current != nil {
		return types.NamespacedName{Namespace: current.namespace, Name: current.name}
	}
	return types.NamespacedName{}
}

func parseIdentity(token []byte) (*apiServer, error) {
	claims, err := jwt.Parse(strings.TrimSpace(string(token)))
	if err != nil {
		return nil, err
	}
	audiences := slices.Compact(slices.Sorted(slices.Values(claims.Audiences)))
	if len(audiences) == 0 || audiences[0] == "" {
		return nil, errors.New("the token has no audience, or an empty one")
	}
	return &apiServer{audiences: audiences, namespace: claims.Namespace, name: claims.ServiceAccountName}, nil
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
	moment := func(name, help string, of func(*x509.Certificate) time.Time) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if pair := c.Current(); pair != nil {
				return float64(of(pair.Leaf).Unix())
			}
			return 0
		})
	}
	registry.MustRegister(
		moment("podtoken_certificate_start_timestamp_seconds",
			"Unix time from which the serving certificate in use is valid; 0 before the first one was read. With the expiry it tells the lifetime.",
			func(leaf *x509.Certificate) time.Time { return leaf.NotBefore }),
		moment("podtoken_certificate_expiry_timestamp_seconds",
			"Unix time at which the serving certificate in use expires; 0 before the first one was read.",
			func(leaf *x509.Certificate) time.Time { return leaf.NotAfter }))
	return c
}

// GetCertificate is for tls.Config.
func (c *Certificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if pair := c.Current(); pair != nil {
		return pair, nil
	}
	return nil, ErrNoCertificate
}

// ClientCA is the Store of the certificates that sign client certificates.
type ClientCA struct {
	*Store[clientCA]
}

type clientCA struct {
	pool     *x509.CertPool
	subjects []string
}

// NewClientCA returns the Store of a file of certificates in PEM.
func NewClientCA(path string, registry prometheus.Registerer, logger *slog.Logger) *ClientCA {
	return &ClientCA{newStore(settings[clientCA]{
		noun:     "client_ca",
		paths:    []string{path},
		parse:    func(contents [][]byte) (*clientCA, error) { return parseClientCA(contents[0]) },
		advice:   "the file must hold the certificates of the CA that signs the API servers' client certificates, in PEM",
		describe: func(ca *clientCA) []any { return []any{"subjects", ca.subjects} },
	}, registry, logger)}
}

// Require returns the settings of TLS with which a client has to have a certificate of the CA in use, from the next
// handshake on.
func (c *ClientCA) Require(settings *tls.Config) *tls.Config {
	result := settings.Clone()
	result.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		current := c.Current()
		if current == nil {
			return nil, ErrNoClientCA
		}
		required := settings.Clone()
		required.ClientAuth, required.ClientCAs = tls.RequireAndVerifyClientCert, current.pool
		return required, nil
	}
	return result
}

func parseClientCA(text []byte) (*clientCA, error) {
	ca := &clientCA{pool: x509.NewCertPool()}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a block of type %q is not a CERTIFICATE", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		ca.pool.AddCert(certificate)
		ca.subjects = append(ca.subjects, certificate.Subject.String())
	}
	if len(ca.subjects) == 0 {
		return nil, errors.New("there is no certificate in PEM")
	}
	return ca, nil
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
