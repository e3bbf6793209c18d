// Package explain is the command `kubectl podtoken explain`: whether a pod is injected or would be, why or why not, and what
// policy and RBAC say about each audience.
package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/installation"
	"github.com/podtoken/podtoken/internal/plugin/manifest"
	"github.com/podtoken/podtoken/pkg/api"
)

const long = `Explains a pod, the pod template of a workload, or those in files: whether it is injected or would be, why or why not, what it gets,
and what the installation's policy and RBAC say about each audience.

It finds the usual mistakes: annotations on a workload instead of its pod template, an excluded namespace, a pod that is older
than its annotations, a webhook that is gone, a grant that was refused or has ended, a copy of a Pod that the controller does not
count. The exit code is 1 when there is a problem.`

const example = `  kubectl podtoken explain mypod
  kubectl podtoken explain deployment/app
  kubectl podtoken explain -f app.yaml`

// Report is what is known of one pod or pod template.
type Report struct {
	Object   string      `json:"object"`
	Template string      `json:"template,omitempty"`
	Outcome  api.Outcome `json:"outcome"`
	Reason   api.Reason  `json:"reason,omitempty"`
	Message  string      `json:"message,omitempty"`
	// ServiceAccount that the pod runs as.
	ServiceAccount string  `json:"serviceAccount"`
	Tokens         []Token `json:"tokens,omitempty"`
	// Containers are those that can read the tokens, or could.
	Containers []Container     `json:"containers,omitempty"`
	Findings   plugin.Findings `json:"findings,omitempty"`
}

// Token is one of the pod's tokens.
type Token struct {
	api.TokenSpec
	Grants []Grant `json:"grants"`
}

// shown are the paths of the files that applications read: the token itself has a hidden one where they read another format.
func (t *Token) shown() []string {
	var paths []string
	if !strings.HasPrefix(t.Path, api.ReservedPrefix) {
		paths = append(paths, t.Path)
	}
	for _, file := range t.Files {
		paths = append(paths, file.Path)
	}
	return paths
}

// Container can read the tokens in a directory, of which the variables are paths.
type Container struct {
	Name      string   `json:"name"`
	Directory string   `json:"directory"`
	Variables []string `json:"variables,omitempty"`
}

// Grant is what policy and RBAC say about an audience.
type Grant struct {
	Audience string `json:"audience"`
	// Policy is the rule that allows it, "RBAC decides", or "refused".
	Policy string `json:"policy"`
	// RBAC tells whether the ServiceAccount may mint it now.
	RBAC string `json:"rbac"`
}

// subject is what is explained: a pod or template, and the pod as it runs.
type subject struct {
	*manifest.Pod
	// content is the whole object, nil for one in a file; live is set for pods of the cluster.
	content map[string]any
	live    *corev1.Pod
}

type options struct {
	files  []string
	output string
}

// New returns the command.
func New(e *plugin.Env, podtokenNamespace *string) *cobra.Command {
	o := &options{}
	command := &cobra.Command{
		Use: "explain (POD | TYPE/NAME | -f FILE)", Short: "Explain why a pod is injected or not, and what it may mint",
		Long: long, Example: example, Args: cobra.MaximumNArgs(1), ValidArgsFunction: e.CompletePods,
	}
	flags := command.Flags()
	flags.StringSliceVarP(&o.files, "filename", "f", nil, "`files`, directories, or - for standard input")
	flags.StringVarP(&o.output, "output", "o", "", "`format`: json, or nothing for text")
	command.RunE = func(command *cobra.Command, args []string) error {
		return o.run(command.Context(), e, *podtokenNamespace, strings.Join(args, ""))
	}
	return command
}

