// Command podstart measures, on a real Kubernetes, how much later an application starts because of its tokens, by ways of
// giving it some; and what the sidecar takes there, by its process and by its cgroup.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/podtoken/podtoken/bench/kube"
	"github.com/podtoken/podtoken/bench/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "podstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("podstart", flag.ContinueOnError)
	document := flags.String("report", "", "the document whose sections are written; none by default")
	rounds := flags.Int("rounds", 12, "starts of each kind of pod")
	name := flags.String("name", "podstart", "name of the cluster")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return kube.Do(ctx, *name, func(ctx context.Context, w *kube.World) error {
		m := &measurement{World: w}
		conditions := report.Begin("make bench-podstart")
		if err := m.prepare(ctx); err != nil {
			return err
		}
		starts, err := m.starts(ctx, *rounds)
		if err != nil {
			return err
		}
		if err := report.Publish(*document, "podstart", conditions.String()+"\n"+starts); err != nil {
			return err
		}
		footprint, err := m.footprint(ctx)
		if err != nil {
			return err
		}
		return report.Publish(*document, "pod", conditions.String()+"\n"+footprint)
	})
}
