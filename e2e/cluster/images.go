package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"

	"github.com/podtoken/podtoken/e2e/cluster/internal/binaries"
	"github.com/podtoken/podtoken/e2e/cluster/internal/image"
)

// Images of a cluster of our own are named as if they came from a registry that does not exist: a pull can never
// succeed, so a pod runs exactly what was imported.
const (
	imageRegistry = "podtoken.test"

	ImagePause   = imageRegistry + "/pause:1"
	ImageBusybox = imageRegistry + "/busybox:1"

	// examplesBusybox is the image that the documentation's examples name. In a cluster of our own the name stands for
	// the same busybox as ImageBusybox.
	examplesBusybox = "busybox:1.37"
)

// Image returns the name by which pods of this cluster name an image that was imported under that name.
func (c *Cluster) Image(name string) string {
	return c.registry() + "/" + strings.TrimPrefix(name, imageRegistry+"/")
}

// ImportImage brings an archive ("docker save" format) into the cluster, with the name that it has in the archive.
func (c *Cluster) ImportImage(ctx context.Context, archive, name string) error {
	if c.options.Registry != "" {
		return c.pushImage(ctx, archive, name)
	}
	for _, n := range c.nodes() {
		if _, err := c.ctr(ctx, n, "--namespace=k8s.io", "images", "import", "--local", archive); err != nil {
			return err
		}
	}
	return nil
}

// BuildGoImage compiles a program (package pkg of the module in dir, without cgo) and brings it into the cluster as an
// image of that name, for instance "podtoken.test/probe:1". The image has nothing but the program, as its entrypoint, and
// runs as user 65532. With tools, names of programs of this machine, the image has these too, and a busybox. The returned name is the one
// for pods.
func (c *Cluster) BuildGoImage(ctx context.Context, dir, pkg, name string, tools ...string) (string, error) {
	directory, err := os.MkdirTemp("", "podtoken-image-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(directory) }()
	program, archive := filepath.Join(directory, "program"), filepath.Join(directory, "image.tar")
	if err := binaries.BuildStatic(ctx, dir, pkg, program); err != nil {
		return "", err
	}
	made := image.Program(program, name)
	if len(tools) > 0 {
		if err := addTools(ctx, &made, tools); err != nil {
			return "", err
		}
	}
	if err := made.Write(archive); err != nil {
		return "", err
	}
	return c.Image(name), c.ImportImage(ctx, archive, name)
}

func addTools(ctx context.Context, made *image.Image, tools []string) error {
	program, err := binaries.StaticBusybox()
	if err != nil {
		return err
	}
	busybox, err := image.Busybox(ctx, program)
	if err != nil {
		return err
	}
	made.Env, made.Files = busybox.Env, append(made.Files, busybox.Files...)
	for _, name := range tools {
		files, err := image.Tool(ctx, name)
		if err != nil {
			return fmt.Errorf("adding %s to an image: %w", name, err)
		}
		made.Files = append(made.Files, files...)
	}
	return nil
}

// importTestImages brings in the pause image, which every pod needs, and a busybox.
func (c *Cluster) importTestImages(ctx context.Context) error {
	pause, err := testArchive("pause", c.binaries.Path("pause"), func(program string) (image.Image, error) {
		return image.Program(program, ImagePause), nil
	})
	if err != nil {
		return err
	}
	if err := c.ImportImage(ctx, pause, ImagePause); err != nil {
		return err
	}
	busybox, err := busyboxArchive(ctx)
	if err != nil {
		return err
	}
	return c.ImportImage(ctx, busybox, ImageBusybox)
}

func busyboxArchive(ctx context.Context) (string, error) {
	program, err := binaries.StaticBusybox()
	if err != nil {
		return "", err
	}
	return testArchive("busybox", program, func(program string) (image.Image, error) {
		// A name without a registry stands for one with a default registry, and containerd knows images by the latter.
		normalised, err := reference.ParseNormalizedNamed(examplesBusybox)
		if err != nil {
			return image.Image{}, err
		}
		return image.Busybox(ctx, program, ImageBusybox, normalised.String())
	})
}

// testArchive returns the archive of an image made of one program, from the cache if it is the same program.
func testArchive(name, program string, construct func(program string) (image.Image, error)) (string, error) {
	cache, err := binaries.CacheDir()
	if err != nil {
		return "", err
	}
	hash, err := binaries.Hash([]string{program}, ImagePause, ImageBusybox, examplesBusybox)
	if err != nil {
		return "", err
	}
	archive := filepath.Join(cache, "images", name+"-"+hash+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive, nil
	}
	made, err := construct(program)
	if err != nil {
		return "", err
	}
	if err := made.Write(archive); err != nil {
		return "", fmt.Errorf("making the %s image: %w", name, err)
	}
	return archive, nil
}

// ctr runs the command line client of a node's containerd.
func (c *Cluster) ctr(ctx context.Context, n node, arguments ...string) (string, error) {
	return run(ctx, nil, nil, c.binaries.Path("ctr"), append([]string{"--address=" + c.containerdSocket(n)}, arguments...)...)
}
