package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// cleanupOptions are the flags of `cleanup`.
type cleanupOptions struct {
	namespace            string
	webhookConfiguration string
	deployment           string
	lease                string
	secret               string
	guard                string
	grantsPolicy         string
	timeout              time.Duration
	common
}

func parseCleanupOptions(args []string, stderr io.Writer) (*cleanupOptions, error) {
	o := &cleanupOptions{}
	fs := flag.NewFlagSet("podtoken-controller "+commandCleanup, flag.ContinueOnError)
	o.register(fs)
	fs.Usage = func() {
		_, _ = fmt.Fprintf(fs.Output(), "Usage: %s [flags]\n\nRemoves what must not outlive an installation: the webhook's configuration, the controller, "+
			"every Role and RoleBinding that it made, its Lease,\nthe serving certificate that it made, and last of all the policies that limit what grants allow,\n"+
			"when no request that was authorized by a grant can be on its way any more.\n\n", fs.Name())
		fs.PrintDefaults()
	}
	if err := parse(fs, args, stderr); err != nil {
		return nil, err
	}
	return o, o.validate()
}

func (o *cleanupOptions) register(fs *flag.FlagSet) {
	fs.StringVar(&o.namespace, "namespace", "", "`namespace` of the installation (default: our own)")
	fs.StringVar(&o.webhookConfiguration, "webhook-configuration", "podtoken", "`name` of the MutatingWebhookConfiguration")
	fs.StringVar(&o.deployment, "deployment", "podtoken-controller", "`name` of the controller's Deployment")
	fs.StringVar(&o.lease, "lease", "podtoken-controller", "`name` of the controller's Lease")
	fs.StringVar(&o.secret, "serving-certificate-secret", "", "`name` of the Secret with the serving certificate that the controller made; empty: it made none")
	fs.StringVar(&o.guard, "guard", "podtoken-guard", "`name` of the ValidatingAdmissionPolicy, and of its binding, that limits what grants allow; empty: leave it")
	fs.StringVar(&o.grantsPolicy, "grants-policy", "podtoken-grants", "`name` of the ValidatingAdmissionPolicy, and of its binding, that limits who writes grants and hands them on; empty: leave it")
	fs.DurationVar(&o.timeout, "timeout", 4*time.Minute, "after what time to give up; longer than --withdrawal-delay")
	o.common.register(fs)
}

// Limits of --timeout.
const (
	minTimeout = time.Second
	maxTimeout = time.Hour
)

func (o *cleanupOptions) validate() error {
	if o.namespace == "" {
		data, err := os.ReadFile(namespaceFile)
		if err != nil {
			return fmt.Errorf("flag --namespace: it must be set outside of a cluster: %w", err)
		}
		o.namespace = strings.TrimSpace(string(data))
	}
	if err := validateNamespace("namespace", o.namespace); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"webhook-configuration": o.webhookConfiguration, "deployment": o.deployment, "lease": o.lease,
	} {
		if err := validateName(name, value); err != nil {
			return err
		}
	}
	for name, value := range map[string]string{"serving-certificate-secret": o.secret, "guard": o.guard, "grants-policy": o.grantsPolicy} {
		if value == "" {
			continue
		}
		if err := validateName(name, value); err != nil {
			return err
		}
	}
	if o.timeout < minTimeout || o.timeout > maxTimeout {
		return fmt.Errorf("flag --timeout: %v is not between %v and %v", o.timeout, minTimeout, maxTimeout)
	}
	if err := o.common.validate(); err != nil {
		return err
	}
	if o.guard != "" && o.timeout <= o.withdrawalDelay {
		return fmt.Errorf("flag --timeout: %v is not longer than %v, the value of --withdrawal-delay, for which the guard stays after the last grant",
			o.timeout, o.withdrawalDelay)
	}
	return nil
}
