// Package sandbox keeps everything that one cluster has in the kernel and on the disk in one place, under one name: a
// directory, a network namespace for each node, a group of cgroups and the processes. Whatever ends a run, even SIGKILL, the name is
// enough to find all of it again and to remove it, and nothing else.
//
// The package knows nothing of Kubernetes.
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
	"syscall"
	"time"
)

const (
	// parent survives reboots and has room for images; its path is short, for the path of a Unix socket may have
	// only 107 bytes.
	parent     = "/var/tmp"
	prefix     = "podtoken-"
	recordFile = "sandbox.json"
)

// FirstNode is the node that every sandbox has. Others, which AddNode adds, have the numbers that follow.
const FirstNode = 1

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?$`)

// Sandbox is held by at most one process at a time.
type Sandbox struct {
	name   string
	root   string
	record record
	lock   *lock
}

// record is what the next process has to know of a sandbox.
type record struct {
	Created time.Time `json:"created"`
	// Kept sandboxes outlive the process that made them. Any other sandbox whose process has ended is a leftover.
	Kept bool `json:"kept"`
}

// Summary describes a sandbox to people.
type Summary struct {
	Name    string
	Root    string
	Created time.Time
	// State is "kept", "in use" or "left over".
	State string
}

// InUseError says that another process holds the sandbox.
type InUseError struct{ Name string }

func (e *InUseError) Error() string {
	return fmt.Sprintf("cluster %q is in use by another running process; end that process, or choose another name", e.Name)
}

// CheckName says whether name can be the name of a sandbox.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("cluster name %q: allowed are 1 to 24 lower-case letters, digits and '-', with a letter or digit at both ends", name)
	}
	return nil
}

// Create makes an empty sandbox, after removing what an earlier one of the same name has left.
func Create(name string) (*Sandbox, error) {
	s, err := hold(name)
	if err != nil {
		return nil, err
	}
	if err := s.create(); err != nil {
		s.Release()
		return nil, err
	}
	return s, nil
}

func (s *Sandbox) create() error {
	if err := s.removeAll(); err != nil {
		return fmt.Errorf("removing what an earlier cluster %q has left: %w", s.name, err)
	}
	if err := os.Mkdir(s.root, 0o700); err != nil {
		return err
	}
	// The record comes first: a directory with a record can be found and removed from here on.
	s.record = record{Created: time.Now()}
	if err := s.saveRecord(); err != nil {
		return err
	}
	for _, directory := range []string{"run", "log"} {
		if err := os.Mkdir(s.Path(directory), 0o700); err != nil {
			return err
		}
	}
	if err := s.createCgroups(FirstNode); err != nil {
		return err
	}
	return s.createNetwork()
}

// AddNode makes another machine of it: a network namespace that is connected to the first node's, and a cgroup.
func (s *Sandbox) AddNode(node int) error {
	if err := s.createCgroups(node); err != nil {
		return err
	}
	return s.connect(node)
}

// Open takes hold of an existing sandbox. The error is fs.ErrNotExist when there is none.
func Open(name string) (*Sandbox, error) {
	s, err := hold(name)
	if err != nil {
		return nil, err
	}
	if err := s.loadRecord(); err != nil {
		s.Release()
		return nil, err
	}
	return s, nil
}

// hold locks the name. From here on the process has the umask of most machines, whatever it was started with: its programs have
// the same, and what they write is read in containers that run as other users.
func hold(name string) (*Sandbox, error) {
	syscall.Umask(0o022)
	if err := CheckName(name); err != nil {
		return nil, err
	}
	root := Path(name)
	held, err := tryLock(root + ".lock")
	if errors.Is(err, errLocked) {
		return nil, &InUseError{Name: name}
	} else if err != nil {
		return nil, err
	}
	return &Sandbox{name: name, root: root, lock: held}, nil
}

// Keep makes the sandbox outlive this process, and releases it.
func (s *Sandbox) Keep() error {
	s.record.Kept = true
	if err := s.saveRecord(); err != nil {
		return err
	}
	s.Release()
	return nil
}

// Release lets another process take hold of the sandbox.
func (s *Sandbox) Release() { s.lock.release() }

// Destroy ends the processes of the sandbox, removes everything that it has, and releases it.
func (s *Sandbox) Destroy() error {
	if err := s.removeAll(); err != nil {
		return err
	}
	s.lock.removeAndRelease()
	return nil
}

// Network is the name for a network of containers of this sandbox, unique on the machine.
func (s *Sandbox) Network() string { return prefix + s.name }

// Name returns the name the sandbox was created with.
func (s *Sandbox) Name() string { return s.name }

// Path returns an absolute path below the sandbox's directory.
func (s *Sandbox) Path(elements ...string) string {
	return filepath.Join(append([]string{s.root}, elements...)...)
}

// List returns every sandbox of this machine.
func List() ([]Summary, error) {
	records, err := filepath.Glob(filepath.Join(parent, prefix+"*", recordFile))
	if err != nil {
		return nil, err
	}
	var found []Summary
	for _, path := range records {
		root := filepath.Dir(path)
		summary := Summary{Name: strings.TrimPrefix(filepath.Base(root), prefix), Root: root, State: "in use"}
		s, err := Open(summary.Name)
		var inUse *InUseError
		switch {
		case errors.As(err, &inUse):
		case err != nil:
			continue // it was removed in the meantime, or belongs to another user
		default:
			summary.Created, summary.State = s.record.Created, "left over"
			if s.record.Kept {
				summary.State = "kept"
			}
			s.Release()
		}
		found = append(found, summary)
	}
	return found, nil
}

// Sweep removes what runs have left that ended without cleaning up, and returns the names.
func Sweep() ([]string, error) {
	all, err := List()
	if err != nil {
		return nil, err
	}
	var swept []string
	for _, summary := range all {
		if summary.State != "left over" {
			continue
		}
		s, err := Open(summary.Name)
		if err != nil {
			continue // somebody else was faster
		}
		if s.record.Kept {
			s.Release()
			continue
		}
		if err := s.Destroy(); err != nil {
			s.Release()
			return swept, fmt.Errorf("removing the left over cluster %q: %w", summary.Name, err)
		}
		swept = append(swept, summary.Name)
	}
	return swept, nil
}

func (s *Sandbox) saveRecord() error {
	content, err := json.Marshal(s.record)
	if err != nil {
		return err
	}
	return WriteFile(s.Path(recordFile), content, 0o600)
}

func (s *Sandbox) loadRecord() error {
	if err := checkOwned(s.root); err != nil {
		return err
	}
	content, err := os.ReadFile(s.Path(recordFile))
	if err != nil {
		return err
	}
	return json.Unmarshal(content, &s.record)
}

// checkOwned refuses a directory that another user has placed where a sandbox is expected: its records say which
// processes to end.
func checkOwned(directory string) error {
	info, err := os.Lstat(directory)
	if err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; !info.IsDir() || int(owner) != os.Geteuid() {
		return fmt.Errorf("%s is not a directory of this user (its owner is %d); remove it by hand", directory, owner)
	}
	return nil
}

// WriteFile replaces a file in one step: a reader never sees a part of it.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// Path returns a path in the directory of the sandbox of that name, whether it exists or not.
func Path(name string, elements ...string) string {
	return filepath.Join(append([]string{parent, prefix + name}, elements...)...)
}

// Remove destroys the sandbox of that name, and says whether there was one.
func Remove(name string) (bool, error) {
	s, err := hold(name)
	if err != nil {
		return false, err
	}
	_, err = os.Lstat(s.root)
	if err := s.Destroy(); err != nil {
		s.Release()
		return true, err
	}
	return err == nil, nil
}
