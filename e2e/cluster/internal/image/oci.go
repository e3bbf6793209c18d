package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// refName is how the layout of OCI says the tag of an image.
const refName = "org.opencontainers.image.ref.name"

// WriteIndex joins images, each a layout of OCI with one image for one platform, into an archive with one image index. The
// same images give the same bytes.
func WriteIndex(layouts []string, tag, archive string, modified time.Time) error {
	directory, err := os.MkdirTemp(filepath.Dir(archive), ".index-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(directory) }()
	joined, err := layout.Write(directory, empty.Index)
	if err != nil {
		return err
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, part := range layouts {
		descriptor, err := add(joined, part)
		if err != nil {
			return fmt.Errorf("adding the image in %s: %w", part, err)
		}
		index.Manifests = append(index.Manifests, descriptor)
	}
	content, err := json.Marshal(index)
	if err != nil {
		return err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return err
	}
	if err := joined.WriteBlob(digest, io.NopCloser(bytes.NewReader(content))); err != nil {
		return err
	}
	err = joined.AppendDescriptor(v1.Descriptor{MediaType: index.MediaType, Digest: digest, Size: size, Annotations: map[string]string{refName: tag}})
	if err != nil {
		return err
	}
	return pack(directory, archive, modified)
}

// add copies the only image of a layout.
func add(joined layout.Path, directory string) (v1.Descriptor, error) {
	from, err := layout.ImageIndexFromPath(directory)
	if err != nil {
		return v1.Descriptor{}, err
	}
	manifest, err := from.IndexManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	if len(manifest.Manifests) != 1 {
		return v1.Descriptor{}, fmt.Errorf("there are %d images, want 1", len(manifest.Manifests))
	}
	found := manifest.Manifests[0]
	made, err := from.Image(found.Digest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	config, err := made.ConfigFile()
	if err != nil {
		return v1.Descriptor{}, err
	}
	platform := &v1.Platform{OS: config.OS, Architecture: config.Architecture}
	return v1.Descriptor{MediaType: found.MediaType, Digest: found.Digest, Size: found.Size, Platform: platform}, joined.WriteImage(made)
}

// pack writes a directory as a tar archive: sorted, of nobody in particular, from one point in time.
func pack(directory, archive string, modified time.Time) (err error) {
	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	writer := tar.NewWriter(out)
	root, err := os.OpenRoot(directory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	walk := func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: modified, Format: tar.FormatUSTAR}
		if err := writer.WriteHeader(header); err != nil {
			return err
		}
		_, err = writer.Write(content)
		return err
	}
	if err := fs.WalkDir(root.FS(), ".", walk); err != nil {
		return err
	}
	return writer.Close()
}
