package image

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Tool returns a program of this machine, by its name in the PATH, with the libraries that it loads. In the image they have the same
// paths, where the program finds them.
func Tool(ctx context.Context, name string) ([]File, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "ldd", path).Output()
	if err != nil {
		return nil, fmt.Errorf("asking ldd for the libraries of %s: %w", path, err)
	}
	libraries, err := libraryPaths(string(out))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	files := []File{{Path: strings.TrimPrefix(path, "/"), Mode: 0o755, Source: path}}
	for _, library := range libraries {
		files = append(files, File{Path: strings.TrimPrefix(library, "/"), Mode: 0o755, Source: library})
	}
	return files, nil
}

// libraryPaths reads the lines of ldd: "name => path (address)", or "path (address)" for the loader. The kernel's own library
// has no path.
func libraryPaths(text string) ([]string, error) {
	var paths []string
	for line := range strings.Lines(text) {
		name, path, found := strings.Cut(strings.TrimSpace(line), " => ")
		if !found {
			path = name
		}
		if path == "not found" {
			return nil, errors.New("the library " + name + " is missing")
		}
		path, _, _ = strings.Cut(path, " (")
		if strings.HasPrefix(path, "/") {
			paths = append(paths, path)
		}
	}
	return paths, nil
}
