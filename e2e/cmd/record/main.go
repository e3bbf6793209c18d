// Command record plays a quarter of an hour of an installation's life on a real cluster, and writes down what a Prometheus
// that scrapes webhook, controller, sidecars and API server would see of it. From that `make picture` draws the dashboard.
//
//	go run ./cmd/record [--name picture] --to RECORDING
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/podtoken/podtoken/e2e/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, log io.Writer) (err error) {
	flags := flag.NewFlagSet("record", flag.ContinueOnError)
	name := flags.String("name", "picture", "name of the cluster, which is removed afterwards")
	to := flags.String("to", "", "the file that is written")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *to == "" {
		return fmt.Errorf("--to is missing: it must name the file that is written")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	c, err := cluster.Up(ctx, cluster.Options{
		Name: *name, RepoRoot: root, Log: log, ProductImages: true, MaxRestartDelay: time.Second,
		// Half of the lifetime that one of the pods asks for.
		APIServerArgs: []string{"--service-account-max-token-expiration=1h"},
	})
	if err != nil {
		return err
	}
	defer func() {
		//nolint:contextcheck // ctx may be what ended
		if downErr := c.Down(context.WithoutCancel(ctx)); err == nil {
			err = downErr
		}
	}()
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	s := &scenario{cluster: c, client: client, log: log}
	if s.image, err = c.BuildGoImage(ctx, filepath.Join(root, "e2e"), "./cmd/probe", "podtoken.test/probe:1"); err != nil {
		return err
	}
	if err := c.InstallChart(ctx, policyOfAll...); err != nil {
		return err
	}
	// The file is there when all of it is.
	file, err := os.CreateTemp(filepath.Dir(*to), filepath.Base(*to)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if err := record(ctx, s, newScraper(c, client), file); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), *to)
}
