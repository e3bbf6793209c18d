package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// namespaceFile tells a pod its own namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// options are the flags. They are kept as they are after validate.
type options struct {
	policy                  string
	identityToken           string
	httpBindAddress         string
	leaderElectionNamespace string
	leaderElectionID        string
	removalDelay            time.Duration
	guard                   string
	controllerGuard         string
	servingSecret           string
	servingName             string
	webhookConfiguration    string
	reloadInterval          time.Duration
	common
}

// common are the flags of both commands.
type common struct {
	withdrawalDelay time.Duration
	logLevel        string
	kubeconfig      string
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("podtoken-controller", flag.ContinueOnError)
	o.register(fs)
	fs.Usage = func() {
		_, _ = fmt.Fprintf(fs.Output(), "Usage: %s [flags]\n       %s %s [flags]   (see %s -help)\n\n", fs.Name(), fs.Name(), commandCleanup, commandCleanup)
		fs.PrintDefaults()
	}
	if err := parse(fs, args, stderr); err != nil {
		return nil, err
	}
	return o, o.validate()
}

// parse reads the flags; there are no other arguments.
func parse(fs *flag.FlagSet, args []string, stderr io.Writer) error {
	fs.SetOutput(io.Discard) // errors are returned
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fs.SetOutput(stderr)
		fs.Usage()
		return err
	case err != nil:
		return fmt.Errorf("%w, see -help", err)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("argument %q is not expected: everything is set by flags, see -help", fs.Arg(0))
	}
	return nil
}

func (o *options) register(fs *flag.FlagSet) {
	fs.StringVar(&o.policy, "policy", "/etc/podtoken/policy.yaml", "policy `file`; a new one is taken into use while running")
	fs.StringVar(&o.identityToken, "identity-token", "/var/run/secrets/kubernetes.io/serviceaccount/token",
		"`file` with a token of our own, whose aud names the API server's audiences; it is only read")
	fs.StringVar(&o.httpBindAddress, "http-bind-address", ":8080", "`host:port` that serves /metrics, /healthz and /readyz, plain HTTP")
	fs.StringVar(&o.leaderElectionNamespace, "leader-election-namespace", "", "`namespace` of the Lease by which replicas choose a leader (default: our own)")
	fs.StringVar(&o.leaderElectionID, "leader-election-id", "podtoken-controller", "`name` of that Lease")
	fs.DurationVar(&o.removalDelay, "removal-delay", 10*time.Minute,
		"how long a permission stays that no pod needs any more, so that a rollout or a job that comes again finds it")
	fs.StringVar(&o.guard, "guard", "podtoken-guard",
		"`name` of the ValidatingAdmissionPolicy, and of its binding, without which nothing new is granted; API servers that load it from disk have it as guard.podtoken.dev.static.k8s.io")
	fs.StringVar(&o.controllerGuard, "controller-guard", "podtoken-controller-guard",
		"`name` of the ValidatingAdmissionPolicy that limits what this controller may write, without which nothing new is granted either")
	fs.StringVar(&o.servingSecret, "serving-certificate-secret", "",
		"`name` of a Secret, in the namespace of the Lease, in which to keep a serving certificate for the webhook, of a CA of our own; empty: somebody else does")
	fs.StringVar(&o.servingName, "serving-certificate-name", "", "DNS `name` that the certificate is for: <service>.<namespace>.svc")
	fs.StringVar(&o.webhookConfiguration, "webhook-configuration", "podtoken", "`name` of the MutatingWebhookConfiguration that has to trust the CA")
	fs.DurationVar(&o.reloadInterval, "reload-interval", 2*time.Second, "how often to look for a new policy and token")
	o.common.register(fs)
}

