package binaries

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// stillBuilding is how often a long build shows that it is alive.
const stillBuilding = 20 * time.Second

// Set is the directory with all programs of one version of the component modules.
type Set struct{ dir string }

// Dir returns the directory, for a PATH.
func (s *Set) Dir() string { return s.dir }

// Path returns the path of one program or file.
func (s *Set) Path(name string) string { return filepath.Join(s.dir, name) }

// Build returns the programs of a cluster of that version of Kubernetes, "1.36" or "" for the newest, after building what
// the cache does not have. logf gets a line for each step.
func Build(ctx context.Context, e2eDir, kubernetes string, logf func(format string, arguments ...any)) (*Set, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	env, err := ReadGoEnv(ctx)
	if err != nil {
		return nil, err
	}
	version, err := FindVersion(e2eDir, kubernetes)
	if err != nil {
		return nil, err
	}
	all := components(version)
	directories := make([]string, len(all))
	var missing []int
	for i, c := range all {
		if directories[i], err = c.cacheDir(cache, e2eDir, env.GOVERSION); err != nil {
			return nil, fmt.Errorf("component %q: %w", c.name, err)
		}
		if !exists(directories[i]) {
			missing = append(missing, i)
		}
	}
	if len(missing) > 0 {
		unlock, err := Lock(filepath.Join(cache, "binaries.lock"), func() {
			logf("waiting for another run that builds the same programs")
		})
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	for n, i := range missing {
		if exists(directories[i]) {
			continue // another run has built it meanwhile
		}
		logf("building %s from Go modules (%d of %d; only the first run does it, it is kept in %s)", all[i].name, n+1, len(missing), cache)
		if err := all[i].build(ctx, e2eDir, directories[i], logf); err != nil {
			return nil, fmt.Errorf("building %s: %w", all[i].name, err)
		}
	}
	return link(cache, all, directories)
}

// cacheDir is named by all that decides about the result.
func (c component) cacheDir(cache, e2eDir, goVersion string) (string, error) {
	var files []string
	for _, pattern := range c.sources {
		matches, err := filepath.Glob(filepath.Join(e2eDir, c.dir, pattern))
		if err != nil {
			return "", err
		}
		files = append(files, matches...)
	}
	if len(files) == 0 {
		return "", fmt.Errorf("%s has no files; is %s a directory of the repository?", filepath.Join(e2eDir, c.dir), e2eDir)
	}
	flags, err := c.ldflags(filepath.Join(e2eDir, c.dir))
	if err != nil {
		return "", err
	}
	text := []string{goVersion, flags, c.tags}
	for _, m := range []map[string]string{c.programs, c.links} {
		for _, name := range sortedKeys(m) {
			text = append(text, name, m[name])
		}
	}
	hash, err := Hash(files, text...)
	return filepath.Join(cache, "components", c.name+"-"+hash), err
}

func (c component) build(ctx context.Context, e2eDir, final string, logf func(string, ...any)) error {
	start := time.Now()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		ticks := time.NewTicker(stillBuilding)
		defer ticks.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticks.C:
				logf("still building %s, for %s", c.name, time.Since(start).Round(time.Second))
			}
		}
	}()
	dir := filepath.Join(e2eDir, c.dir)
	flags, err := c.ldflags(dir)
	if err != nil {
		return err
	}
	return publish(final, func(output string) error {
		b := goBuild{dir: dir, output: output + "/", modfile: c.modfile, packages: c.packages(), tags: c.tags, ldflags: flags, cgo: c.cgo}
		if len(c.programs) == 1 {
			b.output = filepath.Join(output, sortedKeys(c.programs)[0])
		}
		if err := b.run(ctx); err != nil {
			return err
		}
		for name, target := range c.links {
			if err := os.Symlink(target, filepath.Join(output, name)); err != nil {
				return err
			}
		}
		if c.more != nil {
			return c.more(ctx, dir, output)
		}
		return nil
	})
}

// link gathers the programs of all components in one directory, whose name says which ones they are.
func link(cache string, all []component, directories []string) (*Set, error) {
	hash, err := Hash(nil, directories...)
	if err != nil {
		return nil, err
	}
	set := &Set{dir: filepath.Join(cache, "bin-"+hash)}
	if exists(set.dir) {
		return set, nil
	}
	err = publish(set.dir, func(output string) error {
		for i := range all {
			entries, err := os.ReadDir(directories[i])
			if err != nil {
				return err
			}
			for _, entry := range entries {
				if err := os.Symlink(filepath.Join(directories[i], entry.Name()), filepath.Join(output, entry.Name())); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil && exists(set.dir) {
		err = nil // another run made the same directory at the same time
	}
	return set, err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
