// Command licences checks the licences of everything that is linked into podtoken's binaries, and writes the texts that
// they ask to be shipped: one file per binary in the repository's folder licenses, which the Dockerfile puts into the
// image. With -check it writes nothing and fails when a file is out of date.
//
// A licence that is not known or not allowed is an error that names module and file. This must not become a place for
// exceptions by module: what cannot be allowed by its text has to be replaced.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// images and plugin are the platforms of binaries, as Go names them: what is linked may differ.
var (
	images = []string{"linux/amd64", "linux/arm64"}
	plugin = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"}
)

// programs are the binaries, by the names of their directories in cmd.
var programs = []struct {
	name, title string
	platforms   []string
}{
	{"webhook", "podtoken-webhook", images},
	{"controller", "podtoken-controller", images},
	{"sidecar", "podtoken-sidecar", images},
	{"kubectl-podtoken", "kubectl-podtoken", plugin},
}

func main() {
	check := flag.Bool("check", false, "write nothing, and fail when a file would change")
	flag.Parse()
	if err := run(context.Background(), *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, check bool) error {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return fmt.Errorf("finding the repository: %w", err)
	}
	root := strings.TrimSpace(string(out))
	known, err := newLicences()
	if err != nil {
		return err
	}
	var problems []error
	for _, program := range programs {
		modules, err := linked(ctx, root, "./cmd/"+program.name, program.platforms)
		if err != nil {
			return err
		}
		text, err := notices(program.title, modules, known)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		path := filepath.Join("licenses", program.name+".txt")
		committed, err := os.ReadFile(filepath.Join(root, path))
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		case string(committed) == text:
		case check:
			problems = append(problems, fmt.Errorf("%s is out of date: run \"make licenses\" and commit the result", path))
		default:
			if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil { //nolint:gosec // a file of the repository
				return err
			}
		}
	}
	return errors.Join(problems...)
}
