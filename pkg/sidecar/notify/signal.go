package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

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
	// changedAt is when files changed last, in ticks since the node started.
	changedAt atomic.Int64
	// youth is that of the constant.
	youth time.Duration
	// send signals the process if it is still the one that was meant.
	send func(pid int, still func() bool) error
}

func newSignaller(s config.Signal) *signaller {
	signal := signals[s.Name]
	return &signaller{
		youth: youth, signal: signal, name: s.Process, proc: "/proc", self: os.Getpid(), user: os.Geteuid(),
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

// youth is how long a process is left alone after its start. Most signals end a process that has not said yet what it
// does with them.
const youth = 30 * time.Second

// ticksPerSecond is the unit of times in /proc/PID/stat, on every machine that Kubernetes runs on (USER_HZ).
const ticksPerSecond = 100

// process is one that has the name.
type process struct {
	pid, parent int
	// user is the real user; -1 when it is not known.
	user int
	// started is when, in ticks since the node did.
	started int64
}

// changed remembers when files changed last: who starts later reads the new ones.
func (s *signaller) changed() { s.changedAt.Store(s.uptime()) }

// uptime is how long the node runs, in ticks; the longest that there is when nobody knows.
func (s *signaller) uptime() int64 {
	content, err := os.ReadFile(filepath.Join(s.proc, "uptime"))
	if err == nil {
		text, _, _ := strings.Cut(string(content), " ")
		if seconds, err := strconv.ParseFloat(text, 64); err == nil {
			return int64(seconds * ticksPerSecond)
		}
	}
	return math.MaxInt64
}

// deliver signals each process of the name whose parent does not have it, too: the master of a server that forks, and
// not its workers, which may take the signal for something else. Nobody who started after the change is signalled, and
// nobody at all while one has just started.
func (s *signaller) deliver(context.Context, []string) error {
	found, err := s.find()
	if err != nil {
		return err
	}
	var targets []process
	newer := 0
	now, changedAt := s.uptime(), s.changedAt.Load()
	for _, p := range found {
		if _, forked := found[p.parent]; forked {
			continue
		}
		if p.started >= changedAt {
			newer++
			continue
		}
		if age := time.Duration(now-p.started) * time.Second / ticksPerSecond; now != math.MaxInt64 && age < s.youth {
			return absentError{fmt.Errorf("process %d (%q) has just started: it has %s to prepare for the signal, which would end it before", p.pid, s.name, s.youth)}
		}
		targets = append(targets, p)
	}
	sent, err := s.sendAll(targets)
	switch {
	case err != nil && sent > 0:
		return finalError{err}
	case err != nil || sent > 0:
		return err
	case newer > 0:
		return needlessError{fmt.Errorf("process %q started after the change", s.name)}
	case s.self == 1:
		return absentError{fmt.Errorf("no process %q: the sidecar sees none but its own container's, set spec.shareProcessNamespace to true", s.name)}
	}
	return absentError{fmt.Errorf("no process %q: the name must be as in /proc/PID/comm, of which the kernel keeps 15 bytes", s.name)}
}

// sendAll returns how many were signalled, and why one was not. Who has ended meanwhile is not missed.
func (s *signaller) sendAll(targets []process) (sent int, denied error) {
	for _, p := range targets {
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
	return sent, denied
}

// find lists the processes of the name, but for those that have ended, ourselves, and the first one: that of a shared process
// namespace is the pod itself.
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
		if err != nil || pid == s.self || pid == 1 || s.comm(pid) != s.name {
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
	p := process{pid: pid, user: -1, started: s.startOf(pid)}
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

// startOf is when a process started, in ticks since the node did; 0 when nobody knows.
func (s *signaller) startOf(pid int) int64 {
	content, err := os.ReadFile(filepath.Join(s.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may have blanks and parentheses itself. Of what comes behind, it is the 20th.
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	if len(fields) < 20 {
		return 0
	}
	started, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return 0
	}
	return started
}
