package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/podtoken/podtoken/internal/admission"
)

// options are the flags. They are kept as they are after validate.
type options struct {
	webhookBindAddress string
	httpBindAddress    string
	certDir            string
	config             string
	policy             string
	identityToken      string
	drainDelay         time.Duration
	reloadInterval     time.Duration
	maxRequestBytes    int64
	maxInFlight        int
	maxConnections     int
	maxPerAddress      int
	clientCA           string
	logLevel           string
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("podtoken-webhook", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are returned
	o.register(fs)
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fs.SetOutput(stderr)
		fs.Usage()
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w, see -help", err)
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("argument %q is not expected: everything is set by flags, see -help", fs.Arg(0))
	}
	return o, o.validate()
}

func (o *options) register(fs *flag.FlagSet) {
	fs.StringVar(&o.webhookBindAddress, "webhook-bind-address", ":9443", "`host:port` that serves the webhook, HTTPS, path /mutate")
	fs.StringVar(&o.httpBindAddress, "http-bind-address", ":8080", "`host:port` that serves /metrics, /healthz and /readyz, plain HTTP")
	fs.StringVar(&o.certDir, "cert-dir", "/tls", "`directory` with tls.crt and tls.key; new ones are taken into use while serving")
	fs.StringVar(&o.config, "config", "/etc/podtoken/config.yaml", "configuration `file`; a new one is taken into use while serving")
	fs.StringVar(&o.policy, "policy", "/etc/podtoken/policy.yaml", "policy `file`: which tokens are allowed; a new one is taken into use while serving")
	fs.StringVar(&o.identityToken, "identity-token", "/var/run/secrets/podtoken-identity/token",
		"`file` with a token of our own, whose aud names the API server's audiences; it is only read, never sent")
	fs.DurationVar(&o.drainDelay, "drain-delay", 10*time.Second,
		"how long to go on serving, not ready, after SIGTERM or SIGINT, so that clients learn about it; a second signal ends the process at once")
	fs.DurationVar(&o.reloadInterval, "reload-interval", 2*time.Second, "how often to look for a new configuration, policy, token and certificate")
	fs.Int64Var(&o.maxRequestBytes, "max-request-bytes", admission.DefaultMaxRequestBytes, "largest admission review that is read, in `bytes`")
	fs.IntVar(&o.maxInFlight, "max-in-flight", admission.DefaultMaxInFlight,
		"`number` of admission reviews that are worked on at once; the API server is told to ask again for more, and for those whose bodies need more than four times --max-request-bytes together")
	fs.IntVar(&o.maxConnections, "max-connections", defaultMaxConnections,
		"`number` of connections to the webhook. At the limit, a new connection closes the one that has gone longest without a request. Each connection needs up to 100 KiB of memory")
	fs.IntVar(&o.maxPerAddress, "max-connections-per-address", defaultMaxPerAddress,
		"`number` of connections from one address (IPv6: from one /64 prefix). A konnectivity proxy makes all API servers one address")
	fs.StringVar(&o.clientCA, "client-ca-file", "",
		"`file` with the certificates, in PEM, of the CA that signs the API servers' client certificates; a new one is taken into use while serving. "+
			"Clients without such a certificate are rejected. Empty: no client certificate is required")
	fs.StringVar(&o.logLevel, "log-level", "info", "`level` of the log on stderr: debug (adds pods that are left alone), info, warn or error")
}

// Limits of the flags.
const (
	maxDrainDelay      = 5 * time.Minute
	minReloadInterval  = 10 * time.Millisecond
	maxReloadInterval  = time.Minute
	minMaxRequestBytes = 64 << 10
	maxMaxRequestBytes = 64 << 20
	maxMaxInFlight     = 10000
	maxMaxConnections  = 100000
)

// Connections that there may be by default. API servers have one for each review that is under way, and keep 25 each for the
// next ones; --max-in-flight of them are worked on at once.
const (
	defaultMaxConnections = 2 * admission.DefaultMaxInFlight
	defaultMaxPerAddress  = defaultMaxConnections * 3 / 4
)

// logLevels are the values of --log-level.
var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// validate checks every flag; its error names the flag, the value and what is allowed.
func (o *options) validate() error {
	if err := checkAddress(o.webhookBindAddress); err != nil {
		return fmt.Errorf("flag --webhook-bind-address: %q: %w", o.webhookBindAddress, err)
	}
	if err := checkAddress(o.httpBindAddress); err != nil {
		return fmt.Errorf("flag --http-bind-address: %q: %w", o.httpBindAddress, err)
	}
	switch {
	case o.certDir == "":
		return fmt.Errorf("flag --cert-dir: %q is empty, it must name a directory with tls.crt and tls.key", o.certDir)
	case o.config == "":
		return fmt.Errorf("flag --config: %q is empty, it must name the configuration file", o.config)
	case o.policy == "":
		return fmt.Errorf("flag --policy: %q is empty, it must name the policy file", o.policy)
	case o.identityToken == "":
		return fmt.Errorf("flag --identity-token: %q is empty, it must name a file with a token of our own", o.identityToken)
	case o.drainDelay < 0 || o.drainDelay > maxDrainDelay:
		return fmt.Errorf("flag --drain-delay: %v is not between 0s and %v", o.drainDelay, maxDrainDelay)
	case o.reloadInterval < minReloadInterval || o.reloadInterval > maxReloadInterval:
		return fmt.Errorf("flag --reload-interval: %v is not between %v and %v", o.reloadInterval, minReloadInterval, maxReloadInterval)
	case o.maxRequestBytes < minMaxRequestBytes || o.maxRequestBytes > maxMaxRequestBytes:
		return fmt.Errorf("flag --max-request-bytes: %d is not between %d and %d", o.maxRequestBytes, minMaxRequestBytes, maxMaxRequestBytes)
	case o.maxInFlight < 1 || o.maxInFlight > maxMaxInFlight:
		return fmt.Errorf("flag --max-in-flight: %d is not between 1 and %d", o.maxInFlight, maxMaxInFlight)
	case o.maxConnections < 1 || o.maxConnections > maxMaxConnections:
		return fmt.Errorf("flag --max-connections: %d is not between 1 and %d", o.maxConnections, maxMaxConnections)
	case o.maxPerAddress < 1 || o.maxPerAddress > o.maxConnections:
		return fmt.Errorf("flag --max-connections-per-address: %d is not between 1 and %d (--max-connections)", o.maxPerAddress, o.maxConnections)
	}
	if _, ok := logLevels[o.logLevel]; !ok {
		return fmt.Errorf("flag --log-level: %q is not one of debug, info, warn, error", o.logLevel)
	}
	return nil
}

// checkAddress checks a bind address, whose host may be empty for all addresses.
func checkAddress(address string) error {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("not host:port (the host may be empty: \":9443\"): %w", err)
	}
	if number, err := strconv.ParseUint(text, 10, 16); err != nil || number == 0 {
		return fmt.Errorf("port %q is not a number between 1 and 65535", text)
	}
	return nil
}
