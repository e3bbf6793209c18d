// Command sidecar measures the sidecar as a process: how long it takes from its start to tokens on disk, what it takes of
// memory when it is at rest, and what it does there. It runs the binary as it is shipped against a fake API server on the
// loopback interface, in turns with the floor of ../floor and with every binary that is named, which must understand the
// same flags: an older build, say.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/podtoken/podtoken/bench/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sidecar:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("sidecar", flag.ContinueOnError)
	document := flags.String("report", "", "the document whose section is written; none by default")
	starts := flags.Int("starts", 40, "starts of each binary")
	rests := flags.Int("rests", 3, "processes of each binary that are watched at rest")
	idle := flags.Duration("idle", time.Minute, "how long they are watched")
	refreshes := flags.Int("refreshes", 950, "replacements of all tokens that each of them does afterwards: a month of tokens of an hour")
	var more []candidate
	flags.Func("with", "`NAME=[VARIABLE=VALUE ]BINARY` to compare with; may be repeated", func(value string) error {
		name, what, found := strings.Cut(value, "=")
		words := strings.Fields(what)
		if !found || len(words) == 0 {
			return fmt.Errorf("want NAME=BINARY, got %q", value)
		}
		last := len(words) - 1
		more = append(more, candidate{name: name, binary: words[last], env: words[:last]})
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "podtoken-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	candidates, err := buildCandidates(ctx, dir)
	if err != nil {
		return err
	}
	candidates = append(candidates, more...)
	conditions := report.Begin("make bench-sidecar")
	if err := measure(ctx, filepath.Join(dir, "runs"), candidates, *starts, *rests, *idle, *refreshes); err != nil {
		return err
	}
	table, err := tabulate(candidates)
	if err != nil {
		return err
	}
	return report.Publish(*document, "sidecar", conditions.String()+"\n"+table)
}