func (o *options) run(ctx context.Context, e *plugin.Env, podtokenNamespace, argument string) error {
	if err := plugin.CheckOutput(o.output); err != nil {
		return err
	}
	if (argument == "") == (len(o.files) == 0) {
		return errors.New("name a pod or a workload (POD or TYPE/NAME), or files with -f, and not both")
	}
	c, err := e.Connect()
	if err != nil {
		return err
	}
	var subjects []subject
	if argument != "" {
		subjects, err = running(ctx, c, argument)
	} else {
		subjects, err = inFiles(o.files, e)
	}
	if err != nil {
		return err
	}
	found, err := installation.Find(ctx, c, podtokenNamespace)
	if err != nil {
		return err
	}
	x := explainer{cluster: c, found: found}
	var reports []*Report
	for i := range subjects {
		report, err := x.explain(ctx, &subjects[i])
		if err != nil {
			return err
		}
		reports = append(reports, report)
	}
	return o.print(e, reports)
}

func (o *options) print(e *plugin.Env, reports []*Report) error {
	bad := false
	for i, report := range reports {
		bad = bad || report.Findings.Bad()
		if o.output == plugin.OutputJSON {
			continue
		}
		if i > 0 {
			e.Printf("\n")
		}
		report.print(e)
	}
	if o.output == plugin.OutputJSON {
		if err := plugin.PrintJSON(e.Out, map[string]any{"pods": reports}); err != nil {
			return err
		}
	}
	if bad {
		return plugin.Silent{}
	}
	return nil
}

// running is an object of the cluster.
func running(ctx context.Context, c *plugin.Cluster, argument string) ([]subject, error) {
	object, err := c.Object(ctx, argument)
	if err != nil {
		return nil, err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	pods, err := manifest.Parse(encoded)
	if err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("%q is of kind %v, which has no pods: name a pod or a workload", argument, content["kind"])
	}
	s := subject{Pod: pods[0], content: content}
	if s.Template == "" {
		s.live = &corev1.Pod{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, s.live); err != nil {
			return nil, err
		}
	}
	return []subject{s}, nil
}

func inFiles(files []string, e *plugin.Env) ([]subject, error) {
	documents, err := manifest.Read(files, e.In)
	if err != nil {
		return nil, err
	}
	var subjects []subject
	for _, d := range documents {
		pods, err := d.Pods()
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			subjects = append(subjects, subject{Pod: pod})
		}
	}
	if len(subjects) == 0 {
		return nil, errors.New("there is no pod and no pod template in these files")
	}
	return subjects, nil
}

func (r *Report) print(e *plugin.Env) {
	title := r.Object
	if r.Template != "" {
		title += ", " + r.Template
	}
	e.Printf("%s\n", title)
	switch {
	case r.Outcome == api.OutcomeDenied:
		e.Printf("  %s (%s)\n", r.Outcome, r.Reason) // the message is a finding
	case r.Reason == "":
		e.Printf("  %s: %s\n", r.Outcome, r.Message)
	default:
		e.Printf("  %s (%s): %s\n", r.Outcome, r.Reason, r.Message)
	}
	for _, container := range r.Containers {
		e.Printf("  container %s: %s\n", container.Name, strings.Join(append([]string{container.Directory}, container.Variables...), ", "))
	}
	if len(r.Tokens) > 0 {
		e.Printf("\n")
		table := plugin.Table(e.Out)
		table.Row("  TOKEN", "AUDIENCE", "LIFETIME", "FILE", "MODE", "POLICY", "MAY MINT NOW")
		for i := range r.Tokens {
			t := &r.Tokens[i]
			for n, grant := range t.Grants {
				cells := []string{"  " + t.Name, grant.Audience, lifetime(t.ExpirationSeconds), strings.Join(t.shown(), ","), t.Mode, grant.Policy, grant.RBAC}
				if n > 0 {
					cells[0], cells[2], cells[3], cells[4] = "  ", "", "", ""
				}
				table.Row(cells...)
			}
		}
		table.Flush()
	}
	if len(r.Findings) > 0 {
		e.Printf("\n")
		table := plugin.Table(e.Out)
		for _, finding := range r.Findings {
			table.Row("  "+string(finding.Level), finding.Check, finding.Text)
		}
		table.Flush()
	}
}
