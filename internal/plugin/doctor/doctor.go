// Package doctor is the command `kubectl podtoken doctor`: whether the installation is as it should be.
//
// Each check is a method that adds findings and never fails: what cannot be looked at is a finding, too.
package doctor

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/installation"
)

const long = `Looks at the installation: versions, the webhook's registration, replicas and certificate, whether API servers reach it, the policies
and their bindings, the controller and its leader, whether API servers enforce the guard, configuration and policy, the issuer, the API server's audiences,
the longest token lifetime that it grants, and clocks.

Nothing is changed: the pod by which it is seen that API servers reach the webhook is a dry run. Connections to podtoken's pods
go by way of the API server (kubectl port-forward). What you may not look at is a note. The exit code is 1 when there is a
problem.`

const example = `  kubectl podtoken doctor
  kubectl podtoken doctor -n my-namespace -o json`

type doctor struct {
	plugin.Findings
	cluster *plugin.Cluster
	found   *installation.Installation
	now     func() time.Time
	// leading is the pod of the controller that leads, once leader has found it.
	leading string
}

// New returns the command.
func New(e *plugin.Env, podtokenNamespace *string) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "doctor", Short: "Check the installation", Long: long, Example: example, Args: plugin.NoArguments,
	}
	command.Flags().StringVarP(&output, "output", "o", "", "`format`: json, or nothing for text")
	command.RunE = func(command *cobra.Command, _ []string) error {
		if err := plugin.CheckOutput(output); err != nil {
			return err
		}
		c, err := e.Connect()
		if err != nil {
			return err
		}
		found, err := installation.Find(command.Context(), c, *podtokenNamespace)
		if err != nil {
			return err
		}
		d := &doctor{cluster: c, found: found, now: e.Now}
		d.examine(command.Context())
		if output == plugin.OutputJSON {
			err = plugin.PrintJSON(e.Out, map[string]any{"findings": d.Findings})
		} else {
			d.Print(e.Out)
		}
		if err == nil && d.Bad() {
			return plugin.Silent{}
		}
		return err
	}
	return command
}

// patience is how long one check may take.
const patience = 20 * time.Second

func (d *doctor) examine(ctx context.Context) {
	for _, check := range []func(context.Context){
		d.versions, d.configuration, d.registration, d.replicas, d.admission, d.policies, d.leader, d.proof, d.mark, d.issuer, d.tokenLifetime, d.clock,
	} {
		ctx, cancel := context.WithTimeout(ctx, patience)
		check(ctx)
		cancel()
	}
}
