// Package inject is the command `kubectl podtoken inject`: what the webhook would make of the pods in files.
package inject

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"github.com/spf13/cobra"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/decide"
	"github.com/podtoken/podtoken/internal/plugin/installation"
	"github.com/podtoken/podtoken/internal/plugin/manifest"
	"github.com/podtoken/podtoken/pkg/api"
)

const long = `Prints the objects of files as they are after podtoken's webhook, by the webhook's own code. Nothing is sent to a cluster, and
none is needed.

Pods and the pod templates of Deployments, StatefulSets, DaemonSets, ReplicaSets, ReplicationControllers, Jobs, CronJobs and
PodTemplates are injected, also in Lists and in files of several documents. Everything else is printed as it is. A workload
that is applied like that gives the same pods as one that the webhook injects.

Where the webhook would refuse a pod, nothing is printed but the reason, and the exit code is 1.`

const example = `  kubectl podtoken inject -f app.yaml
  kubectl podtoken inject -f app.yaml --diff
  kustomize build . | kubectl podtoken inject -f - | kubectl apply -f -

  # with configuration and policy of the installation
  kubectl podtoken inject -f app.yaml --from-cluster`

type options struct {
	files       []string
	diff        bool
	fromCluster bool
	offline     decide.Flags
}

// New returns the command.
func New(e *plugin.Env, podtokenNamespace *string) *cobra.Command {
	o := &options{}
	command := &cobra.Command{
		Use: "inject -f FILE", Short: "Print what the webhook would make of the pods in files",
		Long: long, Example: example, Args: plugin.NoArguments,
	}
	flags := command.Flags()
	flags.StringSliceVarP(&o.files, "filename", "f", nil, "`files`, directories, or - for standard input")
	flags.BoolVar(&o.diff, "diff", false, "print the differences only")
	flags.BoolVar(&o.fromCluster, "from-cluster", false, "decide by the configuration and policy of the cluster's installation")
	o.offline.Register(flags)
	command.MarkFlagsMutuallyExclusive("from-cluster", "config")
	command.MarkFlagsMutuallyExclusive("from-cluster", "policy")
	command.MarkFlagsMutuallyExclusive("from-cluster", "api-audience")
	command.RunE = func(command *cobra.Command, _ []string) error {
		return o.run(command.Context(), e, *podtokenNamespace)
	}
	return command
}

func (o *options) run(ctx context.Context, e *plugin.Env, podtokenNamespace string) error {
	if len(o.files) == 0 {
		return errors.New("there is nothing to inject: name files with -f, or -f - for standard input")
	}
	rules, err := o.rules(ctx, e, podtokenNamespace)
	if err != nil {
		return err
	}
	return o.inject(e, rules)
}

func (o *options) inject(e *plugin.Env, rules decide.Rules) error {
	namespace, err := e.Namespace()
	if err != nil {
		return err
	}
	documents, err := manifest.Read(o.files, e.In)
	if err != nil {
		return err
	}
	refused, err := inject(documents, rules, namespace, e)
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		return errors.New(strings.Join(refused, "; "))
	}
	if !o.diff {
		return manifest.Write(e.Out, documents)
	}
	for _, d := range documents {
		if err := printDiff(e.Out, d); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) rules(ctx context.Context, e *plugin.Env, podtokenNamespace string) (decide.Rules, error) {
	if !o.fromCluster {
		return o.offline.Rules()
	}
	cluster, err := e.Connect()
	if err != nil {
		return decide.Rules{}, err
	}
	found, err := installation.Find(ctx, cluster, podtokenNamespace)
	if err != nil {
		return decide.Rules{}, err
	}
	return found.Rules()
}

// inject changes the documents, and returns why pods are refused.
func inject(documents []*manifest.Document, rules decide.Rules, namespace string, e *plugin.Env) (refused []string, err error) {
	for _, d := range documents {
		pods, err := d.Pods()
		if err != nil {
			return nil, err
		}
		for _, name := range d.Annotated(api.Prefix) {
			e.Warnf("%s: annotations of podtoken count on pods, and inject knows none in this kind: it is printed as it is", name)
		}
		for _, pod := range pods {
			reason, err := injectPod(pod, rules, namespace, e)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", d.Source, pod, err)
			}
			if reason != "" {
				refused = append(refused, fmt.Sprintf("%s: %s: %s", d.Source, pod, reason))
			}
		}
	}
	return refused, nil
}

// injectPod returns why a pod is refused; empty if it is not.
func injectPod(pod *manifest.Pod, rules decide.Rules, namespace string, e *plugin.Env) (refused string, err error) {
	content, err := pod.JSON()
	if err != nil {
		return "", err
	}
	if pod.Namespace != "" {
		namespace = pod.Namespace
	}
	decision, err := rules.Pod(content, namespace)
	if err != nil {
		return "", err
	}
	for _, warning := range decision.Warnings {
		e.Warnf("%s: %s", pod, warning)
	}
	if keys := Misplaced(pod); len(keys) > 0 {
		e.Warnf("%s: %s", pod, MisplacedText(pod, keys))
	}
	switch {
	case !decision.Allowed():
		return fmt.Sprintf("%s (%s)", decision.Message, decision.Reason), nil
	case decision.Outcome == api.OutcomeInjected:
		return "", pod.Replace(decision.Pod)
	}
	return "", nil
}

// Misplaced returns the annotations of ours that stand on a workload and not on its pod template, where they do nothing.
func Misplaced(pod *manifest.Pod) []string {
	var keys []string
	own := pod.Annotations()
	for key := range pod.AnnotationsAbove() {
		if _, also := own[key]; strings.HasPrefix(key, api.Prefix) && !also {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// MisplacedText says so.
func MisplacedText(pod *manifest.Pod, keys []string) string {
	return fmt.Sprintf("%s has no effect on the %s itself: annotate the pod template, %s.metadata.annotations",
		strings.Join(keys, ", "), pod.Kind, pod.Template)
}

func printDiff(w io.Writer, d *manifest.Document) error {
	changes, err := d.Changes()
	if err != nil {
		return err
	}
	for _, change := range changes {
		err := difflib.WriteUnifiedDiff(w, difflib.UnifiedDiff{
			A: difflib.SplitLines(string(change.Before)), FromFile: change.Source,
			B: difflib.SplitLines(string(change.After)), ToFile: "injected",
			Context: 3,
		})
		if err != nil {
			return err
		}
	}
	return nil
}
