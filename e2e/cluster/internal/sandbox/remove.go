package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// stopGrace is how long the processes may take to end by themselves. Nothing of theirs is kept, so it is short.
const stopGrace = 300 * time.Millisecond

// removeAll ends every process of the sandbox and removes all that it has in the kernel and on the disk. It also works on
// what a killed run has left, in whatever state, and on nothing at all.
func (s *Sandbox) removeAll() error {
	if _, err := os.Lstat(s.root); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := checkOwned(s.root); err != nil {
		return err
	}
	if err := s.endProcesses(); err != nil {
		return err
	}
	if err := s.removeCgroups(); err != nil {
		return err
	}
	s.removeShimSockets()
	if err := unmountBelow(s.root); err != nil {
		return err
	}
	s.removeCNIResults()
	if err := os.RemoveAll(s.root); err != nil {
		return fmt.Errorf("deleting %s: %w", s.root, err)
	}
	return nil
}

func (s *Sandbox) endProcesses() error {
	records, err := filepath.Glob(s.pidFile("*"))
	if err != nil {
		return err
	}
	var recorded []process
	for _, path := range records {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		if p, err := s.loadProcess(name); err == nil {
			recorded = append(recorded, p)
		}
	}
	if err := end(recorded, stopGrace); err != nil {
		return err
	}
	// A process that was just starting another one is gone by now, so the second look finds all that is left.
	for range 5 {
		marked, err := withEnvironment(marker + "=" + s.root)
		if err != nil || len(marked) == 0 {
			return err
		}
		if err := end(marked, 0); err != nil {
			return err
		}
	}
	return errors.New("processes of the cluster start faster than they can be ended")
}

// removeShimSockets removes the sockets of containerd's shims, the only files that containerd puts outside its own
// directories: defaults.DefaultStateDir in its pkg/shim/util_unix.go.
func (s *Sandbox) removeShimSockets() {
	const bundle = "containerd/state/io.containerd.runtime.v2.task/*/*/bootstrap.json"
	bundles, _ := filepath.Glob(s.Path(bundle))
	ofOtherNodes, _ := filepath.Glob(s.Path("*", bundle))
	for _, path := range append(bundles, ofOtherNodes...) {
		content, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var shim struct {
			Address string `json:"address"`
		}
		if json.Unmarshal(content, &shim) == nil {
			if socket, ok := strings.CutPrefix(shim.Address, "unix:///run/containerd/s/"); ok && !strings.Contains(socket, "/") {
				_ = os.Remove(filepath.Join("/run/containerd/s", socket))
			}
		}
	}
}

// removeCNIResults removes what the CNI library remembers of pods for which it was not asked to clean up. Its directory
// cannot be configured: CacheDir in its libcni/api.go. The files are called <network>-<container>-<interface>, and the
// network is called like the sandbox.
func (s *Sandbox) removeCNIResults() {
	const directory = "/var/lib/cni/results"
	ours := regexp.MustCompile("^" + prefix + regexp.QuoteMeta(s.name) + "-[0-9a-f]{64}-[a-z0-9]+$")
	results, _ := os.ReadDir(directory)
	for _, result := range results {
		if ours.MatchString(result.Name()) {
			_ = os.Remove(filepath.Join(directory, result.Name()))
		}
	}
}
