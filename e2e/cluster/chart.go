package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

const (
	// Namespace and Release are where and as what InstallChart installs the product.
	Namespace = "podtoken-system"
	Release   = "podtoken"
)

// InstallChart installs the product's chart, or upgrades it, with the images built from this repository, and waits until
// it works. The arguments are appended to those of helm: "--set", "webhook.replicas=1".
func (c *Cluster) InstallChart(ctx context.Context, arguments ...string) error {
	return c.InstallChartOf(ctx, c.options.RepoRoot, arguments...)
}

// InstallChartOf does it with another version: with the chart in another checkout, and images built from the sources there.
func (c *Cluster) InstallChartOf(ctx context.Context, root string, arguments ...string) error {
	if c.product[root] == nil {
		if err := c.buildProductImages(ctx, root); err != nil {
			return err
		}
		if err := c.importProductImages(ctx, root); err != nil {
			return err
		}
	}
	all := []string{
		"upgrade", "--install", Release, filepath.Join(root, "charts", "podtoken"),
		"--namespace", Namespace, "--create-namespace", "--wait", "--timeout", "3m",
	}
	for _, built := range c.product[root] {
		// The chart puts the three parts of a name together again.
		name, tag, _ := strings.Cut(strings.TrimPrefix(built.Name, imageRegistry+"/"), ":")
		all = append(all, "--set-string", built.Target+".image.repository="+name, "--set-string", built.Target+".image.tag="+tag)
	}
	all = append(all, "--set-string", "image.registry="+c.registry())
	c.progress.logf("installing the chart")
	if _, err := c.Helm(ctx, append(all, arguments...)...); err != nil {
		pods, _ := c.Kubectl(ctx, nil, "--namespace", Namespace, "get", "pods,events")
		return fmt.Errorf("installing the chart: %w\n%s", err, pods)
	}
	if err := c.waitForWebhook(ctx); err != nil {
		return err
	}
	c.progress.logf("the product is installed")
	return nil
}

// probePod asks for a token; it is only ever sent as a dry run.
const probePod = `
apiVersion: v1
kind: Pod
metadata:
  generateName: podtoken-probe-
  namespace: kube-public
  annotations: {podtoken.dev/audience: probe}
spec:
  containers: [{name: probe, image: probe}]
`

// waitForWebhook waits until the API server reaches the webhook and trusts it. The webhook's pods are ready some moments
// before: kube-proxy and whoever puts the CA into its registration still have to hear of it.
func (c *Cluster) waitForWebhook(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, err := c.Kubectl(ctx, strings.NewReader(probePod), "create", "--dry-run=server", "-f", "-")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the webhook to answer: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (c *Cluster) registry() string {
	if c.options.Registry != "" {
		return strings.TrimSuffix(c.options.Registry, "/")
	}
	return imageRegistry
}
