// Package status is the command `kubectl podtoken status`: what the tokens of running pods are like.
package status

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/sidecar"
	sidecarstatus "github.com/podtoken/podtoken/pkg/sidecar/status"
)

const long = `Prints the tokens of running pods: until when each is valid, how old it is, when the sidecar asks for the next one, and its last
error. Each sidecar is asked itself (kubectl exec); times are by its node's clock.

Without an argument it is all injected pods of the namespace. The exit code is 1 when a token cannot be used.`

const example = `  kubectl podtoken status
  kubectl podtoken status mypod
  kubectl podtoken status deployment/app -o json`

// atOnce bounds how many sidecars are asked at a time, and patience how long one may take.
const (
	atOnce   = 10
	patience = 20 * time.Second
)

// States of a token.
const (
	stateFresh     = "Fresh"
	stateFailing   = "Failing" // fresh, but its refresh fails
	stateUnusable  = "Unusable"
	stateUnknown   = "Unknown"
	stateProjected = "Projected"
)

// Token is a row.
type Token struct {
	Namespace string   `json:"namespace"`
	Pod       string   `json:"pod"`
	Name      string   `json:"token,omitempty"`
	Audiences []string `json:"audiences,omitempty"`
	State     string   `json:"state"`
	// The times are the sidecar's; absent for none.
	ExpiresAt   time.Time `json:"expiresAt,omitzero"`
	RequestedAt time.Time `json:"requestedAt,omitzero"`
	RefreshAt   time.Time `json:"refreshAt,omitzero"`
	Failures    int       `json:"failures,omitempty"`
	// Error is the last one, or why nothing is known.
	Error string `json:"error,omitempty"`

	now time.Time
}

type options struct {
	selector, output string
	all              bool
}

// New returns the command.
func New(e *plugin.Env) *cobra.Command {
	o := &options{}
	command := &cobra.Command{
		Use: "status [POD | TYPE/NAME]", Short: "Print expiry, age and last error of the tokens of pods",
		Long: long, Example: example, Args: cobra.MaximumNArgs(1), ValidArgsFunction: e.CompletePods,
	}
	flags := command.Flags()
	flags.StringVarP(&o.selector, "selector", "l", "", "label `selector` of pods")
	flags.BoolVarP(&o.all, "all-namespaces", "A", false, "pods of all namespaces")
	flags.StringVarP(&o.output, "output", "o", "", "`format`: json, or nothing for a table")
	command.RunE = func(command *cobra.Command, args []string) error {
		return o.run(command.Context(), e, strings.Join(args, ""))
	}
	return command
}

func (o *options) run(ctx context.Context, e *plugin.Env, argument string) error {
	if err := plugin.CheckOutput(o.output); err != nil {
		return err
	}
	if argument != "" && (o.all || o.selector != "") {
		return errors.New("a name goes with neither --all-namespaces nor --selector: leave one out")
	}
	c, err := e.Connect()
	if err != nil {
		return err
	}
	var pods []corev1.Pod
	namespace := c.Namespace
	switch {
	case argument != "":
		pods, err = c.PodsOf(ctx, argument)
	default:
		if o.all {
			namespace = ""
		}
		pods, err = c.Injected(ctx, namespace, o.selector)
	}
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		where := "in namespace " + namespace
		if namespace == "" {
			where = "in any namespace"
		}
		return fmt.Errorf("there are no injected pods %s that match: \"kubectl podtoken explain TYPE/NAME\" says why a pod is not injected", where)
	}
	tokens := ask(ctx, c, pods)
	if o.output == plugin.OutputJSON {
		err = plugin.PrintJSON(e.Out, map[string]any{"tokens": tokens})
	} else {
		printTable(e, tokens, o.all)
	}
	if err == nil && bad(tokens) {
		return plugin.Silent{}
	}
	return err
}

func bad(tokens []Token) bool {
	for i := range tokens {
		if tokens[i].State == stateUnusable || tokens[i].State == stateUnknown {
			return true
		}
	}
	return false
}

// ask asks all sidecars, some at a time, and keeps their order.
func ask(ctx context.Context, c *plugin.Cluster, pods []corev1.Pod) []Token {
	answers := make([][]Token, len(pods))
	room := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for i := range pods {
		group.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			answers[i] = tokensOf(ctx, c, &pods[i])
		})
	}
	group.Wait()
	var tokens []Token
	for _, answer := range answers {
		tokens = append(tokens, answer...)
	}
	return tokens
}

func tokensOf(ctx context.Context, c *plugin.Cluster, pod *corev1.Pod) []Token {
	details, err := sidecar.Details(ctx, c, pod)
	if err != nil {
		return unknown(pod, err)
	}
	var tokens []Token
	for i := range details.Tokens {
		tokens = append(tokens, tokenOf(pod, &details.Tokens[i], details.Now))
	}
	return tokens
}

func tokenOf(pod *corev1.Pod, d *sidecarstatus.TokenDetails, now time.Time) Token {
	t := Token{
		Namespace: pod.Namespace, Pod: pod.Name, Name: d.Name, Audiences: d.Audiences, State: stateFresh,
		ExpiresAt: d.ExpiresAt, RequestedAt: d.RequestedAt, RefreshAt: d.RefreshAt, Failures: d.Failures, Error: d.LastError, now: now,
	}
	switch {
	case d.Problem != "":
		t.State = stateUnusable
		if t.Error == "" {
			t.Error = d.Problem
		}
	case d.LastError != "":
		t.State = stateFailing
	}
	return t
}

// unknown are the rows of a pod that cannot be asked: one for each token that its spec declares.
func unknown(pod *corev1.Pod, err error) []Token {
	t := Token{Namespace: pod.Namespace, Pod: pod.Name, State: stateUnknown, Error: plugin.Describe(err)}
	if errors.Is(err, sidecar.ErrProjected) {
		t.State = stateProjected
	}
	var tokens []Token
	for _, declared := range sidecar.Declared(pod) {
		t.Name, t.Audiences = declared.Name, declared.Audiences
		tokens = append(tokens, t)
	}
	if tokens == nil {
		tokens = []Token{t}
	}
	return tokens
}

func printTable(e *plugin.Env, tokens []Token, all bool) {
	table := plugin.Table(e.Out)
	row := func(namespace string, cells ...string) {
		if all {
			cells = append([]string{namespace}, cells...)
		}
		table.Row(cells...)
	}
	row("NAMESPACE", "POD", "TOKEN", "STATE", "EXPIRES", "AGE", "NEXT", "LAST ERROR")
	for i := range tokens {
		t := &tokens[i]
		row(t.Namespace, t.Pod, orNone(t.Name), t.State, t.in(t.ExpiresAt), t.since(t.RequestedAt), t.in(t.RefreshAt), orNone(t.lastError()))
	}
	table.Flush()
}

func (t *Token) lastError() string {
	if t.Failures > 1 {
		return fmt.Sprintf("%s (%d times)", t.Error, t.Failures)
	}
	return t.Error
}

// in is how long it is until a moment, since how long it is a moment ago; as kubectl writes ages.
func (t *Token) in(moment time.Time) string {
	switch left := moment.Sub(t.now); {
	case moment.IsZero():
		return "-"
	case left < 0:
		return duration.HumanDuration(-left) + " ago"
	default:
		return duration.HumanDuration(left)
	}
}

func (t *Token) since(moment time.Time) string {
	if moment.IsZero() {
		return "-"
	}
	return duration.HumanDuration(max(t.now.Sub(moment), 0))
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
