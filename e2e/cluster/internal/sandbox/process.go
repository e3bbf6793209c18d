package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process identifies one process for ever: the kernel uses a PID again, but not together with the same start time and
// the same boot.
type process struct {
	PID int `json:"pid"`
	// StartTicks is the 22nd field of /proc/<pid>/stat: clock ticks between the boot and the start of the process.
	StartTicks uint64 `json:"startTicks"`
	BootID     string `json:"bootID"`
}

// identify returns the process that has the PID now.
func identify(pid int) (process, error) {
	_, start, err := readStat(pid)
	if err != nil {
		return process{}, err
	}
	boot, err := bootID()
	return process{PID: pid, StartTicks: start, BootID: boot}, err
}

// alive is false for a zombie: it holds nothing any more, and nobody may be there to reap it.
func (p process) alive() bool {
	state, start, err := readStat(p.PID)
	if err != nil || start != p.StartTicks || state == 'Z' || state == 'X' {
		return false
	}
	boot, err := bootID()
	return err == nil && boot == p.BootID
}

// signal sends the signal to this very process, never to a later one with the same PID: the descriptor is opened first
// and pins the process, and is compared afterwards.
func (p process) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("opening process %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !p.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("sending signal %d to process %d: %w", sig, p.PID, err)
	}
	return nil
}

// end stops all the processes: with SIGTERM, and those that are still there after the grace period with SIGKILL.
func end(processes []process, grace time.Duration) error {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if sig == unix.SIGTERM && grace == 0 {
			continue
		}
		for _, p := range processes {
			if err := p.signal(sig); err != nil {
				return err
			}
		}
		if sig == unix.SIGKILL {
			grace = 10 * time.Second // the time the kernel may need to take a process down
		}
		if waitUntil(grace, func() bool { return !anyAlive(processes) }) {
			return nil
		}
	}
	for _, p := range processes {
		if p.alive() {
			return fmt.Errorf("process %d does not end, even by SIGKILL", p.PID)
		}
	}
	return nil
}

func anyAlive(processes []process) bool {
	for _, p := range processes {
		if p.alive() {
			return true
		}
	}
	return false
}

func waitUntil(limit time.Duration, done func() bool) bool {
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if done() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// withEnvironment returns the processes that carry an exact "name=value" in the environment they were started with.
func withEnvironment(entry string) ([]process, error) {
	directories, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, directory := range directories {
		environment, err := os.ReadFile(filepath.Join(directory, "environ"))
		if err != nil || !bytes.Contains(append([]byte{0}, environment...), []byte("\x00"+entry+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(directory))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, err := identify(pid); err == nil {
			found = append(found, p)
		}
	}
	return found, nil
}

func readStat(pid int) (state byte, startTicks uint64, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field is the program's name in parentheses, and may itself hold blanks and parentheses.
	end := bytes.LastIndexByte(content, ')')
	fields := strings.Fields(string(content[end+1:]))
	if end < 0 || len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has an unknown format", pid)
	}
	startTicks, err = strconv.ParseUint(fields[19], 10, 64)
	state = fields[0][0]
	if threads, _ := strconv.Atoi(fields[17]); state == 'Z' && threads > 1 {
		state = 'S' // only its first thread has ended: the others still hold its sockets
	}
	return state, startTicks, err
}

func bootID() (string, error) {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(content)), err
}

func (s *Sandbox) pidFile(name string) string { return s.Path("run", name+".json") }

func (s *Sandbox) saveProcess(name string, p process) error {
	content, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return WriteFile(s.pidFile(name), content, 0o600)
}

func (s *Sandbox) loadProcess(name string) (process, error) {
	var p process
	content, err := os.ReadFile(s.pidFile(name))
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(content, &p)
}
