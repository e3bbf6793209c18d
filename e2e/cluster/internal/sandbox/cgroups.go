package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is the path of a node's cgroup below each hierarchy. Everything that the containers of the node run is in it. The
// other nodes' are inside the first node's, which therefore is the whole sandbox's.
func (s *Sandbox) Cgroup(node int) string {
	if node == FirstNode {
		return "/" + prefix + s.name
	}
	return fmt.Sprintf("/%s%s/node%d", prefix, s.name, node)
}

// cgroups returns the directory of a node's cgroup in every hierarchy: one with cgroup v2, one per controller with v1.
func (s *Sandbox) cgroups(node int) ([]string, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	var directories []string
	for _, m := range all {
		if m.filesystem == "cgroup" || m.filesystem == "cgroup2" {
			directories = append(directories, filepath.Join(m.point, s.Cgroup(node)))
		}
	}
	if len(directories) == 0 {
		return nil, errors.New("no cgroup file system is mounted; mount one at /sys/fs/cgroup")
	}
	return directories, nil
}

func (s *Sandbox) createCgroups(node int) error {
	directories, err := s.cgroups(node)
	if err != nil {
		return err
	}
	for _, directory := range directories {
		if err := os.Mkdir(directory, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("creating a cgroup: %w", err)
		}
		if err := enableControllers(directory); err != nil {
			return err
		}
	}
	return nil
}

// enableControllers makes a new cgroup usable: a cpuset of v1 starts without CPUs and memory, and a cgroup of v2 without
// controllers.
func enableControllers(directory string) error {
	above := filepath.Dir(directory)
	for _, file := range []string{"cpuset.mems", "cpuset.cpus"} {
		if _, err := os.Stat(filepath.Join(above, "cgroup.controllers")); err == nil {
			break
		}
		value, err := os.ReadFile(filepath.Join(above, file))
		if errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(directory, file), value, 0); err != nil {
			return fmt.Errorf("preparing a cgroup: %w", err)
		}
	}
	available, err := os.ReadFile(filepath.Join(above, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(available)) {
		// A controller that cannot be switched on is one the kubelet names itself, if it needs it.
		_ = os.WriteFile(filepath.Join(above, "cgroup.subtree_control"), []byte("+"+controller), 0)
	}
	return nil
}

// removeCgroups kills everything in the sandbox's cgroups, and removes them.
func (s *Sandbox) removeCgroups() error {
	directories, err := s.cgroups(FirstNode)
	if err != nil {
		return err
	}
	for _, directory := range directories {
		if err := killCgroup(directory); err != nil {
			return err
		}
	}
	for _, directory := range directories {
		// The kernel needs a moment to let go of processes that have just ended.
		var err error
		if !waitUntil(5*time.Second, func() bool { err = removeCgroup(directory); return err == nil }) {
			return fmt.Errorf("removing cgroup %s: %w", directory, err)
		}
	}
	return nil
}

func killCgroup(directory string) error {
	var members []process
	empty := func() bool {
		members = cgroupMembers(directory)
		for _, p := range members {
			_ = p.signal(unix.SIGKILL) // whether it helped is seen by the next look
		}
		return len(members) == 0
	}
	if !waitUntil(10*time.Second, empty) {
		return fmt.Errorf("%d processes in cgroup %s do not end, even by SIGKILL", len(members), directory)
	}
	return nil
}

func cgroupMembers(directory string) []process {
	var members []process
	for _, path := range cgroupTree(directory) {
		content, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, line := range strings.Fields(string(content)) {
			if pid, err := strconv.Atoi(line); err == nil {
				if p, err := identify(pid); err == nil && p.alive() {
					members = append(members, p)
				}
			}
		}
	}
	return members
}

func removeCgroup(directory string) error {
	tree := cgroupTree(directory)
	for i := len(tree) - 1; i >= 0; i-- {
		if err := unix.Rmdir(tree[i]); err != nil && err != unix.ENOENT {
			return err
		}
	}
	return nil
}

// cgroupTree returns the directory and all below it, parents first.
func cgroupTree(directory string) []string {
	var tree []string
	_ = filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		// A cgroup that vanishes in the meantime needs no removal.
		if err == nil && entry.IsDir() {
			tree = append(tree, path)
		}
		return nil
	})
	return tree
}
