// Command kubectl-podtoken is a plugin of kubectl: `kubectl podtoken` says what podtoken does with a pod and why, what its tokens
// are, and whether the installation is as it should be. docs/kubectl-podtoken.md is its manual.
//
// Exit codes: 0, or 1 with a sentence on standard error.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"

	"github.com/podtoken/podtoken/internal/plugin"
)

// patience is how long a command may take to end by itself after a signal. One that reads its input hears of none.
const patience = time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() {
		stop() // so that the next signal ends it at once
		time.Sleep(patience)
		_, _ = fmt.Fprintln(os.Stderr, "error: interrupted")
		os.Exit(1)
	})
	silenceClients()
	err := run(ctx, arguments(os.Args), plugin.NewEnv(genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}))
	stop()
	if err != nil {
		os.Exit(1)
	}
}

// silenceClients ends the log of client-go: what it says about its streams and retries is nothing for who reads a table, and errors
// are told once, by run. Without its log on standard error klog would still write errors there, so it gets another logger.
func silenceClients() { klog.SetLogger(logr.Discard()) }

// completer is the name under which kubectl runs a plugin's program to complete its arguments: a link to it is enough.
const completer = "kubectl_complete-podtoken"

// arguments are those of the command, out of those of the process.
func arguments(process []string) []string {
	if filepath.Base(process[0]) == completer {
		return append([]string{cobra.ShellCompRequestCmd}, process[1:]...)
	}
	return process[1:]
}

// run is the program. What is wrong has been told when it returns.
func run(ctx context.Context, args []string, e *plugin.Env) error {
	root := newRoot(e) //nolint:contextcheck // cobra hands each command the context
	root.SetArgs(args)
	root.SetIn(e.In)
	root.SetOut(e.Out)
	root.SetErr(e.ErrOut)
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, plugin.Silent{}) {
		_, _ = fmt.Fprintln(e.ErrOut, "error:", plugin.Describe(err))
	}
	return err
}
