// Command cluster boots and removes the Kubernetes of package cluster, for people.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/podtoken/podtoken/e2e/cluster"
)

const usage = `usage: go run ./cmd/cluster COMMAND [FLAGS]

commands:
  up          boot a real Kubernetes on this machine; --install installs podtoken into it
  down        remove a cluster, and whatever it has on this machine
  list        show the clusters of this machine
  kubeconfig  print the path of a cluster's kubeconfig
  path        print the directory with kubectl and helm
  build       build the programs of a cluster, which up does too when they are missing
  versions    show the versions of Kubernetes that a cluster can have
  images      build podtoken's images, and print their archives

flags of up, down and kubeconfig:
  --name NAME           which cluster (default "` + cluster.DefaultName + `")

flags of up, path and build:
  --kubernetes VERSION  of Kubernetes (default $` + cluster.EnvKubernetes + `, else the newest)
`

// errUsage says that the command line was wrong and that this was said already.
var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) error {
	if len(arguments) == 0 {
		_, _ = fmt.Fprint(stderr, usage)
		return errUsage
	}
	flags := flag.NewFlagSet(arguments[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { _, _ = fmt.Fprint(stderr, usage) }
	var name, kubernetes string
	var install bool
	command := arguments[0]
	switch command {
	case "up":
		flags.BoolVar(&install, "install", false, "")
		fallthrough
	case "down", "kubeconfig":
		flags.StringVar(&name, "name", cluster.DefaultName, "")
	}
	switch command {
	case "up", "path", "build":
		flags.StringVar(&kubernetes, "kubernetes", "", "")
	}
	if err := flags.Parse(arguments[1:]); err != nil || flags.NArg() > 0 {
		if err == nil {
			_, _ = fmt.Fprintf(stderr, "%s takes no argument %q\n", command, flags.Arg(0))
		}
		return errUsage
	}
	switch command {
	case "up":
		return up(ctx, cluster.Options{Name: name, KubernetesVersion: kubernetes, Log: stderr, ProductImages: install}, stdout)
	case "down":
		return down(name, stderr)
	case "list":
		return list(stdout)
	case "kubeconfig":
		return kubeconfig(name, stdout)
	case "path", "build":
		set, err := cluster.Binaries(ctx, cluster.Options{KubernetesVersion: kubernetes, Log: stderr})
		if err == nil {
			_, _ = fmt.Fprintln(stdout, set.Dir())
		}
		return err
	case "versions":
		return versions(stdout)
	case "images":
		return images(ctx, stdout, stderr)
	case "help", "-h", "--help":
		_, _ = fmt.Fprint(stdout, usage)
		return nil
	}
	_, _ = fmt.Fprintf(stderr, "%q is not a command\n\n%s", command, usage)
	return errUsage
}

func up(ctx context.Context, options cluster.Options, stdout io.Writer) error {
	c, err := cluster.Up(ctx, options)
	if err != nil {
		return err
	}
	if options.ProductImages {
		if err := c.InstallChart(ctx); err != nil {
			return c.GiveUp(err)
		}
	}
	if err := c.Keep(); err != nil {
		return c.GiveUp(err)
	}
	_, _ = fmt.Fprintf(stdout, "export KUBECONFIG=%s\n", c.Kubeconfig())
	return nil
}

func down(name string, stderr io.Writer) error {
	start := time.Now()
	existed, err := cluster.Remove(name)
	switch {
	case err != nil:
		return err
	case !existed:
		_, _ = fmt.Fprintf(stderr, "there is no cluster %q\n", name)
	default:
		_, _ = fmt.Fprintf(stderr, "%6.1fs  removed cluster %q\n", time.Since(start).Seconds(), name)
	}
	return nil
}

func list(stdout io.Writer) error {
	all, err := cluster.List()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "NAME\tSTATE\tKUBECONFIG")
	for _, one := range all {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", one.Name, one.State, filepath.Join(one.Root, "kubeconfig"))
	}
	return table.Flush()
}

func kubeconfig(name string, stdout io.Writer) error {
	path := cluster.KubeconfigPath(name)
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("there is no cluster %q; \"up --name %s\" boots it", name, name)
	}
	_, _ = fmt.Fprintln(stdout, path)
	return nil
}

func versions(stdout io.Writer) error {
	all, err := cluster.Versions("")
	for _, v := range all {
		_, _ = fmt.Fprintln(stdout, v.Minor)
	}
	return err
}

func images(ctx context.Context, stdout, stderr io.Writer) error {
	built, err := cluster.Images(ctx, "", stderr)
	if err != nil {
		return err
	}
	for _, one := range built {
		_, _ = fmt.Fprintf(stdout, "%s\t%s\n", one.Name, one.Archive)
	}
	return nil
}
