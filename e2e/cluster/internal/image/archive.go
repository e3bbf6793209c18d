// Package image makes container images without a container engine and without a registry.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Image is an image of one layer.
type Image struct {
	// Names are full names, with registry and tag.
	Names      []string
	Files      []File
	User       string
	Env        []string
	Entrypoint []string
	Command    []string
}

// File is one entry of the layer: a directory, a link or a file with the content of another file.
type File struct {
	Path   string // in the image, without the slash at the front
	Mode   fs.FileMode
	Source string // the file on this machine to copy
	Text   string // the content, if there is no source
	Link   string // the target of a symbolic link
	Dir    bool
}

// Write makes an archive in the format of "docker save". It appears complete, or not at all. The same content gives the
// same bytes.
func (i Image) Write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	var layer bytes.Buffer
	if err := i.writeLayer(&layer); err != nil {
		return fmt.Errorf("making the layer of image %s: %w", i.Names[0], err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if err := i.writeArchive(file, layer.Bytes()); err != nil {
		_ = file.Close()
		return fmt.Errorf("making the archive of image %s: %w", i.Names[0], err)
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

func (i Image) writeArchive(out io.Writer, layer []byte) error {
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		// Without these two containerd takes the image for one of another platform and drops it.
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"User": i.User, "Env": i.Env, "Entrypoint": i.Entrypoint, "Cmd": i.Command},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return err
	}
	configSum := sha256.Sum256(config)
	configName := hex.EncodeToString(configSum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": i.Names, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	archive := tar.NewWriter(out)
	for _, member := range []struct {
		name    string
		content []byte
	}{{"layer.tar", layer}, {configName, config}, {"manifest.json", manifest}} {
		if err := archive.WriteHeader(&tar.Header{Name: member.name, Mode: 0o644, Size: int64(len(member.content))}); err != nil {
			return err
		}
		if _, err := archive.Write(member.content); err != nil {
			return err
		}
	}
	return archive.Close()
}

func (i Image) writeLayer(out io.Writer) error {
	layer := tar.NewWriter(out)
	for _, file := range i.Files {
		if err := file.write(layer); err != nil {
			return fmt.Errorf("adding %s: %w", file.Path, err)
		}
	}
	return layer.Close()
}

func (f File) write(layer *tar.Writer) error {
	if strings.HasPrefix(f.Path, "/") {
		return fmt.Errorf("path %q must not start with a slash", f.Path)
	}
	header := &tar.Header{Name: f.Path, Mode: tarMode(f.Mode), ModTime: time.Unix(0, 0)}
	switch {
	case f.Dir:
		header.Typeflag, header.Name = tar.TypeDir, f.Path+"/"
		return layer.WriteHeader(header)
	case f.Link != "":
		header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, f.Link, 0o777
		return layer.WriteHeader(header)
	}
	content := []byte(f.Text)
	if f.Source != "" {
		var err error
		if content, err = os.ReadFile(f.Source); err != nil {
			return err
		}
	}
	header.Typeflag, header.Size = tar.TypeReg, int64(len(content))
	if err := layer.WriteHeader(header); err != nil {
		return err
	}
	_, err := layer.Write(content)
	return err
}

// tarMode has the bits of Unix, of which Go keeps the sticky one elsewhere.
func tarMode(mode fs.FileMode) int64 {
	bits := int64(mode.Perm())
	if mode&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}
