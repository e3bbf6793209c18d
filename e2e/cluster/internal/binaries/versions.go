package binaries

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

const (
	defaultModfile = "go.mod"
	kubernetesDir  = componentsDir + "/kubernetes"
)

// Version is a version of Kubernetes that a cluster can have. The programs have the same source, and a module file for each
// version: go.mod for the newest, 1.36.mod for another one.
type Version struct {
	Minor   string // "1.36"
	Release string // "v1.36.3"
	modfile string
}

// component is the name of the programs in messages and in the cache.
func (v Version) component() string {
	if v.modfile == defaultModfile {
		return "kubernetes"
	}
	return "kubernetes-" + v.Minor
}

// Versions returns those that there are, the newest first.
func Versions(e2eDir string) ([]Version, error) {
	files, err := filepath.Glob(filepath.Join(e2eDir, kubernetesDir, "*.mod"))
	if err != nil {
		return nil, err
	}
	var all []Version
	for _, path := range files {
		release, err := requiredVersion(path, "k8s.io/kubernetes")
		if err != nil {
			return nil, err
		}
		minor := strings.TrimPrefix(release[:strings.LastIndex(release, ".")], "v")
		v := Version{Minor: minor, Release: release, modfile: filepath.Base(path)}
		if v.modfile != defaultModfile && v.modfile != minor+".mod" {
			return nil, fmt.Errorf("%s requires Kubernetes %s; call it %s.mod", path, release, minor)
		}
		all = append(all, v)
	}
	if !slices.ContainsFunc(all, func(v Version) bool { return v.modfile == defaultModfile }) {
		return nil, fmt.Errorf("%s has no go.mod; is %s a directory of the repository?", filepath.Join(e2eDir, kubernetesDir), e2eDir)
	}
	slices.SortFunc(all, func(a, b Version) int {
		switch {
		case a.modfile == defaultModfile:
			return -1
		case b.modfile == defaultModfile:
			return 1
		}
		return strings.Compare(b.Minor, a.Minor)
	})
	return all, nil
}

// FindVersion returns the version of that name, "1.36", or the newest for "".
func FindVersion(e2eDir, minor string) (Version, error) {
	all, err := Versions(e2eDir)
	if err != nil {
		return Version{}, err
	}
	if minor == "" {
		return all[0], nil
	}
	var names []string
	for _, v := range all {
		if v.Minor == minor {
			return v, nil
		}
		names = append(names, v.Minor)
	}
	return Version{}, fmt.Errorf("version %q of Kubernetes: allowed are %s", minor, strings.Join(names, ", "))
}
