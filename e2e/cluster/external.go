package cluster

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/podtoken/podtoken/e2e/cluster/internal/binaries"
	"github.com/podtoken/podtoken/e2e/cluster/internal/image"
)

// useExisting prepares the cluster of Options.Kubeconfig: images go to Options.Registry, and nothing is booted.
func (c *Cluster) useExisting(ctx context.Context) error {
	var err error
	if c.kubeconfig, err = filepath.Abs(c.options.Kubeconfig); err != nil {
		return err
	}
	if c.restConfig, err = loadRESTConfig(c.kubeconfig); err != nil {
		return err
	}
	if err := c.checkCertManager(ctx); err != nil {
		return err
	}
	// The cluster brings its own components, but kubectl and helm are the same versions everywhere.
	if c.binaries, err = Binaries(ctx, c.options); err != nil {
		return err
	}
	busybox, err := busyboxArchive(ctx)
	if err != nil {
		return err
	}
	if err := c.ImportImage(ctx, busybox, ImageBusybox); err != nil {
		return err
	}
	if !c.options.ProductImages {
		return nil
	}
	if err := c.buildProductImages(ctx, c.options.RepoRoot); err != nil {
		return err
	}
	return c.importProductImages(ctx, c.options.RepoRoot)
}

// pushImage is how an image gets into a cluster that is not ours.
func (c *Cluster) pushImage(ctx context.Context, archive, name string) error {
	cache, err := binaries.CacheDir()
	if err != nil {
		return err
	}
	env, err := binaries.ReadGoEnv(ctx)
	if err != nil {
		return err
	}
	buildah, err := image.NewBuildah(ctx, cache, env)
	if err != nil {
		return err
	}
	if err := buildah.Push(ctx, archive, name, c.Image(name)); err != nil {
		return fmt.Errorf("pushing image %s: %w", c.Image(name), err)
	}
	return nil
}
