package main

import (
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
		SilenceErrors: true, SilenceUsage: true,
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl podtoken"},
		Args:        cobra.NoArgs,
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
