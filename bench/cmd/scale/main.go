// Command scale measures ten thousand injected pods of a thousand ServiceAccounts, through the real webhook and the real
// controller against a real API server. Only the nodes are not real: kwok plays their kubelets, so no containers run, and
// the pods' refreshes are not in it (TestHerd of pkg/sidecar has those).
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
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	document := flags.String("report", "", "the document whose section is written; none by default")
	name := flags.String("name", "scale", "name of the cluster")
	var size dimensions
	flags.IntVar(&size.nodes, "nodes", 100, "nodes, of kwok")
	flags.IntVar(&size.namespaces, "namespaces", 20, "namespaces")
	flags.IntVar(&size.accounts, "accounts", 1000, "ServiceAccounts")
	flags.IntVar(&size.pods, "pods", 10_000, "injected pods")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "podtoken-scale-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	kwok, err := buildKwok(ctx, dir)
	if err != nil {
		return err
	}
	return kube.Do(ctx, *name, func(ctx context.Context, w *kube.World) error {
		conditions := report.Begin("make bench-scale")
		table, err := measure(ctx, w, kwok, size)
		if err != nil {
			return err
		}
		return report.Publish(*document, "scale", conditions.String()+"\n"+table)
	})
}
