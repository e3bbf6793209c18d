// Command podtoken-controller gives ServiceAccounts the permission to mint the tokens that their pods declare, and takes
// it away again. It can also keep the serving certificate of the webhook. Without a subcommand it runs until it is told to
// stop; `podtoken-controller cleanup` removes what must not outlive an installation.
//
// Exit codes: 0 after an orderly shutdown, a cleanup that left nothing, or -help; 1 after an error, and when another
// replica took the lead; a second signal kills the process at once (exit code 2 as the first process of a container).
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

// commandCleanup is the only subcommand.
const commandCleanup = "cleanup"

// gcPercent trades a little CPU, of which the controller uses next to none, for memory, which the caches need.
const gcPercent = 40

func main() {
	debug.SetGCPercent(gcPercent)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // the second signal ends the process at once
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "podtoken-controller:", err)
		os.Exit(1)
	}
}

// run does what the arguments say, until it is done or ctx is. There is no environment to read but that of an in-cluster
// client, and GOMEMLIMIT.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	if len(args) > 0 && args[0] == commandCleanup {
		options, err := parseCleanupOptions(args[1:], stderr)
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		if err != nil {
			return err
		}
		return runCleanup(ctx, options, stderr)
	}
	options, err := parseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	controller, err := newController(options, stderr)
	if err != nil {
		return err
	}
	return controller.Run(ctx)
}
