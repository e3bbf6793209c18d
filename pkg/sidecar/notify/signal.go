package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

// signals has a number for each name in api.NotifySignals.
var signals = map[string]syscall.Signal{
	"SIGHUP":   syscall.SIGHUP,
	"SIGINT":   syscall.SIGINT,
	"SIGQUIT":  syscall.SIGQUIT,
	"SIGTERM":  syscall.SIGTERM,
	"SIGUSR1":  syscall.SIGUSR1,
	"SIGUSR2":  syscall.SIGUSR2,
	"SIGWINCH": syscall.SIGWINCH,
}

// signaller signals the processes of one name.
type signaller struct {
	signal syscall.Signal
	// name is that in /proc/PID/comm.
	name string
	// proc is the directory of the processes, self and user are our own.
	proc       string
	self, user int
	// send signals the process if it is still the one that was meant.
	send func(pid int, still func() bool) error
}

func newSignaller(s config.Signal) *signaller {
	signal := signals[s.Name]
	return &signaller{
		signal: signal, name: s.Process, proc: "/proc", self: os.Getpid(), user: os.Geteuid(),
		send: func(pid int, still func() bool) error {
			// The handle stands for this process, not for its number, which may be another's by the time of the signal.
			process, err := os.FindProcess(pid)
			if err != nil {
				return err
			}
			defer func() { _ = process.Release() }()
			if !still() {
				return os.ErrProcessDone
			}
			return process.Signal(signal)
		},
	}
}

// process is one that has the name.
type process struct {
	pid, parent int
	// user is the real user; -1 when it is not known.
	user int
}

// deliver signals each process of the name whose parent does not have it, too: the master of a server that forks, and
// not its workers, which may take the signal for something else.
func (s *signaller) deliver(context.Context, []string) error {
	found, err := s.find()
	if err != nil {
		return err
	}
	sent := 0
	var denied error
	for _, p := range found {
		if _, forked := found[p.parent]; forked {
			continue
		}
		err := s.send(p.pid, func() bool { return s.comm(p.pid) == s.name })
		switch {
		case err == nil:
			sent++
		case errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH):
		case errors.Is(err, syscall.EPERM):
			denied = fmt.Errorf("process %d (%q) may not be signalled: it runs as user %d and the sidecar as user %d, run both as one user", p.pid, s.name, p.user, s.user)
		default:
			denied = fmt.Errorf("signalling process %d (%q): %w", p.pid, s.name, err)
		}
	}
	switch {
	case denied != nil && sent > 0:
		return finalError{denied}
	case denied != nil:
		return denied
	case sent > 0:
		return nil
	case s.self == 1:
		return absentError{fmt.Errorf("no process %q: the sidecar sees none but its own container's, set spec.shareProcessNamespace to true", s.name)}
	}
	return absentError{fmt.Errorf("no process %q: the name must be as in /proc/PID/comm, of which the kernel keeps 15 bytes", s.name)}
}

// find lists the processes of the name, ourselves and those that have ended apart.
func (s *signaller) find() (map[int]process, error) {
	dir, err := os.Open(s.proc)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	found := map[int]process{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == s.self || s.comm(pid) != s.name {
			continue
		}
		if p, ok := s.inspect(pid); ok {
			found[pid] = p
		}
	}
	return found, nil
}

// comm is the name of a process; empty when it is gone.
func (s *signaller) comm(pid int) string {
	content, err := os.ReadFile(filepath.Join(s.proc, strconv.Itoa(pid), "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(content), "\n")
}

// inspect is false for a process that has ended, also when its parent has not looked yet.
func (s *signaller) inspect(pid int) (process, bool) {
	content, err := os.ReadFile(filepath.Join(s.proc, strconv.Itoa(pid), "status"))
	if err != nil {
		return process{}, false
	}
	p := process{pid: pid, user: -1}
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		switch key {
		case "State":
			if fields[0] == "Z" || fields[0] == "X" {
				return process{}, false
			}
		case "PPid":
			p.parent, _ = strconv.Atoi(fields[0])
		case "Uid":
			if user, err := strconv.Atoi(fields[0]); err == nil {
				p.user = user
			}
		}
	}
	return p, true
}
