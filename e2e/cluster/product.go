package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podtoken/podtoken/e2e/cluster/internal/binaries"
	"github.com/podtoken/podtoken/e2e/cluster/internal/image"
)

// productTargets are the final stages of the Dockerfile, each an image of its own.
var productTargets = []string{"webhook", "controller", "sidecar"}

// ProductImage is one image of the product, built from the repository's Dockerfile.
type ProductImage struct {
	Target  string // the stage of the Dockerfile
	Name    string // the full name; its tag says which sources it was built from
	Archive string // in the format of "docker save"
}

// buildProductImages builds the product's images from the Dockerfile, if they were not built from the same sources
// before.
func buildProductImages(ctx context.Context, repoRoot string, logf func(format string, arguments ...any)) ([]ProductImage, error) {
	w, err := openWorkshop(ctx, repoRoot)
	if err != nil {
		return nil, err
	}
	tag, err := sourceHash(w.root, w.env.GOVERSION)
	if err != nil {
		return nil, fmt.Errorf("reading the product's sources: %w", err)
	}
	var images []ProductImage
	complete := true
	for _, target := range productTargets {
		built := ProductImage{
			Target:  target,
			Name:    imageRegistry + "/podtoken/" + target + ":" + tag,
			Archive: filepath.Join(w.cache, "images", "product-"+target+"-"+tag+".tar"),
		}
		images = append(images, built)
		if _, err := os.Stat(built.Archive); err != nil {
			complete = false
		}
	}
	if complete {
		logf("the product's images are built from these sources already")
		return images, nil
	}
	unlock, err := w.lock("images", logf)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return images, buildProduct(ctx, w, tag, images, logf)
}

func buildProduct(ctx context.Context, w *workshop, tag string, images []ProductImage, logf func(string, ...any)) error {
	start := time.Now()
	logf("building the product's images from the Dockerfile")
	buildah, err := w.newBuildah(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(w.cache, "images"), 0o750); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, wanted := range images {
		if _, err := os.Stat(wanted.Archive); err == nil {
			continue
		}
		group.Go(func() error {
			err := buildah.Build(ctx, image.Build{
				Context: w.root,
				Target:  wanted.Target,
				Name:    wanted.Name,
				Args:    map[string]string{"VERSION": "v0.0.0-e2e." + tag},
			}, wanted.Archive)
			if err != nil {
				return fmt.Errorf("building image %q: %w", wanted.Target, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	logf("the product's images are built (%.1fs)", time.Since(start).Seconds())
	return removeOldArchives(filepath.Join(w.cache, "images"))
}

// workshop is where the product's images are built.
type workshop struct {
	root  string // of the checkout
	cache string
	env   *binaries.GoEnv
}

func openWorkshop(ctx context.Context, repoRoot string) (*workshop, error) {
	root, err := findRepoRoot(repoRoot)
	if err != nil {
		return nil, err
	}
	cache, err := binaries.CacheDir()
	if err != nil {
		return nil, err
	}
	env, err := binaries.ReadGoEnv(ctx)
	if err != nil {
		return nil, err
	}
	return &workshop{root, cache, env}, nil
}

// lock keeps other runs from building the same: "images", or "release".
func (w *workshop) lock(what string, logf func(string, ...any)) (unlock func(), err error) {
	return binaries.Lock(filepath.Join(w.cache, what+".lock"), func() { logf("waiting for another run that builds the same (%s)", what) })
}

// newBuildah returns a buildah that has what the product's Dockerfile needs.
func (w *workshop) newBuildah(ctx context.Context) (*image.Buildah, error) {
	// The build itself has no network: it takes the modules from the cache of this machine.
	download := exec.CommandContext(ctx, "go", "mod", "download")
	download.Dir, download.Env = w.root, append(os.Environ(), "GOWORK=off")
	if out, err := download.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("downloading the product's modules: %w\n%s", err, out)
	}
	buildah, err := image.NewBuildah(ctx, w.cache, w.env)
	if err != nil {
		return nil, fmt.Errorf("preparing the builder image: %w", err)
	}
	return buildah, nil
}

// sourceHash is a tag that changes when the images would.
func sourceHash(root, goVersion string) (string, error) {
	files := []string{filepath.Join(root, "Dockerfile"), filepath.Join(root, ".dockerignore"), filepath.Join(root, "LICENSE"), filepath.Join(root, "go.mod"), filepath.Join(root, "go.sum")}
	var names []string
	for _, directory := range []string{"cmd", "internal", "pkg", "licenses"} {
		err := filepath.WalkDir(filepath.Join(root, directory), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // an older version may have less
			} else if err != nil {
				return err
			}
			if entry.IsDir() && entry.Name() == "testdata" {
				return fs.SkipDir
			}
			if entry.Type().IsRegular() && !strings.HasSuffix(path, "_test.go") {
				files, names = append(files, path), append(names, strings.TrimPrefix(path, root))
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return binaries.Hash(files, append(names, goVersion, runtime.GOARCH)...)
}

// removeOldArchives keeps the cache from growing with every change of the sources.
func removeOldArchives(directory string) error {
	const keptFor = 24 * time.Hour
	archives, err := filepath.Glob(filepath.Join(directory, "product-*.tar"))
	if err != nil {
		return err
	}
	for _, path := range archives {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > keptFor {
			_ = os.Remove(path)
		}
	}
	return nil
}

func (c *Cluster) buildProductImages(ctx context.Context, root string) error {
	images, err := buildProductImages(ctx, root, c.progress.logf)
	if err == nil {
		c.product[root] = images
	}
	return err
}

func (c *Cluster) importProductImages(ctx context.Context, root string) error {
	for _, built := range c.product[root] {
		if err := c.ImportImage(ctx, built.Archive, built.Name); err != nil {
			return fmt.Errorf("importing image %s: %w", built.Name, err)
		}
	}
	c.progress.logf("the cluster has the product's images")
	return nil
}
