package decide

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/internal/version"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// Flags choose Rules without a cluster.
type Flags struct {
	Config, Policy string
	Audiences      []string
}

// usualAudiences of API servers: those of kubeadm, and of clusters whose issuer is another.
var usualAudiences = []string{"https://kubernetes.default.svc.cluster.local", "https://kubernetes.default.svc"}

// Register adds the flags.
func (f *Flags) Register(flags *pflag.FlagSet) {
	flags.StringVar(&f.Config, "config", "", "the webhook's configuration `file` (config.yaml of ConfigMap podtoken-webhook); the chart's defaults without it")
	flags.StringVar(&f.Policy, "policy", "", "policy `file` (policy.yaml of ConfigMap podtoken-policy); no policy is asked without it")
	flags.StringSliceVar(&f.Audiences, "api-audience", usualAudiences, "`audiences` that the API server itself accepts")
}

// Rules reads the files.
func (f *Flags) Rules() (Rules, error) {
	rules := Rules{APIServerAudiences: f.Audiences, Version: version.Version}
	var err error
	if f.Config == "" {
		rules.Config, err = Default("podtoken/sidecar:" + version.Version)
	} else {
		rules.Config, err = parse(f.Config, mutate.ParseConfig)
	}
	if err == nil && f.Policy != "" {
		rules.Policy, err = parse(f.Policy, policy.Parse)
	}
	return rules, err
}

func parse[T any](path string, parser func([]byte) (*T, error)) (*T, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	parsed, err := parser(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return parsed, nil
}
