package image

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// Index is what an archive says that it holds, after every digest in it has been checked.
type Index struct {
	Tag    string
	Digest string
	Images []Content
}

// Content is one image of an index.
type Content struct {
	Config *v1.ConfigFile
	Files  []Entry
	Digest string
}

// Entry is one file in an image.
type Entry struct {
	Name    string
	Mode    fs.FileMode
	Content []byte
}

// ReadIndex reads an archive with one image index back.
func ReadIndex(archive string) (Index, error) {
	var read Index
	directory, err := os.MkdirTemp("", "podtoken-index-")
	if err != nil {
		return read, err
	}
	defer func() { _ = os.RemoveAll(directory) }()
	if err := unpack(archive, directory); err != nil {
		return read, err
	}
	all, err := layout.ImageIndexFromPath(directory)
	if err != nil {
		return read, err
	}
	if err := validate.Index(all); err != nil {
		return read, err
	}
	top, err := all.IndexManifest()
	if err != nil {
		return read, err
	}
	if len(top.Manifests) != 1 || !top.Manifests[0].MediaType.IsIndex() {
		return read, fmt.Errorf("%s holds %v, want one image index", archive, top.Manifests)
	}
	read.Tag, read.Digest = top.Manifests[0].Annotations[refName], top.Manifests[0].Digest.String()
	index, err := all.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		return read, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return read, err
	}
	for _, one := range manifest.Manifests {
		made, err := index.Image(one.Digest)
		if err != nil {
			return read, err
		}
		content, err := readImage(made)
		if err != nil {
			return read, err
		}
		if one.Platform == nil || one.Platform.OS != content.Config.OS || one.Platform.Architecture != content.Config.Architecture {
			return read, fmt.Errorf("the index says that image %s is for %v, and its config says %v", one.Digest, one.Platform, content.Config.Platform())
		}
		content.Digest = one.Digest.String()
		read.Images = append(read.Images, content)
	}
	return read, nil
}

func readImage(made v1.Image) (Content, error) {
	config, err := made.ConfigFile()
	if err != nil {
		return Content{}, err
	}
	content := Content{Config: config}
	flat := mutate.Extract(made)
	defer func() { _ = flat.Close() }()
	for archive := tar.NewReader(flat); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return content, nil
		} else if err != nil {
			return Content{}, err
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			return Content{}, err
		}
		content.Files = append(content.Files, Entry{Name: strings.TrimPrefix(header.Name, "/"), Mode: header.FileInfo().Mode(), Content: data})
	}
}

func unpack(archive, directory string) error {
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	root, err := os.OpenRoot(directory)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for reader := tar.NewReader(in); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading %s: %w", archive, err)
		}
		if header.Typeflag != tar.TypeReg {
			return fmt.Errorf("%s has %q, which is no file", archive, header.Name)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			return fmt.Errorf("reading %s: %w", archive, err)
		}
		if digest, ok := strings.CutPrefix(header.Name, "blobs/sha256/"); ok && digest != fmt.Sprintf("%x", sha256.Sum256(content)) {
			return fmt.Errorf("%s is damaged: %s has another digest", archive, header.Name)
		}
		if err := root.MkdirAll(filepath.Dir(header.Name), 0o750); err != nil {
			return err
		}
		if err := root.WriteFile(header.Name, content, 0o600); err != nil {
			return err
		}
	}
}
