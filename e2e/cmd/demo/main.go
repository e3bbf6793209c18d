// Command demo boots a real Kubernetes on this machine, installs podtoken, runs the quickstart example and prints what
// its application sees. `make demo` runs it.
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
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	name := flags.String("name", cluster.DefaultName, "name of the cluster")
	version := flags.String("kubernetes", "", "version of Kubernetes (default $"+cluster.EnvKubernetes+", else the newest)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	root, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	options := cluster.Options{Name: *name, KubernetesVersion: *version, RepoRoot: root, Log: stderr, ProductImages: true}
	c, err := cluster.Up(ctx, options)
	if err != nil {
		return err
	}
	if err := show(ctx, c, root, stdout); err != nil {
		return c.GiveUp(err)
	}
	if err := c.Keep(); err != nil {
		return c.GiveUp(err)
	}
	return goOn(ctx, c, options, stdout)
}

// show is what a person would do by hand: install, apply the example, look.
func show(ctx context.Context, c *cluster.Cluster, root string, out io.Writer) error {
	if err := c.InstallChart(ctx); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	d := &demo{cluster: c, client: client, out: out}
	started := time.Now()
	if _, err := c.Kubectl(ctx, nil, "apply", "-f", filepath.Join(root, "manifests", "examples", "quickstart.yaml")); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, nil, "--namespace", namespace, "wait", "--for=condition=Ready", "pod/"+pod, "--timeout=2m"); err != nil {
		return err
	}
	d.printf("\nThe pod %s/%s asked for two tokens by annotation, and was ready %.1f s after `kubectl apply`.\n", namespace, pod, time.Since(started).Seconds())
	d.printf("Its application found these files:\n")
	before := map[string]claims{}
	for _, token := range tokens {
		if before[token.name], err = d.describe(ctx, token); err != nil {
			return err
		}
	}
	return d.refresh(ctx, before)
}

func goOn(ctx context.Context, c *cluster.Cluster, options cluster.Options, out io.Writer) error {
	options.Log = io.Discard
	set, err := cluster.Binaries(ctx, options)
	if err != nil {
		return err
	}
	down := "make demo-down"
	if options.Name != cluster.DefaultName {
		down += " DEMO=" + options.Name
	}
	_, err = fmt.Fprintf(out, `
The cluster stays. To look around:

    export KUBECONFIG=%s PATH=%s:$PATH
    kubectl get pods --all-namespaces
    kubectl --namespace %s describe pod %s
    kubectl --namespace %s logs %s --container podtoken     # what the sidecar did
    kubectl --namespace %s logs %s --container app --follow # what the application reads
    kubectl apply --filename manifests/examples/

To remove it:

    %s
`, c.Kubeconfig(), set.Dir(), namespace, pod, namespace, pod, namespace, pod, down)
	return err
}
