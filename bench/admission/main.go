// Command admission measures the webhook against others in one run: the CPU that a review costs, how long it takes, what
// memory that needs, and what happens when there are more reviews than two cores can answer. The others are what every
// webhook has to do (HTTP, TLS, reading the body), controller-runtime's way to write a webhook, and webhooks that exist,
// with their own handlers behind the same TLS server. Each is a process of its own; all are measured in turns.
//
//	go run . [--report ../../docs/performance.md]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/podtoken/podtoken/bench/report"
)

// serveCommand is the first argument of the processes that serve.
const serveCommand = "serve"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "admission:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 4 && args[0] == serveCommand {
		return serve(ctx, args[1], args[2], args[3])
	}
	flags := flag.NewFlagSet("admission", flag.ContinueOnError)
	document := flags.String("report", "", "the document whose sections are written; none by default")
	runs := flags.Int("runs", 5, "how often each server gets its turn")
	turn := flags.Duration("turn", time.Second, "how long a turn is")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "podtoken-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	conditions := report.Begin("make bench-admission")
	contestants, err := start(ctx, dir)
	defer stopAll(contestants)
	if err != nil {
		return err
	}
	costs, err := measureCosts(ctx, contestants, *runs, *turn)
	if err != nil {
		return err
	}
	overload, err := measureOverload(ctx, contestants, *turn)
	if err != nil {
		return err
	}
	return report.Publish(*document, "admission", conditions.String()+"\n"+costs+"\n"+overload)
}
