package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/doctor"
	"github.com/podtoken/podtoken/internal/plugin/explain"
	"github.com/podtoken/podtoken/internal/plugin/inject"
	"github.com/podtoken/podtoken/internal/plugin/inspect"
	"github.com/podtoken/podtoken/internal/plugin/installation"
	"github.com/podtoken/podtoken/internal/plugin/kubeconfig"
	"github.com/podtoken/podtoken/internal/plugin/policy"
	"github.com/podtoken/podtoken/internal/plugin/status"
	"github.com/podtoken/podtoken/internal/version"
)

const long = `Says what podtoken does with a pod and why, what its tokens are, and whether the installation is as it should be.

No command changes anything in the cluster, and none shows a token, with one exception: kubeconfig makes one, for you.`

// newRoot returns the command with all commands below it.
func newRoot(e *plugin.Env) *cobra.Command {
	root := &cobra.Command{
		Use: "kubectl-podtoken", Short: "Explain and look after podtoken", Long: long, Version: version.Version,
		// Errors are sentences; run prints them.
		SilenceErrors: true, SilenceUsage: true, SuggestionsMinimumDistance: 2,
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl podtoken"},
		Args:        noSuchCommand,
		RunE:        func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	root.SetVersionTemplate("{{.Version}}\n")
	podtokenNamespace := new(string)
	flags := root.PersistentFlags()
	e.Flags.AddFlags(flags)
	flags.StringVar(podtokenNamespace, "podtoken-namespace", installation.DefaultNamespace, "`namespace` of the installation, for who may not read the webhook's registration")
	root.AddCommand(
		inject.New(e, podtokenNamespace), explain.New(e, podtokenNamespace), status.New(e), inspect.New(e),
		doctor.New(e, podtokenNamespace), kubeconfig.New(e), policy.New(e, podtokenNamespace),
	)
	return root
}

// noSuchCommand is the error for what is no command, with those that may have been meant.
func noSuchCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "see --help"
	if names := root.SuggestionsFor(args[0]); len(names) > 0 {
		hint = "did you mean " + strings.Join(names, " or ") + "?"
	}
	return fmt.Errorf("unknown command %q for %q: %s", args[0], root.CommandPath(), hint)
}
