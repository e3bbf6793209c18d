package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

const terminationLog = "/dev/termination-log"

// options are the flags of run.
type options struct {
	tokens         []api.TokenSpec
	notify         string
	notifySignal   config.Signal
	metricsPort    int
	dir, apiDir    string
	terminationLog string
}

// parseOptions decodes the flags of run. With an error, the options are those before the wrong flag. Flags are spelled as the
// webhook does, --flag=value: the flag package takes others, and who else reads a pod's arguments would not find its tokens.
func parseOptions(args []string) (options, error) {
	var o options
	var spelling error
	for i, arg := range args {
		name, _, hasValue := strings.Cut(arg, "=")
		if isHelp := slices.Contains([]string{"-h", "-help", "--h", "--help"}, arg); !isHelp && strings.HasPrefix(arg, "-") && !(hasValue && strings.HasPrefix(name, "--")) {
			args, spelling = args[:i], fmt.Errorf("%s: argument %q: want --flag=value", api.CommandRun, arg)
			break
		}
	}
	flags := newFlags(api.CommandRun)
	flags.Func(api.FlagToken, "", func(value string) error {
		spec, err := config.ParseToken(value)
		o.tokens = append(o.tokens, spec)
		return err
	})
	flags.StringVar(&o.notify, api.FlagNotify, "", "")
	flags.Func(api.FlagNotifySignal, "", func(value string) (err error) {
		o.notifySignal, err = config.ParseSignal(value)
		return err
	})
	flags.IntVar(&o.metricsPort, api.FlagMetricsPort, 0, "")
	flags.StringVar(&o.dir, "dir", api.SidecarTokenDir, "")
	flags.StringVar(&o.apiDir, "api-dir", api.APIMountPath, "")
	flags.StringVar(&o.terminationLog, "termination-log", terminationLog, "")
	err := parse(flags, args)
	if err == nil {
		err = spelling
	}
	return o, err
}

// config is the validated configuration.
func (o options) config(getenv func(string) string) (config.Config, error) {
	c := config.Config{
		Pod: config.Pod{
			Namespace:      getenv(api.EnvPodNamespace),
			Name:           getenv(api.EnvPodName),
			UID:            getenv(api.EnvPodUID),
			ServiceAccount: getenv(api.EnvServiceAccount),
		},
		Tokens:       o.tokens,
		Dir:          o.dir,
		Notify:       o.notify,
		NotifySignal: o.notifySignal,
		MetricsPort:  o.metricsPort,
	}
	return c, c.Validate()
}

// newFlags makes a FlagSet that prints nothing by itself: help.txt is the manual.
func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	return flags
}

func parse(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return fmt.Errorf("%s: %w", flags.Name(), err)
	}
	if err == nil && flags.NArg() > 0 {
		return fmt.Errorf("%s: unexpected argument %q: only flags are taken", flags.Name(), flags.Arg(0))
	}
	return err
}
