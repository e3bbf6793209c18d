package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/podtoken/podtoken/e2e/cluster/internal/binaries"
	"github.com/podtoken/podtoken/e2e/cluster/internal/image"
)

// releaseArchitectures are those that released images are for.
var releaseArchitectures = []string{"amd64", "arm64"}

// ReleaseSpec says which images to build for a release. The same values and sources give the same bytes.
type ReleaseSpec struct {
	RepoRoot string    // the default is the checkout that the working directory is in
	Version  string    // vX.Y.Z
	Revision string    // the commit
	Created  time.Time // the only time that appears anywhere
	Output   string    // the directory for the archives
	Binaries string    // the directory for the binaries that are in the images, named podtoken-<target>-linux-<architecture>
}

// ReleasedImage is an image index, one image for each architecture, in an archive in the layout of OCI.
type ReleasedImage struct {
	Target  string // the stage of the Dockerfile
	Archive string
	Digest  string // of the index: what a registry that gets the whole archive has too
}

// ReleaseImages builds the images of a release from the same Dockerfile as the images that the tests run, and reads them
// back.
func ReleaseImages(ctx context.Context, release ReleaseSpec, log io.Writer) ([]ReleasedImage, error) {
	p := newProgress(log)
	if err := binaries.EnsureSystem(ctx, false, p.logf); err != nil {
		return nil, err
	}
	w, err := openWorkshop(ctx, release.RepoRoot)
	if err != nil {
		return nil, err
	}
	for _, directory := range []string{release.Output, release.Binaries} {
		if err := os.MkdirAll(directory, 0o750); err != nil {
			return nil, err
		}
	}
	// The tests' builds share the storage and the builder image, and may go on meanwhile.
	unlock, err := w.lock("images", p.logf)
	if err != nil {
		return nil, err
	}
	buildah, err := w.newBuildah(ctx)
	unlock()
	if err != nil {
		return nil, err
	}
	unlock, err = w.lock("release", p.logf)
	if err != nil {
		return nil, err
	}
	defer unlock()
	released := make([]ReleasedImage, len(productTargets))
	for i, target := range productTargets {
		released[i] = ReleasedImage{Target: target, Archive: filepath.Join(release.Output, "podtoken-"+target+"-"+release.Version+".oci.tar")}
		if err := release.build(ctx, buildah, w.root, &released[i]); err != nil {
			return nil, fmt.Errorf("image %q: %w", target, err)
		}
		p.logf("%s is built and read back: %s", filepath.Base(released[i].Archive), released[i].Digest)
	}
	return released, nil
}

func (r ReleaseSpec) build(ctx context.Context, buildah *image.Buildah, root string, released *ReleasedImage) error {
	temporary, err := os.MkdirTemp("", "podtoken-release-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temporary) }()
	var layouts []string
	for _, architecture := range releaseArchitectures {
		directory := filepath.Join(temporary, architecture)
		layouts = append(layouts, directory)
		err := buildah.BuildLayout(ctx, image.Build{
			Context: root,
			Target:  released.Target,
			Name:    "localhost/podtoken-release-" + released.Target + ":" + architecture + "-" + filepath.Base(temporary),
			Args: map[string]string{
				"VERSION":  r.Version,
				"REVISION": r.Revision,
				"CREATED":  r.Created.UTC().Format(time.RFC3339),
			},
			Architecture: architecture,
			Created:      r.Created,
		}, directory)
		if err != nil {
			return err
		}
	}
	if err := image.WriteIndex(layouts, r.Version[1:], released.Archive, r.Created); err != nil {
		return fmt.Errorf("writing %s: %w", released.Archive, err)
	}
	index, err := image.ReadIndex(released.Archive)
	if err != nil {
		return fmt.Errorf("reading %s back: %w", released.Archive, err)
	}
	released.Digest = index.Digest
	return r.check(root, released.Target, index)
}

// check holds the images to what the Dockerfile promises, and takes the binaries out of them.
func (r ReleaseSpec) check(root, target string, index image.Index) error {
	if len(index.Images) != len(releaseArchitectures) || index.Tag != r.Version[1:] {
		return fmt.Errorf("%d images with tag %q, want %d with %q", len(index.Images), index.Tag, len(releaseArchitectures), r.Version[1:])
	}
	program := "podtoken-" + target
	var problems []error
	for i, architecture := range releaseArchitectures {
		content := index.Images[i]
		problem := func(format string, arguments ...any) {
			problems = append(problems, fmt.Errorf("the image for %s has "+format, append([]any{architecture}, arguments...)...))
		}
		config := content.Config
		if config.OS != "linux" || config.Architecture != architecture {
			problem("platform %s/%s", config.OS, config.Architecture)
		}
		if !config.Created.Equal(r.Created) {
			problem("the time %s, want %s", config.Created.UTC(), r.Created.UTC())
		}
		if len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/"+program || config.Config.User != "65532:65532" {
			problem("entrypoint %q as user %q", config.Config.Entrypoint, config.Config.User)
		}
		for label, want := range map[string]string{"version": r.Version, "revision": r.Revision} {
			if got := config.Config.Labels["org.opencontainers.image."+label]; got != want {
				problem("label %s=%q, want %q", label, got, want)
			}
		}
		wanted := map[string]string{"licenses/LICENSE": "LICENSE", "licenses/" + target + ".txt": "licenses/" + target + ".txt", program: ""}
		for _, file := range content.Files {
			source, ok := wanted[file.Name]
			delete(wanted, file.Name)
			switch {
			case !ok:
				problem("a file %q", file.Name)
			case source == "":
				path := filepath.Join(r.Binaries, program+"-linux-"+architecture)
				if file.Mode != 0o555 {
					problem("mode %v of its program", file.Mode)
				}
				if err := os.WriteFile(path, file.Content, 0o755); err != nil { //nolint:gosec // a program for everybody
					return err
				}
			default:
				committed, err := os.ReadFile(filepath.Join(root, source))
				if err != nil {
					return err
				}
				if string(committed) != string(file.Content) || file.Mode != 0o444 {
					problem("another %s than the repository, or mode %v", file.Name, file.Mode)
				}
			}
		}
		for name := range wanted {
			problem("no file %q", name)
		}
	}
	return errors.Join(problems...)
}