func (o *common) register(fs *flag.FlagSet) {
	fs.DurationVar(&o.withdrawalDelay, "withdrawal-delay", 65*time.Second,
		"how long after the rights of a grant its mark stays, and after the last grant the guard: longer than an API server's --request-timeout, "+
			"so that every request has ended that was authorized before")
	fs.StringVar(&o.logLevel, "log-level", "info", "`level` of the log on stderr: debug (adds what needed no change), info, warn or error")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file`; empty for the ServiceAccount of the pod that we run in")
}

// Limits of the flags.
const (
	maxRemovalDelay    = 24 * time.Hour
	maxWithdrawalDelay = time.Hour
	minReloadInterval  = 10 * time.Millisecond
	maxReloadInterval  = time.Minute
)

// logLevels are the values of --log-level.
var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// validate checks every flag and fills in the namespace; its error names the flag, the value and what is allowed.
func (o *options) validate() error {
	if err := validateAddress(o.httpBindAddress); err != nil {
		return fmt.Errorf("flag --http-bind-address: %q: %w", o.httpBindAddress, err)
	}
	switch {
	case o.policy == "":
		return fmt.Errorf("flag --policy: %q is empty, it must name the policy file", o.policy)
	case o.identityToken == "":
		return fmt.Errorf("flag --identity-token: %q is empty, it must name a file with a token of our own", o.identityToken)
	case o.guard == "":
		return errors.New(`flag --guard: "" is empty, it must name the ValidatingAdmissionPolicy that guards grants; API servers that load it from disk have it as guard.podtoken.dev.static.k8s.io`)
	case o.removalDelay < 0 || o.removalDelay > maxRemovalDelay:
		return fmt.Errorf("flag --removal-delay: %v is not between 0s and %v", o.removalDelay, maxRemovalDelay)
	case o.reloadInterval < minReloadInterval || o.reloadInterval > maxReloadInterval:
		return fmt.Errorf("flag --reload-interval: %v is not between %v and %v", o.reloadInterval, minReloadInterval, maxReloadInterval)
	}
	if err := validateName("guard", o.guard); err != nil {
		return err
	}
	if err := validateName("controller-guard", o.controllerGuard); err != nil {
		return err
	}
	if err := o.validateServing(); err != nil {
		return err
	}
	if err := validateName("leader-election-id", o.leaderElectionID); err != nil {
		return err
	}
	if o.leaderElectionNamespace == "" {
		data, err := os.ReadFile(namespaceFile)
		if err != nil {
			return fmt.Errorf("flag --leader-election-namespace: it must be set outside of a cluster: %w", err)
		}
		o.leaderElectionNamespace = strings.TrimSpace(string(data))
	}
	if err := validateNamespace("leader-election-namespace", o.leaderElectionNamespace); err != nil {
		return err
	}
	return o.common.validate()
}

func (o *common) validate() error {
	if o.withdrawalDelay < 0 || o.withdrawalDelay > maxWithdrawalDelay {
		return fmt.Errorf("flag --withdrawal-delay: %v is not between 0s and %v", o.withdrawalDelay, maxWithdrawalDelay)
	}
	return validateLogLevel(o.logLevel)
}

// validateServing checks what is about the serving certificate.
func (o *options) validateServing() error {
	if err := validateName("webhook-configuration", o.webhookConfiguration); err != nil {
		return err
	}
	if o.servingSecret == "" {
		if o.servingName != "" {
			return fmt.Errorf("flag --serving-certificate-name: %q has no effect without --serving-certificate-secret", o.servingName)
		}
		return nil
	}
	if err := validateName("serving-certificate-secret", o.servingSecret); err != nil {
		return err
	}
	return validateName("serving-certificate-name", o.servingName)
}

func validateName(name, value string) error {
	if problems := validation.IsDNS1123Subdomain(value); len(problems) > 0 {
		return fmt.Errorf("flag --%s: %q is not the name of an object: %s", name, value, problems[0])
	}
	return nil
}

func validateNamespace(name, value string) error {
	if problems := validation.IsDNS1123Label(value); len(problems) > 0 {
		return fmt.Errorf("flag --%s: %q is not the name of a namespace: %s", name, value, problems[0])
	}
	return nil
}

func validateLogLevel(value string) error {
	if _, ok := logLevels[value]; !ok {
		return fmt.Errorf("flag --log-level: %q is not one of debug, info, warn, error", value)
	}
	return nil
}

// validateAddress checks a bind address, whose host may be empty for all addresses.
func validateAddress(address string) error {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("not host:port (the host may be empty: \":8080\"): %w", err)
	}
	if number, err := strconv.ParseUint(text, 10, 16); err != nil || number == 0 {
		return fmt.Errorf("port %q is not a number between 1 and 65535", text)
	}
	return nil
}
