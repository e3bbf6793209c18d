// Command podtoken-webhook is podtoken's mutating admission webhook: AdmissionReview in, JSON patch out.
//
// It is stateless and talks to nobody. It reads its configuration, the policy, its serving certificate and the API
// server's audiences from files, and takes new ones into use while it runs. Exit codes: 0 after a drained shutdown or -help, 1 after an error; a second signal
// kills the process at once (exit code 2 as the first process of a container).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// gcPercent gives memory, of which an idle webhook has little, for CPU: large pods cost a fifth less than with Go's 100.
const gcPercent = 175

func main() {
	debug.SetGCPercent(gcPercent)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // the second signal ends the process at once
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "podtoken-webhook:", err)
		os.Exit(1)
	}
}

// run serves until ctx is done and everything has been answered. There is no environment to read but GOMEMLIMIT.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	options, err := parseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	return newServer(options, stderr).Run(ctx)
}
