package plugin

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// Env is what a command gets of its process.
type Env struct {
	genericiooptions.IOStreams
	// Flags are kubectl's own: --kubeconfig, --context, --namespace, ...
	Flags *genericclioptions.ConfigFlags
	// Connect returns the cluster of Flags; nothing is asked yet.
	Connect func() (*Cluster, error)
	Now     func() time.Time
}

// NewEnv returns the Env of a process.
func NewEnv(streams genericiooptions.IOStreams) *Env {
	e := &Env{IOStreams: streams, Flags: genericclioptions.NewConfigFlags(true), Now: time.Now}
	e.Connect = e.connect
	return e
}

// Namespace is that of --namespace or the kubeconfig's context, also without any cluster.
func (e *Env) Namespace() (string, error) {
	namespace, _, err := e.Flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return "", fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return namespace, nil
}

// Printf writes to standard output; texts among the arguments are Plain. An error means that nobody reads any more.
func (e *Env) Printf(format string, args ...any) { _, _ = fmt.Fprintf(e.Out, format, plain(args)...) }

// Warnf writes a line to standard error as kubectl writes warnings of the API server.
func (e *Env) Warnf(format string, args ...any) {
	_, _ = fmt.Fprintln(e.ErrOut, "Warning: "+Plain(fmt.Sprintf(format, args...)))
}

// Plain is a text in one line and without characters that a terminal would obey: whoever may create pods or events chooses what
// messages, names of variables and answers of sidecars say, and administrators read them.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r): // Cf has those that turn the direction of writing
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

func plain(args []any) []any {
	all := make([]any, len(args))
	for i, arg := range args {
		all[i] = arg
		if value := reflect.ValueOf(arg); value.Kind() == reflect.String {
			all[i] = Plain(value.String())
		}
	}
	return all
}

// Describe is the sentence for an error at the end of a command.
func Describe(err error) string {
	text := Plain(strings.Join(strings.Fields(err.Error()), " "))
	switch {
	case utilnet.IsConnectionRefused(err), utilnet.IsTimeout(err), errors.As(err, new(*net.DNSError)):
		return "the API server cannot be reached: " + text
	case apierrors.IsUnauthorized(err):
		return "the API server does not accept the credential in the kubeconfig: " + text
	}
	return text
}

// NoArguments is for commands that take flags only.
func NoArguments(command *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q: %q takes flags only, see --help", args[0], command.CommandPath())
	}
	return nil
}

// Silent ends a command with exit code 1 without a text: everything was said.
type Silent struct{}

func (Silent) Error() string { return "" }
