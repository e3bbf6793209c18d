package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// module is a module of which a binary links at least one package. The standard library is one too.
type module struct {
	Path, Version string
	Dir           string
	packages      []string // directories of the packages that are linked
}

const standardLibrary = "the Go standard library"

// listed is what "go list -json" says of a package.
type listed struct {
	Dir      string
	Standard bool
	Module   *struct {
		Path, Version, Dir string
		Main               bool
		Replace            *struct{ Path, Version, Dir string }
	}
}

// linked returns the modules that a program links on any of the platforms, without the program's own.
func linked(ctx context.Context, root, program string, platforms []string) ([]module, error) {
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("running \"go env GOROOT\": %w", err)
	}
	modules := map[string]*module{}
	for _, platform := range platforms {
		system, architecture, _ := strings.Cut(platform, "/")
		cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-json=Dir,Standard,Module", program)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+architecture, "GOWORK=off")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("running \"go list -deps %s\" for %s: %w\n%s", program, platform, err, stderr.String())
		}
		if err := collect(modules, out, strings.TrimSpace(string(goroot))); err != nil {
			return nil, err
		}
	}
	var all []module
	for _, m := range modules {
		slices.Sort(m.packages)
		m.packages = slices.Compact(m.packages)
		all = append(all, *m)
	}
	slices.SortFunc(all, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

func collect(modules map[string]*module, list []byte, goroot string) error {
	for decoder := json.NewDecoder(bytes.NewReader(list)); ; {
		var one listed
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading what \"go list\" printed: %w", err)
		}
		var found module
		switch m := one.Module; {
		case one.Standard:
			// Its version is the compiler's: the list would change with it, and its licence does not.
			found = module{Path: standardLibrary, Dir: goroot}
		case m == nil:
			return fmt.Errorf("the package in %s belongs to no module", one.Dir)
		case m.Main:
			continue
		case m.Replace != nil:
			found = module{Path: m.Replace.Path, Version: m.Replace.Version, Dir: m.Replace.Dir}
		default:
			found = module{Path: m.Path, Version: m.Version, Dir: m.Dir}
		}
		if modules[found.Path] == nil {
			modules[found.Path] = &found
		}
		if !one.Standard { // what lies below GOROOT is under its one licence
			modules[found.Path].packages = append(modules[found.Path].packages, one.Dir)
		}
	}
}

// file is a text that has to go with the binaries.
type file struct {
	Name    string // in the module
	Text    string
	Licence bool // grants rights, and is classified; a NOTICE is not
}

var (
	licenceName = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying)([-._].*)?$`)
	noticeName  = regexp.MustCompile(`(?i)^(notices?|patents|copyright)([-._].*)?$`)
	sourceName  = regexp.MustCompile(`(?i)\.(go|s|c|h|sh|py|js|json|ya?ml|toml|tmpl)$`)
)

// files returns the licences and notices of a module: those in its root, and those between the root and the packages
// that are linked, where copies of other people's code have their own.
func (m module) files() ([]file, error) {
	directories := []string{m.Dir}
	for _, directory := range m.packages {
		for ; directory != m.Dir && strings.HasPrefix(directory, m.Dir); directory = filepath.Dir(directory) {
			directories = append(directories, directory)
		}
	}
	slices.Sort(directories)
	var all []file
	for _, directory := range slices.Compact(directories) {
		entries, err := os.ReadDir(directory)
		if err != nil {
			return nil, fmt.Errorf("looking for the licences of %s: %w", m.Path, err)
		}
		for _, entry := range entries {
			isLicence := licenceName.MatchString(entry.Name())
			if !entry.Type().IsRegular() || sourceName.MatchString(entry.Name()) || !isLicence && !noticeName.MatchString(entry.Name()) {
				continue
			}
			path := filepath.Join(directory, entry.Name())
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			name, err := filepath.Rel(m.Dir, path)
			if err != nil {
				return nil, err
			}
			all = append(all, file{Name: filepath.ToSlash(name), Text: string(text), Licence: isLicence})
		}
	}
	return all, nil
}
